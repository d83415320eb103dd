"""The one door to an SAE's codes: which precision it is encoded in, and its encoder, made once.

"float32" reads a dense product and is the same on every run to the last digit. "bfloat16", "int8" and "auto" are `certified`: the
same latents but for ties, values within float32 rounding; "auto" times them, so its last digits depend on the machine.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.maths.certified import Precision, certified_codes, check_precision
from dm_utils.maths.codes import Codes, decode, dense_codes, sparse_decode_applies
from dm_utils.maths.encoder import Activation, Encoder, encoder_of

if TYPE_CHECKING:
    from sae_lens import SAE

log = logging.getLogger("dm_utils")


@dataclass(frozen=True)
class Made:
    """An SAE's encoder, with the weights and the settings that it was made of, to see whether they still hold.

    A change through ``.data`` is one that PyTorch does not count, so it is not seen either.
    """

    weights: tuple[Tensor, ...]
    versions: tuple[int, ...]
    settings: str
    encoder: tuple[Encoder, Activation] | None

    @classmethod
    def of(cls, sae: SAE[Any]) -> Made:
        """Make the encoder now. The weights are held, so that their memory cannot become another tensor's."""
        weights = tuple(value.detach() for value in sae.parameters())
        return cls(weights, tuple(value._version for value in weights), repr(sae.cfg), encoder_of(sae))

    def holds(self, sae: SAE[Any]) -> bool:
        """Whether the SAE's weights are still those tensors, unchanged, and its settings the same."""
        now = tuple(sae.parameters())
        if len(now) != len(self.weights) or repr(sae.cfg) != self.settings:
            return False
        kept = zip(now, self.weights, self.versions, strict=True)
        return all(_place(a) == _place(b) and a._version == version for a, b, version in kept)


def _place(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape


_precisions: WeakKeyDictionary[Any, Precision] = WeakKeyDictionary()
_made: WeakKeyDictionary[Any, Made] = WeakKeyDictionary()


def prefer(sae: SAE[Any], precision: Precision) -> None:
    """Encode this SAE in a precision from now on; one that nobody chose for is read in float32, as its copies are.

    Raises ValueError for a precision that there is not.
    """
    check_precision(precision)
    _precisions[sae] = precision


def encode(sae: SAE[Any], x: Float[Tensor, "token d"]) -> Codes:
    """The active latents of a block (Eqs. 1, 6, 8), in the SAE's precision.

    Raises ValueError where certified codes are asked for and x or the weights hold NaN or Inf.
    """
    precision = _precisions.get(sae, "float32")
    made = None if precision == "float32" else _encoder(sae)
    return dense_codes(sae, x) if made is None else certified_codes(x, *made, precision)


def _encoder(sae: SAE[Any]) -> tuple[Encoder, Activation] | None:
    """The SAE's encoder, made once while nothing of it changes; None where its codes cannot be certified."""
    kind = f"{sae.cfg.architecture()} SAE in {sae.W_enc.dtype}"
    if sae.W_enc.dtype != torch.float32:
        return _say(f"{kind}: only codes of float32 weights are certified; it is encoded by a dense product")
    if any(value.is_inference() for value in sae.parameters()):
        return _say(f"{kind}: made in inference mode, so changes cannot be seen; it is encoded by a dense product")
    made = _made.get(sae)
    if made is None or not made.holds(sae):
        made = _made[sae] = Made.of(sae)
    if made.encoder is None:
        return _say(f"{kind}: not an affine map and a cut; it is encoded by a dense product")
    return made.encoder


@cache
def _say(message: str) -> None:
    log.warning(message)


@torch.inference_mode()
def reconstruct(sae: SAE[Any], x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
    """Sae(x) of a block: sparse decode where it applies, the SAE's own decode otherwise."""
    x = x.to(sae.W_dec.dtype)
    return decode(sae, encode(sae, x)) if sparse_decode_applies(sae) else sae.decode(sae.encode(x))
