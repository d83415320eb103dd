"""Noises of known size and shape, planted on activations to see where a method finds them (Appendix C.3).

A *level* is the noise's variance, summed over dimensions, as a fraction of the variance of the activations it is added to.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def variance(x: Float[Tensor, "token d"]) -> float:
    """Variance summed over dimensions, in the units of ``x`` squared."""
    return float(x.double().var(dim=0, correction=0).sum())


def _gaussian(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator).to(x)


def _student_t(x: Tensor, generator: torch.Generator, degrees: int = 3) -> Tensor:
    chi2 = torch.randn(x.shape[0], degrees, generator=generator).square().sum(1, keepdim=True)
    return _gaussian(x, generator) * (degrees / chi2).sqrt().to(x)


def _curved(x: Tensor, generator: torch.Generator, angles: int = 2, harmonics: int = 3) -> Tensor:
    theta = 2 * torch.pi * torch.rand(x.shape[0], angles, 1, generator=generator)
    phase = (theta * torch.arange(1, harmonics + 1)).flatten(1)
    circle = torch.cat([phase.cos(), phase.sin()], dim=1)
    directions = torch.randn(circle.shape[1], x.shape[1], generator=generator)
    return (circle @ torch.nn.functional.normalize(directions, dim=-1)).to(x)


def _linear_in_x(x: Tensor, generator: torch.Generator) -> Tensor:
    return (x - x.mean(0)) @ torch.randn(x.shape[1], x.shape[1], generator=generator).to(x)


def _quadratic_in_x(x: Tensor, generator: torch.Generator) -> Tensor:
    standard = (x - x.mean(0)) @ torch.randn(x.shape[1], x.shape[1], generator=generator).to(x)
    return (standard / standard.std(0)) ** 2 - 1


LAWS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "gaussian": _gaussian,
    "student_t": _student_t,
    "curved": _curved,
    "linear_in_x": _linear_in_x,
    "quadratic_in_x": _quadratic_in_x,
}
"""Noise laws: isotropic Gaussian (the paper's); Student t with 3 degrees of freedom, one scale per token (heavy tails); a
closed curve per hidden angle, embedded in 12 dimensions (a curved manifold); a random linear map of x; squares of random
projections of x (a smooth function of x, with zero mean)."""


def draw(kind: str, x: Float[Tensor, "token d"], level: float, seed: int = 0) -> Float[Tensor, "token d"]:
    """Noise of one of the laws in :data:`LAWS`, centred, with variance ``level`` times that of ``x``.

    Raises ``ValueError`` if the law is unknown or ``level`` is negative.
    """
    if kind not in LAWS or level < 0:
        raise ValueError(f"kind={kind!r}, level={level}: choose one of {', '.join(LAWS)} and a level of 0 or more.")
    drawn = LAWS[kind](x, torch.Generator().manual_seed(seed))
    drawn = drawn - drawn.mean(0)
    return drawn * (level * variance(x) / variance(drawn)) ** 0.5


def draw_pair(
    x: Float[Tensor, "token d"], level_x: float, level_sae: float, correlation: float, seed: int = 0
) -> tuple[Float[Tensor, "token d"], Float[Tensor, "token d"]]:
    """Two Gaussian noises, for x and for Sae(x), that correlate with each other in every dimension.

    Raises ``ValueError`` if ``correlation`` is outside [-1, 1].
    """
    if not -1 <= correlation <= 1:
        raise ValueError(f"correlation is {correlation}; it lies between -1 and 1.")
    first, own = draw("gaussian", x, 1.0, seed), draw("gaussian", x, 1.0, seed + 1)
    second = correlation * first + (1 - correlation**2) ** 0.5 * own
    return level_x**0.5 * first, level_sae**0.5 * second
