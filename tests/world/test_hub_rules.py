"""What a download waits for, how often it is tried again, and what is said of each refusal: without a server."""

from __future__ import annotations

import errno
import hashlib
import itertools
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from dm_utils.base.errors import LoadError
from dm_utils.world import hub

COMMIT = "0123456789abcdef" * 2 + "01234567"
NAMES = (f"someone/thing{number}" for number in itertools.count())  # what was fetched once is not asked for again


def answered(status: int) -> Exception:
    """The error of a request that a server answered with a status, as the hub's client wraps it."""
    cause = RuntimeError("refused")
    cause.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    error = RuntimeError("no snapshot")
    error.__cause__ = cause
    return error


def caused(cause: Exception) -> Exception:
    error = RuntimeError("no snapshot")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        *(
            (answered(status), status in (408, 429, 500, 503, 599))
            for status in (400, 404, 407, 408, 409, 429, 430, 499)
        ),
        *((answered(status), True) for status in (500, 503, 599)),
        (OSError(errno.ENOSPC, "Connection to a full disk"), False),
        (OSError(errno.EIO, "broken"), False),
        (ConnectionResetError("gone"), True),
        (TimeoutError("late"), True),
        (hub.DamagedFileError("damaged"), True),
        (RuntimeError("Server disconnected: RemoteProtocolError"), True),
        (RuntimeError("Consistency check failed"), True),
        (caused(type("ReadError", (Exception,), {})()), True),
        (errors.OfflineModeIsEnabled("off"), True),
        (LoadError("Connection is told already"), False),
        (ValueError("another matter"), False),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}"[:60],
)
def test_only_what_may_pass_is_transient(error: Exception, passes: bool) -> None:
    assert hub.is_transient(error) is passes


class Download:
    """Stands for huggingface_hub's: raises what it is given, then serves a folder; what it needs is told in a dry run."""

    def __init__(self, folder: Path, *failures: Exception, size: int = 0):
        self.folder, self.failures, self.size, self.asked = folder, list(failures), size, list[dict[str, Any]]()

    def __call__(self, *, dry_run: bool = False, **asked: Any) -> Any:
        if dry_run:
            here = SimpleNamespace(file_size=10**15, will_download=False)
            return [here, SimpleNamespace(file_size=self.size, will_download=True)]
        self.asked.append(asked)
        if self.failures:
            raise self.failures.pop(0)
        return str(self.folder)


@pytest.fixture
def slept(monkeypatch):
    """The seconds that were waited, in no time."""
    seconds: list[float] = []
    monkeypatch.setattr(hub.time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def snapshot(tmp_path):
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def serve(monkeypatch, download: Download) -> Download:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return download


def test_what_may_pass_is_tried_again_after_each_wait(monkeypatch, snapshot, slept) -> None:
    name = next(NAMES)
    served = serve(monkeypatch, Download(snapshot, *(answered(503) for _ in hub.WAITS)))
    assert hub.fetch(name, COMMIT, ["*.json"], "dataset") == snapshot
    assert slept == list(hub.WAITS) == [1, 4, 16]
    where = {"repo_id": name, "revision": COMMIT, "repo_type": "dataset", "allow_patterns": ["*.json"]}
    assert served.asked == [where] * 4
    assert hub.fetch(name, COMMIT, ["*.json"], "dataset") == snapshot and len(served.asked) == 4, "kept"


def test_one_failure_too_many_is_told_and_what_will_not_pass_is_told_at_once(monkeypatch, snapshot, slept) -> None:
    serve(monkeypatch, Download(snapshot, *(answered(503) for _ in range(4))))
    with pytest.raises(LoadError, match=r"the hub fails \(503\)"):
        hub.fetch(next(NAMES), COMMIT, ["*.json"])
    assert len(slept) == 3
    for error, said in (
        (answered(404), "the hub has no model"),
        (errors.OfflineModeIsEnabled("off"), "cannot be reached"),
    ):
        slept.clear()
        serve(monkeypatch, Download(snapshot, error, error))
        with pytest.raises(LoadError, match=said):
            hub.fetch(next(NAMES), COMMIT, ["*.json"])
        assert slept == []


def test_a_snapshot_without_any_of_the_files_is_refused(monkeypatch, snapshot, slept) -> None:
    serve(monkeypatch, Download(snapshot))
    with pytest.raises(LoadError, match=rf"has no file \*\.npz or \*\.bin at revision {COMMIT} \({COMMIT[:12]}\)"):
        hub.fetch(next(NAMES), COMMIT, ["*.npz", "*.bin"])
    serve(monkeypatch, Download(snapshot))
    assert hub.fetch(next(NAMES), COMMIT, ["*.npz", "*.json"]) == snapshot


@pytest.mark.parametrize("kind", ["sha256", "sha1"])
def test_a_file_that_differs_from_its_hash_is_deleted_and_fetched_again(monkeypatch, snapshot, slept, kind) -> None:
    content = bytes(range(256)) * 5000  # more than one piece of 1 MiB
    start = b"" if kind == "sha256" else f"blob {len(content)}\0".encode()
    blob = snapshot.parent / hashlib.new(kind, start + content).hexdigest()
    blob.write_bytes(b"\xff" + content[1:])
    (snapshot / "w.bin").symlink_to(blob)
    served = serve(monkeypatch, Download(snapshot))
    with pytest.raises(LoadError, match="has no file"):  # this folder is served again without it
        hub.fetch(next(NAMES), COMMIT, ["*.bin"])
    assert len(served.asked) == 2 and not blob.exists() and not (snapshot / "w.bin").is_symlink()
    blob.write_bytes(content)
    (snapshot / "w.bin").symlink_to(blob)
    assert hub.fetch(next(NAMES), COMMIT, ["*.bin"]) == snapshot and blob.exists()
    assert len(slept) == 1


@pytest.mark.parametrize(("free", "fits"), [(3 * 2**30, True), (3 * 2**30 - 1, False)])
def test_a_download_that_does_not_fit_is_not_begun(monkeypatch, snapshot, slept, free: int, fits: bool) -> None:
    """Only what is not here yet counts."""
    served = serve(monkeypatch, Download(snapshot, size=3 * 2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    if fits:
        assert hub.fetch(next(NAMES), COMMIT, ["*.json"]) == snapshot
        return
    with pytest.raises(LoadError, match=r"needs 3\.0 GiB more under .*, which has 3\.0 GiB free"):
        hub.fetch(next(NAMES), COMMIT, ["*.json"])
    assert served.asked == [] and slept == []


class Api:
    """Stands for the hub's answer to which commit a branch names."""

    failures: list[Exception]
    asked: list[tuple[str, str | None, str]]

    def repo_info(self, repo: str, revision: str | None, repo_type: str) -> SimpleNamespace:
        self.asked.append((repo, revision, repo_type))
        if self.failures:
            raise self.failures.pop(0)
        return SimpleNamespace(sha=COMMIT)


@pytest.fixture
def api(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    Api.failures, Api.asked = [], []
    hub.commit.cache_clear()
    yield Api
    hub.commit.cache_clear()


def test_a_branch_is_asked_for_once_and_a_commit_never(api, slept, tmp_path) -> None:
    assert hub.commit("a/b", COMMIT) == COMMIT and api.asked == []
    api.failures = [answered(500), answered(429)]
    assert hub.commit("a/b", None, "dataset") == COMMIT
    assert api.asked == [("a/b", None, "dataset")] * 3 and slept == [1, 4]
    assert (tmp_path / "datasets--a--b/refs/main").read_text() == COMMIT
    assert hub.commit("a/b", "v1") == COMMIT and (tmp_path / "models--a--b/refs/v1").read_text() == COMMIT
    hub.commit("a/b", COMMIT[:-1])
    assert api.asked[-1] == ("a/b", COMMIT[:-1], "model"), "what is not a whole commit is a name"


def test_without_a_network_the_commit_downloaded_last_is_used_at_once(api, slept, tmp_path, caplog) -> None:
    kept = tmp_path / "models--a--b/refs/main"
    kept.parent.mkdir(parents=True)
    kept.write_text("f" * 40 + "\n")
    api.failures = [ConnectionError("no network")]
    assert hub.commit("a/b") == "f" * 40
    assert slept == [] and "the one downloaded last is used" in caplog.text
    hub.commit.cache_clear()
    api.failures = [answered(404)]
    with pytest.raises(LoadError, match="the hub has no model 'a/b'"):  # a refusal is not the network's fault
        hub.commit("a/b")
    api.failures = [ConnectionError("no network")] * 4
    with pytest.raises(LoadError, match="cannot be reached"):
        hub.commit("a/never")
    assert slept == [1, 4, 16]


def refusal(kind: type[Exception], status: int) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "a line\nanother")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return caused(error)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (refusal(errors.GatedRepoError, 401), "a/b is gated"),
        (answered(403), "a/b is gated"),
        (refusal(errors.RevisionNotFoundError, 404), "has no revision 'v1'"),
        (refusal(errors.RemoteEntryNotFoundError, 404), r"a file is missing from a/b: .*/tree/v1"),
        (refusal(errors.RepositoryNotFoundError, 401), "the hub has no dataset 'a/b' for you"),
        (answered(401), "the hub has no dataset 'a/b' for you"),
        (answered(404), "the hub has no dataset 'a/b' for you"),
        (answered(429), "too many requests"),
        (answered(500), r"the hub fails \(500\)"),
        (OSError(errno.ENOSPC, "no room"), "the disk is full: no room"),
        (hub.DamagedFileError("w.bin differs."), "arrives damaged again and again: w.bin differs. Try"),
        (RuntimeError("Consistency check failed"), "arrives damaged again and again"),
        (ConnectionError("gone"), r"a/b is not on this machine, and .*/datasets/a/b cannot be reached \(gone\)"),
        (RuntimeError("CUDA Out of Memory\nmore"), r"does not fit into memory \(CUDA Out of Memory\)"),
        (answered(418), "cannot be loaded: RuntimeError: no snapshot"),
        (ValueError(), "cannot be loaded: ValueError: ValueError"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_each_refusal_is_told_in_its_own_words(error: Exception, said: str) -> None:
    with pytest.raises(LoadError, match=said), hub.explained("a/b", "v1", "dataset"):
        raise error


def test_what_is_explained_already_stays_as_it_is() -> None:
    for error in (LoadError("mine"), MemoryError("mine")):
        with pytest.raises(type(error), match=r"^mine$"), hub.explained("a/b"):
            raise error
    told = LoadError("mine")
    assert hub.explain(told, "a/b") is told


@pytest.mark.parametrize("token", [None, "hf_mine"])
def test_those_with_a_token_are_told_something_else(monkeypatch, token: str | None) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    assert ("your token has no access" in str(hub.explain(answered(403), "a/b"))) is bool(token)
    assert ("the token that is set may be wrong" in str(hub.explain(answered(404), "a/b"))) is bool(token)
    assert "/datasets/" not in str(hub.explain(answered(403), "a/b"))
