"""How many directions a cloud spreads over, and how many dimensions it has where one looks closely."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.maths import jackknife
from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums, Split

KEPT = 0.9  # of the ratios of distances: the largest come from near copies and from the cloud's edge
POINTS = 512  # whose distances and planes are held at once


def participation_ratio(v: Float[Tensor, "token d"], context: Int[Tensor, " token"]) -> Estimate:
    """(Σλ)² / Σλ² of the covariance's eigenvalues λ: k where k of them are equal and the rest zero. Interval: jackknife."""
    v, group = v.double() - v.double().mean(0), jackknife.groups(context)
    total, values = v.T @ v, []
    for out in range(-1, int(group.max()) + 1):
        some = v[group == out]
        n = len(v) - len(some)
        mean = (v.sum(0) - some.sum(0)) / n
        covariance = (total - some.T @ some) / n - torch.outer(mean, mean)
        values.append(covariance.trace() ** 2 / covariance.square().sum())
    value, low, high = jackknife.interval(torch.stack(values))
    return Estimate(float(value), float(low), float(high))


def nearest(
    v: Float[Tensor, "token d"], context: Int[Tensor, " token"], k: int
) -> tuple[Float[Tensor, "token k"], Int[Tensor, "token k"]]:
    """Distances and places of each vector's k nearest in *other* contexts, float64: neighbours in the text share their past."""
    v = v.double() - v.double().mean(0)
    squares = v.square().sum(1)
    found = []
    for rows in torch.arange(len(v)).split(POINTS):
        distance = squares[rows, None] + squares - 2 * v[rows] @ v.T
        distance[context[rows, None] == context] = torch.inf
        found.append(distance.topk(k, largest=False))
    distances = torch.cat([some.values for some in found]).clamp_min(0).sqrt()
    return distances, torch.cat([some.indices for some in found])


def intrinsic_dimension(
    distances: Float[Tensor, "token k"], context: Int[Tensor, " token"], n_bootstrap: int = 1000, seed: int = 0
) -> Estimate:
    """The two-nearest-neighbour estimate: on a smooth sheet of m dimensions, r₂/r₁ > t with probability t^−m.

    So m is one over the mean of ln r₂/r₁, here its likelihood with the largest tenth counted as "at least that". Copies (r₁ = 0)
    say nothing and are left out.
    """
    ratio = (distances[:, 1] / distances[:, 0]).log()
    ratio = torch.where(distances[:, 0] > 0, ratio, torch.nan)
    most = ratio.nanquantile(KEPT)
    seen, length = (ratio <= most).double(), ratio.clamp_max(most).nan_to_num(0.0)
    sums = HeldOutSums(everything(context))
    sums.add(slice(0, len(ratio)), seen=seen, length=length)
    note = "every vector has a copy"
    return Bootstrap(sums.totals, n_bootstrap, seed).estimate(lambda s: (s["seen"] / s["length"])[:, 0], note)


def off_plane(
    v: Float[Tensor, "token d"],
    places: Int[Tensor, "token k"],
    context: Int[Tensor, " token"],
    rank: int,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Estimate:
    """The FVU of each vector projected on the plane of `rank` directions through its neighbours that fits *them* best (local PCA)."""
    v, left = v.double() - v.double().mean(0), []
    for rows in torch.arange(len(v)).split(POINTS):
        near = v[places[rows]]  # [token, k, d]
        centre = near.mean(1)
        inner = torch.linalg.eigh((near - centre[:, None]) @ (near - centre[:, None]).mT)[1][:, :, -rank:]
        plane = torch.nn.functional.normalize((near - centre[:, None]).mT @ inner, dim=1)  # [token, d, rank]
        rest = v[rows] - centre
        left.append(rest - (plane @ (plane.mT @ rest[:, :, None]))[:, :, 0])
    sums = HeldOutSums(everything(context))
    sums.add(slice(0, len(v)), left=torch.cat(left).square().sum(1), whole=v.square().sum(1))
    return Bootstrap(sums.totals, n_bootstrap, seed).estimate(lambda s: (s["left"] / s["whole"])[:, 0])


def everything(context: Int[Tensor, " token"]) -> Split:
    """A split of tokens that are all to be judged, by context."""
    return Split(torch.zeros_like(context, dtype=torch.bool), context)
