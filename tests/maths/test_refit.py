"""Intervals that cover the fit: the same values as the engine's, and the truth inside them as often as they say."""

import pytest
import torch

import dm_utils as dm
from dm_utils.maths.refit import Refitted
from dm_utils.maths.regression import Design
from dm_utils.maths.resampling import Split, r2_weighted, runs


def planted(n_contexts, effect, generator, per_context=60, d=6):
    """y = x·a + noise, where x and noise have context effects; the best linear map has R² = a² / (a² + 1)."""
    group = torch.arange(n_contexts).repeat_interleave(per_context)

    def draw(*shape):
        own = torch.randn(len(group), *shape, generator=generator, dtype=torch.float64)
        return own + effect * torch.randn(n_contexts, *shape, generator=generator, dtype=torch.float64)[group]

    x, a = draw(d), torch.linspace(-1, 1, d, dtype=torch.float64)
    return x, x @ a + draw(), group, float(a @ a / (a @ a + 1))


@pytest.mark.parametrize(("by", "n_contexts"), [("context", 10), ("context", 20)])
def test_it_covers_the_value_of_unlimited_text_where_holding_the_fit_fixed_does_not(by, n_contexts):
    """100 worlds: 95 % of intervals should cover; three standard deviations of that count are 6.5."""
    generator, covered = torch.Generator().manual_seed(1), {"held-out": 0, "fit": 0}
    for seed in range(100):
        x, y, group, truth = planted(n_contexts, 0.7, generator)
        design = Design(x, Split.random(group, seed=seed, by=by))
        fixed = design.probe(y[:, None], 200, seed)[0].r2
        refitted = Refitted(design, lambda rows, _, y=y: y[rows][:, None]).estimate(r2_weighted)
        covered["held-out"] += fixed.low <= truth <= fixed.high
        covered["fit"] += refitted.low <= truth <= refitted.high
    assert covered["fit"] >= 88
    assert covered["held-out"] < covered["fit"] - 5


@pytest.mark.parametrize("intercept", [True, False])
def test_the_values_are_those_of_the_engine_and_only_intervals_change(intercept):
    torch.manual_seed(0)
    x = torch.randn(3000, 8, dtype=torch.float64) * torch.linspace(0.5, 2, 8) + 3
    split = Split.random(runs(3000, 40), by="context")
    plain, refitted = (
        dm.decompose(x, torch.relu(x - 1), split=split, intercept=intercept, interval=interval)
        for interval in ("held-out", "fit")
    )
    for name, expected in plain.decomposition.metrics.items():
        found = refitted.decomposition.metrics[name]
        assert found.value == pytest.approx(expected.value, abs=1e-9), name
        assert (found.low, found.high) != (expected.low, expected.high) or name in ("norm_ratio", "cos_linear_x"), name
        assert found.low < found.high


def test_too_few_contexts_and_a_mistyped_interval_are_refused():
    x = torch.randn(400, 4)
    with pytest.raises(ValueError, match="3 contexts are too few for an interval"):
        dm.decompose(x, x / 2, groups=torch.arange(400) % 3, interval="fit")
    with pytest.raises(ValueError, match="it must be one of 'held-out', 'fit'"):
        dm.decompose(x, x / 2, interval="both")
