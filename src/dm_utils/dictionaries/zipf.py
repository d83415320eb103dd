"""aux_zipf_loss (2411.02124): TopK's auxiliary loss for dead latents, given to every latent that is used less than Zipf's law says.

The abstract says that it "generalises the aux_k_loss to mitigate dead and underutilised features". Taken here: rates of use are a
moving average over batches; of d_sae latents ordered by use, the one of rank r should have the rate C / r (C such that the rates sum
to L0, none above 1), and is underused below half of that. Underused latents get what dead ones get: the strongest d/2 of them
reconstruct the residual.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MEMORY = 0.99  # of the moving average: about a hundred batches
COEFFICIENT = 1 / 32
SHORT = 0.5  # below this share of its Zipf rate a latent is underused


def zipf_rates(d_sae: int, l0: float) -> Float[Tensor, " rank"]:
    """Rates C / rank that sum to L0, none above 1: those that would be are 1, and the rest share what is left."""
    weights = 1 / torch.arange(1, d_sae + 1, dtype=torch.float64)
    full = 0
    while full < min(l0, d_sae):
        rest = weights[full:] * (l0 - full) / weights[full:].sum()
        if rest[0] <= 1:
            break
        full += 1
    return torch.cat([torch.ones(full, dtype=torch.float64), rest]).float()


def underused(rates: Float[Tensor, " latent"], expected: Float[Tensor, " rank"]) -> Bool[Tensor, " latent"]:
    """Which latents are used less than `SHORT` of what Zipf's law ascribes to their rank."""
    order = rates.argsort(descending=True)
    found = torch.empty_like(rates, dtype=torch.bool)
    found[order] = rates[order] < SHORT * expected
    return found


class Usage(torch.nn.Module):
    """Moving averages of how often each latent is active, starting where Zipf's law would have them on average."""

    rates: Tensor
    expected: Tensor

    def __init__(self, d_sae: int, l0: float):
        super().__init__()
        self.register_buffer("rates", torch.full((d_sae,), l0 / d_sae))
        self.register_buffer("expected", zipf_rates(d_sae, l0))

    @torch.no_grad()
    def add(self, active: Bool[Tensor, "token latent"]) -> None:
        """Take a batch's codes into the average."""
        self.rates.lerp_(active.to(self.rates.dtype).mean(0), 1 - MEMORY)

    def mask(self, dead: Bool[Tensor, " latent"] | None) -> Bool[Tensor, " latent"]:
        """Latents that the auxiliary loss should reach: the dead and the underused."""
        found = underused(self.rates, self.expected)
        return found if dead is None else found | dead
