"""Predicting one SAE's error norms from another's (Eq. 13)."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from dm_utils.chapters.s04_4_per_token.experiment import context_correlation, shared_worst, transfer
from dm_utils.maths.regression import probe
from dm_utils.maths.resampling import Split


@pytest.fixture
def split():
    return Split.random(torch.arange(40).repeat_interleave(100), seed=1)


@pytest.fixture
def norms():
    rng = np.random.default_rng(0)
    small = rng.gamma(3, 2, 4000)
    return torch.tensor(np.stack([small, 0.5 * small + rng.gamma(2, 1, 4000), 0.8 * small]))


@pytest.mark.parametrize("intercept", [True, False])
def test_agrees_with_scikit_learn_on_the_held_out_tokens(norms, split, intercept):
    found = transfer(norms, split, intercept=intercept)[0, 1]
    fit = split.fit.numpy()
    x, y = norms[0].numpy()[:, None], norms[1].numpy()
    model = LinearRegression(fit_intercept=intercept).fit(x[fit], y[fit])
    assert found.slope == pytest.approx(model.coef_[0], abs=1e-10)
    assert found.intercept == pytest.approx(model.intercept_, abs=1e-9)
    assert found.r2.value == pytest.approx(r2_score(y[~fit], model.predict(x[~fit])), abs=1e-10)


def test_agrees_with_the_probe_of_the_engine_and_its_interval(norms, split):
    found, slow = transfer(norms, split)[0, 1], probe(norms[0], norms[1], split)
    for side in ("value", "low", "high"):
        assert getattr(found.r2, side) == pytest.approx(getattr(slow.r2, side), abs=1e-9)


def test_a_scaled_copy_is_predicted_perfectly_by_one_scalar(norms, split):
    found = transfer(norms, split, intercept=False)[0, 2]
    assert found.r2.value == pytest.approx(1, abs=1e-12)
    assert found.slope == pytest.approx(0.8, abs=1e-12)


def test_an_offset_is_recovered_and_costs_the_single_scalar(norms, split):
    shifted = torch.stack([norms[0], 2 * norms[0] + 30])
    both = transfer(shifted, split)[0, 1]
    assert (both.slope, both.intercept) == (pytest.approx(2), pytest.approx(30))
    assert both.r2.value == pytest.approx(1)
    assert transfer(shifted, split, intercept=False)[0, 1].r2.value < 0.5


def test_independent_norms_are_not_predicted(split):
    rng = np.random.default_rng(3)
    found = transfer(torch.tensor(rng.gamma(2, 1, (2, 4000))), split)[0, 1]
    assert abs(found.r2.value) < 0.01
    assert found.r2.low < 0 < found.r2.high + 0.01


def test_intervals_cover_the_truth():
    """Norms shared within contexts: R² of the population is known, resampling contexts must cover it."""
    group, covered = torch.arange(60).repeat_interleave(50), 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        small = rng.normal(10, 1, 3000)
        large = small + rng.normal(0, 1, 60).repeat(50) * 0.5 + rng.normal(0, 1, 3000) * math.sqrt(0.75)
        r2 = transfer(torch.tensor(np.stack([small, large])), Split.random(group, seed=seed), n_bootstrap=300)[0, 1].r2
        covered += r2.low <= 0.5 <= r2.high
    assert 105 <= covered <= 120


def r2_of_the_mean(target, split):
    """Held-out R² of predicting the mean of the fitting tokens: what a regressor that does not vary can do."""
    held_out = target[~split.fit]
    return r2_score(held_out, torch.full_like(held_out, float(target[split.fit].mean())))


def test_norms_that_do_not_vary_are_said_to_be_undefined(norms, split):
    flat = torch.stack([norms[0], torch.full_like(norms[0], 3.0)])
    found = transfer(flat, split)
    assert math.isnan(found[0, 1].r2.value)
    assert "does not vary" in str(found[0, 1].r2)
    assert found[1, 0].r2.value == pytest.approx(r2_of_the_mean(norms[0], split), abs=1e-12)


def test_unusable_input_is_refused(norms, split):
    with pytest.raises(ValueError, match="one column per token"):
        transfer(norms[:, :-1], split)
    with pytest.raises(ValueError, match="outside 0 to 2"):
        transfer(norms, split, pairs=[(0, 3)])
    with pytest.raises(ValueError, match="column e1: 1 of 4000 values are NaN or Inf"):
        transfer(norms.index_put((torch.tensor(1), torch.tensor(7)), torch.tensor(math.nan, dtype=norms.dtype)), split)


def test_the_worst_tokens_of_independent_errors_are_shared_as_chance_has_it(split):
    rng = np.random.default_rng(5)
    first, other = torch.tensor(rng.gamma(2, 1, (2, 4000)))
    assert shared_worst(first, first, split.group).value == 1
    found = shared_worst(first, other, split.group)
    assert found.low < 0.1 < found.high
    half = torch.where(first >= first.quantile(0.95), first, other.clamp(max=float(first.quantile(0.9))))
    assert shared_worst(first, half, split.group).value >= 0.5  # the worst twentieth is in both worst tenths


def test_the_correlation_of_contexts_is_that_of_their_means(split):
    rng = np.random.default_rng(6)
    shared = torch.tensor(rng.normal(0, 1, 40)).repeat_interleave(100)
    small, large = (shared + torch.tensor(rng.normal(0, s, 4000)) for s in (1, 10))
    found = context_correlation(small, large, split.group)
    means = np.stack([values.reshape(40, 100).mean(1).numpy() for values in (small, large)])
    assert found.value == pytest.approx(np.corrcoef(means)[0, 1], abs=1e-12)
    assert found.low < found.value < found.high


def test_a_token_at_the_threshold_is_among_the_worst():
    """Of 0 … 10 the 90 % quantile is 9, so 9 and 10 are the worst tenth."""
    small = torch.arange(11.0)
    large = torch.where(small == 9, 0.0, small)
    group = torch.arange(11) % 3
    assert shared_worst(small, small, group).value == 1
    assert shared_worst(small, large, group).value == 0.5
    assert shared_worst(small, small.flip(0), group).value == 0
    assert shared_worst(small, large, group, worst=0.2).value == pytest.approx(2 / 3)
