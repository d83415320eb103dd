"""Masked sparse sums: the parabola and its height, by algebra, by least squares and by averaging over masks."""

import pytest
import torch

from dm_utils.chapters.D_random_data import experiment as sweeps
from dm_utils.maths import masking, synthetic

N_TOKENS = 60_000


def test_masking_half_of_many_random_features_gives_the_parabola() -> None:
    dictionary, variance = synthetic.random_dictionary(6000, 40), torch.ones(6000)
    for share in (0.1, 0.5, 0.9):
        kept = torch.arange(6000) >= share * 6000
        fvu, nonlinear = masking.masked_fvu(dictionary, variance, kept)
        assert fvu == pytest.approx(share, abs=1e-3)
        assert nonlinear == pytest.approx(share * (1 - share), abs=3e-3)


def test_masking_linearly_independent_features_leaves_nothing() -> None:
    dictionary = synthetic.tilted_dictionary(20, 32, 0.3)
    fvu, nonlinear = masking.masked_fvu(dictionary, torch.rand(20) + 0.1, torch.arange(20) < 9)
    assert fvu > 0.2
    assert nonlinear < 1e-5


def test_masked_fvu_matches_least_squares() -> None:
    sample = synthetic.random_superposition(200, 32, N_TOKENS, 8.0)
    kept = torch.arange(200) % 3 > 0
    part = sample.weights.superpose(sample.dictionary * kept[:, None])
    absent = (sample.x - part).double()
    rows = torch.cat([sample.x.double(), torch.ones(N_TOKENS, 1, dtype=torch.float64)], dim=1)
    residual = absent - rows @ torch.linalg.lstsq(rows, absent).solution
    total = sample.x.double().var(0).sum()
    fvu, nonlinear = masking.masked_fvu(sample.dictionary, sample.weights.moments.variance, kept)
    assert float(absent.var(0).sum() / total) == pytest.approx(fvu, rel=0.05)
    assert float(residual.var(0).sum() / total) == pytest.approx(nonlinear, rel=0.05)


def test_recoverable_noise_matches_least_squares() -> None:
    root = torch.diag(torch.logspace(-1.5, 1, 24))
    generator = torch.Generator().manual_seed(4)
    signal, added = (
        torch.randn(N_TOKENS, 24, generator=generator) @ root,
        torch.randn(N_TOKENS, 24, generator=generator),
    )
    x = (signal + added).double()
    fitted = x @ torch.linalg.lstsq(x, added.double()).solution
    share = 1 - float((added - fitted).square().sum() / added.square().sum())
    assert masking.recoverable_noise(root @ root, 1.0) == pytest.approx(share, abs=0.005)


def test_random_masks_leave_f_times_one_minus_f_times_one_minus_leverage() -> None:
    dictionary = synthetic.clustered_dictionary(60, 20, 5, 0.4)
    variance = torch.rand(60, generator=torch.Generator().manual_seed(1)) ** 4 + 1e-3
    generator, found = torch.Generator().manual_seed(2), []
    for _ in range(2000):
        found.append(masking.masked_fvu(dictionary, variance, torch.rand(60, generator=generator) > 0.3)[1])
    values = torch.tensor(found)
    expected = 0.3 * 0.7 * (1 - masking.mean_leverage(dictionary, variance))
    assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / len(values) ** 0.5


def test_leverages_lie_in_the_unit_interval_and_sum_to_the_rank() -> None:
    lever = masking.leverage(synthetic.random_dictionary(50, 12), torch.rand(50) + 0.01)
    assert lever.min() >= 0
    assert lever.max() <= 1 + 1e-9
    assert float(lever.sum()) == pytest.approx(12)


def test_curve_agrees_with_its_points_and_bends_as_much_as_the_parabola() -> None:
    dictionary, variance = synthetic.random_dictionary(3000, 20), torch.ones(3000)
    order = synthetic.mask_order(variance, "random")
    curve = masking.masked_curve(dictionary, variance, order, sweeps.FRACTIONS)
    point = masking.masked_fvu(dictionary, variance, masking.kept_after(order, sweeps.FRACTIONS[5]))
    assert tuple(curve.loc[5, ["fvu", "fvu_nonlinear"]]) == pytest.approx(point)
    assert masking.bend(curve) == pytest.approx(1.0, abs=0.02)


def test_measured_curve_agrees_with_the_closed_form_for_independent_weights() -> None:
    sample = synthetic.random_superposition(150, 16, 20_000, 6.0)
    order = synthetic.mask_order(sample.weights.moments.probability, "rarest first")
    context = torch.arange(20_000) // 200
    measured, bent = masking.measured_curve(sample.weights.values, sample.dictionary, context, order, (0.0, 0.5, 0.9))
    exact = masking.masked_curve(sample.dictionary, sample.weights.moments.variance, order, (0.0, 0.5, 0.9))
    assert measured.loc[0, "fvu_nonlinear"] == pytest.approx(0.0, abs=1e-9)
    assert measured["fvu_nonlinear"].to_numpy() == pytest.approx(exact["fvu_nonlinear"].to_numpy(), rel=0.1, abs=1e-6)
    assert (measured["fvu_nonlinear_low"] <= measured["fvu_nonlinear"]).all()
    assert bent.low <= bent.value <= bent.high
    assert bent.value == pytest.approx(masking.bend(measured))


def test_shuffling_keeps_each_latent_and_breaks_what_fires_together() -> None:
    together = torch.zeros(4000, 2)
    together[::10] = torch.rand(400, 2) + 0.5
    apart = masking.shuffled(together.to_sparse()).to_dense()
    assert torch.equal(apart.sort(0).values, together.sort(0).values)
    assert abs(float(torch.corrcoef(apart.T)[0, 1])) < 0.2 < float(torch.corrcoef(together.T)[0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: masking.recoverable_noise(torch.eye(2), 0.0), "positive"),
        (lambda: masking.kept_after(torch.arange(4), 1.5), "between 0 and 1"),
        (lambda: masking.masked_fvu(torch.eye(3), torch.ones(2), torch.ones(2, dtype=torch.bool)), "disagree"),
        (lambda: masking.leverage(torch.eye(2), torch.zeros(2)), "not all zero"),
    ],
)
def test_bad_input_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
