"""Generators of activations and errors whose structure is known because it was planted (Appendices B, C.3 and D).

Everything takes a seed, works on whole arrays and returns tensors or small frozen records. Dictionaries are ``[latent, d]``
with unit rows, the layout of an SAE's decoder. A noise *level* is always the noise's variance, summed over dimensions, as a
fraction of the variance of the activations that it is added to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.maths import weight_laws as laws
from dm_utils.maths.weight_laws import Moments

FAMILIES = ("bernoulli", "exponential", "gamma", "lognormal", "poisson")
ORDERS = ("random", "rarest first", "commonest first")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _positive(**sizes: float) -> None:
    for name, value in sizes.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be positive.")


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


# ---------------------------------------------------------------------------------------------------- dictionaries


def orthonormal_dictionary(n_latents: int, d: int, seed: int = 0) -> Float[Tensor, "latent d"]:
    """Draw orthonormal rows, uniformly. Raises ``ValueError`` if there are more latents than dimensions."""
    _positive(n_latents=n_latents, d=d)
    if n_latents > d:
        raise ValueError(f"{n_latents} orthonormal vectors do not fit in {d} dimensions; use random_dictionary.")
    q, r = torch.linalg.qr(torch.randn(d, n_latents, generator=_generator(seed), dtype=torch.float64))
    return (q * r.diagonal().sign()).T.float()


def random_dictionary(n_latents: int, d: int, seed: int = 0) -> Float[Tensor, "latent d"]:
    """Draw independent directions, uniform on the sphere (Appendix D's random Gaussian vectors, normalised)."""
    _positive(n_latents=n_latents, d=d)
    return _unit(torch.randn(n_latents, d, generator=_generator(seed)))


def tilted_dictionary(
    n_latents: int, d: int, cosine: float, signs: str = "same", seed: int = 0
) -> Float[Tensor, "latent d"]:
    """Tilt every feature towards one common direction so that each pair has the given cosine.

    Cosines are exact while ``n_latents < d`` and hold on average beyond. With ``signs="mixed"`` half of the features
    tilt the opposite way: the coherence is the same but the cosines average to zero.

    Raises
    ------
    ValueError
        If ``cosine`` is outside [0, 1) or ``signs`` is neither "same" nor "mixed".
    """
    if not 0 <= cosine < 1 or signs not in ("same", "mixed"):
        raise ValueError(f"cosine={cosine}, signs={signs!r}: cosine lies in [0, 1) and signs is 'same' or 'mixed'.")
    basis = orthonormal_dictionary(min(n_latents + 1, d), d, seed)
    rest = (
        basis[1 : n_latents + 1]
        if n_latents < d
        else _orthogonal_to(random_dictionary(n_latents, d, seed + 1), basis[0])
    )
    sign = torch.ones(n_latents)
    if signs == "mixed":
        sign[1::2] = -1.0
    return (1 - cosine) ** 0.5 * rest + cosine**0.5 * sign[:, None] * basis[0]


def _orthogonal_to(rows: Tensor, direction: Tensor) -> Tensor:
    return _unit(rows - (rows @ direction)[:, None] * direction)


def clustered_dictionary(
    n_latents: int, d: int, n_clusters: int, cosine: float, seed: int = 0
) -> Float[Tensor, "latent d"]:
    """Draw features around random cluster centres; two features of a cluster have the given cosine on average.

    Latent i belongs to cluster ``i % n_clusters``. Raises ``ValueError`` if ``cosine`` is outside [0, 1).
    """
    _positive(n_clusters=n_clusters)
    if not 0 <= cosine < 1:
        raise ValueError(f"cosine is {cosine}; it lies in [0, 1).")
    centres = random_dictionary(n_clusters, d, seed)[torch.arange(n_latents) % n_clusters]
    scatter = random_dictionary(n_latents, d, seed + 1)
    scatter = _unit(scatter - (scatter * centres).sum(1, keepdim=True) * centres)
    return cosine**0.5 * centres + (1 - cosine) ** 0.5 * scatter


# --------------------------------------------------------------------------------------------------------- weights


def power_law_frequencies(
    n_latents: int, expected_l0: float, exponent: float = 1.0, largest: float = 0.9
) -> Float[Tensor, " latent"]:
    """Firing probabilities ``min(largest, c * rank^-exponent)`` whose sum, the expected L0, is as asked.

    Raises ``ValueError`` if ``n_latents`` latents cannot reach ``expected_l0`` with no probability above ``largest``.
    """
    _positive(n_latents=n_latents, expected_l0=expected_l0)
    if not 0 < largest <= 1 or expected_l0 > largest * n_latents:
        raise ValueError(
            f"expected_l0={expected_l0} needs more than {n_latents} latents at probability {largest} or less."
        )
    law = torch.arange(1, n_latents + 1, dtype=torch.float64) ** -exponent
    low, high = 0.0, largest / float(law.min())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((middle * law).clamp_max(largest).sum()) < expected_l0 else (low, middle)
    return (high * law).clamp_max(largest).float()


@dataclass(frozen=True)
class SparseWeights:
    """Independent sparse weights and the moments of the law they were drawn from.

    ``values`` is a sparse COO tensor [token, latent]; ``moments`` holds the law's exact moments, not the sample's.
    """

    values: Tensor
    moments: Moments

    @property
    def l0(self) -> float:
        """Mean number of active latents per token in the sample."""
        return self.values._nnz() / self.values.shape[0]

    def superpose(self, dictionary: Float[Tensor, "latent d"]) -> Float[Tensor, "token d"]:
        """``x = sum_i w_i y_i`` for every token. Zero a row of the dictionary to mask that latent."""
        if dictionary.shape[0] != self.values.shape[1]:
            raise ValueError(f"{dictionary.shape[0]} dictionary rows for {self.values.shape[1]} latents.")
        return torch.sparse.mm(self.values, dictionary.to(self.values.dtype))


def law_moments(family: str, probability: Tensor, scale: float | Tensor = 1.0, shape: float = 1.0) -> Moments:
    """Exact moments of a weight family with the given probability of being active; see :func:`sparse_weights`."""
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; choose one of {', '.join(FAMILIES)}.")
    if family in ("gamma", "lognormal"):
        make = laws.gamma_moments if family == "gamma" else laws.lognormal_moments
        return make(probability, shape, scale)
    if family == "poisson":
        return laws.poisson_moments(-torch.log1p(-probability.double()), scale)
    return (laws.bernoulli_moments if family == "bernoulli" else laws.exponential_moments)(probability, scale)


def sparse_weights(
    family: str,
    probability: Float[Tensor, " latent"],
    n_tokens: int,
    scale: float | Float[Tensor, " latent"] = 1.0,
    shape: float = 1.0,
    seed: int = 0,
    block: int = 2048,
) -> SparseWeights:
    """Draw independent weights: latent i is active with ``probability[i]`` and then follows the family.

    Parameters
    ----------
    family : {"bernoulli", "exponential", "gamma", "lognormal", "poisson"}
        The active weight: constant ``scale``; exponential of mean ``scale``; Gamma(``shape``, ``scale``); lognormal of
        median ``scale`` whose logarithm has standard deviation ``shape``; ``scale`` times a Poisson count given >= 1.
    probability : [latent]
        P(w > 0), in (0, 1] (for "poisson", below 1).

    Raises
    ------
    ValueError
        If the family is unknown or a probability is out of range.
    """
    moments = law_moments(family, probability, scale, shape)
    _positive(n_tokens=n_tokens, shape=shape)
    generator = _generator(seed)
    rate = -torch.log1p(-probability.double()).float() if family == "poisson" else probability
    draws = [_draw(family, rate, min(block, n_tokens - s), shape, generator) for s in range(0, n_tokens, block)]
    starts = torch.arange(0, n_tokens, block).tolist()
    index = torch.cat([i + torch.tensor([[s], [0]]) for s, (i, _) in zip(starts, draws, strict=True)], dim=1)
    value = (
        torch.cat([v for _, v in draws])
        * torch.as_tensor(scale, dtype=torch.float32).expand(len(probability))[index[1]]
    )
    sparse = torch.sparse_coo_tensor(index, value, (n_tokens, len(probability)), check_invariants=False)
    return SparseWeights(sparse.coalesce(), moments)


def _draw(family: str, rate: Tensor, n: int, shape: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices [2, active] and unscaled values [active] of one block of tokens."""
    if family == "poisson":
        counts = torch.poisson(rate.expand(n, -1), generator=generator)
        index = counts.nonzero().T
        return index, counts[index[0], index[1]]
    index = (torch.rand(n, len(rate), generator=generator) < rate).nonzero().T
    k = index.shape[1]
    if family == "bernoulli":
        return index, torch.ones(k)
    if family == "exponential":
        return index, torch.empty(k).exponential_(generator=generator)
    if family == "lognormal":
        return index, torch.exp(shape * torch.randn(k, generator=generator))
    return index, torch._standard_gamma(torch.full((k,), float(shape)), generator=generator)


def mask_order(probability: Float[Tensor, " latent"], order: str, seed: int = 0) -> Int[Tensor, " latent"]:
    """Order in which latents are masked: "random", "rarest first" (what a smaller SAE lacks) or "commonest first"."""
    if order not in ORDERS:
        raise ValueError(f"unknown order {order!r}; choose one of {', '.join(ORDERS)}.")
    if order == "random":
        return torch.randperm(len(probability), generator=_generator(seed))
    return torch.argsort(probability, descending=order == "commonest first", stable=True)


@dataclass(frozen=True)
class Superposition:
    """A sparse sum of known features: ``x`` [token, d], its ``dictionary`` [latent, d] and its ``weights``."""

    x: Float[Tensor, "token d"]
    dictionary: Float[Tensor, "latent d"]
    weights: SparseWeights


def random_superposition(
    n_latents: int = 10_000,
    d: int = 400,
    n_tokens: int = 4096,
    expected_l0: float = 10.0,
    exponent: float = 1.0,
    family: str = "exponential",
    seed: int = 0,
) -> Superposition:
    """Appendix D's data: a sparse sum of random vectors whose firing frequencies follow a power law.

    The paper's sizes are 100 000 latents, d = 4000 and L0 about 100; the defaults keep its 25 latents per dimension and
    L0 / d = 1/40 at a tenth of the size. The paper gives neither the exponent nor the law of the weights.
    """
    dictionary = random_dictionary(n_latents, d, seed)
    probability = power_law_frequencies(n_latents, expected_l0, exponent)
    weights = sparse_weights(family, probability, n_tokens, seed=seed + 1)
    return Superposition(weights.superpose(dictionary), dictionary, weights)


# ------------------------------------------------------------------------------------------- planted errors and noise


@dataclass(frozen=True)
class PlantedError:
    """An error with a known linear part: ``error = linear + nonlinear``, all [token, d], and the ``matrix`` [d, d].

    ``linear`` is ``(x - mean) @ matrix.T``; ``r2`` is the variance-weighted R^2 of a perfect linear fit, on average.
    """

    error: Float[Tensor, "token d"]
    linear: Float[Tensor, "token d"]
    nonlinear: Float[Tensor, "token d"]
    matrix: Float[Tensor, "d d"]
    r2: float


def variance(x: Float[Tensor, "token d"]) -> float:
    """Variance summed over dimensions, in the units of ``x`` squared."""
    return float(x.double().var(dim=0, correction=0).sum())


def plant_linear_error(x: Float[Tensor, "token d"], level: float, r2: float, seed: int = 0) -> PlantedError:
    """Make an error of which a linear map of ``x`` explains exactly the share ``r2``; the rest is Gaussian, unrelated to x.

    Raises ``ValueError`` if ``level`` is not positive or ``r2`` is outside [0, 1].
    """
    _positive(level=level)
    if not 0 <= r2 <= 1:
        raise ValueError(f"r2 is {r2}; a share lies between 0 and 1.")
    generator, d = _generator(seed), x.shape[1]
    matrix = torch.randn(d, d, generator=generator).to(x)
    centred = x - x.mean(0)
    matrix = matrix * (level * r2 * variance(x) / variance(centred @ matrix.T)) ** 0.5
    sigma = (level * (1 - r2) * variance(x) / d) ** 0.5
    linear, nonlinear = centred @ matrix.T, sigma * torch.randn(x.shape, generator=generator).to(x)
    return PlantedError(linear + nonlinear, linear, nonlinear, matrix, r2)


def _gaussian(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator).to(x)


def _student_t(x: Tensor, generator: torch.Generator, degrees: int = 3) -> Tensor:
    chi2 = torch.randn(x.shape[0], degrees, generator=generator).square().sum(1, keepdim=True)
    return _gaussian(x, generator) * (degrees / chi2).sqrt().to(x)


def _curved(x: Tensor, generator: torch.Generator, angles: int = 2, harmonics: int = 3) -> Tensor:
    theta = 2 * torch.pi * torch.rand(x.shape[0], angles, 1, generator=generator)
    phase = (theta * torch.arange(1, harmonics + 1)).flatten(1)
    circle = torch.cat([phase.cos(), phase.sin()], dim=1)
    return (circle @ _unit(torch.randn(circle.shape[1], x.shape[1], generator=generator))).to(x)


def _linear_in_x(x: Tensor, generator: torch.Generator) -> Tensor:
    return (x - x.mean(0)) @ torch.randn(x.shape[1], x.shape[1], generator=generator).to(x)


def _quadratic_in_x(x: Tensor, generator: torch.Generator) -> Tensor:
    standard = (x - x.mean(0)) @ torch.randn(x.shape[1], x.shape[1], generator=generator).to(x)
    return (standard / standard.std(0)) ** 2 - 1


NOISES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "gaussian": _gaussian,
    "student_t": _student_t,
    "curved": _curved,
    "linear_in_x": _linear_in_x,
    "quadratic_in_x": _quadratic_in_x,
}
"""Noise laws: isotropic Gaussian (the paper's); Student t with 3 degrees of freedom, one scale per token (heavy tails); a
closed curve per hidden angle, embedded in 12 dimensions (a curved manifold); a random linear map of x; squares of random
projections of x (a smooth function of x, with zero mean)."""


def noise(kind: str, x: Float[Tensor, "token d"], level: float, seed: int = 0) -> Float[Tensor, "token d"]:
    """Noise of one of the laws in :data:`NOISES`, centred, with variance ``level`` times that of ``x``.

    Raises ``ValueError`` if the law is unknown or ``level`` is negative.
    """
    if kind not in NOISES or level < 0:
        raise ValueError(f"kind={kind!r}, level={level}: choose one of {', '.join(NOISES)} and a level of 0 or more.")
    drawn = NOISES[kind](x, _generator(seed))
    drawn = drawn - drawn.mean(0)
    return drawn * (level * variance(x) / variance(drawn)) ** 0.5


def paired_noise(
    x: Float[Tensor, "token d"], level_x: float, level_sae: float, correlation: float, seed: int = 0
) -> tuple[Float[Tensor, "token d"], Float[Tensor, "token d"]]:
    """Two Gaussian noises, for x and for Sae(x), that correlate with each other in every dimension.

    Raises ``ValueError`` if ``correlation`` is outside [-1, 1].
    """
    if not -1 <= correlation <= 1:
        raise ValueError(f"correlation is {correlation}; it lies between -1 and 1.")
    first, own = noise("gaussian", x, 1.0, seed), noise("gaussian", x, 1.0, seed + 1)
    second = correlation * first + (1 - correlation**2) ** 0.5 * own
    return level_x**0.5 * first, level_sae**0.5 * second
