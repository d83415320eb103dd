"""Closed forms of the norm prediction model, against sympy, hand algebra and Monte Carlo with intervals."""

import math

import pytest
import sympy as sp
import torch

from dm_utils.maths import norm_theory, synthetic
from dm_utils.maths import weight_laws as laws

N_TOKENS = 60_000


def held_out_r2(x: torch.Tensor, target: torch.Tensor) -> tuple[float, float]:
    """R^2 of least squares on the second half of the rows, with the standard error of that estimate."""
    rows = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    y, half = target.double(), len(x) // 2
    gram = rows[:half].T @ rows[:half]
    coef = torch.linalg.pinv(gram, hermitian=True) @ (rows[:half].T @ y[:half])
    squares = (y[half:] - rows[half:] @ coef) ** 2
    spread = (y[half:] - y[half:].mean()) ** 2
    r2 = 1 - squares.mean() / spread.mean()
    error = (squares - (1 - r2) * spread).std() / spread.mean() / half**0.5
    return float(r2), float(error)


# ---- Appendix C.1, Poisson: the paper prints 4l^3 + 6l^3 + l and 6/sqrt(66) = 0.73


def test_poisson_rho_at_rate_one_is_three_over_root_eleven() -> None:
    one = laws.poisson_moments(1.0)
    paper = norm_theory.orthonormal_r2(one, laws.slopes(one).paper)
    assert math.isclose(math.sqrt(paper), 3 / math.sqrt(11), rel_tol=1e-12)
    assert math.isclose(3 / math.sqrt(11), 6 / math.sqrt(44), rel_tol=1e-12)  # the printed 66 should read 44


def test_poisson_rho_never_falls_to_the_printed_value() -> None:
    rates = torch.cat([torch.logspace(-4, 4, 201), torch.tensor([0.5])])
    r2 = [norm_theory.orthonormal_r2(laws.poisson_moments(rate)) for rate in rates]
    assert math.isclose(min(r2), 0.8, abs_tol=1e-9)  # at rate 1/2
    assert math.sqrt(min(r2)) > 0.89 > 6 / math.sqrt(66)


def test_poisson_moments_by_sympy() -> None:
    t, lam = sp.symbols("t lambda", positive=True)
    found = norm_theory.symbolic_r2(sp.exp(lam * (sp.exp(t) - 1)), t)
    assert sp.expand(found["variance_of_square"] - (4 * lam**3 + 6 * lam**2 + lam)) == 0
    assert sp.simplify(found["best"] - (2 * lam + 1)) == 0
    assert sp.simplify(found["paper"] - (lam + 1)) == 0
    assert sp.simplify(found["r2"] - (2 * lam + 1) ** 2 / (4 * lam**2 + 6 * lam + 1)) == 0


# ---- Appendix C.1, other laws


def test_bernoulli_weights_of_orthonormal_features_are_predicted_perfectly() -> None:
    mixed = laws.bernoulli_moments(torch.tensor([0.01, 0.3, 0.9]), torch.tensor([3.0, 1.0, 0.2]))
    assert math.isclose(norm_theory.orthonormal_r2(mixed), 1.0, rel_tol=1e-12)
    assert torch.allclose(laws.slopes(mixed).paper, torch.tensor([3.0, 1.0, 0.2], dtype=torch.float64))


def test_average_weight_over_all_tokens_is_not_a_perfect_probe_for_bernoulli_weights() -> None:
    mixed = laws.bernoulli_moments(torch.tensor([0.01, 0.3]), torch.tensor([3.0, 1.0]))
    assert norm_theory.orthonormal_r2(mixed, laws.slopes(mixed).mean_active) > 1 - 1e-12
    assert norm_theory.orthonormal_r2(mixed, laws.slopes(mixed).mean) < 0.5


@pytest.mark.parametrize("shape", [0.5, 1.0, 4.0, 50.0])
def test_sparse_gamma_weights_leave_one_over_shape_plus_three(shape: float) -> None:
    rare = laws.gamma_moments(1e-9, shape)
    assert math.isclose(norm_theory.orthonormal_r2(rare), (shape + 2) / (shape + 3), rel_tol=1e-6)


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_sparse_lognormal_weights_keep_exp_minus_sigma_squared(sigma: float) -> None:
    rare = laws.lognormal_moments(1e-9, sigma)
    assert math.isclose(norm_theory.orthonormal_r2(rare), math.exp(-(sigma**2)), rel_tol=1e-6)


def test_the_three_slopes_are_ordered_and_differ_unless_bernoulli() -> None:
    w = synthetic.sparse_weights("lognormal", torch.full((20,), 0.2), 500, seed=3).values.to_dense()
    found = laws.slopes(laws.empirical_moments(w))
    assert (found.paper < found.through_origin).all()
    assert (found.through_origin < found.best).all()


def test_orthonormal_r2_is_one_only_for_two_valued_weights() -> None:
    two = torch.tensor([[0.4], [1.7]]).repeat(50, 1)
    three = torch.cat([two, torch.tensor([[0.9]])])
    assert norm_theory.orthonormal_r2(laws.empirical_moments(two)) > 1 - 1e-9
    assert norm_theory.orthonormal_r2(laws.empirical_moments(three)) < 1 - 1e-4


# ---- the theorem for any dictionary, against least squares on drawn data

DICTIONARIES = {
    "orthonormal": synthetic.orthonormal_dictionary(16, 16),
    "tilted": synthetic.tilted_dictionary(12, 16, 0.2),
    "tilted, mixed signs": synthetic.tilted_dictionary(12, 16, 0.2, "mixed"),
    "random, 48 in 16": synthetic.random_dictionary(48, 16),
    "clustered, 48 in 16": synthetic.clustered_dictionary(48, 16, 6, 0.6),
}


@pytest.mark.parametrize("family", ["bernoulli", "poisson", "exponential"])
@pytest.mark.parametrize("name", DICTIONARIES)
def test_best_probe_matches_least_squares(name: str, family: str) -> None:
    dictionary = DICTIONARIES[name]
    probability = synthetic.power_law_frequencies(len(dictionary), 2.0, 0.7)
    weights = synthetic.sparse_weights(family, probability, N_TOKENS, scale=torch.linspace(0.5, 1.5, len(dictionary)))
    x = weights.superpose(dictionary)
    found, error = held_out_r2(x, x.double().square().sum(1))
    probe = norm_theory.best_probe(dictionary, weights.moments)
    assert abs(probe.r2 - found) < 4 * error + 1e-6
    assert probe.variance == pytest.approx(float(x.double().square().sum(1).var()), rel=0.12)


def test_best_probe_is_the_orthonormal_form_when_features_are_orthonormal() -> None:
    moments = laws.gamma_moments(torch.linspace(0.01, 0.4, 16), 2.0, torch.linspace(1, 3, 16))
    probe = norm_theory.best_probe(DICTIONARIES["orthonormal"], moments)
    assert probe.r2 == pytest.approx(norm_theory.orthonormal_r2(moments), rel=1e-5)
    expected = DICTIONARIES["orthonormal"].double().T @ laws.slopes(moments).best
    assert torch.allclose(probe.vector, expected, rtol=1e-4, atol=1e-4)
    assert probe.interference + probe.superposition < 1e-4 * probe.variance


def test_equal_bernoulli_features_far_beyond_the_dimension_cannot_be_predicted() -> None:
    """Coherence is small (about 0.35) and L0 is 2, yet the probe fails: superposition is the cost that B.1 leaves out."""
    moments = laws.bernoulli_moments(torch.full((4096,), 2 / 4096))
    probe = norm_theory.best_probe(synthetic.random_dictionary(4096, 256, seed=1), moments)
    assert probe.r2 < 0.1
    assert probe.shape < 1e-6 * probe.variance
    assert probe.superposition > 0.85 * probe.variance


def test_coherence_bound_holds_and_is_tight_without_coherence() -> None:
    for seed in range(20):
        dictionary = synthetic.tilted_dictionary(6, 40, 0.002 * seed, "mixed", seed=seed)
        moments = laws.gamma_moments(torch.rand(6).clamp_min(0.01), 3.0, torch.rand(6) + 0.5)
        bound = norm_theory.coherence_bound(moments, norm_theory.coherence(dictionary))
        assert bound <= norm_theory.best_probe(dictionary, moments).r2 + 1e-6
        assert norm_theory.coherence_bound(moments, 0.0) == pytest.approx(norm_theory.orthonormal_r2(moments), rel=1e-9)
    assert bound > 0.3  # not an empty promise


def test_coherence_is_the_largest_cosine() -> None:
    dictionary = synthetic.tilted_dictionary(10, 16, 0.3)
    dictionary[4] = -dictionary[3]
    assert norm_theory.coherence(dictionary, block=3) == pytest.approx(1.0, abs=1e-6)
    assert norm_theory.coherence(synthetic.tilted_dictionary(10, 16, 0.3, "mixed")) == pytest.approx(0.3, abs=1e-5)


def test_gaussian_vectors_pass_the_norm_test_once_their_mean_is_large() -> None:
    mean, root = torch.randn(12, generator=torch.Generator().manual_seed(0)), torch.diag(torch.linspace(0.2, 1.0, 12))
    x = mean + torch.randn(N_TOKENS, 12, generator=torch.Generator().manual_seed(1)) @ root
    found, error = held_out_r2(x, x.double().square().sum(1))
    assert abs(norm_theory.gaussian_norm_r2(mean, root @ root) - found) < 4 * error
    assert norm_theory.gaussian_norm_r2(10 * mean, root @ root) > 0.99


# ---- mistakes are named


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: laws.bernoulli_moments(0.0), "outside"),
        (lambda: laws.poisson_moments(-1.0), "not positive"),
        (lambda: laws.active_moments(0.5, 1.0), "four are needed"),
        (lambda: laws.empirical_moments(torch.zeros(5)), "expected"),
        (lambda: laws.WeightMoments(*torch.tensor([[0.5], [1.0], [0.5], [1.0], [1.0]])), "variance is negative"),
        (lambda: laws.active_moments(0.5, float("nan"), 1.0, 1.0, 1.0), "NaN"),
        (lambda: norm_theory.best_probe(torch.eye(3), laws.bernoulli_moments(torch.full((2,), 0.5))), "expected"),
        (lambda: norm_theory.best_probe(2 * torch.eye(2), laws.bernoulli_moments(torch.full((2,), 0.5))), "unit"),
        (lambda: norm_theory.coherence_bound(laws.bernoulli_moments(0.5), 1.5), "between 0 and 1"),
        (lambda: norm_theory.orthonormal_r2(laws.bernoulli_moments(1.0)), "undefined"),
        (lambda: norm_theory.best_probe(torch.eye(2), laws.bernoulli_moments(torch.ones(2))), "undefined"),
        (lambda: norm_theory.gaussian_norm_r2(torch.ones(2), torch.zeros(2, 2)), "covariance is zero"),
        (lambda: norm_theory.coherence(torch.eye(1)), "at least two"),
    ],
)
def test_bad_input_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_moments_of_sparse_weights_are_those_of_the_dense_ones() -> None:
    dense = torch.rand(200, 5, generator=torch.Generator().manual_seed(0)) * (torch.arange(1000).view(200, 5) % 3 > 0)
    one, other = laws.empirical_moments(dense), laws.empirical_moments(dense.to_sparse())
    for name, values in vars(one).items():
        torch.testing.assert_close(vars(other)[name], values)
        power = {"mean": 1, "second": 2, "third": 3, "fourth": 4}.get(name)
        torch.testing.assert_close(values, (dense.double() ** power if power else (dense > 0).double()).mean(0))
