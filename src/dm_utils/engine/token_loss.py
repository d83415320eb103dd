"""The language model's loss at every kept token, as a regressor and as a thing to explain."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from dm_utils.maths.resampling import check_finite
from dm_utils.world import models

if TYPE_CHECKING:
    from dm_utils.engine.store import Arrays
    from dm_utils.engine.study import Study


@torch.inference_mode()
def cross_entropy(
    logits: Float[Tensor, "context ctx_len vocab"], tokens: Int[Tensor, "context ctx_len"]
) -> Float[Tensor, "context predicted"]:
    """−ln p(token t + 1 | tokens up to t) in nats, float32 [context, ctx_len − 1].

    One context at a time in float32, because logits of a large vocabulary are the largest tensor of a run.
    """
    rows = zip(logits, tokens, strict=True)
    return torch.stack([functional.cross_entropy(row[:-1].float(), ids[1:], reduction="none") for row, ids in rows])


def token_losses(study: Study) -> dict[str, np.ndarray]:
    """Two losses of every kept token, float32 [token] in nats, in the order of `study.site(…).x`.

    Returns
    -------
    dict
        `next`: the loss at the token's position, −ln p(x_{t+1} | x_{≤t}), which the model computes from this
        activation. `own`: how surprising the token itself was, −ln p(x_t | x_{<t}), which is settled before.

    Raises
    ------
    ValueError
        If skip is 0: the first token of a context is not predicted, so it has no loss of its own.
    """
    p = study.profile
    if p.skip < 1:
        raise ValueError(f"skip = {p.skip}: the loss of a context's first token is undefined; give skip of 1 or more")
    tokens = hashlib.sha256(study.contexts.numpy().tobytes()).hexdigest()
    key = {"model": models.identity(p), "tokens": tokens, "skip": p.skip, "dtype": p.dtype}

    def compute() -> tuple[Any, Arrays]:
        loss = _all_losses(study)
        kept = {"next": loss[:, p.skip : p.ctx_len - 1], "own": loss[:, p.skip - 1 : p.ctx_len - 2]}
        return None, {name: values.flatten().numpy() for name, values in kept.items()}

    return study.store.kept("token_loss", key, compute, sources=(__name__,))[1]


@torch.inference_mode()
def _all_losses(study: Study) -> Float[Tensor, "context predicted"]:
    p, device, losses = study.profile, models.resolve_device(study.profile.device), []
    starts = range(0, len(study.contexts), p.batch)
    for start in tqdm(starts, total=math.ceil(len(study.contexts) / p.batch), desc="loss", unit="batch", leave=False):
        tokens = study.contexts[start : start + p.batch].to(device)
        loss = cross_entropy(study.model(tokens, return_type="logits"), tokens).cpu()
        check_finite(loss, f"model loss, contexts {start} to {start + len(loss) - 1}")
        losses.append(loss)
    return torch.cat(losses)
