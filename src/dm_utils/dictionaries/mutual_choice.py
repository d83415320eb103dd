"""Mutual Choice (2411.02124): a free budget of token–feature pairs: the k · n largest of a batch, however they fall.

With the auxiliary loss aside this is BatchTopK, found independently; what differs is aux_zipf_loss (see `zipf`). Its coefficient is
1/32, that of the auxiliary loss which it generalises in its own paper; TopK's is 1 here, but idle where no latent is dead, and this one
never is. For inference a threshold stands in for the batch, as in BatchTopK.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, JumpReLUSAEConfig
from sae_lens.registry import register_sae_training_class
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput

from dm_utils.dictionaries.common import Named, forget, shape
from dm_utils.dictionaries.zipf import COEFFICIENT, Usage


@dataclass
class MutualChoiceTrainingSAEConfig(Named, BatchTopKTrainingSAEConfig):
    """BatchTopK's configuration."""

    NAME, SAVED_AS = "mutual_choice", JumpReLUSAEConfig


class MutualChoiceTrainingSAE(BatchTopKTrainingSAE):
    """BatchTopK with aux_zipf_loss."""

    def __init__(self, cfg: MutualChoiceTrainingSAEConfig, use_error_term: bool = False):
        super().__init__(cfg, use_error_term)
        self.usage = Usage(cfg.d_sae, cfg.k)

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """SAELens' pass, its auxiliary loss on every underused latent."""
        mask = self.usage.mask(step_input.dead_neuron_mask)
        output = super().training_forward_pass(replace(step_input, dead_neuron_mask=mask))
        self.usage.add(output.feature_acts != 0)
        return output

    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        """Leave the rates behind."""
        super().process_state_dict_for_saving_inference(state_dict)
        forget(state_dict, "usage.rates", "usage.expected")


register_sae_training_class(MutualChoiceTrainingSAEConfig.NAME, MutualChoiceTrainingSAE, MutualChoiceTrainingSAEConfig)


def new(d_in: int, d_sae: int, l0: int) -> MutualChoiceTrainingSAE:
    """An untrained Mutual Choice SAE."""
    return MutualChoiceTrainingSAE(
        MutualChoiceTrainingSAEConfig(**shape(d_in, d_sae), k=float(l0), aux_loss_coefficient=COEFFICIENT)
    )
