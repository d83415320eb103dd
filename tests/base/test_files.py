"""Files are whole or not there, keys tell contents apart, and only what a dead process left is abandoned."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from dm_utils.base import files

DAY = 24 * 60 * 60


def test_a_key_is_the_start_of_the_sha256_of_sorted_json() -> None:
    text = '{"a": [1, 0.1], "b": null}'
    key = files.content_key({"b": None, "a": [1, 0.1]})
    assert key == hashlib.sha256(text.encode()).hexdigest()[:32] and json.loads(text)
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.content_key({"a": float("nan")})


def test_a_file_is_digested_whole_and_again_once_it_changed(tmp_path: Path) -> None:
    path, blob = tmp_path / "weights", bytes(range(256)) * 8192  # two pieces of 1 MiB
    path.write_bytes(blob)
    assert files.digest_of(path) == files.file_sha256(path) == hashlib.sha256(blob).hexdigest()
    path.write_bytes(blob[:-1])
    assert files.digest_of(path) == hashlib.sha256(blob[:-1]).hexdigest(), "of another size"
    path.write_bytes(b"x" + blob[1:-1])
    os.utime(path, ns=(0, 1))
    assert files.digest_of(path) == hashlib.sha256(b"x" + blob[1:-1]).hexdigest(), "of another time"


def test_names_and_contents_tell_files_apart(tmp_path: Path) -> None:
    for name, text in (("a", "1"), ("b", "2"), ("c", "1")):
        (tmp_path / name).write_text(text)
    a, b, c = (tmp_path / name for name in "abc")
    assert files.identity_of([a, b]) == files.identity_of([b, a])
    assert len({files.identity_of(some) for some in ([a], [b], [c], [a, b], [a, c])}) == 5


def temporary(folder: Path, host: str, process: int, age: float) -> Path:
    """A file as `temporary_beside` names it, last written so many seconds ago."""
    path = folder / f".x.json~{host}~{process}~abc"
    path.write_bytes(b"1")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_temporary_file_names_its_owner_and_is_hidden_beside_its_path(tmp_path: Path) -> None:
    handle, name = files.temporary_beside(tmp_path / "new" / "x.json")
    os.close(handle)
    owned = files.OWNED.fullmatch(Path(name).name)
    assert Path(name).parent == tmp_path / "new" and Path(name).name.startswith(".x.json~") and owned
    assert (owned["host"], owned["pid"]) == (platform.node().replace("~", "-"), str(os.getpid()))
    assert not files.is_abandoned(Path(name)), "its process runs"


@pytest.mark.parametrize("node", ["my~host", "my-host"])
def test_what_a_dead_process_of_this_machine_left_is_abandoned_at_once(tmp_path: Path, monkeypatch, node: str) -> None:
    """Whatever the machine is called: its own files are not given the day that another's have."""
    monkeypatch.setattr(platform, "node", lambda: node)
    handle, name = files.temporary_beside(tmp_path / "x.json")
    os.close(handle)

    def gone(number: int) -> None:
        raise psutil.NoSuchProcess(number)

    monkeypatch.setattr(psutil, "Process", gone)
    assert files.is_abandoned(Path(name))


def test_a_tilde_in_the_name_of_the_machine_does_not_hide_the_owner(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "my~host")
    handle, name = files.temporary_beside(tmp_path / "x.json")
    os.close(handle)
    assert not files.is_abandoned(Path(name))
    os.utime(name, (time.time() - 2 * DAY,) * 2)
    assert files.is_abandoned(Path(name)), "older than its process: the number is another's now"


@pytest.mark.parametrize(("age", "abandoned"), [(0.9 * DAY, False), (1.1 * DAY, True)])
def test_what_another_machine_writes_is_given_a_day(tmp_path: Path, age: float, abandoned: bool) -> None:
    assert files.is_abandoned(temporary(tmp_path, "elsewhere", 1, age)) is abandoned
    unowned = tmp_path / ".x.json.abcd_123"
    unowned.write_bytes(b"1")
    os.utime(unowned, (time.time() - age,) * 2)
    assert files.is_abandoned(unowned) is abandoned


@pytest.mark.parametrize("name", ["x.json", ".gitignore", ".x.json.ABCDEFGH", ".x.json.abcdefghi"])
def test_a_file_that_is_no_temporary_is_never_abandoned(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"1")
    os.utime(path, (0, 0))
    assert not files.is_abandoned(path)


def test_a_temporary_is_its_processes_while_that_runs(tmp_path: Path, monkeypatch) -> None:
    node = platform.node().replace("~", "-")
    path = temporary(tmp_path, node, 4321, 100)
    written = path.stat().st_mtime
    for began, abandoned in ((written - 5, False), (written + 0.5, False), (written + 1.5, True)):
        monkeypatch.setattr(
            psutil, "Process", lambda number, at=began: SimpleNamespace(create_time=lambda: at + number - 4321)
        )
        assert files.is_abandoned(path) is abandoned, began - written

    def gone(number: int) -> None:
        raise psutil.NoSuchProcess(number)

    monkeypatch.setattr(psutil, "Process", gone)
    assert files.is_abandoned(path)


def test_a_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    for data in (b"a long first version", b"short"):
        files.write_atomic(path, data)
        assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_explained_with_what_is_needed_and_free(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_500_000_000))
    with pytest.raises(OSError, match=r"results need 3\.00 GB under .*, which has 2\.50 GB free") as caught:
        files.explain_full_disk(OSError(errno.ENOSPC, "full"), tmp_path, 3_000_000_000)
    assert caught.value.errno == errno.ENOSPC
    files.explain_full_disk(OSError(errno.EIO, "broken"), tmp_path, 1)
    files.explain_full_disk(ValueError(), tmp_path, 1)  # neither is a matter of room


@pytest.mark.parametrize("fallocate", [True, False])
def test_room_is_reserved_or_refused(tmp_path: Path, monkeypatch, fallocate: bool) -> None:
    path = tmp_path / "x.f32"
    path.write_bytes(b"")
    if fallocate:
        if not hasattr(os, "posix_fallocate"):
            pytest.skip("this system cannot reserve")
        files.reserve(path, 4096)
        assert path.stat().st_size == 4096
        return
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    files.reserve(path, 4096)  # just enough
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        files.reserve(path, 4097)


def test_a_write_that_fails_says_why_though_its_temporary_file_is_gone(tmp_path, monkeypatch):
    def lost(temporary, path):
        os.unlink(temporary)
        raise PermissionError("not here")

    monkeypatch.setattr(files.os, "replace", lost)
    with pytest.raises(PermissionError, match="not here"):
        files.write_atomic(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == []
