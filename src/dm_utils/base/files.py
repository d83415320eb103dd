"""Files that are whole or not there: atomic writes, digests, and what to say when the disk is full."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DAY = 86400.0
OWNED = re.compile(r"\..*~(?P<host>[^~]*)~(?P<pid>\d+)~[^~]*")  # a temporary file of a process
UNOWNED = re.compile(r"\..*\.[a-z0-9_]{8}")


def content_key(parts: Mapping[str, Any]) -> str:
    """Hash the JSON of `parts`, keys sorted. Floats keep their repr; a value JSON cannot hold is a TypeError."""
    text = json.dumps(parts, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_sha256(path: Path) -> str:
    """Hex digest of a file, read in 1 MiB pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_beside(path: Path) -> tuple[int, str]:
    """Open a temporary file beside `path`, hidden, whose name says which process of which machine writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = f"{platform.node().replace('~', '-')}~{os.getpid()}"
    return tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}~{owner}~")


def is_abandoned(path: Path) -> bool:
    """Whether a file is the temporary of a process that no longer runs; one of another machine is given a day."""
    old = time.time() - path.stat().st_mtime > DAY
    owned = OWNED.fullmatch(path.name)
    if owned is None or owned["host"] != platform.node().replace("~", "-"):
        return old and bool(owned or UNOWNED.fullmatch(path.name))
    import psutil

    try:
        return psutil.Process(int(owned["pid"])).create_time() > path.stat().st_mtime + 1  # the number is another's now
    except psutil.NoSuchProcess:
        return True


def write_atomic(path: Path, data: bytes) -> None:
    """Write to a temporary file beside `path`, then move it into place."""
    handle, temporary = temporary_beside(path)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        explain_full_disk(error, path.parent, len(data))
        raise


def explain_full_disk(error: BaseException, folder: Path, needed: int) -> None:
    """Say what to do where a write failed because the disk is full."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        free = shutil.disk_usage(folder).free
        raise OSError(
            errno.ENOSPC,
            f"the disk is full: results need {needed / 1e9:.2f} GB under {folder}, which has {free / 1e9:.2f} GB free. Free "
            "some space, set DM_STORE to a folder on a larger disk, or lower n_contexts",
        ) from error


def reserve(path: Path, size: int) -> None:
    """Take the disk space of a file that will be mapped: writing to a map on a full disk kills the process."""
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        elif shutil.disk_usage(path.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
