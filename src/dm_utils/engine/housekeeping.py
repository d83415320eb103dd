"""What a store holds, whether it is whole, and what can go: the functions behind `dm store`."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dm_utils.base.errors import StoreError, check_range
from dm_utils.base.files import DAY, content_key, file_sha256, is_abandoned
from dm_utils.engine.sources import PACKAGE, source_digest
from dm_utils.engine.store import CorruptEntryError, Store

if TYPE_CHECKING:
    import pandas as pd

State = Literal["current", "orphaned", "damaged"]


@dataclass(frozen=True)
class Entry:
    """A result, or what is left of one.

    `about` names the SAE, site or text that it is of; `by` the modules that computed it; `used` is the time (s) when it was
    last written or read. An orphaned entry is one that nobody will ask for again: the code that made it has changed, or
    the file that describes it is gone.
    """

    kind: str
    name: str
    files: tuple[Path, ...]
    about: str
    by: tuple[str, ...]
    used: float
    state: State

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(path.stat().st_size for path in self.files if path.exists())


def entries(store: Store) -> list[Entry]:
    """Every entry of a store, by kind and then by size, the largest first. Temporary files of runs are not entries.

    Raises
    ------
    StoreError : the store is a file, or cannot be read.
    """
    if store.root.exists() and not store.root.is_dir():
        raise StoreError(f"{store.root} is a file, and results are kept in a folder: set DM_STORE to a folder")
    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in sorted(store.root.glob("*/*")):
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".lock":
            found[path.parent.name, path.name.split(".")[0]].append(path)
    made = (_entry(kind, name, tuple(files)) for (kind, name), files in found.items())
    return sorted(made, key=lambda entry: (entry.kind, -entry.size, entry.name))


def _entry(kind: str, name: str, files: tuple[Path, ...]) -> Entry:
    header = next((path for path in files if path.suffix == ".json"), None)
    used = max(path.stat().st_mtime for path in files)
    if header is None:
        return Entry(kind, name, files, "", (), used, "orphaned")
    try:
        stored = json.loads(header.read_bytes())
        key, by = stored["key"], tuple(stored.get("by", ()))
        whole = content_key(key) == name
    except (ValueError, KeyError, TypeError):
        return Entry(kind, name, files, "", (), used, "damaged")
    state: State = "damaged" if not whole else "current" if _is_current(key, by) else "orphaned"
    return Entry(kind, name, files, _about(key), by, header.stat().st_mtime, state)


def _is_current(key: dict[str, Any], by: Sequence[str]) -> bool:
    """Whether today's code would ask for this key; yes where the entry does not say which code made it."""
    if not by or "source" not in key:
        return True
    try:
        return bool(key["source"] == source_digest(tuple(by)))
    except ValueError:  # a module that is gone
        return False


def _about(key: dict[str, Any]) -> str:
    """The SAE, site or text that a key names."""
    sae = key.get("sae")
    named = sae.get("id") if isinstance(sae, dict) else sae
    return str(named or key.get("hook_name") or key.get("dataset") or "")


def listing(store: Store, now: float | None = None) -> pd.DataFrame:
    """One row per entry: `kind, of, MB, days since used, computed by, state`."""
    import pandas as pd

    now = time.time() if now is None else now
    rows = [
        (
            entry.kind,
            entry.about,
            entry.size / 1e6,
            max(0.0, (now - entry.used) / DAY),
            ", ".join(module.removeprefix(f"{PACKAGE}.") for module in entry.by),
            entry.state,
        )
        for entry in entries(store)
    ]
    return pd.DataFrame(rows, columns=["kind", "of", "MB", "days since used", "computed by", "state"])


def check(store: Store) -> list[str]:
    """Read every entry as a study would, checksums included; one sentence for each that is damaged."""
    return [problem for entry in entries(store) for problem in _problems(store, entry)]


def _problems(store: Store, entry: Entry) -> Iterator[str]:
    header = next((path for path in entry.files if path.suffix == ".json"), None)
    if header is None:
        yield f"{entry.kind}/{entry.name}: its description is missing, so its {len(entry.files)} file(s) are of no use"
        return
    try:
        data = json.loads(header.read_bytes())
        if content_key(data["key"]) != entry.name:
            raise CorruptEntryError("it holds the result of another key than its name says")
        found = store.load(entry.kind, data["key"])
        large = header.with_suffix(".f32")
        if found and large.exists() and file_sha256(large) != found[0]["sha256"]:
            raise CorruptEntryError(f"{large.name} does not match its checksum")
    except (ValueError, KeyError, TypeError) as error:
        yield f"{entry.kind}/{entry.name}: {error}"


def prune(store: Store, older_than: float | None = None, dry_run: bool = False) -> list[Entry]:
    """Delete what is orphaned or damaged, and what was not used for `older_than` days; returns what goes.

    Temporary files of killed runs go as well (`Store.sweep`). With `dry_run` nothing is deleted.
    """
    if older_than is not None:
        check_range("older_than", older_than, 0)
    limit = time.time() - older_than * DAY if older_than is not None else float("-inf")
    gone = [entry for entry in entries(store) if entry.state != "current" or entry.used < limit]
    if not dry_run:
        for entry in gone:
            for path in (*entry.files, store.root / entry.kind / f"{entry.name}.lock"):
                path.unlink(missing_ok=True)
        store.sweep()
    return gone


def abandoned(store: Store) -> list[Path]:
    """The temporary files that killed runs left: what `Store.sweep` deletes."""
    return [path for path in sorted(store.root.glob("*/.*")) if path.is_file() and is_abandoned(path)]
