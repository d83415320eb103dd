"""What the generators promise: shapes, laws, seeds and what is planted."""

import math
from collections.abc import Callable

import pytest
import torch

from dm_utils.maths import synthetic
from dm_utils.maths.weight_laws import empirical_moments


def cosines(dictionary: torch.Tensor) -> torch.Tensor:
    gram = dictionary @ dictionary.T
    return gram[~torch.eye(len(gram), dtype=torch.bool)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: synthetic.orthonormal_dictionary(10, 16),
        lambda: synthetic.random_dictionary(100, 16),
        lambda: synthetic.tilted_dictionary(10, 16, 0.2, "mixed"),
        lambda: synthetic.tilted_dictionary(100, 16, 0.2, "mixed"),
        lambda: synthetic.clustered_dictionary(100, 16, 7, 0.5),
    ],
)
def test_dictionaries_have_unit_rows(make: Callable[[], torch.Tensor]) -> None:
    dictionary = make()
    assert torch.allclose(dictionary.norm(dim=1), torch.ones(len(dictionary)), atol=1e-5)


def test_mixed_signs_alternate_from_the_first_latent() -> None:
    same, mixed = (synthetic.tilted_dictionary(6, 16, 0.3, signs) for signs in ("same", "mixed"))
    common = (same - mixed)[1] / 2  # the part along the direction that all share
    along = torch.nn.functional.normalize(common, dim=0)
    assert torch.sign(same @ along).tolist() == [1.0] * 6
    assert torch.sign(mixed @ along).tolist() == [1.0, -1.0] * 3


def test_orthonormal_and_tilted_cosines_are_exact() -> None:
    assert cosines(synthetic.orthonormal_dictionary(16, 16)).abs().max() < 1e-5
    assert torch.allclose(cosines(synthetic.tilted_dictionary(15, 16, 0.3)), torch.tensor(0.3), atol=1e-5)
    assert torch.allclose(
        cosines(synthetic.tilted_dictionary(15, 16, 0.3, "mixed")).abs(), torch.tensor(0.3), atol=1e-5
    )


def test_tilted_and_clustered_cosines_hold_on_average_in_superposition() -> None:
    assert cosines(synthetic.tilted_dictionary(400, 64, 0.3)).mean() == pytest.approx(0.3, abs=0.01)
    clustered = synthetic.clustered_dictionary(400, 64, 4, 0.6)
    assert cosines(clustered[::4]).mean() == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.5])
def test_frequencies_follow_the_power_law_and_sum_to_the_expected_l0(exponent: float) -> None:
    p = synthetic.power_law_frequencies(1000, 12.0, exponent, largest=0.5)
    assert float(p.sum()) == pytest.approx(12.0, rel=1e-4)
    assert float(p.max()) <= 0.5
    free = p[p < 0.499]
    rank = torch.arange(len(p) - len(free) + 1, len(p) + 1)
    assert torch.allclose(free * rank**exponent, (free * rank**exponent)[0], rtol=1e-3)


@pytest.mark.parametrize("family", synthetic.FAMILIES)
def test_drawn_weights_have_the_moments_they_announce(family: str) -> None:
    p = torch.tensor([0.05, 0.3, 0.6])
    drawn = synthetic.sparse_weights(family, p, 200_000, scale=torch.tensor([1.0, 2.0, 0.5]), shape=0.5, seed=2)
    seen = empirical_moments(drawn.values.to_dense())
    for name in ("probability", "mean", "second", "third"):
        assert torch.allclose(getattr(seen, name), getattr(drawn.moments, name), rtol=0.1), name
    assert drawn.l0 == pytest.approx(float(p.sum()), rel=0.02)


def test_weights_are_independent_between_latents_and_depend_on_the_seed_alone() -> None:
    p = torch.full((8,), 0.3)
    first, again, other = (
        synthetic.sparse_weights("exponential", p, 50_000, seed=s).values.to_dense() for s in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (torch.corrcoef(first.T) - torch.eye(8)).abs().max() < 0.03


def test_superpose_is_the_weighted_sum_and_a_zero_row_masks_a_latent() -> None:
    sample = synthetic.random_superposition(50, 8, 100, 5.0)
    dense = sample.weights.values.to_dense()
    assert torch.allclose(sample.x, dense @ sample.dictionary, atol=1e-5)
    masked = sample.dictionary.clone()
    masked[3] = 0
    assert torch.allclose(sample.x - sample.weights.superpose(masked), dense[:, 3:4] * sample.dictionary[3], atol=1e-5)


def test_mask_orders_sort_by_frequency() -> None:
    p = torch.tensor([0.3, 0.1, 0.2])
    assert synthetic.mask_order(p, "rarest first").tolist() == [1, 2, 0]
    assert synthetic.mask_order(p, "commonest first").tolist() == [0, 2, 1]
    assert sorted(synthetic.mask_order(p, "random", seed=1).tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: synthetic.orthonormal_dictionary(9, 8), "do not fit"),
        (lambda: synthetic.tilted_dictionary(4, 8, 1.0), "cosine"),
        (lambda: synthetic.clustered_dictionary(4, 8, 0, 0.5), "n_clusters"),
        (lambda: synthetic.power_law_frequencies(10, 20.0), "more than 10 latents"),
        (lambda: synthetic.sparse_weights("cauchy", torch.tensor([0.5]), 10), "unknown family"),
        (lambda: synthetic.sparse_weights("bernoulli", torch.tensor([1.5]), 10), "outside"),
        (lambda: synthetic.mask_order(torch.ones(3), "alphabetical"), "unknown order"),
        (lambda: synthetic.random_superposition(20, 4, 10, 2.0).weights.superpose(torch.eye(4)), "dictionary rows"),
    ],
)
def test_bad_input_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("family", ["bernoulli", "exponential", "gamma", "lognormal"])
def test_weights_are_of_size_one_unless_told(family: str) -> None:
    """A constant of 1, or a mean of 1; for the lognormal a median of 1, its logarithm with deviation 1."""
    p, mean = torch.full((1,), 0.3), math.exp(0.5) if family == "lognormal" else 1.0
    found = synthetic.law_moments(family, p)
    assert float(found.mean / found.probability) == pytest.approx(mean)
    drawn = synthetic.sparse_weights(family, p, 50_000).values.coalesce().values()
    assert float(drawn.mean()) == pytest.approx(mean, rel=0.05)
