"""Files of a Hugging Face repository: pinned to a commit, fetched with retries, checked, refused in plain words.

Every loader here asks `fetch` first and then reads the local snapshot, so that one place knows what can go wrong on the
way: no network, a gated repository, a missing file, a wrong revision, a full disk, a damaged download.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from dm_utils.base.errors import LoadError

log = logging.getLogger("dm_utils")
Kind = Literal["model", "dataset"]
Result = TypeVar("Result")
COMMIT = re.compile(r"[0-9a-f]{40}")
WAITS = (1.0, 4.0, 16.0)  # seconds before each further try of a download that failed on the way
GIB = 2**30


class DamagedFileError(OSError):
    """A downloaded file differs from what the hub says that it is."""


@cache
def commit(repo: str, revision: str | None = None, kind: Kind = "model") -> str:
    """Resolve a branch or tag (None: the main branch) to the commit hash that it names now.

    A full commit hash is its own answer and needs no network. Without a network, the commit that this machine last
    downloaded under that name is used, and a warning says so.
    """
    from huggingface_hub import HfApi

    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    kept = _reference(repo, revision or "main", kind)
    try:
        waits = () if kept.exists() else WAITS
        sha = _persistently(lambda: str(HfApi().repo_info(repo, revision=revision, repo_type=kind).sha), repo, waits)
    except Exception as error:
        if not kept.exists() or not is_transient(error):
            raise explain(error, repo, revision, kind) from error
        sha = kept.read_text().strip()
        log.warning("%s cannot be asked for its newest commit; the one downloaded last is used: %s", repo, sha)
        return sha
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(sha)
    return sha


def fetch(repo: str, revision: str | None, patterns: Sequence[str], kind: Kind = "model") -> Path:
    """Download the files that match `patterns`, unless they are here, and return the folder of the snapshot.

    A transfer that breaks off is resumed where it stopped; what the hub refuses for a moment (429, 5xx) is tried again.
    Every file is compared with the hash under which the hub lists it.

    Raises
    ------
    LoadError : what failed, and what to do.
    """
    return _fetch(repo, commit(repo, revision, kind), revision, tuple(patterns), kind)


@cache
def _fetch(repo: str, sha: str, revision: str | None, patterns: tuple[str, ...], kind: Kind) -> Path:
    from huggingface_hub import snapshot_download

    where: dict[str, Any] = {"repo_id": repo, "revision": sha, "repo_type": kind, "allow_patterns": list(patterns)}

    def download() -> Path:
        _check_space(repo, where)
        folder = Path(snapshot_download(**where))
        _check(folder, patterns)
        return folder

    try:
        folder = _persistently(download, repo, WAITS)
    except Exception as error:
        raise explain(error, repo, revision, kind) from error
    if not any(_matching(folder, patterns)):
        raise LoadError(f"{repo} has no file {' or '.join(patterns)} at revision {revision or 'main'} ({sha[:12]})")
    return folder


def _matching(folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """The files of a snapshot that match, in the hub's own rules."""
    from huggingface_hub.utils import filter_repo_objects

    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return (folder / name for name in filter_repo_objects(names, allow_patterns=list(patterns)))


def _persistently(run: Callable[[], Result], name: str, waits: Sequence[float]) -> Result:
    """Run something that uses the network, again after each wait when the failure is one that may pass.

    huggingface_hub itself tries listings, headers and transfers that break off again. It asks only once for the commit
    of a branch, gives up a transfer that a server answers with 5xx, and knows no damaged file: those are tried again here.
    """
    for wait in (*waits, None):
        try:
            return run()
        except Exception as error:
            if wait is None or not is_transient(error) or _is_offline(error):
                raise
            log.warning("%s: %s. Trying again in %g s.", name, str(error).strip().splitlines()[0], wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, if there is one."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None and hasattr(response, "status_code"):
            return int(response.status_code)
        error = error.__cause__
    return None


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: no answer, too many requests, a failing server, a damaged download."""
    if isinstance(error, LoadError):
        return False
    if _is_offline(error):
        return True
    status = _status(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return False
    words = f"{type(error).__name__} {type(error.__cause__).__name__} {error}"
    return isinstance(error, (ConnectionError, TimeoutError, DamagedFileError)) or bool(
        re.search(r"Connect|Timeout|RemoteProtocol|ReadError|Disconnected|Consistency check", words)
    )


def _is_offline(error: BaseException) -> bool:
    """Whether the network is switched off (HF_HUB_OFFLINE), so that trying again is no use."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(error, OfflineModeIsEnabled) or isinstance(error.__cause__, OfflineModeIsEnabled)


def _check(folder: Path, patterns: Sequence[str]) -> None:
    """Compare each file with its hash: the cache names a blob by its SHA-256 (large files) or its git hash.

    huggingface_hub compares sizes only. A file that differs is deleted, so that the next download starts it afresh.
    """
    for path in _matching(folder, patterns):
        blob = path.resolve()
        if path.is_symlink() and not _intact(blob, blob.stat().st_size, blob.stat().st_mtime):
            blob.unlink()
            path.unlink()
            raise DamagedFileError(f"{path.name} does not match the hash that the hub lists for it; it was deleted")


@cache
def _intact(blob: Path, size: int, _changed: float) -> bool:
    if len(blob.name) not in (40, 64):
        return True
    digest = hashlib.sha256() if len(blob.name) == 64 else hashlib.sha1(f"blob {size}\0".encode())
    with blob.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest() == blob.name


def _check_space(repo: str, where: dict[str, Any]) -> None:
    """Refuse a download that the disk cannot hold before it starts."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import DryRunError

    try:
        plan = snapshot_download(**where, dry_run=True)
    except DryRunError:
        return  # the hub cannot be reached; the download itself says so, or finds everything here
    needed = sum(file.file_size or 0 for file in plan if file.will_download)
    place = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free
    if needed > free:
        raise OSError(
            errno.ENOSPC, f"{repo} needs {needed / GIB:.1f} GiB more under {place}, which has {free / GIB:.1f} GiB free"
        )


def _reference(repo: str, name: str, kind: Kind) -> Path:
    """Where the hub's cache keeps the commit that a branch or tag named last."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"{kind}s--{repo.replace('/', '--')}" / "refs" / name


def explain(error: BaseException, repo: str, revision: str | None = None, kind: Kind = "model") -> LoadError:
    """Turn a library's error into one that says what to do."""
    from huggingface_hub import constants, errors, get_token

    if isinstance(error, LoadError):
        return error
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, errors.HfHubHTTPError):
        cause = cause.__cause__
    status = _status(error)
    if isinstance(cause, errors.GatedRepoError) or status == 403:
        todo = (
            "your token has no access to it yet: accept its terms on that page with the account of the token"
            if get_token()
            else "accept its terms on that page, then log in with `hf auth login` or set HF_TOKEN to a token of that account"
        )
        return LoadError(f"{repo} is gated ({page}); {todo}")
    if isinstance(cause, errors.RevisionNotFoundError):
        return LoadError(
            f"{repo} has no revision {revision!r}; name a commit, tag or branch of {page}/commits/main, or leave it out"
        )
    if isinstance(cause, errors.EntryNotFoundError):
        return LoadError(f"a file is missing from {repo}: {_first_line(cause)}. See {page}/tree/{revision or 'main'}")
    if isinstance(cause, errors.RepositoryNotFoundError) or status in (401, 404):
        return LoadError(
            f"the hub has no {kind} {repo!r} for you ({page}): check the name; if it is private or gated, log in with "
            "`hf auth login` or set HF_TOKEN" + ("; the token that is set may be wrong" if get_token() else "")
        )
    if status == 429:
        return LoadError(
            f"the hub refuses {repo} for now: too many requests. Wait some minutes and run again: what was downloaded "
            "is kept. Logging in (`hf auth login`) raises the limit"
        )
    if status is not None and status >= 500:
        return LoadError(
            f"the hub fails ({status}) on {repo}. Run again later: what was downloaded is kept, and a pinned revision "
            "that is complete on this machine loads without the hub"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return LoadError(
            f"the disk is full: {error.strerror}. Free some space, or set HF_HOME (downloads) and DM_STORE (results) to "
            "folders on a larger disk"
        )
    if isinstance(error, DamagedFileError) or "Consistency check" in str(error):
        return LoadError(f"{repo} arrives damaged again and again: {_first_line(error)}. Try another network, or later")
    if is_transient(error):
        return LoadError(
            f"{repo} is not on this machine, and {page} cannot be reached ({_first_line(error)}). Connect and run again: "
            "what was downloaded is kept. Without a network use the profile 'lab', or a folder that holds the files"
        )
    if "out of memory" in str(error).lower():
        return LoadError(
            f"{repo} does not fit into memory ({_first_line(error)}). Choose dtype = 'bfloat16', a smaller model or narrower "
            "SAE (`dm profiles` lists what each needs), or device = 'cpu'"
        )
    return LoadError(f"{repo} cannot be loaded: {type(error).__name__}: {_first_line(error)}")


@contextmanager
def explained(repo: str, revision: str | None = None, kind: Kind = "model") -> Iterator[None]:
    """Raise what happens inside as a LoadError of this repository."""
    try:
        yield
    except (LoadError, MemoryError):
        raise
    except Exception as error:
        raise explain(error, repo, revision, kind) from error


def _first_line(error: BaseException) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
