"""The best map of each rank: against an independent minimiser, and on a target of a rank that is known."""

import pytest
import torch

from dm_utils.maths.reduced_rank import ByRank, ranked_map
from dm_utils.maths.regression import Design
from dm_utils.maths.resampling import Split

N, D, CONTEXTS = 6000, 6, 60


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def split():
    return Split.random(torch.arange(N) * CONTEXTS // N, seed=1, by="context")


@pytest.fixture
def data():
    """x with directions of unlike variance and a mean; y a map of rank 2 of it, plus noise."""
    x = normal(N, D) @ torch.diag(torch.tensor([3.0, 2.0, 1.0, 1.0, 0.5, 0.2]).double()) @ normal(D, D, seed=1) + 2
    return x, x @ normal(D, 2, seed=2) @ normal(2, D, seed=3) + 5 + 0.5 * normal(N, D, seed=4)


def rss(map_, x, y, rows):
    return float((y - map_(x))[rows].square().sum())


def alternating(x, y, rank, steps=3000):
    """The least squared error of y − x A C over A [d, rank], C [rank, d], by solving for one and the other in turn."""
    x, y = x - x.mean(0), y - y.mean(0)
    right = normal(rank, y.shape[1], seed=9)
    for _ in range(steps):
        left = torch.linalg.lstsq(x, y @ torch.linalg.pinv(right)).solution
        right = torch.linalg.lstsq(x @ left, y).solution
    return float((y - x @ left @ right).square().sum())


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_no_map_of_that_rank_does_better_on_the_fitting_tokens(split, data, rank):
    x, y = data
    found = ranked_map(Design(x, split), lambda rows, _: y[rows]).of_rank(rank)
    assert torch.linalg.matrix_rank(found.coef) == rank
    expected = alternating(x[split.fit], y[split.fit], rank)
    assert rss(found, x, y, split.fit) == pytest.approx(expected, rel=1e-6)


def test_rank_zero_is_the_mean_and_full_rank_is_least_squares(split, data):
    x, y = data
    design = Design(x, split)
    ranked = ranked_map(design, lambda rows, _: y[rows])
    torch.testing.assert_close(ranked.of_rank(0)(x), y[split.fit].mean(0).expand(N, D))
    torch.testing.assert_close(ranked.of_rank(D)(x), design.fit_map(lambda rows, _: y[rows])(x))
    with pytest.raises(ValueError, match="from 0 to 6"):
        ranked.of_rank(D + 1)


def test_what_every_rank_leaves_is_that_of_its_map(split, data):
    x, y = data
    design = Design(x, split)
    ranked = ranked_map(design, lambda rows, _: y[rows])
    judge, out = ByRank(design, lambda rows, _: y[rows], ranked, 100), ~split.fit
    for rank in range(D + 1):
        left = rss(ranked.of_rank(rank), x, y, out)
        assert judge.left(rank).value == pytest.approx(left / float((y[out] - y[out].mean(0)).square().sum()))
        assert judge.left(rank, "x").value == pytest.approx(left / float((x[out] - x[out].mean(0)).square().sum()))


def test_a_planted_rank_is_found(split, data):
    x, y = data
    design = Design(x, split)
    ranked = ranked_map(design, lambda rows, _: y[rows])
    judge = ByRank(design, lambda rows, _: y[rows], ranked, 100)
    assert judge.recovered(0).value == 0 and judge.recovered(D).value == 1
    assert judge.recovered(2).value == pytest.approx(1, abs=0.01) and judge.rank_for(0.99).value == 2
    assert ranked.variance[2] < 0.01 * ranked.variance[1]


def test_directions_that_the_error_holds_are_counted_with_their_variance(split):
    """An error that is all of x in two of the six dimensions, and a tenth of it in the others."""
    x = normal(N, D)
    share = torch.tensor([1.0, 1.0, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64)
    design = Design(x, split)
    ranked = ranked_map(design, lambda rows, block: block * share)
    judge = ByRank(design, lambda rows, block: block * share, ranked, 100)
    assert judge.missed_directions(0.5).value == 2
    assert judge.missed_variance(0.5).value == pytest.approx(2 / 6, abs=0.02)
    assert judge.unexplained(0).value == pytest.approx(1, abs=0.001)  # a sample turns its directions by 1 / √N
    assert judge.unexplained(5).value == pytest.approx(0.01, abs=0.001)
