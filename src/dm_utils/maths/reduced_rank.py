"""The best linear map of each rank (reduced-rank regression), in closed form from one basis.

Of all maps of rank r, B V_r V_rᵀ leaves the least squared error, where B is the full least-squares map and V_r holds the r
orthonormal directions of the target in which the fitted values vary most. So one basis serves every rank: what rank r
leaves is what B leaves along the first r directions, and the whole target along the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.maths.regression import AffineMap, Design
from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums, Sums

MISSED = 0.5
"""Of a direction's variance: an SAE that leaves more of it mostly fails to learn the direction."""
Target = Callable[[slice, Float[Tensor, "token d"]], Float[Tensor, "token d"]]


@dataclass(frozen=True)
class RankedMap:
    """The least-squares map of a target on x, and the directions V that give its best map of every rank.

    `directions` float64 [target, target], orthonormal columns, that of most fitted variance first; `variance` float64
    [target], the fitted values' variance along each on the fitting tokens; `mean` [target], that of the target there.
    """

    full: AffineMap
    directions: Float[Tensor, "target target"]
    variance: Float[Tensor, " target"]
    mean: Float[Tensor, " target"]

    def of_rank(self, rank: int) -> AffineMap:
        """The best map of a rank, from 0 (the target's mean) to that of the full map."""
        if not 0 <= rank <= len(self.variance):
            raise ValueError(f"rank = {rank}: it must be from 0 to {len(self.variance)}")
        kept = self.directions[:, :rank]
        project = kept @ kept.T
        return AffineMap(self.full.coef @ project, self.mean + (self.full.intercept - self.mean) @ project)


def ranked_map(design: Design, target: Target) -> RankedMap:
    """Fit the target on the design's x, and find the directions in which the fitted values vary most (Eq. 11, by rank)."""
    full = design.fit_map(target)
    fitted_sum, products = (
        torch.zeros_like(full.intercept),
        torch.zeros(full.coef.shape[1], full.coef.shape[1]).double(),
    )
    for rows, x in design.blocks():
        fitted = full(x[design.split.fit[rows].to(x.device)]).cpu().double() - full.intercept
        fitted_sum += fitted.sum(0)
        products += fitted.T @ fitted
    mean = fitted_sum / design.n_fit
    values, vectors = torch.linalg.eigh(products / design.n_fit - torch.outer(mean, mean))
    return RankedMap(full, vectors.flip(1), values.flip(0).clamp_min(0), mean + full.intercept)


class ByRank:
    """What every rank leaves of the target on the held-out tokens, with intervals over contexts.

    `total` says of what it is a fraction: "target" (the target's own variance) or "x" (that of x).
    """

    def __init__(self, design: Design, target: Target, ranked: RankedMap, n_bootstrap: int = 1000, seed: int = 0):
        sums, basis, d = HeldOutSums(design.split), ranked.directions, len(ranked.mean)
        for rows, x in design.blocks():
            along = basis.to(x.device, x.dtype)
            mean, centre = ranked.mean.to(x.device, x.dtype), design.mean.to(x.device, x.dtype)
            y, x_along = (target(rows, x).to(x) - mean) @ along, (x - centre) @ along
            missed = y - (ranked.full(x) - mean) @ along
            sums.add(rows, y=y, y2=y**2, missed2=missed**2, x=x_along, x2=x_along**2)
        self.n_directions, self._bootstrap = d, Bootstrap(sums.totals, n_bootstrap, seed)

    def left(self, rank: int, total: str = "target") -> Estimate:
        """The fraction of variance that the best map of a rank leaves: 1 − R² of the target, or an FVU of x (Eq. 12)."""
        return self._bootstrap.estimate(lambda sums: _left(sums, total)[:, rank])

    def recovered(self, rank: int) -> Estimate:
        """The share of what the full map explains that the best map of a rank explains."""
        return self._bootstrap.estimate(lambda sums: _recovered(sums)[:, rank])

    def rank_for(self, share: float) -> Estimate:
        """The least rank that explains a share of what the full map explains."""
        return self._bootstrap.estimate(lambda sums: (_recovered(sums) >= share).double().argmax(1).double())

    def unexplained(self, direction: int) -> Estimate:
        """The target's variance along one direction, as a fraction of that of x along it."""
        return self._bootstrap.estimate(lambda sums: _unexplained(sums)[:, direction])

    def missed_directions(self, threshold: float) -> Estimate:
        """In how many of the directions the target has more than `threshold` of the variance of x."""
        return self._bootstrap.estimate(lambda sums: (_unexplained(sums) > threshold).double().sum(1))

    def missed_variance(self, threshold: float) -> Estimate:
        """The share of the variance of x that lies in those directions."""

        def share(sums: Sums) -> Tensor:
            variance = _about_mean(sums, "x")
            return (variance * (_unexplained(sums) > threshold)).sum(1) / variance.sum(1)

        return self._bootstrap.estimate(share)


def _about_mean(sums: Sums, name: str) -> Float[Tensor, "draw direction"]:
    return sums[f"{name}2"] - sums[name] ** 2 / sums["n"]


def _left(sums: Sums, total: str = "target") -> Float[Tensor, "draw rank"]:
    """Of every rank from 0: what is missed along the directions that it has, and the whole target along the others."""
    missed, whole = sums["missed2"], sums["y2"]
    none = torch.zeros_like(missed[:, :1])
    left = torch.cat([none, missed.cumsum(1)], 1) + whole.sum(1, keepdim=True) - torch.cat([none, whole.cumsum(1)], 1)
    return left / _about_mean(sums, "y" if total == "target" else "x").sum(1, keepdim=True)


def _recovered(sums: Sums) -> Float[Tensor, "draw rank"]:
    left = _left(sums)
    return (left[:, :1] - left) / (left[:, :1] - left[:, -1:])


def _unexplained(sums: Sums) -> Float[Tensor, "draw direction"]:
    variance = _about_mean(sums, "x")
    return torch.where(variance > 0, _about_mean(sums, "y") / variance, torch.nan)
