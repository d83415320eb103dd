"""The twins of a cloud of vectors: what shares its mean and covariance, or its lengths as well, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TOLERANCE = 1e-10  # of the largest variance: directions below it hold nothing but rounding
ITSELF, GAUSSIAN, ELLIPTICAL = "itself", "its Gaussian twin", "its elliptical twin"


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of a cloud: `axes` [d, r] are unit vectors, most variance first, `spread` [r] the deviations along them."""

    mean: Float[Tensor, " d"]
    axes: Float[Tensor, "d r"]
    spread: Float[Tensor, " r"]

    @classmethod
    def of(cls, v: Float[Tensor, "token d"]) -> Moments:
        """The moments of some vectors, float64. Raises ValueError if they do not vary."""
        v = v.double()
        variance, axes = (part.flip(-1) for part in torch.linalg.eigh(torch.cov(v.T, correction=0)))
        kept = variance > TOLERANCE * variance[0]
        if not variance[0] > 0:
            raise ValueError(f"{len(v)} vectors that do not vary have no structure to look for")
        return cls(v.mean(0), axes[:, kept], variance[kept].sqrt())

    def whiten(self, v: Float[Tensor, "token d"]) -> Float[Tensor, "token r"]:
        """Uncorrelated coordinates of unit variance."""
        return (v.double() - self.mean) @ (self.axes / self.spread)

    def colour(self, z: Float[Tensor, "token r"]) -> Float[Tensor, "token d"]:
        """The vectors of whitened coordinates, float32."""
        return (self.mean + (z @ (self.axes * self.spread).T)).float()


def gaussian_twin(v: Float[Tensor, "token d"], fit: Bool[Tensor, " token"], seed: int = 0) -> Float[Tensor, "token d"]:
    """Gaussian vectors with the mean and covariance of the fitting tokens: what is told apart from them is not in the spectrum."""
    moments = Moments.of(v[fit])
    return moments.colour(_drawn(len(v), len(moments.spread), seed))


def elliptical_twin(
    v: Float[Tensor, "token d"], fit: Bool[Tensor, " token"], seed: int = 0
) -> Float[Tensor, "token d"]:
    """As `gaussian_twin`, with each token's own whitened length: loud tokens stay loud, in directions drawn at random."""
    moments = Moments.of(v[fit])
    length = moments.whiten(v).norm(dim=1, keepdim=True)
    drawn = _drawn(len(v), len(moments.spread), seed)
    return moments.colour(torch.nn.functional.normalize(drawn, dim=1) * length)


def _drawn(n: int, r: int, seed: int) -> Float[Tensor, "token r"]:
    return torch.randn(n, r, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TWINS: dict[str, Callable[..., Tensor]] = {GAUSSIAN: gaussian_twin, ELLIPTICAL: elliptical_twin}
KINDS = (ITSELF, *TWINS)


def kinds(
    v: Float[Tensor, "token d"], fit: Bool[Tensor, " token"], seed: int = 0
) -> dict[str, Float[Tensor, "token d"]]:
    """A cloud and its twins, by the names in `KINDS`."""
    return {ITSELF: v} | {name: twin(v, fit, seed) for name, twin in TWINS.items()}
