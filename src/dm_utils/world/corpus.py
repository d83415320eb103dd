"""Text in, token contexts out: fixed-length, packed, BOS first."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dm_utils.base.files import file_sha256
from dm_utils.lab import text as lab_text
from dm_utils.lab.text import SEPARATOR, evaluation_text
from dm_utils.world import hub
from dm_utils.world.profile import Profile

log = logging.getLogger("dm_utils")
SAVES = 20  # how often a stream keeps what it gave, until it has given all
READERS = {".txt": "text", ".parquet": "parquet", ".jsonl": "json", ".json": "json"}  # how `datasets` calls each format


def batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """Lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some


@dataclass
class Progress:
    """How far the packing of a text has come: documents used up, and their tokens that are in no context yet."""

    documents: int = 0
    buffer: list[int] = field(default_factory=list)
    used: int = 0  # how many tokens at the start of the buffer are in contexts already

    @property
    def left(self) -> np.ndarray:
        """The tokens that wait for a context."""
        return np.array(self.buffer[self.used :], dtype=np.int64)


def pack(
    documents: Iterable[str], tokenizer: Any, ctx_len: int, progress: Progress | None = None, size: int = 256
) -> Iterator[np.ndarray]:
    """Yield contexts of `ctx_len` tokens: BOS, then text. A blank line ends each document, as in the lab's training.

    `size` documents are tokenised at a time; `progress` is up to date whenever a context is given.
    """
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if bos is None:
        raise ValueError("the tokenizer has neither a BOS nor an EOS token, so contexts cannot start with one")
    progress = progress or Progress()
    buffer = progress.buffer
    for some in batched(documents, size):
        texts = [document + SEPARATOR for document in some]
        buffer += chain.from_iterable(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
        progress.documents += len(some)
        while len(buffer) - progress.used >= ctx_len - 1:
            start = progress.used
            progress.used += ctx_len - 1
            yield np.array([bos, *buffer[start : start + ctx_len - 1]])
        del buffer[: progress.used]
        progress.used = 0


def contexts(
    profile: Profile, tokenizer: Any, store: Any | None = None, key: Mapping[str, Any] | None = None
) -> Int[Tensor, "context ctx_len"]:
    """The token contexts of a profile, the same on every run with the same text, tokenizer and seed.

    With a store and a key, a stream that breaks off, or is killed, leaves there what it gave, and the next call goes on.
    """
    if profile.dataset == "stdlib-docs":
        found = list(pack(evaluation_text(), tokenizer, profile.ctx_len))
        order = np.random.default_rng(profile.seed).permutation(len(found))
        found = [found[i] for i in order[: profile.n_contexts]]
    else:
        found = _streamed(profile, tokenizer, store, key or {})
    if len(found) < profile.n_contexts:
        raise ValueError(
            f"{profile.dataset} gives {len(found)} contexts of {profile.ctx_len} tokens; "
            f"{profile.n_contexts} were asked for. Lower n_contexts or ctx_len, or name a longer text."
        )
    return torch.from_numpy(np.stack(found)).long()


def _streamed(profile: Profile, tokenizer: Any, store: Any | None, key: Mapping[str, Any]) -> list[np.ndarray]:
    """Pack a stream from where the last call stopped, keeping what it gave as it goes: a killed run says no goodbye."""
    found, progress = [], Progress()
    key = store.full_key(key, (__name__,)) if store else key
    if store and (kept := store.load("contexts_so_far", key)):
        found, progress = list(kept[1]["contexts"]), Progress(kept[0]["documents"], kept[1]["buffer"].tolist())
        log.info("%s: going on after %d contexts that an earlier run kept", profile.dataset, len(found))

    def keep() -> None:
        if store and found:
            arrays = {"contexts": np.stack(found), "buffer": progress.left}
            store.save("contexts_so_far", key, {"documents": progress.documents}, arrays, by=(__name__,))

    every = max(1, profile.n_contexts // SAVES)
    try:
        for context in pack(documents(profile, progress.documents), tokenizer, profile.ctx_len, progress, size=16):
            found.append(context)
            if len(found) == profile.n_contexts:
                break
            if len(found) % every == 0:
                keep()
    except hub.LoadError as error:
        keep()
        if not store or not found:
            raise
        raise hub.LoadError(
            f"{error}. The {len(found)} of {profile.n_contexts} contexts read so far are kept: run again to go on from there"
        ) from error
    except KeyboardInterrupt:
        keep()
        raise
    return found


def revision(profile: Profile) -> str:
    """The commit of the profile's dataset on the hub; empty for text of this machine."""
    if profile.dataset == "stdlib-docs" or Path(profile.dataset).expanduser().exists():
        return ""
    return hub.commit(profile.dataset, profile.dataset_revision, "dataset")


def identity(profile: Profile) -> str:
    """What tells this text from every other: Python's version, digests of files, or a dataset's name and commit."""
    if profile.dataset == "stdlib-docs":
        return f"stdlib-docs of Python {platform.python_version()}, reader {file_sha256(Path(lab_text.__file__))[:16]}"
    if sha := revision(profile):
        return f"{profile.dataset}@{sha}"
    return " ".join(file_sha256(path) for path in local_files(profile))


def local_files(profile: Profile) -> list[Path]:
    """The file that a profile names as its dataset, or the files of the folder that it names."""
    path = Path(profile.dataset).expanduser()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    if not files or any(file.suffixes[:1] not in ([kind] for kind in READERS) for file in files):
        raise hub.LoadError(
            f"dataset = {profile.dataset!r}: it must be a file, or a folder of files, that end in {', '.join(READERS)} "
            "(the last two also compressed: .gz, .zst)"
        )
    return files


def documents(profile: Profile, start: int = 0) -> Iterator[str]:
    """Stream the documents of local files or of a hub's dataset, from document number `start` on.

    A text file's documents are separated by blank lines. When a stream breaks off it is opened again, after a while, at
    the document that it had reached: a position that holds for files and for a hub's dataset, as a stream's `state_dict`
    does not.

    Raises
    ------
    LoadError : the stream cannot be read on; `documents(profile, start)` can go on from there later.
    """
    from datasets import load_dataset

    options: dict[str, Any] = {"path": profile.dataset, "revision": revision(profile)}
    if not options["revision"]:
        files = local_files(profile)
        if files[0].suffix == ".txt":
            texts = (part for file in files for part in file.read_text(encoding="utf-8").split("\n\n") if part.strip())
            yield from islice(texts, start, None)
            return
        options = {"path": READERS[files[0].suffixes[0]], "data_files": [str(file) for file in files]}
    waits = iter(hub.WAITS)
    while True:
        reached = start
        try:
            rows = load_dataset(**options, split="train", streaming=True)
            for row in rows.skip(start) if start else rows:
                if "text" not in row:
                    raise hub.LoadError(f"{profile.dataset} has no column 'text'; it has {', '.join(row)}")
                yield row["text"]
                start += 1
            return
        except Exception as error:
            if start > reached:  # it got further, so the network is not gone for good
                waits = iter(hub.WAITS)
            wait = next(waits, None) if hub.is_transient(error) else None
            if wait is None:
                raise hub.explain(error, profile.dataset, profile.dataset_revision, "dataset") from error
            log.warning("%s broke off at document %d (%s). Trying again in %g s.", profile.dataset, start, error, wait)
            time.sleep(wait)
