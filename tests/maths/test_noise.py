"""Specification of planted noise: its size, its shape, and how two noises hang together."""

import pytest
import torch

from dm_utils.maths import noise


@pytest.mark.parametrize("kind", noise.LAWS)
def test_noise_is_centred_and_has_the_asked_level(kind: str) -> None:
    x = torch.randn(5000, 16) @ torch.randn(16, 16)
    added = noise.draw(kind, x, 0.25, seed=1)
    assert noise.variance(added) / noise.variance(x) == pytest.approx(0.25, rel=1e-4)
    assert added.mean(0).abs().max() < 1e-4
    assert torch.equal(added, noise.draw(kind, x, 0.25, seed=1))


def test_noise_laws_are_what_they_are_called() -> None:
    x = torch.randn(20_000, 32)
    linear, quadratic, gaussian = (noise.draw(k, x, 1.0) for k in ("linear_in_x", "quadratic_in_x", "gaussian"))

    def r2(target: torch.Tensor) -> float:
        fitted = x @ torch.linalg.lstsq(x, target).solution
        return 1 - noise.variance(target - fitted) / noise.variance(target)

    assert r2(linear) > 0.999
    assert max(r2(quadratic), r2(gaussian)) < 0.01
    assert torch.linalg.matrix_rank(noise.draw("curved", x, 1.0)) == 12
    norms = [noise.draw(k, x, 1.0).square().sum(1) for k in ("student_t", "gaussian")]
    assert norms[0].max() / norms[0].median() > 5 * norms[1].max() / norms[1].median()


@pytest.mark.parametrize("correlation", [-1.0, 0.0, 0.6, 1.0])
def test_paired_noise_correlates_as_asked(correlation: float) -> None:
    first, second = noise.draw_pair(torch.randn(20_000, 8), 0.1, 0.4, correlation)
    found = (first * second).sum() / (first.norm() * second.norm())
    assert float(found) == pytest.approx(correlation, abs=0.02)
    assert noise.variance(second) / noise.variance(first) == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: noise.draw("pink", torch.randn(4, 2), 0.1), "choose one of"),
        (lambda: noise.draw("gaussian", torch.randn(4, 2), -0.1), "0 or more"),
        (lambda: noise.draw_pair(torch.randn(4, 2), 0.1, 0.1, 2.0), "between -1 and 1"),
    ],
)
def test_bad_input_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("kind", noise.LAWS)
def test_every_law_has_a_zero_mean_of_itself(kind: str) -> None:
    """Before it is centred: within five deviations of a mean of so many tokens, for the law that is a curve as for the others."""
    n = 20_000
    x = torch.randn(n, 12, generator=torch.Generator().manual_seed(5))
    drawn = noise.LAWS[kind](x, torch.Generator().manual_seed(6)).double()
    assert (drawn.mean(0).abs() < 5 * drawn.std(0) / n**0.5 + 1e-5).all()
