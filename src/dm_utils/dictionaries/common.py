"""What the methods' configurations share."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from jaxtyping import Float
from sae_lens.saes.sae import SAEConfig
from torch import Tensor

GAIN = 0.02


class Named:
    """What a configuration tells SAELens: its architecture's `NAME`, and as whose configuration the SAE is saved for inference."""

    NAME: ClassVar[str]
    SAVED_AS: ClassVar[type[SAEConfig]]

    @classmethod
    def architecture(cls) -> str:
        """The name under which SAELens knows it."""
        return cls.NAME

    def get_inference_config_class(self) -> type[SAEConfig]:
        """The class of the saved SAE's configuration."""
        return self.SAVED_AS


def shape(d_in: int, d_sae: int) -> dict[str, Any]:
    """The fields of every SAELens configuration here: float32 on the CPU, the decoder bias left in the input."""
    return {"d_in": d_in, "d_sae": d_sae, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": False}


def forget(state: dict[str, Any], *names: str) -> None:
    """Take off a state dict what only training needs."""
    for name in names:
        state.pop(name, None)


def pace(codes: Float[Tensor, "token latent"], l0: float) -> float:
    """How far the logarithm of what sets an L0 moves after a batch: 0.02 · ln(its L0 / the wanted one), at most 0.02 either way."""
    found = float((codes != 0).sum(-1).float().mean())
    return GAIN * max(-1.0, min(1.0, math.log(max(found, 0.01) / l0)))
