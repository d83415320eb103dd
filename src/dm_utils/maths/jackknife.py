"""Intervals by leaving out one group of contexts at a time, for statistics whose fit has to be done again each time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import t as student
from torch import Tensor

from dm_utils.maths.regression import factorise
from dm_utils.maths.resampling import Estimate

N_GROUPS = 20


def groups(context: Int[Tensor, " token"], n_groups: int = N_GROUPS) -> Int[Tensor, " token"]:
    """Put whole contexts into ``n_groups`` groups, in order; as many groups as contexts if those are fewer.

    Raises ``ValueError`` with fewer than five contexts.
    """
    ids = torch.unique(context, return_inverse=True)[1]
    n_contexts = int(ids.max()) + 1
    if n_contexts < 5:
        raise ValueError(
            f"{n_contexts} contexts are too few for an interval; give five or more (n_contexts, n_tokens)."
        )
    return ids * min(n_groups, n_contexts) // n_contexts


def second_moments(
    rows: Float[Tensor, "token column"], group: Int[Tensor, " token"]
) -> Float[Tensor, "fit column column"]:
    """Sums of ``rows^T rows`` in float64: over everything first, then without each group."""
    parts = []
    for g in range(int(group.max()) + 1):
        part = rows[group == g].double()
        parts.append(part.T @ part)
    stacked = torch.stack(parts)
    return torch.cat([stacked.sum(0, keepdim=True), stacked.sum(0) - stacked])


def halves(
    rows: Float[Tensor, "token column"], group: Int[Tensor, " token"]
) -> tuple[Float[Tensor, "fit column column"], Float[Tensor, "fit column column"]]:
    """Second moments of the even rows (to fit) and of the odd rows (to measure), each with every group left out in turn."""
    even = torch.arange(len(rows)) % 2 == 0
    return second_moments(rows[even], group[even]), second_moments(rows[~even], group[~even])


def held_out(
    fit: Float[Tensor, "fit column column"], rest: Float[Tensor, "fit column column"], n_regressors: int
) -> tuple[Float[Tensor, " fit"], Float[Tensor, " fit"]]:
    """Held-out residual and total sum of squares of the columns after the regressors, summed over those targets.

    The first column must be the constant 1; it counts among the ``n_regressors``.
    """
    p = n_regressors
    coef = torch.stack([factorise(gram[:p, :p])[1](gram[:p, p:]) for gram in fit])
    cross = (coef * rest[:, :p, p:]).sum((1, 2))
    own = rest[:, p:, p:].diagonal(dim1=1, dim2=2).sum(1)
    residual = own - 2 * cross + ((rest[:, :p, :p] @ coef) * coef).sum((1, 2))
    spread = own - (rest[:, 0, p:] ** 2).sum(1) / rest[:, 0, 0]
    return residual, spread


def interval(values: Float[Tensor, "fit ..."]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value and 95 % interval of a statistic computed on everything first and then without each group."""
    array = values.numpy()
    without = array[1:]
    n = len(without)
    half = student.ppf(0.975, n - 1) * np.sqrt((n - 1) / n * ((without - without.mean(0)) ** 2).sum(0))
    return array[0], array[0] - half, array[0] + half


def replicate(statistic: Callable[[int], float], n: int = 20, seed: int = 0) -> Estimate:
    """Mean of ``statistic(seed)`` over ``n`` seeds with its 95 % Student interval.

    Raises ``ValueError`` if there are fewer than two repetitions or if one is not finite.
    """
    if n < 2:
        raise ValueError(f"n is {n}; an interval needs two repetitions or more.")
    values = np.array([statistic(seed * 1_000_003 + i) for i in range(n)], dtype=float)
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {n} repetitions gave NaN or an infinite value.")
    half = float(student.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))
    mean = float(values.mean())
    return Estimate(mean, mean - half, mean + half)
