"""Leaving out a group at a time: groups of whole contexts, moments, and intervals with a known answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from dm_utils.maths import jackknife


def test_groups_hold_whole_contexts_in_order_and_equally_many() -> None:
    context = torch.arange(60).repeat_interleave(7) + 100
    found = jackknife.groups(context, 20).view(60, 7)
    assert (found == found[:, :1]).all()
    assert found[:, 0].tolist() == [i // 3 for i in range(60)]


@pytest.mark.parametrize("n_contexts", [5, 8])
def test_few_contexts_are_a_group_each(n_contexts: int) -> None:
    assert jackknife.groups(torch.arange(n_contexts)).tolist() == list(range(n_contexts))


def test_four_contexts_are_too_few() -> None:
    with pytest.raises(ValueError, match="4 contexts are too few"):
        jackknife.groups(torch.arange(4))


def test_moments_are_those_of_all_rows_and_then_of_all_but_each_group() -> None:
    rows, group = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12) // 4
    found = jackknife.second_moments(rows, group)
    kept = [rows, *(rows[group != g] for g in range(3))]
    torch.testing.assert_close(found, torch.stack([part.double().T @ part.double() for part in kept]))


def test_even_rows_fit_and_odd_rows_measure() -> None:
    rows, group = torch.eye(10), torch.arange(10) // 2
    fit, rest = jackknife.halves(rows, group)
    assert fit[0].diagonal().tolist() == [1, 0] * 5
    assert rest[0].diagonal().tolist() == [0, 1] * 5


def test_held_out_sums_of_squares_are_those_of_a_regression() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((80, 2)), rng.standard_normal((80, 3))
    columns = torch.from_numpy(np.column_stack([np.ones(80), x, y]))
    fit, rest = jackknife.halves(columns, torch.arange(80) // 8)
    residual, spread = jackknife.held_out(fit, rest, 3)
    design = np.column_stack([np.ones(80), x])
    coef = np.linalg.lstsq(design[::2], y[::2], rcond=None)[0]
    held = y[1::2]
    assert float(residual[0]) == pytest.approx(((held - design[1::2] @ coef) ** 2).sum())
    assert float(spread[0]) == pytest.approx(((held - held.mean(0)) ** 2).sum())


def test_the_interval_of_a_mean_is_students() -> None:
    """Left-out means of n equal groups: the jackknife's standard error is exactly that of the mean."""
    values = np.random.default_rng(1).standard_normal(20)
    without = (values.sum() - values) / 19
    value, low, high = jackknife.interval(torch.from_numpy(np.concatenate([[values.mean()], without])))
    half = student.ppf(0.975, 19) * values.std(ddof=1) / math.sqrt(20)
    assert (value, low, high) == pytest.approx((values.mean(), values.mean() - half, values.mean() + half))


def test_repetitions_have_their_own_seeds_and_students_interval() -> None:
    seen: list[int] = []

    def statistic(seed: int) -> float:
        seen.append(seed)
        return float(len(seen))

    found = jackknife.replicate(statistic, 4, seed=2)
    assert seen == [2_000_006, 2_000_007, 2_000_008, 2_000_009]
    half = student.ppf(0.975, 3) * np.std([1, 2, 3, 4], ddof=1) / 2
    assert (found.value, found.low, found.high) == pytest.approx((2.5, 2.5 - half, 2.5 + half))


@pytest.mark.parametrize(
    ("values", "said"), [([1.0], "two repetitions"), ([1.0, math.nan, math.inf], "2 of 3 repetitions")]
)
def test_repetitions_that_tell_nothing_are_refused(values: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        jackknife.replicate(lambda seed: values[seed], len(values))
