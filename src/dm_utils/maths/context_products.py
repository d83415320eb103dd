"""Least squares among a few named per-token columns, from their products summed per context.

All columns share one pass over the tokens: those sums are all that every regression among them, its held-out FVU and
its bootstrap need. Any number of regressions then costs microseconds each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.maths.regression import factorise
from dm_utils.maths.resampling import Bootstrap, Estimate, Split, Sums, check_finite

ONE = "1"


class ContextProducts:
    """Sums of products of named columns, one per context, apart for fitting and held-out tokens.

    Parameters
    ----------
    columns : name → float [token].
    split : which tokens fit, and the context of each.
    n_bootstrap, seed : resamples of the held-out contexts, the same for every statistic, so differences are paired.

    Raises
    ------
    ValueError : a column has another length, or holds NaN or Inf.
    """

    def __init__(
        self,
        columns: Mapping[str, Float[Tensor, " token"]],
        split: Split,
        n_bootstrap: int = 1000,
        seed: int = 0,
    ):
        for name, column in columns.items():
            if column.shape != split.fit.shape:
                raise ValueError(f"column {name} must be [{len(split.fit)}], as the split; it is {tuple(column.shape)}")
            check_finite(column, f"column {name}")
        self.names = [ONE, *columns]
        stacked = torch.stack([torch.ones(len(split.fit)), *columns.values()], 1).double()
        self.scale = (stacked[split.fit] ** 2).mean(0).sqrt()
        self.scale[self.scale == 0] = 1
        stacked /= self.scale
        self._fit = _sums(stacked, split, split.fit)
        self._fit_draws = (n_bootstrap, seed)
        self._held_out = Bootstrap(_sums(stacked, split, ~split.fit), n_bootstrap, seed)

    def _index(self, names: Sequence[str]) -> list[int]:
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ValueError(f"no column {', '.join(unknown)}; the columns are {', '.join(self.names[1:])}")
        return [self.names.index(name) for name in names]

    def gram(self, sums: Sums) -> Float[Tensor, "draw column column"]:
        """Sums of products of the scaled columns, of each draw."""
        return sums["products"].unflatten(1, (len(self.names), len(self.names)))

    def fit(self, target: str, regressors: Sequence[str], intercept: bool = True) -> Float[Tensor, " column"]:
        """Least squares of the target on the regressors over the fitting tokens, as a residual.

        Returns one weight per scaled column: 1 for the target, minus its coefficient for each regressor, else 0.
        """
        used, y = self._index([ONE, *regressors] if intercept else regressors), self._index([target])[0]
        gram = self._fit["products"].sum(0).unflatten(0, (len(self.names), -1))
        weights = torch.zeros(len(self.names), dtype=torch.float64)
        weights[used] = -factorise(gram[used][:, used])[1](gram[used][:, [y]])[:, 0]
        weights[y] = 1
        return weights

    def _fvu(self, sums: Sums, target: str, weights: Tensor) -> Float[Tensor, " draw"]:
        gram, y = self.gram(sums), self._index([target])[0]
        total = gram[:, y, y] - gram[:, 0, y] ** 2 / gram[:, 0, 0]
        rss = torch.einsum("i,nij,j->n", weights, gram, weights)
        return torch.where(total > 1e-12 * gram[:, y, y], rss / total, torch.nan)

    def fvu(self, target: str, regressors: Sequence[str], intercept: bool = True) -> Estimate:
        """Held-out FVU, 1 − R², of the target predicted from the regressors."""
        weights = self.fit(target, regressors, intercept)
        return self._held_out.estimate(lambda sums: self._fvu(sums, target, weights), "the target does not vary")

    def percent_decrease(
        self, target: str, base: Sequence[str], extra: Sequence[str], intercept: bool = True
    ) -> Estimate:
        """100 (1 − FVU(base + extra) / FVU(base)): what the extra regressors save, in percent of the held-out FVU.

        Positive when they help; slightly negative when they are noise that was fitted.
        """
        before, after = self.fit(target, base, intercept), self.fit(target, [*base, *extra], intercept)
        return self._held_out.estimate(
            lambda sums: 100 * (1 - self._fvu(sums, target, after) / self._fvu(sums, target, before)),
            "the target does not vary, or the base predicts it exactly",
        )

    def covariance(self, names: Sequence[str]) -> Float[Tensor, "column column"]:
        """Covariance of columns over the held-out tokens, in their own units."""
        used = self._index(names)
        gram = self.gram(self._held_out.observed)[0]
        n = gram[0, 0]
        centred = gram[used][:, used] / n - torch.outer(gram[0, used], gram[0, used]) / n**2
        return centred * torch.outer(self.scale[used], self.scale[used])

    def coefficients(self, target: str, regressors: Sequence[str], intercept: bool = True) -> dict[str, Estimate]:
        """Coefficients in the columns' own units; intervals resample the *fitting* contexts and fit again."""
        used, y = self._index([ONE, *regressors] if intercept else regressors), self._index([target])[0]
        units = self.scale[y] / self.scale[used]

        def solve(sums: Sums) -> Tensor:
            gram = self.gram(sums)
            return torch.linalg.solve(gram[:, used][:, :, used], gram[:, used, y]) * units

        def coefficient(index: int, sums: Sums) -> Tensor:
            return solve(sums)[:, index]

        resampled = Bootstrap(self._fit, *self._fit_draws)
        names = ["intercept", *regressors] if intercept else list(regressors)
        return {name: resampled.estimate(partial(coefficient, i)) for i, name in enumerate(names)}


def _sums(columns: Float[Tensor, "token column"], split: Split, chosen: Tensor) -> Sums:
    """Σ z zᵀ per context over the chosen tokens, float64 [context, column²], and how many tokens there are."""
    order = torch.argsort(split.group[chosen], stable=True)
    counts = torch.bincount(split.group[chosen], minlength=split.n_groups)
    blocks = columns[chosen][order].split(counts.tolist())
    return {"n": counts[:, None].double(), "products": torch.stack([(z.T @ z).flatten() for z in blocks])}
