"""Results on disk: content-keyed, atomic, without pickle.

An entry is a folder-less pair of files, `<kind>/<key>.json` and, where there are arrays, `<kind>/<key>.safetensors`.
The key hashes everything that determines the result. A write goes to a temporary file in the same folder and is
moved into place; the JSON, which carries the checksum of the arrays, is moved last, so a killed run or a second
writer never leaves half an entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from filelock import FileLock

from dm_utils.base.files import content_key, explain_full_disk, file_sha256, reserve, write_atomic
from dm_utils.engine.sources import source_digest

log = logging.getLogger("dm_utils")


Arrays = dict[str, np.ndarray]


class CorruptEntryError(ValueError):
    """An entry is truncated, altered or unreadable."""


class Store:
    """A folder of results. Default: `$DM_STORE`, else the user's cache folder."""

    def __init__(self, root: str | Path | None = None):
        self.root = Path(root or os.environ.get("DM_STORE") or platformdirs.user_cache_dir("dark-matter-book"))

    @staticmethod
    def full_key(key: Mapping[str, Any], sources: Sequence[str]) -> dict[str, Any]:
        """A key with the digest of the modules (full names) that compute the result, and of all that they import."""
        return {**key, "source": source_digest(tuple(sources))} if sources else dict(key)

    def path(self, kind: str, key: Mapping[str, Any], suffix: str = "json") -> Path:
        """Where the entry of this kind and key lives."""
        return self.root / kind / f"{content_key(key)}.{suffix}"

    def save(self, kind: str, key: Mapping[str, Any], data: Any, arrays: Arrays | None = None) -> None:
        """Write `data` (JSON; NaN refused) and `arrays`; the last writer of equal keys wins."""
        entry: dict[str, Any] = {"key": dict(key), "data": data, "arrays": None}
        if arrays is not None:
            from safetensors.numpy import save

            blob = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
            entry["arrays"] = hashlib.sha256(blob).hexdigest()
            write_atomic(self.path(kind, key, f"{entry['arrays'][:16]}.safetensors"), blob)
        entry["data_sha256"] = content_key({"data": data})
        write_atomic(self.path(kind, key), json.dumps(entry, allow_nan=False).encode())

    def load(self, kind: str, key: Mapping[str, Any]) -> tuple[Any, Arrays] | None:
        """The entry, or None when there is none. Raises CorruptEntryError when it fails its checksum."""
        path = self.path(kind, key)
        try:
            entry = json.loads(path.read_bytes())
            data, digest = entry["data"], entry["arrays"]
            intact = entry["data_sha256"] == content_key({"data": data})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptEntryError(f"{path} is not a result file: {error}") from error
        if not intact:
            raise CorruptEntryError(f"{path} was altered after it was written")
        return data, {} if digest is None else self._arrays(kind, key, digest)

    def _arrays(self, kind: str, key: Mapping[str, Any], digest: str) -> Arrays:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = self.path(kind, key, f"{digest[:16]}.safetensors")
        try:
            blob = path.read_bytes()
            if hashlib.sha256(blob).hexdigest() != digest:
                raise CorruptEntryError(f"{path} does not match its checksum: it is truncated or altered")
            return load(blob)
        except FileNotFoundError as error:
            raise CorruptEntryError(f"{path} is missing") from error
        except SafetensorError as error:
            raise CorruptEntryError(f"{path} is not a safetensors file: {error}") from error

    def mapped(self, kind: str, key: Mapping[str, Any], shape: tuple[int, ...]) -> np.ndarray | None:
        """A float32 array too large to copy, memory-mapped; None when there is none or it is corrupt."""
        path = self.path(kind, key, "f32")
        try:
            found = self.load(kind, key)
        except CorruptEntryError as error:
            log.warning("%s. It is recomputed.", error)
            return None
        if found is None:
            return None
        if not path.exists() or file_sha256(path) != found[0]["sha256"]:
            log.warning("%s does not match its checksum. It is recomputed.", path)
            return None
        return np.memmap(path, dtype=np.float32, mode="c", shape=shape)

    @contextlib.contextmanager
    def mapping(self, kind: str, key: Mapping[str, Any], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        """Yield a writable float32 array on disk; it becomes the entry when the block ends without an error."""
        path = self.path(kind, key, "f32")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            reserve(Path(name), max(1, 4 * math.prod(shape)))
            array = np.memmap(name, dtype=np.float32, mode="w+", shape=shape)
            yield array
            array.flush()
            digest = file_sha256(Path(name))
            os.replace(name, path)
        except BaseException as error:
            Path(name).unlink(missing_ok=True)
            explain_full_disk(error, path.parent, 4 * math.prod(shape))
            raise
        self.save(kind, key, {"sha256": digest, "shape": list(shape)})

    def holds(self, kind: str, key: Mapping[str, Any], *, sources: Sequence[str]) -> bool:
        """Whether `kept` would find an entry."""
        return self.path(kind, self.full_key(key, sources)).exists()

    def kept(
        self,
        kind: str,
        key: Mapping[str, Any],
        compute: Callable[[], tuple[Any, Arrays | None]],
        *,
        sources: Sequence[str],
    ) -> tuple[Any, Arrays]:
        """Load an entry, or compute `(data, arrays)` and save it. A corrupt entry is reported and recomputed.

        `sources` names the modules whose code determines the result, usually `(__name__,)`; the key covers them and all that
        they import. Only what no code of ours determines (an answer of a server) has none.
        """
        key = self.full_key(key, sources)
        try:
            found = self.load(kind, key)
        except CorruptEntryError as error:
            log.warning("%s. It is recomputed.", error)
            found = None
        if found is not None:
            return found
        with self.locked(kind, key):
            with contextlib.suppress(CorruptEntryError):
                found = self.load(kind, key)  # another process may just have computed it
            if found is None:
                data, arrays = compute()
                self.save(kind, key, data, arrays)
                found = data, arrays or {}
        return found

    def locked(self, kind: str, key: Mapping[str, Any]) -> FileLock:
        """A lock on one entry between processes, so that what two chapters need is computed once; it dies with its holder."""
        path = self.path(kind, key, "lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)
