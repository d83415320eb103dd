"""Results on disk: content-keyed, atomic, without pickle.

An entry is a folder-less pair of files, `<kind>/<key>.json` and, where there are arrays, `<kind>/<key>.safetensors`.
The key hashes everything that determines the result. A write goes to a temporary file in the same folder and is
moved into place; the JSON, which carries the checksum of the arrays, is moved last, so a killed run or a second
writer never leaves half an entry.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from filelock import FileLock

from dm_utils.base.errors import StoreError
from dm_utils.base.files import (
    content_key,
    explain_full_disk,
    file_sha256,
    is_abandoned,
    reserve,
    temporary_beside,
    write_atomic,
)
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

    def save(
        self, kind: str, key: Mapping[str, Any], data: Any, arrays: Arrays | None = None, by: Sequence[str] = ()
    ) -> None:
        """Write `data` (JSON; NaN refused) and `arrays`; the last writer of equal keys wins, and what it replaces goes.

        `by` names the modules that computed it, so that housekeeping can tell when nobody will ask for it again.
        """
        entry: dict[str, Any] = {"kind": kind, "key": dict(key), "by": list(by), "data": data, "arrays": None}
        path, blob = self.path(kind, key), b""
        if arrays is not None:
            from safetensors.numpy import save

            blob = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
            entry["arrays"] = hashlib.sha256(blob).hexdigest()
        entry["data_sha256"] = content_key({"data": data})
        text = json.dumps(entry, allow_nan=False).encode()
        with self.locked(kind, key), self._usable(path):
            kept = {path.with_suffix(".f32")}
            if arrays is not None:
                kept.add(self.path(kind, key, f"{entry['arrays'][:16]}.safetensors"))
                write_atomic(self.path(kind, key, f"{entry['arrays'][:16]}.safetensors"), blob)
            write_atomic(path, text)
            for replaced in set(path.parent.glob(f"{path.stem}.*.safetensors")) - kept:
                replaced.unlink(missing_ok=True)

    def load(self, kind: str, key: Mapping[str, Any]) -> tuple[Any, Arrays] | None:
        """The entry, or None when there is none. Raises CorruptEntryError when it fails its checksum or has another key."""
        entry = self._entry(kind, key)
        if entry is None:
            return None
        with contextlib.suppress(OSError):
            os.utime(self.path(kind, key))  # when it was last used
        try:
            return entry["data"], {} if entry["arrays"] is None else self._arrays(kind, key, entry["arrays"])
        except CorruptEntryError:
            if self._entry(kind, key) == entry:
                raise
            return self.load(kind, key)  # another process has just replaced it

    def _entry(self, kind: str, key: Mapping[str, Any]) -> dict[str, Any] | None:
        path = self.path(kind, key)
        try:
            with self._usable(path):
                entry: dict[str, Any] = json.loads(path.read_bytes())
            intact = entry["data_sha256"] == content_key({"data": entry["data"]})
            asked = entry["key"] == json.loads(json.dumps(dict(key))) and entry.get("kind", kind) == kind
            entry["arrays"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptEntryError(f"{path} is not a result file: {error}") from error
        if not intact:
            raise CorruptEntryError(f"{path} was altered after it was written")
        if not asked:
            raise CorruptEntryError(f"{path} holds the result of another kind or key than the one that was asked for")
        return entry

    def _arrays(self, kind: str, key: Mapping[str, Any], digest: str) -> Arrays:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = self.path(kind, key, f"{digest[:16]}.safetensors")
        try:
            with self._usable(path):
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
        data = found[0]
        with self._usable(path):
            if data["shape"] != list(shape):
                log.warning("%s has the shape %s, not %s. It is recomputed.", path, data["shape"], list(shape))
                return None
            if not path.exists() or file_sha256(path) != data["sha256"]:
                log.warning("%s does not match its checksum. It is recomputed.", path)
                return None
            return np.memmap(path, dtype=np.float32, mode="c", shape=shape)

    @contextlib.contextmanager
    def mapping(
        self, kind: str, key: Mapping[str, Any], shape: tuple[int, ...], by: Sequence[str] = ()
    ) -> Iterator[np.ndarray]:
        """Yield a writable float32 array on disk; it becomes the entry when the block ends without an error."""
        path = self.path(kind, key, "f32")
        with self._usable(path):
            handle, name = temporary_beside(path)
            os.close(handle)
        try:
            reserve(Path(name), max(1, 4 * math.prod(shape)))
            array = np.memmap(name, dtype=np.float32, mode="w+", shape=shape)
            yield array
            array.flush()
            digest = file_sha256(Path(name))
            with self._usable(path):
                os.replace(name, path)
        except BaseException as error:
            Path(name).unlink(missing_ok=True)
            explain_full_disk(error, path.parent, 4 * math.prod(shape))
            raise
        self.save(kind, key, {"sha256": digest, "shape": list(shape)}, by=by)

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
                self.save(kind, key, data, arrays, by=sources)
                found = data, arrays or {}
        return found

    @contextlib.contextmanager
    def locked(self, kind: str, key: Mapping[str, Any]) -> Iterator[None]:
        """A lock on one entry between processes, so that what two chapters need is computed once; it dies with its holder."""
        path = self.path(kind, key, "lock")
        with self._usable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, is_singleton=True)  # a thread that holds it may take it again
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def remove(self, kind: str, key: Mapping[str, Any]) -> None:
        """Delete an entry, if there is one."""
        path = self.path(kind, key)
        with self.locked(kind, key), self._usable(path):
            for file in (path, *path.parent.glob(f"{path.stem}.*")):
                if file.suffix != ".lock":
                    file.unlink(missing_ok=True)

    def sweep(self) -> int:
        """Delete the temporary files that killed runs left; returns how many bytes that freed."""
        freed = 0
        for path in self.root.glob("*/.*"):
            with contextlib.suppress(OSError):  # another process may be faster
                if path.is_file() and is_abandoned(path):
                    size = path.stat().st_size
                    path.unlink()
                    freed += size
        return freed

    @contextlib.contextmanager
    def _usable(self, path: Path) -> Iterator[None]:
        """Say what is wrong with the folder of results, where the system says only that a call failed."""
        try:
            yield
        except OSError as error:
            place = "set DM_STORE to a folder that you can write to"
            if self.root.exists() and not self.root.is_dir():
                raise StoreError(f"{self.root} is a file, and results are kept in a folder: {place}") from error
            if path.is_dir():
                raise StoreError(
                    f"{path} is a folder where a result's file should be: remove it, or {place}"
                ) from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise StoreError(
                    f"{self.root} does not let {path.parent.name}/{path.name} be read or written ({error.strerror}): {place}"
                ) from error
            raise
