"""A trained dictionary as its inference SAE, at the L0 at which methods are compared."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor

from dm_utils.dictionaries.calibration import calibrate

CALIBRATION_TOKENS = 16384


def save_at_l0(sae: Any, folder: Path, x: Float[Tensor, "token d"], l0: float | None) -> tuple[Any, float]:
    """Save a trained SAE for inference, calibrated to an L0 on `x` (not where `l0` is None); it, and the number that gave it that L0.

    An L0 out of reach leaves the SAE with the L0 that it has, and the number is NaN.
    """
    shutil.rmtree(folder, ignore_errors=True)
    sae.save_inference_model(folder)
    saved: Any = SAE.load_from_disk(folder, dtype="float32").eval()
    try:
        return saved, 0.0 if l0 is None else calibrate(saved, x, l0)
    except ValueError:
        return saved, math.nan
