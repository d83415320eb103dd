"""top-AFA (2503.24277): as many latents per token as make the code's norm that of the input, so that no k is set.

With values z_j ‖d_j‖ sorted from the largest, k = argmin_k |√(Σ_{i≤k} (z_i‖d_i‖)²) − ‖x − b_dec‖|, for each token by itself. Loss:
‖x − x̂‖² + λ (‖z‖ − ‖x − b_dec‖)² + TopK's auxiliary loss. λ = 1/32 here: the paper sweeps it. SAELens has no such activation, so the
inference class is registered as well. L0 is what it turns out to be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from sae_lens.registry import register_sae_class, register_sae_training_class
from sae_lens.saes.sae import SAEConfig, TrainStepInput
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from torch import Tensor

from dm_utils.dictionaries.common import shape


def norm_matching(
    z: Float[Tensor, "token latent"], norm: Float[Tensor, " token"], at_most: int
) -> Float[Tensor, "token latent"]:
    """Keep of each token the largest positive values whose norm comes nearest to the given one; at least one, at most `at_most`."""
    best = z.relu().topk(min(at_most, z.shape[-1]), dim=-1)  # sorted
    reached = best.values.detach().square().cumsum(-1).sqrt()
    k = (reached - norm[..., None]).abs().argmin(-1, keepdim=True)
    kept = torch.arange(best.values.shape[-1], device=z.device) <= k
    return torch.zeros_like(z).scatter(-1, best.indices, best.values * kept)


@dataclass
class TopAFASAEConfig(TopKSAEConfig):
    """`k` is the most latents that one token may have."""

    @classmethod
    def architecture(cls) -> str:
        """The name under which SAELens knows it."""
        return "top_afa"


class TopAFASAE(TopKSAE):
    """Inference; values are pre-activations times decoder norms, as in SAELens' TopK."""

    def get_activation_fn(self) -> Callable[[Tensor], Tensor]:
        """Unused: how many are kept depends on the input as well."""
        return torch.nn.Identity()

    def encode(self, x: Float[Tensor, "token d"]) -> Float[Tensor, "token latent"]:
        """Codes, dense."""
        y = self.process_sae_in(x)
        hidden = y @ self.W_enc + self.b_enc
        if self.cfg.rescale_acts_by_decoder_norm:
            hidden = hidden * self.W_dec.norm(dim=-1)
        return norm_matching(hidden, (y - self.b_dec).norm(dim=-1), self.cfg.k)


@dataclass
class TopAFATrainingSAEConfig(TopKTrainingSAEConfig):
    """A TopK SAE's configuration; `k` is the most latents that one token may have, `afa` the weight of the norm's loss."""

    afa: float = 1 / 32

    @classmethod
    def architecture(cls) -> str:
        """The name under which SAELens knows it."""
        return "top_afa"

    def get_inference_config_class(self) -> type[SAEConfig]:
        """Its own."""
        return TopAFASAEConfig


class TopAFATrainingSAE(TopKTrainingSAE):
    """Training, with the loss that brings the code's norm to the input's."""

    cfg: TopAFATrainingSAEConfig

    def get_activation_fn(self) -> Callable[[Tensor], Tensor]:
        """Unused: how many are kept depends on the input as well."""
        return torch.nn.Identity()

    def encode_with_hidden_pre(self, x: Float[Tensor, "token d"]) -> tuple[Tensor, Tensor]:
        """Codes and pre-activations [token, d_sae]."""
        y = self.process_sae_in(x)
        hidden = y @ self.W_enc + self.b_enc
        if self.cfg.rescale_acts_by_decoder_norm:
            hidden = hidden * self.W_dec.norm(dim=-1)
        return norm_matching(hidden, (y - self.b_dec).detach().norm(dim=-1), self.cfg.k), hidden

    def calculate_aux_loss(
        self, step_input: TrainStepInput, feature_acts: Tensor, hidden_pre: Tensor, sae_out: Tensor
    ) -> dict[str, Tensor]:
        """TopK's auxiliary loss, and that of the norm."""
        norm = (step_input.sae_in - self.b_dec).norm(dim=-1)
        afa = self.cfg.afa * (feature_acts.norm(dim=-1) - norm).square().mean()
        return super().calculate_aux_loss(step_input, feature_acts, hidden_pre, sae_out) | {"afa_loss": afa}


register_sae_class("top_afa", TopAFASAE, TopAFASAEConfig)
register_sae_training_class("top_afa", TopAFATrainingSAE, TopAFATrainingSAEConfig)


def new(d_in: int, d_sae: int, l0: int) -> TopAFATrainingSAE:
    """An untrained top-AFA SAE; `l0` has no part in it but that no token may have 8 times as many."""
    fields = shape(d_in, d_sae)
    return TopAFATrainingSAE(TopAFATrainingSAEConfig(**fields, k=min(d_sae, 8 * l0), use_sparse_activations=False))
