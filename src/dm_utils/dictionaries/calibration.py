"""One number that gives a trained SAE the L0 at which methods are compared."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

TUNED = {"jumprelu": "threshold", "top_afa": "share", "gated": "b_gate"}
"""Kinds of SAEs whose L0 is not set by their configuration, and what moves it."""
NEAR = 0.025  # an L0 this close to the wanted one is that one


@torch.no_grad()
def calibrate(sae: Any, x: Float[Tensor, "token d"], l0: float, block: int = 4096) -> float:
    """Give an inference SAE the wanted mean L0 on `x`, by bisection; the number that was found.

    A JumpReLU SAE's thresholds are multiplied by it, the share of the norm that a top-AFA SAE's codes have is divided by it; from a
    gated SAE's gate biases it is taken off, in units of their pre-activations' standard deviation.
    A TopK SAE whose tokens have too few positive pre-activations for their k gets the k that comes nearest. Others stay as they are (0
    is returned).

    Raises
    ------
    ValueError : no number in the range searched gives the L0; the SAE is as it was.
    """
    kind = sae.cfg.architecture()
    if kind == "topk":
        return _fill(sae, x, l0, block)
    if kind not in TUNED:
        return 0.0
    parameter, by_factor = getattr(sae, TUNED[kind]), kind in ("jumprelu", "top_afa")
    before = parameter.clone()
    low, high = (1 / 16, 16.0) if by_factor else (-4.0, 4.0)
    spread = None if by_factor else (x[:block] @ sae.W_enc).std(0)

    def l0_with(value: float) -> float:
        """Fewer latents for a larger value."""
        if spread is not None:
            parameter.copy_(before - value * spread)
        else:
            parameter.copy_(before / value if kind == "top_afa" else before * value)
        return mean_l0(sae, x, block)

    reach = l0_with(high), l0_with(low)
    if not reach[0] <= l0 <= reach[1]:
        parameter.copy_(before)
        raise ValueError(
            f"{kind}: an L0 of {l0:g} is out of reach; what can be had is {reach[0]:.1f} to {reach[1]:.1f}"
        )
    for _ in range(16):
        middle = (low * high) ** 0.5 if by_factor else (low + high) / 2
        low, high = (middle, high) if l0_with(middle) > l0 else (low, middle)
    l0_with(high)
    return high


def _fill(sae: Any, x: Tensor, l0: float, block: int) -> float:
    """Raise a TopK SAE's k until its mean L0 is nearest to the wanted one; 0 where it was near already, else the k."""
    first = int(sae.cfg.k)
    if mean_l0(sae, x, block) >= (1 - NEAR) * l0:
        return 0.0

    def apart(k: int) -> float:
        sae.cfg.k = k
        sae.activation_fn = sae.get_activation_fn()
        return abs(mean_l0(sae, x, block) - l0)

    tried = {k: apart(k) for k in range(first, min(4 * first, sae.cfg.d_sae) + 1)}
    best = min(tried, key=lambda k: (round(tried[k], 3), k))
    apart(best)
    return float(best)


def mean_l0(sae: Any, x: Float[Tensor, "token d"], block: int = 4096) -> float:
    """Mean number of active latents of a token."""
    return sum(float((sae.encode(part) != 0).sum()) for part in x.split(block)) / len(x)
