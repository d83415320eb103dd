"""What the errors of two SAEs share: norms token by token (Section 4.4, Eq. 13), the worst tokens, the contexts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.maths.context_products import ContextProducts
from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums, Split, Sums


@dataclass(frozen=True)
class Transfer:
    """c·‖SaeError₁(x)‖² + c₀ as a prediction of ‖SaeError₂(x)‖²: its held-out R², c = `slope` and c₀ = `intercept`."""

    r2: Estimate
    slope: float
    intercept: float


def transfer(
    norms: Float[Tensor, "sae token"],
    split: Split,
    *,
    intercept: bool = True,
    pairs: Iterable[tuple[int, int]] | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> dict[tuple[int, int], Transfer]:
    """Predict the error norms of SAE j from those of SAE i, min Σ_fit (c e_i + c₀ − e_j)² (Eq. 13), for each pair (i, j).

    All pairs share one pass over the tokens.

    Parameters
    ----------
    norms : [sae, token], the (squared) error norm of each SAE at each token.
    split : which tokens fit, and the context of each token.
    intercept : fit c₀ too, as the paper's other regressions do; False is Eq. 13 as printed, where c* is one scalar.
    pairs : ordered pairs (i, j) of rows; by default every pair of different rows.

    Raises
    ------
    ValueError : shapes differ from the split's, a value is NaN or Inf, or a pair names a row that is not there.
    """
    if norms.ndim != 2 or norms.shape[1] != len(split.fit):
        raise ValueError(f"norms must be [sae, {len(split.fit)}], one column per token; given {tuple(norms.shape)}")
    wanted = list(permutations(range(len(norms)), 2) if pairs is None else pairs)
    unknown = [pair for pair in wanted if not all(0 <= i < len(norms) for i in pair)]
    if unknown:
        raise ValueError(f"pairs {unknown} name rows outside 0 to {len(norms) - 1}")
    products = ContextProducts({f"e{row}": each for row, each in enumerate(norms)}, split, n_bootstrap, seed)
    return {(i, j): _transfer(products, i, j, intercept) for i, j in wanted}


def _transfer(products: ContextProducts, i: int, j: int, intercept: bool) -> Transfer:
    lost = products.fvu(f"e{j}", [f"e{i}"], intercept)
    one, first, second = products.scale[[0, 1 + i, 1 + j]]
    residual = products.fit(f"e{j}", [f"e{i}"], intercept)  # e_j − c e_i − c₀, of scaled columns
    r2 = Estimate(1 - lost.value, 1 - lost.high, 1 - lost.low, lost.note)
    return Transfer(r2, -float(residual[1 + i] * second / first), -float(residual[0] * second / one))


def shared_worst(
    small: Float[Tensor, " token"],
    large: Float[Tensor, " token"],
    group: Int[Tensor, " token"],
    worst: float = 0.1,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Estimate:
    """The share of the tokens with the largest errors of one SAE that are among those of the other, too.

    Chance would give `worst`. Every token counts; resampled contexts are judged by the thresholds of all of them.
    """
    bad = torch.stack([errors >= float(np.quantile(errors.numpy(), 1 - worst)) for errors in (small, large)], 1)
    sums = HeldOutSums(everything(group))
    sums.add(slice(0, len(small)), first=bad[:, 0].double(), both=bad.all(1).double())
    return Bootstrap(sums.totals, n_bootstrap, seed).estimate(lambda s: (s["both"] / s["first"])[:, 0])


def context_correlation(
    small: Float[Tensor, " token"],
    large: Float[Tensor, " token"],
    group: Int[Tensor, " token"],
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Correlation, over contexts, of the mean errors of two SAEs in a context."""
    sums = HeldOutSums(everything(group))
    sums.add(slice(0, len(small)), errors=torch.stack([small, large], 1))
    means = sums.totals["errors"] / sums.totals["n"]  # [context, 2]
    z = (means - means.mean(0)) / means.std(0)
    parts = {"n": torch.ones(len(z), 1, dtype=z.dtype), "z": z, "z2": z**2, "product": z.prod(1, keepdim=True)}

    def correlation(s: Sums) -> Tensor:
        covariance = s["product"][:, 0] - s["z"].prod(1) / s["n"][:, 0]
        return covariance / (s["z2"] - s["z"] ** 2 / s["n"]).prod(1).sqrt()

    return Bootstrap(parts, n_bootstrap, seed).estimate(correlation)


def everything(group: Int[Tensor, " token"]) -> Split:
    """A split that holds out every token: nothing is fitted."""
    return Split(fit=torch.zeros(len(group), dtype=torch.bool), group=group)
