"""Predictors of a per-token scalar: what each recovers, and that nothing of the held-out tokens leaks into a fit."""

import numpy as np
import pytest
import torch
from tokens import N, generator, random_split

from dm_utils.chapters.A_more_predictions.baselines import (
    Comparison,
    affine_prediction,
    bins,
    group_means,
    grouped_prediction,
    scalar_regressors,
)
from dm_utils.engine.part_trends import trend
from dm_utils.engine.token_loss import cross_entropy
from dm_utils.maths.regression import r2_of_prediction


@pytest.fixture
def split():
    return random_split()


def test_grouped_prediction_equals_least_squares_with_one_indicator_per_group(split):
    group = torch.randint(0, 12, (N,), generator=generator())
    x = torch.randn(N, 3, generator=generator(1), dtype=torch.float64) + group[:, None]
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64) + torch.sin(group.double())[:, None]
    y = y + 0.3 * torch.randn(N, 1, generator=generator(2), dtype=torch.float64)
    indicators = torch.nn.functional.one_hot(group).double()
    design = torch.cat([x, indicators], 1)
    exact = design @ torch.linalg.lstsq(design[split.fit], y[split.fit]).solution
    torch.testing.assert_close(grouped_prediction(x, y, group, split), exact)


def test_a_constant_regressor_predicts_the_fitting_mean(split):
    y = torch.randn(N, 1, generator=generator(), dtype=torch.float64)
    found = affine_prediction(torch.full((N, 1), 16.0, dtype=torch.float64), y, split)
    torch.testing.assert_close(found, y[split.fit].mean().expand(N, 1))


def test_bins_follow_a_curve_that_a_line_cannot(split):
    z = torch.randn(N, generator=generator(), dtype=torch.float64)
    y = (z**2)[:, None]
    line = affine_prediction(z[:, None], y, split)[:, 0]
    curve = group_means(y, bins(z, split), split).values[:, 0]
    assert r2_of_prediction(y[:, 0], line, split).value < 0.05
    assert r2_of_prediction(y[:, 0], curve, split).value > 0.9


def test_bins_hold_equally_many_fitting_tokens_and_survive_ties(split):
    z = torch.randn(N, generator=generator(), dtype=torch.float64)
    counts = torch.bincount(bins(z, split, 8)[split.fit])
    assert len(counts) == 8 and int(counts.max() - counts.min()) <= 2
    assert bins(torch.ones(N), split).unique().numel() == 1


def test_comparison_agrees_with_the_r2_of_each_prediction(split):
    y = torch.randn(N, generator=generator(), dtype=torch.float64)
    guesses = {"good": y + 0.5 * torch.randn(N, generator=generator(1)), "bad": torch.zeros(N)}
    judge = Comparison(y, guesses, split)
    for name, guess in guesses.items():
        alone, found = r2_of_prediction(y, guess, split), judge.r2(name)
        np.testing.assert_allclose(
            [found.value, found.low, found.high], [alone.value, alone.low, alone.high], atol=1e-9
        )


def test_gaps_are_paired_and_the_best_is_chosen_in_each_resample(split):
    y = torch.randn(N, generator=generator(), dtype=torch.float64)
    noise = torch.randn(N, generator=generator(1))
    judge = Comparison(y, {"a": y + 0.50 * noise, "b": y + 0.52 * noise, "c": y + 2 * noise}, split)
    gap = judge.gap("a", "b")
    assert 0 < gap.low < gap.high and gap.high - gap.low < judge.r2("a").high - judge.r2("a").low
    assert judge.gap_to_best("a", ["b", "c"]) == gap
    assert judge.gap("a", "a").value == 0


def test_comparison_refuses_nan(split):
    with pytest.raises(ValueError, match="predictions"):
        Comparison(torch.ones(N), {"a": torch.full((N,), torch.nan)}, split)


def test_cross_entropy_is_that_of_the_next_token():
    logits = torch.randn(2, 5, 7, generator=generator())
    tokens = torch.randint(0, 7, (2, 5), generator=generator(1))
    expected = -logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(cross_entropy(logits, tokens), expected)


def test_the_l0_of_a_token_is_its_own_and_not_its_saes_label(study):
    ref = study.sae(architecture="jumprelu")
    columns = scalar_regressors(study, ref)
    x, sae = study.site().x, study.load_sae(ref)
    active = (sae.encode(x) > 0).sum(1).double()
    assert active.unique().numel() > 5
    torch.testing.assert_close(columns["SAE L0"], active)
    torch.testing.assert_close(columns["activation norm"], x.double().norm(dim=1), rtol=1e-5, atol=0)
    assert torch.equal(columns["position"], study.site().position.double())


def test_a_planted_trend_is_found_for_every_token(split):
    widths = [512, 1024, 4096]
    start = 1 + torch.rand(N, generator=generator(), dtype=torch.float64)
    halving = torch.stack([start * (width / 512) ** -0.5 for width in widths])
    found = trend(halving, widths, split)
    torch.testing.assert_close(found.per_doubling, torch.full((N,), 100 * (2**-0.5 - 1), dtype=torch.float64))
    assert found.falls.value == 1 and found.steady.value == 0 and 0 < found.within < 1
    flat = trend(torch.stack([start] * 3), widths, split)
    assert flat.mean.value == pytest.approx(0) and flat.steady.value == 1 and flat.within == pytest.approx(0)


def test_a_trend_refuses_a_zero_norm_and_a_single_width(split):
    with pytest.raises(ValueError, match="positive"):
        trend(torch.zeros(2, N), [1, 2], split)
    with pytest.raises(ValueError, match="two widths"):
        trend(torch.ones(2, N), [4, 4], split)
