"""An SAE's sparse latents from a dense float32 product, and the decode that reads only what is active.

`encoding` is the door to codes: it chooses between these and certified ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.maths.resampling import check_finite

if TYPE_CHECKING:
    from sae_lens import SAE

PRE_ACTIVATIONS = 2**26  # 256 MiB of float32
CPU_ROWS = 512  # tokens per encode on a CPU: few enough for its caches, enough that reading W_enc again costs little


@dataclass(frozen=True)
class Codes:
    """Sparse latents of a block of tokens: token t owns entries offsets[t] … offsets[t + 1] − 1.

    `ties` counts the places where a latent and the cut that it must pass are neighbours in float32, so that another order
    of summation may choose otherwise; `candidates` the pre-activations that were computed exactly to know the codes (0
    where a dense product was read). Only certified codes count them.
    """

    indices: Int[Tensor, " active"]
    values: Float[Tensor, " active"]
    offsets: Int[Tensor, " token"]
    ties: int = 0
    candidates: int = 0

    @property
    def l0(self) -> Int[Tensor, " token"]:
        """Active latents of each token, ‖hidden(x)‖₀."""
        end = torch.tensor([len(self.indices)], device=self.offsets.device)
        return torch.diff(torch.cat([self.offsets, end]))


def sparse_decode_applies(sae: SAE[Any]) -> bool:
    """Whether Sae(x) is W_dec · hidden(x) + b_dec (Eq. 2) with nothing after it."""
    return sae.cfg.architecture() in {"topk", "jumprelu", "standard", "gated"} and (
        sae.cfg.normalize_activations in {"none", "expected_average_only_in"}
    )


@torch.inference_mode()
def dense_codes(sae: SAE[Any], x: Float[Tensor, "token d"]) -> Codes:
    """Encode a block and keep the active latents (Eqs. 1, 6, 8).

    At most `PRE_ACTIVATIONS` pre-activations exist at a time, whatever the SAE's width, and for TopK and JumpReLU
    the dense [token, d_sae] latents that `sae.encode` returns never do.
    """
    select = {"topk": _topk, "jumprelu": _jumprelu}.get(sae.cfg.architecture(), _any)
    step = max(1, PRE_ACTIVATIONS // sae.cfg.d_sae)
    if x.device.type == "cpu":
        step = min(step, CPU_ROWS)
    found = [select(sae, x[start : start + step]) for start in range(0, len(x), step)]
    token = torch.cat([t + i * step for i, (t, _, _) in enumerate(found)])
    counts = torch.bincount(token, minlength=len(x))
    indices, values = (torch.cat([part[i] for part in found]) for i in (1, 2))
    return Codes(indices, values, torch.cumsum(counts, 0) - counts)


Active = tuple[Int[Tensor, " active"], Int[Tensor, " active"], Float[Tensor, " active"]]  # token, latent, value


def _topk(sae: SAE[Any], x: Float[Tensor, "token d"]) -> Active:
    hidden = torch.addmm(sae.b_enc, sae.process_sae_in(x), sae.W_enc)
    if sae.cfg.rescale_acts_by_decoder_norm:
        hidden *= sae.W_dec.norm(dim=-1)
    values, indices = torch.topk(hidden, sae.cfg.k, dim=-1, sorted=False)
    check_finite(values, "pre-activations of the largest latents")  # topk takes NaN for the largest of all
    active = (values > 0).nonzero(as_tuple=True)
    return active[0], indices[active], values[active]


def _jumprelu(sae: SAE[Any], x: Float[Tensor, "token d"]) -> Active:
    hidden = torch.addmm(sae.b_enc, sae.process_sae_in(x), sae.W_enc)
    active = (~(hidden <= sae.threshold.clamp_min(0))).nonzero(as_tuple=True)  # NaN is neither above nor below
    check_finite(hidden[active], "pre-activations of active latents")
    return active[0], active[1], hidden[active]


def _any(sae: SAE[Any], x: Float[Tensor, "token d"]) -> Active:
    hidden = sae.encode(x)
    active = hidden.nonzero(as_tuple=True)
    return active[0], active[1], hidden[active]


@torch.inference_mode()
def decode(sae: SAE[Any], code: Codes) -> Float[Tensor, "token d"]:
    """Sae(x) = W_dec · hidden(x) + b_dec (Eq. 2), reading only the active rows of W_dec."""
    values = code.values
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        values = values / sae.W_dec.norm(dim=-1)[code.indices]
    total = F.embedding_bag(code.indices, sae.W_dec, code.offsets, mode="sum", per_sample_weights=values)
    return total + sae.b_dec
