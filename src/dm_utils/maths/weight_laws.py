"""Moments of the weights of a sparse sum, for every law that the book uses (Appendix C.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class WeightMoments:
    """Raw moments of independent weights, one entry per latent.

    Attributes
    ----------
    probability : [latent]
        P(w > 0), how often the latent is active.
    mean, second, third, fourth : [latent]
        E(w), E(w^2), E(w^3), E(w^4), in the units of w to that power.

    Raises
    ------
    ValueError
        If the shapes differ, a value is not finite, or no distribution has these moments.
    """

    probability: Float[Tensor, " latent"]
    mean: Float[Tensor, " latent"]
    second: Float[Tensor, " latent"]
    third: Float[Tensor, " latent"]
    fourth: Float[Tensor, " latent"]

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value.shape != self.mean.shape or value.ndim != 1:
                raise ValueError(f"{name} has shape {tuple(value.shape)}; every moment needs one entry per latent.")
            if not torch.isfinite(value).all():
                raise ValueError(f"{name} holds NaN or infinite values; the first four moments must exist.")
        slack = 1e-9 * self.fourth.abs().clamp_min(1e-300)
        if (self.variance < -1e-9 * self.second).any() or (self.variance_of_square < -slack).any():
            raise ValueError("no distribution has these moments: a variance is negative. Pass raw moments E(w^k).")

    @property
    def variance(self) -> Float[Tensor, " latent"]:
        """Var(w)."""
        return self.second - self.mean**2

    @property
    def covariance(self) -> Float[Tensor, " latent"]:
        """Cov(w, w^2)."""
        return self.third - self.mean * self.second

    @property
    def variance_of_square(self) -> Float[Tensor, " latent"]:
        """Var(w^2)."""
        return self.fourth - self.second**2

    @property
    def third_cumulant(self) -> Float[Tensor, " latent"]:
        """E((w - E w)^3)."""
        return self.covariance - 2 * self.mean * self.variance

    @property
    def shape_cost(self) -> Float[Tensor, " latent"]:
        """Var(w^2) that no affine function of w explains: zero exactly for weights that take at most two values."""
        explained = ratio(self.covariance**2, self.variance)
        return (self.variance_of_square - explained).clamp_min(0.0)


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide, giving 0 where the denominator is not positive (a constant weight needs and explains nothing)."""
    positive = denominator > 0
    return torch.where(positive, numerator / torch.where(positive, denominator, 1.0), 0.0)


def _vector(value: float | Tensor) -> Tensor:
    return torch.atleast_1d(torch.as_tensor(value, dtype=torch.float64))


def active_moments(probability: float | Tensor, *active: float | Tensor) -> WeightMoments:
    """Moments of a weight that is 0 except with probability p, from the four raw moments it has when active.

    Raises ``ValueError`` if a probability is outside (0, 1] or if there are not four moments.
    """
    p = _vector(probability)
    if len(active) != 4:
        raise ValueError(f"{len(active)} moments of the active weight were given; four are needed, E(w^k | w > 0).")
    if not ((p > 0) & (p <= 1)).all():
        raise ValueError("a firing probability is outside (0, 1]; drop latents that never fire.")
    broadcast = torch.broadcast_tensors(p, *(_vector(m) for m in active))
    return WeightMoments(broadcast[0].clone(), *(broadcast[0] * m for m in broadcast[1:]))


def bernoulli_moments(probability: float | Tensor, scale: float | Tensor = 1.0) -> WeightMoments:
    """Weights that are ``scale`` with the given probability and 0 otherwise (the first case of Appendix C.1)."""
    s = _vector(scale)
    return active_moments(probability, s, s**2, s**3, s**4)


def gamma_moments(probability: float | Tensor, shape: float | Tensor, scale: float | Tensor = 1.0) -> WeightMoments:
    """Weights that follow Gamma(shape, scale) when active; ``shape=1`` is the exponential, large shapes approach Bernoulli."""
    k, s = _vector(shape), _vector(scale)
    first, second = k * s, k * (k + 1) * s**2
    third = second * (k + 2) * s
    return active_moments(probability, first, second, third, third * (k + 3) * s)


def exponential_moments(probability: float | Tensor, scale: float | Tensor = 1.0) -> WeightMoments:
    """Weights that follow an exponential of mean ``scale`` when active."""
    return gamma_moments(probability, 1.0, scale)


def lognormal_moments(probability: float | Tensor, shape: float | Tensor, scale: float | Tensor = 1.0) -> WeightMoments:
    """Weights whose logarithm, when active, is normal: median ``scale``, standard deviation of the logarithm ``shape``."""
    sigma, s = _vector(shape), _vector(scale)
    return active_moments(probability, *(s**k * torch.exp(k**2 * sigma**2 / 2) for k in range(1, 5)))


def poisson_moments(rate: float | Tensor, scale: float | Tensor = 1.0) -> WeightMoments:
    """Weights that are ``scale`` times a Poisson count (the second case of Appendix C.1)."""
    lam, s = torch.broadcast_tensors(_vector(rate), _vector(scale))
    if not (lam > 0).all():
        raise ValueError("a Poisson rate is not positive.")
    raw = (lam, lam + lam**2, lam + 3 * lam**2 + lam**3, lam + 7 * lam**2 + 6 * lam**3 + lam**4)
    return WeightMoments(-torch.expm1(-lam), *(m * s**k for k, m in enumerate(raw, start=1)))


def empirical_moments(weights: Float[Tensor, "token latent"]) -> WeightMoments:
    """Moments of observed weights, dense or sparse COO [token, latent].

    Raises ``ValueError`` if there are fewer than two tokens or if a value is not finite.
    """
    if weights.ndim != 2 or weights.shape[0] < 2:
        raise ValueError(
            f"weights have shape {tuple(weights.shape)}; expected [token, latent] with two tokens or more."
        )
    if not weights.is_sparse:
        w = weights.double()
        return WeightMoments((w > 0).double().mean(0), *((w**k).mean(0) for k in range(1, 5)))
    sparse = weights.coalesce()
    latent, w = sparse.indices()[1], sparse.values().double()
    zero = torch.zeros(weights.shape[1], dtype=torch.float64)
    powers = ((w > 0).double(), w, w**2, w**3, w**4)
    return WeightMoments(*(zero.index_add(0, latent, power) / weights.shape[0] for power in powers))


@dataclass(frozen=True)
class Slopes:
    """Candidate coefficients of one latent in the probe, each [latent], in the units of w.

    ``mean`` is E(w), ``mean_active`` is E(w | w > 0) (the two readings of Appendix B.1's "average weight"), ``paper`` is
    E(w^2)/E(w) (Appendix C.1), ``through_origin`` is E(w^3)/E(w^2) (least squares of w^2 on w without intercept) and ``best``
    is Cov(w, w^2)/Var(w) (with intercept). For weights that are not negative, and not constant,
    ``paper <= through_origin <= best``, with equality if and only if the weight is a scaled Bernoulli variable.
    """

    mean: Float[Tensor, " latent"]
    mean_active: Float[Tensor, " latent"]
    paper: Float[Tensor, " latent"]
    through_origin: Float[Tensor, " latent"]
    best: Float[Tensor, " latent"]


def slopes(moments: WeightMoments) -> Slopes:
    """Every coefficient that the paper or its readers might mean, from the same moments. Latents that never fire give 0."""
    return Slopes(
        mean=moments.mean,
        mean_active=ratio(moments.mean, moments.probability),
        paper=ratio(moments.second, moments.mean),
        through_origin=ratio(moments.third, moments.second),
        best=ratio(moments.covariance, moments.variance),
    )
