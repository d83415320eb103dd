"""Text in, token contexts out: fixed-length, packed, BOS first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dm_utils.profiles import Profile


def pack(documents: Iterable[str], tokenizer: Any, ctx_len: int) -> Iterator[np.ndarray]:
    """Yield contexts of `ctx_len` tokens: BOS, then text; documents follow each other after an EOS (or BOS)."""
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    separator = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else bos
    if bos is None:
        raise ValueError("the tokenizer has neither a BOS nor an EOS token, so contexts cannot start with one")
    buffer: list[int] = []
    for document in documents:
        buffer += [*tokenizer(document, add_special_tokens=False)["input_ids"], separator]
        while len(buffer) >= ctx_len - 1:
            yield np.array([bos, *buffer[: ctx_len - 1]])
            del buffer[: ctx_len - 1]


def contexts(profile: Profile, tokenizer: Any) -> Int[Tensor, "context ctx_len"]:
    """The token contexts of a profile, the same on every run with the same text, tokenizer and seed."""
    if profile.dataset == "stdlib-docs":
        found = list(pack(evaluation_documents(), tokenizer, profile.ctx_len))
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


def evaluation_documents() -> list[str]:
    """The standard library's documentation, read from the running interpreter."""
    from dm_utils.lab import evaluation_text

    return evaluation_text()


def documents(profile: Profile) -> Iterator[str]:
    """Stream the documents of a local text file (blank-line separated) or a Hugging Face dataset."""
    path = Path(profile.dataset).expanduser()
    if path.is_file():
        yield from (part for part in path.read_text(encoding="utf-8").split("\n\n") if part.strip())
        return
    from datasets import load_dataset

    rows = load_dataset(profile.dataset, split="train", streaming=True, revision=profile.dataset_revision)
    yield from (row["text"] for row in rows)
