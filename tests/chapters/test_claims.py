"""Each small experiment against its closed form."""

import math

import pytest
import torch

from dm_utils.chapters.B_modelling import claims
from dm_utils.maths import norm_theory, synthetic
from dm_utils.maths import weight_laws as laws


def holds(estimate, exact: float, factor: float = 2.0) -> bool:
    """The exact value lies in the interval, widened so that a fixed seed may be a little unlucky."""
    half = factor * (estimate.high - estimate.low) / 2
    return abs(estimate.value - exact) <= half + 1e-9


def test_replicate_is_a_student_interval() -> None:
    found = claims.replicate(lambda seed: float(seed % 2), n=4)
    assert (found.value, found.high - found.value) == pytest.approx((0.5, 3.1824 * math.sqrt(1 / 3) / 2), rel=1e-4)


def test_norm_r2_agrees_with_the_theorem() -> None:
    dictionary, probability = synthetic.tilted_dictionary(12, 16, 0.2), torch.full((12,), 0.1)
    found = claims.norm_r2(dictionary, "gamma", probability, shape=3.0, n=8)
    exact = norm_theory.best_probe(dictionary, laws.gamma_moments(probability, 3.0)).r2
    assert holds(found, exact)
    assert not holds(found, norm_theory.orthonormal_r2(laws.gamma_moments(probability, 3.0)))


def test_poisson_slope_is_two_lambda_plus_one_and_not_lambda_plus_one() -> None:
    probability = 1 - math.exp(-1)  # lambda = 1
    assert holds(claims.slope("poisson", probability, n=8), 3.0)
    assert holds(claims.slope("poisson", probability, intercept=False, n=8), 2.5)
    assert not holds(claims.slope("poisson", probability, n=8), 2.0)


def test_poisson_correlation_is_not_the_printed_one() -> None:
    found = claims.correlation("poisson", 1 - math.exp(-1), n=8)
    assert holds(found, 3 / math.sqrt(11))
    assert found.low > 0.73


def test_unexplained_variance_is_no_upper_bound_on_introduced() -> None:
    gaussian = claims.ideal_sae(1.0, 1.0, 20_000, n=4)
    assert gaussian["introduced"].value == pytest.approx(0.25, abs=0.01)
    assert gaussian["nonlinear"].value == pytest.approx(0.0, abs=1e-9)
    sparse = claims.ideal_sae(0.2, 1.0, 20_000, n=8)
    assert sparse["nonlinear"].high < sparse["introduced"].low / 5
    assert holds(sparse["correlation"], 0.0)


def test_spike_and_slab_mean_is_the_least_squares_reconstruction() -> None:
    generator = torch.Generator().manual_seed(0)
    w = (torch.rand(200_000, generator=generator) < 0.2) * 3 * torch.randn(200_000, generator=generator).double()
    x = w + torch.randn(200_000, generator=generator).double()
    best = claims.spike_and_slab_mean(x, 0.2, 3.0)
    for other in (best * 1.1, best + 0.1, torch.where(x.abs() > 2, x, 0.0)):
        assert (w - best).square().mean() < (w - other).square().mean()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.75])
def test_pure_shrinkage_has_a_cosine_of_root_one_minus_the_means_share(share: float) -> None:
    found = claims.shrinkage_cosine(share, d=256, n=4)
    assert found.value == pytest.approx(math.sqrt(1 - share), abs=0.01)


def test_error_of_a_nonlinear_sae_can_be_linear() -> None:
    p, tail = 0.05, math.exp(-0.5)  # w exponential when active, Introduced = min(w, 1/2)
    mean, square, product = p * (1 - tail), 2 * p * (1 - 1.5 * tail), p * (2 - 2.5 * tail)
    exact = (product - p * mean) ** 2 / ((2 * p - p**2) * (square - mean**2))
    assert exact > 0.6
    assert holds(claims.soft_threshold_r2(n=8), exact)


def test_noise_is_predicted_from_sae_out_as_well_as_nonlinear_error_is() -> None:
    x = torch.randn(20_000, 12) @ torch.randn(12, 12)
    sae_out = 0.9 * x - 0.2 * x.abs()
    found = claims.nonlinear_from_sae(x, sae_out, torch.arange(20_000) // 200)
    assert found["nonlinear_error"].value == pytest.approx(found["independent_noise"].value, abs=0.02)
    assert found["nonlinear_error"].low > 0.01


def test_fitting_noise_costs_the_dimension_over_the_number_of_tokens() -> None:
    found = claims.overfitting(82, 3000, n=8)  # d / n_fit as for 4096 dimensions and 150k tokens
    assert holds(found, -(83 - 2 / 3000) / 2916)
    assert found.high < 0


def test_regressing_the_reconstruction_or_its_error_leaves_the_same_residual() -> None:
    """Section 6.1 regresses the reconstruction on x where Eq. 11 regresses the error: FVU_nonlinear cannot tell."""
    x = torch.randn(500, 6, dtype=torch.float64)
    sae_out = x.relu() + 0.1
    rows = torch.cat([x, torch.ones(500, 1, dtype=torch.float64)], 1)
    left = [target - rows @ torch.linalg.lstsq(rows, target).solution for target in (x - sae_out, -sae_out)]
    assert torch.allclose(left[0], left[1], atol=1e-10)


def test_mean_r2_over_dimensions_does_not_give_fvu_nonlinear() -> None:
    """FVU_nonlinear = FVU (1 - R^2) holds for the variance-weighted R^2, not for the mean over dimensions."""
    x = torch.randn(4000, 2, dtype=torch.float64) * torch.tensor([10.0, 1.0])
    error = torch.stack(
        [0.5 * x[:, 0].abs(), 0.5 * x[:, 1]], 1
    )  # the loud dimension is unpredictable, the quiet one linear
    error = error - error.mean(0)
    left = error - x @ torch.linalg.lstsq(x, error).solution
    fvu, fvu_nonlinear = (float(v.square().sum() / (x - x.mean(0)).square().sum()) for v in (error, left))
    per_dimension = 1 - left.square().sum(0) / error.square().sum(0)
    weighted = 1 - float(left.square().sum() / error.square().sum())
    assert fvu_nonlinear == pytest.approx(fvu * (1 - weighted))
    assert fvu * (1 - float(per_dimension.mean())) < 0.6 * fvu_nonlinear


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: claims.replicate(float, n=1), "two repetitions"),
        (lambda: claims.replicate(lambda _: math.nan), "NaN"),
        (lambda: claims.shrinkage_cosine(1.0), "lies in"),
    ],
)
def test_bad_input_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
