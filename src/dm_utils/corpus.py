"""Text in, token contexts out: fixed-length, packed, BOS first."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dm_utils.lab import text as lab_text
from dm_utils.lab.text import SEPARATOR, evaluation_text
from dm_utils.profiles import Profile
from dm_utils.store import file_sha256


def batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """Lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some


def pack(documents: Iterable[str], tokenizer: Any, ctx_len: int) -> Iterator[np.ndarray]:
    """Yield contexts of `ctx_len` tokens: BOS, then text. A blank line ends each document, as in the lab's training."""
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if bos is None:
        raise ValueError("the tokenizer has neither a BOS nor an EOS token, so contexts cannot start with one")
    buffer: list[int] = []
    for some in batched(documents, 256):
        texts = [document + SEPARATOR for document in some]
        buffer += chain.from_iterable(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
        start = 0
        while len(buffer) - start >= ctx_len - 1:
            yield np.array([bos, *buffer[start : start + ctx_len - 1]])
            start += ctx_len - 1
        del buffer[:start]


def contexts(profile: Profile, tokenizer: Any) -> Int[Tensor, "context ctx_len"]:
    """The token contexts of a profile, the same on every run with the same text, tokenizer and seed."""
    if profile.dataset == "stdlib-docs":
        found = list(pack(evaluation_text(), tokenizer, profile.ctx_len))
        order = np.random.default_rng(profile.seed).permutation(len(found))
        found = [found[i] for i in order[: profile.n_contexts]]
    else:
        found = list(islice(pack(documents(profile), tokenizer, profile.ctx_len), profile.n_contexts))
    if len(found) < profile.n_contexts:
        raise ValueError(
            f"{profile.dataset} gives {len(found)} contexts of {profile.ctx_len} tokens; "
            f"{profile.n_contexts} were asked for. Lower n_contexts or ctx_len, or name a longer text."
        )
    return torch.from_numpy(np.stack(found)).long()


def identity(profile: Profile) -> str:
    """What tells this text from every other: Python's version, a file's digest, or a hub dataset's name."""
    if profile.dataset == "stdlib-docs":
        return f"stdlib-docs of Python {platform.python_version()}, reader {file_sha256(Path(lab_text.__file__))[:16]}"
    path = Path(profile.dataset).expanduser()
    return file_sha256(path) if path.is_file() else f"{profile.dataset}@{profile.dataset_revision or 'main'}"


def documents(profile: Profile) -> Iterator[str]:
    """Stream the documents of a local text file (blank-line separated) or a Hugging Face dataset."""
    path = Path(profile.dataset).expanduser()
    if path.is_file():
        yield from (part for part in path.read_text(encoding="utf-8").split("\n\n") if part.strip())
        return
    from datasets import load_dataset

    rows = load_dataset(
        profile.dataset,
        split="train",
        streaming=True,
        revision=profile.dataset_revision,
    )
    yield from (row["text"] for row in rows)
