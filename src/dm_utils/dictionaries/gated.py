"""Gated SAE (Rajamanoharan et al. 2024a): one affine map says which latents are active, another how large they are.

Loss: ‖x − x̂‖² + λ Σ ReLU(π_gate)‖d_j‖ + ‖x − the reconstruction by ReLU(π_gate)‖² (SAELens' class). λ decides L0, and no λ is the same
for every width; here it is driven during training: multiplied by exp(0.02 · ln(L0 / wanted L0)) after each step (an integral control,
bounded to a factor of e^0.02 per step), so that L0 ends near what the other methods have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from sae_lens import GatedTrainingSAE, GatedTrainingSAEConfig
from sae_lens.registry import register_sae_training_class
from sae_lens.saes.gated_sae import GatedSAEConfig
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput

from dm_utils.dictionaries.common import Named, forget, pace, shape


@dataclass
class TargetedGatedTrainingSAEConfig(Named, GatedTrainingSAEConfig):
    """A gated SAE's configuration, with the L0 that its sparsity coefficient is driven to."""

    NAME, SAVED_AS = "gated_targeted", GatedSAEConfig
    target_l0: float = 16.0


class TargetedGatedTrainingSAE(GatedTrainingSAE):
    """A gated SAE whose sparsity coefficient follows its L0."""

    log_gain: torch.Tensor
    cfg: TargetedGatedTrainingSAEConfig

    def __init__(self, cfg: TargetedGatedTrainingSAEConfig, use_error_term: bool = False):
        super().__init__(cfg, use_error_term)
        self.register_buffer("log_gain", torch.tensor(0.0))

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """SAELens' pass with the coefficient as it stands, which then moves towards the wanted L0."""
        gain = math.exp(float(self.log_gain))
        driven = {name: value * gain for name, value in step_input.coefficients.items()}
        output = super().training_forward_pass(replace(step_input, coefficients=driven))
        with torch.no_grad():
            self.log_gain += pace(output.feature_acts, self.cfg.target_l0)
        return output

    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        """Leave the coefficient behind."""
        super().process_state_dict_for_saving_inference(state_dict)
        forget(state_dict, "log_gain")


register_sae_training_class(
    TargetedGatedTrainingSAEConfig.NAME, TargetedGatedTrainingSAE, TargetedGatedTrainingSAEConfig
)


def new(d_in: int, d_sae: int, l0: int) -> TargetedGatedTrainingSAE:
    """An untrained gated SAE."""
    config = TargetedGatedTrainingSAEConfig(
        **shape(d_in, d_sae), decoder_init_norm=1.0, l1_coefficient=1.0, l1_warm_up_steps=50, target_l0=float(l0)
    )
    return TargetedGatedTrainingSAE(config)
