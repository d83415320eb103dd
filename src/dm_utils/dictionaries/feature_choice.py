"""Feature Choice (2411.02124): each feature chooses its tokens: the m of a batch of n on which it is largest, m = k n / d_sae.

The abstract says "at most m tokens" per feature; m is the same for all here. Loss: TopK's with aux_zipf_loss (see `zipf`). For
inference, where a token stands alone, each feature keeps a threshold of its own: the moving average of the smallest value with which
it was chosen. The result is a JumpReLU SAE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from sae_lens.registry import register_sae_training_class
from torch import Tensor

from dm_utils.dictionaries.common import forget, shape
from dm_utils.dictionaries.mutual_choice import MutualChoiceTrainingSAE, MutualChoiceTrainingSAEConfig
from dm_utils.dictionaries.zipf import COEFFICIENT

RATE = 0.01  # of the moving average of thresholds


def choose_by_feature(z: Float[Tensor, "token latent"], k: float) -> Float[Tensor, "token latent"]:
    """Keep each column's m = k · tokens / latents (at least 1) largest entries, those above zero."""
    m = max(1, round(k * z.shape[0] / z.shape[1]))
    best = z.relu().topk(min(m, len(z)), dim=0)
    return torch.zeros_like(z).scatter(0, best.indices, best.values)


@dataclass
class FeatureChoiceTrainingSAEConfig(MutualChoiceTrainingSAEConfig):
    """BatchTopK's configuration."""

    NAME = "feature_choice"


class FeatureChoiceTrainingSAE(MutualChoiceTrainingSAE):
    """A budget of tokens per feature, and a threshold per feature for inference."""

    def __init__(self, cfg: FeatureChoiceTrainingSAEConfig, use_error_term: bool = False):
        super().__init__(cfg, use_error_term)
        self.register_buffer("thresholds", torch.zeros(cfg.d_sae, dtype=torch.double))

    def get_activation_fn(self) -> Callable[[Tensor], Tensor]:
        """The choice by feature."""
        return lambda z: choose_by_feature(z, self.cfg.k)

    @torch.no_grad()
    def update_topk_threshold(self, acts_topk: Float[Tensor, "token latent"]) -> None:
        """Follow the smallest value with which each feature was chosen; one that chose nothing keeps its threshold."""
        smallest = torch.where(acts_topk > 0, acts_topk, torch.inf).amin(0).double()
        chose = smallest.isfinite()
        first = chose & (self.thresholds == 0)
        self.thresholds[chose] = self.thresholds[chose].lerp(smallest[chose], RATE)
        self.thresholds[first] = smallest[first]

    @torch.no_grad()
    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        """Thresholds are in units of a pre-activation times its decoder's norm, which the fold divides."""
        super().fold_activation_norm_scaling_factor(scaling_factor)
        self.thresholds /= scaling_factor

    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        """A threshold per feature in place of the one of BatchTopK."""
        super().process_state_dict_for_saving_inference(state_dict)
        state_dict["threshold"] = self.thresholds.to(state_dict["b_enc"].dtype)
        forget(state_dict, "thresholds")


register_sae_training_class(
    FeatureChoiceTrainingSAEConfig.NAME, FeatureChoiceTrainingSAE, FeatureChoiceTrainingSAEConfig
)


def new(d_in: int, d_sae: int, l0: int) -> FeatureChoiceTrainingSAE:
    """An untrained Feature Choice SAE."""
    return FeatureChoiceTrainingSAE(
        FeatureChoiceTrainingSAEConfig(**shape(d_in, d_sae), k=float(l0), aux_loss_coefficient=COEFFICIENT)
    )
