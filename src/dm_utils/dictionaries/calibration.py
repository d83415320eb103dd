"""One number that gives a trained SAE the L0 at which methods are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

TUNED = {"jumprelu": ("threshold",), "gated": ("b_gate",), "standard": ("b_enc",)}
"""Kinds of SAEs whose L0 is not set by their configuration, and what moves it."""


@torch.no_grad()
def calibrate(sae: Any, x: Float[Tensor, "token d"], l0: float, block: int = 4096) -> float:
    """Give an inference SAE the wanted mean L0 on `x`, by bisection; the number that was found.

    A JumpReLU SAE's thresholds are multiplied by it; from a gated SAE's gate biases, or a standard SAE's encoder biases, it is taken
    off, in units of their pre-activations' standard deviation. Other kinds stay as they are (0 is returned).

    Raises
    ------
    ValueError : no number in the range searched gives the L0.
    """
    kind = sae.cfg.architecture()
    if kind not in TUNED:
        return 0.0
    parameter = getattr(sae, TUNED[kind][0])
    before = parameter.clone()
    if kind == "jumprelu":
        low, high, move = 1 / 16, 16.0, lambda value: before * value
    else:
        spread = (x[:block] @ sae.W_enc).std(0)
        low, high, move = -4.0, 4.0, lambda value: before - value * spread

    def l0_with(value: float) -> float:
        parameter.copy_(move(value))
        return _l0(sae.encode, x, block)

    reach = l0_with(high), l0_with(low)
    if not reach[0] <= l0 <= reach[1]:
        parameter.copy_(before)
        raise ValueError(
            f"{kind}: an L0 of {l0:g} is out of reach; what can be had is {reach[0]:.1f} to {reach[1]:.1f}"
        )
    for _ in range(16):
        middle = (low * high) ** 0.5 if kind == "jumprelu" else (low + high) / 2
        low, high = (middle, high) if l0_with(middle) > l0 else (low, middle)
    l0_with(high)
    return high


def _l0(encode: Callable[[Tensor], Tensor], x: Tensor, block: int) -> float:
    return sum(float((encode(part) != 0).sum()) for part in x.split(block)) / len(x)
