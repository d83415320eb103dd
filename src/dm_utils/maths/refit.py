"""Intervals that cover the fit too: least squares fitted again without each group of contexts, from moments alone.

A bootstrap of held-out contexts holds the fitted map fixed. With few contexts the map itself is uncertain, and worse than
the best one. Leaving out one group of contexts at a time, from the fit and from the evaluation, shows both: how far the
value scatters, and by how much it moves as text is added.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.maths.jackknife import N_GROUPS, groups
from dm_utils.maths.jackknife import interval as jackknife_interval
from dm_utils.maths.regression import Design, factorise
from dm_utils.maths.resampling import Estimate, Sums, r2_weighted

Target = Callable[[slice, Float[Tensor, "token d"]], Float[Tensor, "token target"]]


class Refitted:
    """Held-out sums of a least-squares fit on everything first, then on all contexts but one group at a time.

    They are kept under the names of `HeldOutSums`, one row per fit, so that a statistic of resampled sums serves here.
    With `squares` (targets are vectors like x) they include those of x, of the product x · y and of the norms.

    Raises
    ------
    ValueError : fewer than five contexts.
    """

    def __init__(self, design: Design, target: Target, *, n_groups: int = N_GROUPS, squares: bool = False):
        self.design = design
        group = groups(design.split.group, n_groups)
        moments = [_Moments(int(group.max()) + 1) for _ in range(2)]
        for rows, x in design.blocks():
            x1 = torch.cat([torch.ones_like(x[:, :1]), x - design.shift.to(x.device, x.dtype)], 1).cpu().double()
            y, fits = target(rows, x).cpu().double(), design.split.fit[rows]
            for kept, chosen in zip(moments, (fits, ~fits), strict=True):
                kept.add(group[rows][chosen], x1[chosen], y[chosen])
        fit, rest = moments
        self.sums = self._sums(fit.left_out(), rest.left_out(), squares)

    def _sums(self, fit: Sums, rest: Sums, squares: bool) -> Sums:
        residual2 = []
        for gram, cross, h, k, y2 in zip(fit["xx"], fit["xy"], rest["xx"], rest["xy"], rest["y2"], strict=True):
            coef = self._solve(gram, cross)
            residual2.append(y2 - 2 * (coef * k).sum(0) + ((h @ coef) * coef).sum(0))
        found = {
            "n": rest["xx"][:, 0, :1],
            "y": rest["xy"][:, 0],
            "y2": rest["y2"],
            "residual2": torch.stack(residual2),
        }
        if squares:
            found |= {"x": rest["xx"][:, 0, 1:], "x2": rest["xx"][:, 1:, 1:].diagonal(dim1=1, dim2=2)}
            found |= {"xy": rest["xy"][:, 1:].diagonal(dim1=1, dim2=2)}
            found |= {"error2": rest["y2"].sum(1, keepdim=True), "nonlinear2": found["residual2"].sum(1, keepdim=True)}
        return found

    def _solve(self, gram: Tensor, cross: Tensor) -> Float[Tensor, "regressor target"]:
        """Coefficients of 1 and of x − shift; without an intercept the shift is 0 and the first coefficient too."""
        if not self.design.intercept:
            return torch.cat([torch.zeros_like(cross[:1]), factorise(gram[1:, 1:])[1](cross[1:])])
        n, mean, y_mean = gram[0, 0], gram[0, 1:] / gram[0, 0], cross[0] / gram[0, 0]
        rounding = torch.finfo(self.design.dtype).eps * (mean + self.design.shift).abs()
        solve = factorise(gram[1:, 1:] - n * torch.outer(mean, mean), n * rounding**2)[1]
        coef = solve(cross[1:] - n * torch.outer(mean, y_mean))
        return torch.cat([(y_mean - mean @ coef)[None], coef])

    def estimate(self, statistic: Callable[[Sums], Tensor], note: str = "it does not vary") -> Estimate:
        """The statistic, and a 95 % interval about it less the bias that leaving out groups shows (Student's t)."""
        values = statistic(self.sums)
        value, low, high = (float(number) for number in jackknife_interval(values))
        if not math.isfinite(low):
            return Estimate(math.nan, math.nan, math.nan, note)
        bias = (len(values) - 2) * (float(values[1:].mean()) - value)
        return Estimate(value, low - bias, high - bias)


class _Moments:
    """Σ x1ᵀx1, Σ x1ᵀy and Σ y² of each group, in float64; x1 starts with the constant 1."""

    def __init__(self, n_groups: int):
        self.n_groups = n_groups
        self.totals: Sums = {}

    def add(self, group: Int[Tensor, " token"], x1: Tensor, y: Tensor) -> None:
        """Take in tokens: their group, regressors [token, 1 + d] and targets [token, target]."""
        for g in torch.unique(group):
            mine, own = x1[group == g], y[group == g]
            for name, product in {"xx": mine.T @ mine, "xy": mine.T @ own, "y2": (own**2).sum(0)}.items():
                zeros = torch.zeros(self.n_groups, *product.shape, dtype=torch.float64)
                self.totals.setdefault(name, zeros)[g] += product

    def left_out(self) -> Sums:
        """The sums of everything, then of all but each group."""
        return {name: torch.cat([total.sum(0)[None], total.sum(0) - total]) for name, total in self.totals.items()}


def r2_of_column(column: int, sums: Sums) -> Float[Tensor, " draw"]:
    """R² of one of several scalar targets."""
    return r2_weighted({name: total if name == "n" else total[:, [column]] for name, total in sums.items()})
