"""What adding a part of the error back wins of the loss that an SAE costs, beside that part's share of the variance (Section 5.3)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.maths.resampling import HeldOutSums, Split, Sums


def context_sums(context: Int[Tensor, " token"], columns: dict[str, Float[Tensor, " token"]]) -> Sums:
    """Sum per-token columns over each context, as `Bootstrap` takes them; every spliced token is held out."""
    group = torch.unique(context, return_inverse=True)[1]
    sums = HeldOutSums(Split(torch.zeros(len(group), dtype=torch.bool), group))
    sums.add(slice(None), **columns)
    return sums.totals


def recovered(sums: Sums, variant: str, loss: str = "ce") -> Float[Tensor, " draw"]:
    """Share of the loss that Sae(x) costs and that a variant wins back: (L_sae − L_variant) / (L_sae − L_original)."""
    cost = sums[f"{loss}_sae"] - sums[f"{loss}_original"]
    return ((sums[f"{loss}_sae"] - sums[f"{loss}_{variant}"]) / cost)[:, 0]


def share_of_variance(sums: Sums, part: str) -> Float[Tensor, " draw"]:
    """Share of the unexplained variance that adding a part back removes: 1 − Σ‖the other part‖² / Σ‖SaeError‖²."""
    other = "nonlinear" if part == "linear" else "linear"
    return (1 - sums[f"{other}_norm2"] / sums["error_norm2"])[:, 0]


def excess(sums: Sums, part: str, loss: str = "ce") -> Float[Tensor, " draw"]:
    """What adding a part back recovers, beyond its share of the variance."""
    return recovered(sums, f"sae_{part}", loss) - share_of_variance(sums, part)
