"""What each repair is called, costs beside the SAE as it is, and whether a person could read what it adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NAMES = {
    "as it is": "the SAE as it is",
    "rescaled": "one factor per latent",
    "decoder": "decoder refitted on its codes",
    "sae_affine": "affine map of Sae(x)",
    "channel": "dense channel, low rank",
    "channel_full": "dense channel, full rank",
    "pursuit": "gradient pursuit",
    "exact_pursuit": "orthogonal pursuit",
    "wider": "twice the latents",
    "denser": "twice the L0",
    "wider_denser": "twice the latents and L0",
    "boost": "SAE on the error (boost)",
    "kl": "tuned, MSE and KL",
    "mse": "tuned, MSE only (control)",
    "adapter": "output adapter, low rank, MSE and KL",
    "model": "model adapted to the SAE",
    "batchtopk_channel": "BatchTopK trained with a channel",
    "matryoshka_channel": "Matryoshka trained with a channel",
}
FREE = ("rescaled", "decoder", "sae_affine", "kl", "mse", "adapter")  # folded into weights that are there
DENSE = ("channel", "channel_full", "batchtopk_channel", "matryoshka_channel")
NOTHING = {"parameters": 0, "flops": 0.0, "latents": 0.0, "dense": 0}


def name(repair: str) -> str:
    """How a repair is written; that of a map of Sae(x) says its rank."""
    rank = repair.removeprefix("sae_rank_")
    return NAMES.get(repair, f"map of Sae(x), rank {rank}") if rank == repair else f"map of Sae(x), rank {rank}"


def readable(repair: str) -> str:
    """Whether what a reader would look at is still latents with fixed directions, few per token."""
    if repair in DENSE:
        return "no: dense numbers"
    return "yes, of another model" if repair == "model" else "yes"


@dataclass(frozen=True)
class Price:
    """What repairs add to an SAE of `d_sae` latents, `l0` of them per token, on `d` dimensions; `rank` is the channel's.

    Parameters that a pass reads, FLOPs per token (a multiplication and an addition are two), latents per token, and dense numbers per
    token. What can be folded into the decoder, or into the model's own weights, adds nothing.
    """

    d: int
    d_sae: int
    l0: float
    rank: int

    def of(self, repair: str) -> dict[str, Any]:
        """`parameters`, `flops`, `latents`, `dense`."""
        found = dict(NOTHING)
        if repair in DENSE:
            r = self.d if repair == "channel_full" else min(self.rank, self.d)
            whole = repair == "channel_full"
            numbers = self.d**2 if whole else 2 * r * self.d
            found |= {"parameters": numbers, "flops": 2.0 * numbers, "dense": r}
        elif repair in ("pursuit", "exact_pursuit"):
            found |= {"flops": 2.0 * self.d * self.d_sae * (max(self.l0, 1) - 1)}
        elif repair in ("wider", "denser", "wider_denser", "boost"):
            found |= self._latents(repair)
        return found

    def _latents(self, repair: str) -> dict[str, Any]:
        """More latents: each has an encoder, a decoder and a bias; those that are active are decoded."""
        more = 0 if repair == "denser" else self.d_sae
        active = 0.0 if repair == "wider" else self.l0
        bias = self.d if repair == "boost" else 0
        flops = 2.0 * self.d * (more + active)
        return {"parameters": more * (2 * self.d + 1) + bias, "flops": flops, "latents": active}
