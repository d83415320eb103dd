"""Variational SAE (2509.22994), its TopK variant: latents are drawn from N(μ, 1), with a prior N(0, 1).

Loss: ‖x − x̂(z)‖² + β Σ ½ μ_j², z = μ + ε, the KL divergence of N(μ, 1) from N(0, 1) summed over latents. Taken here: TopK chooses
among z in training and among μ at inference (so that the result is a TopK SAE); β = 0.01 for activations of unit variance per
dimension, from the first step, which the abstract leaves open; no auxiliary loss, since dead latents are what the paper reports.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from sae_lens.registry import register_sae_training_class
from sae_lens.saes.sae import TrainStepInput
from sae_lens.saes.topk_sae import TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from torch import Tensor

from dm_utils.dictionaries.common import Named, shape


@dataclass
class VariationalTopKTrainingSAEConfig(Named, TopKTrainingSAEConfig):
    """A TopK SAE's configuration, with the weight of the KL divergence and the posterior's standard deviation."""

    NAME, SAVED_AS = "variational_topk", TopKSAEConfig
    beta: float = 0.01
    noise: float = 1.0


class VariationalTopKTrainingSAE(TopKTrainingSAE):
    """A TopK SAE with a Gaussian posterior. `hidden_pre` is μ."""

    cfg: VariationalTopKTrainingSAEConfig

    def encode_with_hidden_pre(self, x: Float[Tensor, "token d"]) -> tuple[Tensor, Tensor]:
        """Codes of a draw (in training; of μ otherwise) and μ: [token, d_sae]."""
        mean = self.process_sae_in(x) @ self.W_enc + self.b_enc
        if self.cfg.rescale_acts_by_decoder_norm:
            mean = mean * self.W_dec.norm(dim=-1)
        drawn = mean + self.cfg.noise * torch.randn_like(mean) if self.training else mean
        return self.activation_fn(drawn), mean

    def calculate_aux_loss(
        self, step_input: TrainStepInput, feature_acts: Tensor, hidden_pre: Tensor, sae_out: Tensor
    ) -> dict[str, Tensor]:
        """The KL divergence, weighted."""
        return {"kl_loss": self.cfg.beta * 0.5 * hidden_pre.square().sum(-1).mean()}


register_sae_training_class(
    VariationalTopKTrainingSAEConfig.NAME, VariationalTopKTrainingSAE, VariationalTopKTrainingSAEConfig
)


def new(d_in: int, d_sae: int, l0: int) -> VariationalTopKTrainingSAE:
    """An untrained variational TopK SAE."""
    fields = shape(d_in, d_sae)
    return VariationalTopKTrainingSAE(
        VariationalTopKTrainingSAEConfig(**fields, k=l0, use_sparse_activations=False, aux_loss_coefficient=0.0)
    )
