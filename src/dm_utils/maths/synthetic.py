"""Generators of activations whose structure is known because it was planted: dictionaries, weights, their sums (App. B, D).

Everything takes a seed, works on whole arrays and returns tensors or small frozen records. Dictionaries are ``[latent, d]``
with unit rows, the layout of an SAE's decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.maths import weight_laws as laws
from dm_utils.maths.weight_laws import WeightMoments

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
    moments: WeightMoments

    @property
    def l0(self) -> float:
        """Mean number of active latents per token in the sample."""
        return self.values._nnz() / self.values.shape[0]

    def superpose(self, dictionary: Float[Tensor, "latent d"]) -> Float[Tensor, "token d"]:
        """``x = sum_i w_i y_i`` for every token. Zero a row of the dictionary to mask that latent."""
        if dictionary.shape[0] != self.values.shape[1]:
            raise ValueError(f"{dictionary.shape[0]} dictionary rows for {self.values.shape[1]} latents.")
        return torch.sparse.mm(self.values, dictionary.to(self.values.dtype))


def law_moments(family: str, probability: Tensor, scale: float | Tensor = 1.0, shape: float = 1.0) -> WeightMoments:
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
