"""What an SAE's encoder is to the mathematics, an affine map and a cut, and its codes by dense float32 products.

An encoder's pre-activations are z = s (W_encᵀ (x − o) + b_enc) (Eqs. 1, 6, 8), with o what its input transform takes off
and s the norms of the decoder's rows where the SAE ranks by them, else 1.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.maths.codes import CPU_ROWS, PRE_ACTIVATIONS, Active, Codes, sparse_decode_applies

log = logging.getLogger("dm_utils")


@dataclass(frozen=True, eq=False)
class Activation:
    """Which pre-activations are active: those above their threshold and, with `k`, among the k largest of the token.

    `threshold` is one number or one per latent, float [d_sae]. The value of an active latent is ``gain · z + shift``
    where these are given (gated SAEs), else z.
    """

    threshold: float | Float[Tensor, " d_sae"] = 0.0
    k: int | None = None
    gain: Float[Tensor, " d_sae"] | None = None
    shift: Float[Tensor, " d_sae"] | None = None

    @classmethod
    def relu(cls) -> Activation:
        """Every positive pre-activation (Eq. 1)."""
        return cls()

    @classmethod
    def topk(cls, k: int) -> Activation:
        """The k largest, those above zero. Raises ValueError unless k is at least 1."""
        if k < 1:
            raise ValueError(f"k is {k}; TopK needs at least 1 active latent")
        return cls(k=k)

    @classmethod
    def jumprelu(cls, threshold: Float[Tensor, " d_sae"]) -> Activation:
        """Those above their threshold; a negative threshold acts as zero, because a ReLU follows."""
        return cls(threshold.clamp_min(0))

    @classmethod
    def gated(
        cls, b_gate: Float[Tensor, " d_sae"], r_mag: Float[Tensor, " d_sae"], b_mag: Float[Tensor, " d_sae"]
    ) -> Activation:
        """A gate z + b_gate > 0 and a magnitude e^r_mag z + b_mag > 0, of an encoder without b_enc: one threshold for both."""
        gain = r_mag.double().exp()
        return cls(torch.maximum(-b_gate.double(), -b_mag.double() / gain), gain=gain, shift=b_mag.double())

    def values(self, z: Float[Tensor, " active"], latent: Int[Tensor, " active"]) -> Float[Tensor, " active"]:
        """What the active latents pass on, from their pre-activations."""
        z = z if self.gain is None else z * self.gain[latent]
        return (z if self.shift is None else z + self.shift[latent]).float()


@dataclass(frozen=True, eq=False)
class Encoder:
    """The affine map to an SAE's pre-activations, in float32.

    `W_enc` [d, d_sae], `b_enc` [d_sae]; `offset` [d] is taken off the input (`b_dec` where the SAE does so), `scale`
    [d_sae] multiplies the pre-activations. `cache` holds the low-precision copies that `certified_codes` makes.

    Raises
    ------
    ValueError : shapes, dtypes or devices that do not fit together, or weights that are NaN or Inf.
    """

    W_enc: Float[Tensor, "d d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    offset: Float[Tensor, " d"] | None = None
    scale: Float[Tensor, " d_sae"] | None = None
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        d, d_sae = self.W_enc.shape
        fitting = {"W_enc": (d, d_sae), "b_enc": (d_sae,), "offset": (d,), "scale": (d_sae,)}
        for name, shape in fitting.items():
            array = getattr(self, name)
            if array is None:
                continue
            if (tuple(array.shape), array.dtype, array.device) != (shape, torch.float32, self.W_enc.device):
                raise ValueError(
                    f"{name} is {array.dtype} {tuple(array.shape)} on {array.device}; an encoder needs torch.float32 "
                    f"{shape} on {self.W_enc.device}"
                )
            if not torch.isfinite(array.sum()) and not torch.isfinite(array).all():
                raise ValueError(f"{name} holds NaN or Inf, so no code of it can be trusted; load the SAE again")

    @cached_property
    def rows(self) -> Float[Tensor, "d_sae d"]:
        """W_encᵀ in order, so that one latent's weights lie together."""
        return self.W_enc.T.contiguous()

    @cached_property
    def norms(self) -> Float[Tensor, " d_sae"]:
        """‖w_j‖ of each latent."""
        return torch.linalg.vector_norm(self.rows, dim=1)

    @cached_property
    def largest(self) -> float:
        """The largest norm of a latent's weights, scaled."""
        return float((self.norms if self.scale is None else self.norms * self.scale.abs()).max())

    def inputs(self, x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """What the products read: x in float32, less the offset. Raises ValueError for an x that does not fit."""
        if x.ndim != 2 or x.shape[1] != len(self.W_enc) or x.device != self.W_enc.device or not x.is_floating_point():
            raise ValueError(
                f"x is {x.dtype} {tuple(x.shape)} on {x.device}; the encoder reads [token, {len(self.W_enc)}] "
                f"on {self.W_enc.device}"
            )
        if x.dtype == torch.float64:
            raise ValueError("x is torch.float64; codes are those of float32, so give x.float()")
        return x.float() if self.offset is None else x.float() - self.offset


def encoder_of(sae: Any) -> tuple[Encoder, Activation] | None:
    """The encoder and activation of a SAELens SAE, or None where they are not an affine map and a cut.

    The tensors are the SAE's own; another dtype than float32 is converted, and that is said.
    """
    kind = sae.cfg.architecture()
    if not sparse_decode_applies(sae):
        return None
    if kind in ("standard", "gated") and not isinstance(sae.activation_fn, torch.nn.ReLU):
        return None
    if sae.W_enc.dtype != torch.float32:
        log.warning("an SAE of %s is encoded in float32: converted", sae.W_enc.dtype)
    weights = {name: value.detach().float() for name, value in sae.named_parameters()}
    activation = {
        "topk": lambda: Activation.topk(sae.cfg.k),
        "jumprelu": lambda: Activation.jumprelu(weights["threshold"]),
        "standard": Activation.relu,
        "gated": lambda: Activation.gated(weights["b_gate"], weights["r_mag"], weights["b_mag"]),
    }[kind]()
    b_enc = weights["W_enc"].new_zeros(sae.cfg.d_sae) if kind == "gated" else weights["b_enc"]
    rescaled = getattr(sae.cfg, "rescale_acts_by_decoder_norm", False)
    encoder = Encoder(
        weights["W_enc"],
        b_enc,
        offset=weights["b_dec"] if sae.cfg.apply_b_dec_to_input else None,
        scale=weights["W_dec"].norm(dim=-1) if rescaled else None,
    )
    return encoder, activation


@torch.inference_mode()
def float_codes(x: Float[Tensor, "token d"], encoder: Encoder, activation: Activation) -> Codes:
    """Codes from dense float32 pre-activations (Eqs. 1, 6, 8): the slow twin of `certified_codes`.

    At most `PRE_ACTIVATIONS` of them exist at a time, whatever the width.
    """
    step = max(1, PRE_ACTIVATIONS // len(encoder.b_enc))
    step = min(step, CPU_ROWS) if x.device.type == "cpu" else step
    return gathered([dense_active(encoder.inputs(block), encoder, activation) for block in x.split(step)], step, len(x))


def dense_active(y: Float[Tensor, "token d"], encoder: Encoder, activation: Activation) -> Active:
    """The active latents of one block, from its dense pre-activations."""
    z = torch.addmm(encoder.b_enc, y, encoder.W_enc)
    if encoder.scale is not None:
        z *= encoder.scale
    if activation.k is None:
        token, latent = (z > activation.threshold).nonzero(as_tuple=True)
        return token, latent, activation.values(z[token, latent], latent)
    best, index = torch.topk(z, min(activation.k, z.shape[1]), dim=1, sorted=False)
    token, place = (best > torch.as_tensor(activation.threshold).expand(z.shape[1])[index]).nonzero(as_tuple=True)
    latent = index[token, place]
    return token, latent, activation.values(best[token, place], latent)


def gathered(found: list[Active], step: int, n_token: int, ties: int = 0, candidates: int = 0) -> Codes:
    """One record from the active latents of blocks of `step` tokens."""
    token = torch.cat([t + i * step for i, (t, _, _) in enumerate(found)])
    counts = torch.bincount(token, minlength=n_token)
    indices, values = (torch.cat([part[i] for part in found]) for i in (1, 2))
    return Codes(indices, values, torch.cumsum(counts, 0) - counts, ties, candidates)
