"""Gradient SAE (2411.10397): TopK that chooses latents by what they do to the model's loss as well as by their size.

The k latents are those with the largest z_j (1 + β |w_dec,j · ∇ₓL| / s); their values are z_j, the loss is TopK's. The abstract says
that the choice is augmented by the input's gradient; left open and taken here: β = 1, with s the batch's root mean square of
w_dec,j · ∇ₓL, so that β has no unit; L is the text's summed next-token cross-entropy; and at inference, where no loss is at hand, the
choice is by z alone, so that the result is a TopK SAE. Without gradients (SAELens' own trainer gives none) training is TopK's, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from sae_lens.registry import register_sae_training_class
from sae_lens.saes.topk_sae import TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from torch import Tensor

from dm_utils.dictionaries.common import Named, shape


@dataclass
class GradientTopKTrainingSAEConfig(Named, TopKTrainingSAEConfig):
    """A TopK SAE's configuration, with the weight of the gradient in the choice."""

    NAME, SAVED_AS = "gradient_topk", TopKSAEConfig
    beta: float = 1.0


class GradientTopKTrainingSAE(TopKTrainingSAE):
    """A TopK SAE that reads `loss_gradients` [token, d] of its batch, where the training loop sets them."""

    cfg: GradientTopKTrainingSAEConfig
    loss_gradients: Float[Tensor, "token d"] | None = None

    def encode_with_hidden_pre(self, x: Float[Tensor, "token d"]) -> tuple[Tensor, Tensor]:
        """Codes and pre-activations [token, d_sae]."""
        gradients = self.loss_gradients
        if not self.training or gradients is None:
            return super().encode_with_hidden_pre(x)
        hidden = self.process_sae_in(x) @ self.W_enc + self.b_enc
        norms = self.W_dec.norm(dim=-1)
        if self.cfg.rescale_acts_by_decoder_norm:
            hidden = hidden * norms
        chosen = score(hidden, gradients @ (self.W_dec / norms[:, None]).T, self.cfg.beta).topk(self.cfg.k).indices
        return torch.zeros_like(hidden).scatter(-1, chosen, hidden.gather(-1, chosen).relu()), hidden


@torch.no_grad()
def score(
    hidden: Float[Tensor, "token latent"], effect: Float[Tensor, "token latent"], beta: float
) -> Float[Tensor, "token latent"]:
    """What the choice ranks: z (1 + β |effect| / its root mean square). `effect` is W_decᵀ∇ₓL, latent by latent."""
    return hidden * (1 + beta * effect.abs() / effect.square().mean().sqrt().clamp_min(1e-30))


register_sae_training_class(GradientTopKTrainingSAEConfig.NAME, GradientTopKTrainingSAE, GradientTopKTrainingSAEConfig)


def new(d_in: int, d_sae: int, l0: int) -> GradientTopKTrainingSAE:
    """An untrained gradient SAE."""
    return GradientTopKTrainingSAE(
        GradientTopKTrainingSAEConfig(**shape(d_in, d_sae), k=l0, use_sparse_activations=False)
    )
