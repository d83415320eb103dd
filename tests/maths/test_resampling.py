"""Estimates and the columns or JSON that hold them; means, shares of variance and intervals with a known answer."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest
import torch

from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums, Split, held_out_mean, r2_mean, r2_weighted


def test_an_estimate_comes_back_from_its_columns() -> None:
    estimate = Estimate(0.5, 0.4, 0.6)
    table = pd.DataFrame([estimate.columns("fvu") | estimate.columns()])
    assert list(table.columns) == ["fvu", "fvu_low", "fvu_high", "value", "low", "high"]
    assert Estimate.read(table.iloc[0], "fvu") == Estimate.read(table.iloc[0]) == estimate


def test_an_estimate_survives_json() -> None:
    estimate = Estimate(0.5, 0.4, 0.6, "few contexts")
    assert Estimate.from_plain(json.loads(json.dumps(estimate.plain()))) == estimate


def test_an_undefined_estimate_survives_json_with_its_reason() -> None:
    stored = json.loads(json.dumps(Estimate(math.nan, math.nan, math.nan, "it does not vary").plain(), allow_nan=False))
    assert str(Estimate.from_plain(stored)) == "undefined: it does not vary"


@pytest.fixture
def split() -> Split:
    return Split.random(torch.arange(4000) // 100, seed=1)


def test_the_held_out_mean_ignores_fitting_tokens(split: Split) -> None:
    values = torch.where(split.fit, 1e6, 2.0)
    found = held_out_mean(values, split)
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)


def test_the_mean_of_r2_counts_dimensions_alike_and_the_weighted_one_by_variance(split: Split) -> None:
    """Dimensions of deviation 1 and 10 of which 0.9 and 0.2 of the variance are explained; one that does not vary has no R²."""
    rng = torch.Generator().manual_seed(0)
    deviation = torch.tensor([1.0, 10.0, 0.0])
    y = torch.randn(4000, 3, generator=rng) * deviation
    residual = torch.randn(4000, 3, generator=rng) * deviation * torch.tensor([0.1, 0.8, 0.0]).sqrt()
    sums = HeldOutSums(split)
    sums.add(slice(0, 4000), y=y, y2=y**2, residual2=residual**2)
    estimate = Bootstrap(sums.totals, 200).estimate
    assert estimate(r2_mean).value == pytest.approx((0.9 + 0.2) / 2, abs=0.04)
    assert estimate(r2_weighted).value == pytest.approx(1 - (0.1 + 80) / 101, abs=0.04)


@pytest.mark.parametrize(("floor", "defined"), [(0.9, True), (1.1, False)])
def test_a_variance_below_the_floor_has_no_r2(split: Split, floor: float, defined: bool) -> None:
    y = torch.where(torch.arange(4000) % 2 == 0, 1.0, -1.0)[:, None]  # variance 1
    sums = HeldOutSums(split)
    sums.add(slice(0, 4000), y=y, y2=y**2, residual2=y**2 / 4)
    for statistic in (r2_mean, r2_weighted):
        found = Bootstrap(sums.totals, 100).estimate(lambda s, r2=statistic: r2(s, floor))
        assert math.isnan(found.value) != defined


def test_a_context_counts_from_its_first_held_out_token_and_one_without_does_not() -> None:
    fit = torch.tensor([True, True, False, False, True, False])
    mean = held_out_mean(
        torch.tensor([9.0, 9, 1, 4, 9, 4]), Split(fit, torch.tensor([0, 0, 1, 2, 2, 2])), n_bootstrap=2000
    )
    assert mean.value == 3
    assert (mean.low, mean.high) == (1, 4)  # draws hold context 1 twice, both, or context 2 twice
