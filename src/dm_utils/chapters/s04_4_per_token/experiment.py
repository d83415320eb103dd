"""What the errors of two SAEs share: norms token by token (Section 4.4, Eq. 13), the worst tokens, the contexts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import permutations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.maths.regression import BLOCK
from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums, Split, Sums, check_finite


@dataclass(frozen=True)
class Transfer:
    """c·‖SaeError₁(x)‖² + c₀ as a prediction of ‖SaeError₂(x)‖²: its held-out R², c = `slope` and c₀ = `intercept`."""

    r2: Estimate
    slope: float
    intercept: float


@dataclass(frozen=True)
class FitProducts:
    """Count, mean [sae] and centred products Σ (e_i − ē_i)(e_j − ē_j) [sae, sae] over the fitting tokens, float64."""

    n: int
    mean: Float[Tensor, " sae"]
    product: Float[Tensor, "sae sae"]

    def line(self, i: int, j: int, intercept: bool) -> tuple[float, float]:
        """Slope and intercept of e_j on e_i by least squares; slope 0 where e_i does not vary (or is zero)."""
        cross, square = self.product[i, j], self.product[i, i]
        if not intercept:  # moments about zero
            cross, square = cross + self.n * self.mean[i] * self.mean[j], square + self.n * self.mean[i] ** 2
        slope = float(cross / square) if square > 0 else 0.0
        return slope, float(self.mean[j] - slope * self.mean[i]) if intercept else 0.0


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

    All pairs share one pass over the tokens: sums of products of the norms are all that least squares, its held-out R² and
    the bootstrap over held-out contexts need.

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
    check_finite(norms, "norms")
    fitting = norms[:, split.fit].double()
    mean = fitting.mean(1)
    centred = fitting - mean[:, None]
    products = FitProducts(fitting.shape[1], mean, centred @ centred.T)
    resampled = Bootstrap(_held_out_sums(norms, mean, split), n_bootstrap, seed)
    found = {}
    for i, j in wanted:
        slope, offset = products.line(i, j, intercept)
        miss = float(mean[j] - slope * mean[i]) - offset  # of the line at the fitting means; 0 with an intercept
        statistic = partial(_r2, i=i, j=j, slope=slope, miss=miss, floor=1e-12 * float(mean[j]) ** 2)
        note = "the error norm to predict is the same for every token"
        found[i, j] = Transfer(resampled.estimate(statistic, note), slope, offset)
    return found


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


def _held_out_sums(norms: Tensor, mean: Tensor, split: Split) -> Sums:
    """Sums per context of the norms about their fitting means and of all their products."""
    sums = HeldOutSums(split)
    n_sae = len(norms)
    first, second = torch.triu_indices(n_sae, n_sae)
    for start in range(0, norms.shape[1], BLOCK):
        rows = slice(start, min(start + BLOCK, norms.shape[1]))
        e = norms[:, rows].double().T - mean  # [token, sae]
        sums.add(rows, e=e, product=e[:, first] * e[:, second])
    product = torch.zeros(split.n_groups, n_sae, n_sae, dtype=torch.float64)
    product[:, first, second] = product[:, second, first] = sums.totals["product"]
    return {"n": sums.totals["n"], "e": sums.totals["e"], "product": product.flatten(1)}


def _r2(sums: Sums, i: int, j: int, slope: float, miss: float, floor: float) -> Float[Tensor, " draw"]:
    """1 − Σ(e_j − slope·e_i + miss)² / Σ(e_j − mean)², the e being about their fitting means."""
    n, n_sae = sums["n"][:, 0], sums["e"].shape[1]
    x, y = sums["e"][:, i], sums["e"][:, j]
    xx, xy, yy = (sums["product"][:, a * n_sae + b] for a, b in ((i, i), (i, j), (j, j)))
    rss = yy + slope**2 * xx + n * miss**2 - 2 * slope * xy + 2 * miss * y - 2 * miss * slope * x
    tss = yy - y**2 / n
    return torch.where(tss > floor * n, 1 - rss / tss, torch.nan)
