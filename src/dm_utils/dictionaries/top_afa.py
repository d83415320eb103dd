"""top-AFA (2503.24277): as many latents per token as make the code's norm that of the input, so that no k is set.

With values z_j ‖d_j‖ sorted from the largest, k = argmin_k |√(Σ_{i≤k} (z_i‖d_i‖)²) − s ‖x − b_dec‖|, for each token by itself. Loss:
‖x − x̂‖² + λ (‖z‖ − s ‖x − b_dec‖)² + TopK's auxiliary loss. λ = 1/32 here: the paper sweeps it. SAELens has no such activation, so the
inference class is registered as well.

The paper's s is 1, and L0 is what it turns out to be: many times what the other methods have, for a code of non-negative values on
directions that are not quite orthogonal reaches the whole norm late. That is `new_own`. To compare at equal L0, `new` lets the share s
of the norm fall or rise during training, multiplied by exp(−0.02 · ln(L0 / wanted L0)) after each step (bounded to a factor of e^0.02):
which tokens get more latents is still the norm's choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from sae_lens.registry import register_sae_class, register_sae_training_class
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from torch import Tensor

from dm_utils.dictionaries.common import Named, pace, shape


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
class TopAFASAEConfig(Named, TopKSAEConfig):
    """`k` is the most latents that one token may have."""

    NAME = "top_afa"


class TopAFASAE(TopKSAE):
    """Inference; values are pre-activations times decoder norms, as in SAELens' TopK."""

    share: Tensor

    def __init__(self, cfg: TopAFASAEConfig, use_error_term: bool = False):
        super().__init__(cfg, use_error_term)
        self.register_buffer("share", torch.tensor(1.0, dtype=self.dtype))

    def get_activation_fn(self) -> Callable[[Tensor], Tensor]:
        """Unused: how many are kept depends on the input as well."""
        return torch.nn.Identity()

    def encode(self, x: Float[Tensor, "token d"]) -> Float[Tensor, "token latent"]:
        """Codes, dense."""
        y = self.process_sae_in(x)
        hidden = y @ self.W_enc + self.b_enc
        if self.cfg.rescale_acts_by_decoder_norm:
            hidden = hidden * self.W_dec.norm(dim=-1)
        return norm_matching(hidden, self.share * (y - self.b_dec).norm(dim=-1), self.cfg.k)


@dataclass
class TopAFATrainingSAEConfig(Named, TopKTrainingSAEConfig):
    """A TopK SAE's configuration; `k` is the most latents that one token may have, `afa` the weight of the norm's loss.

    `target_l0`: what the share of the norm is driven to; 0 leaves it at 1, the paper's.
    """

    NAME, SAVED_AS = "top_afa", TopAFASAEConfig
    afa: float = 1 / 32
    target_l0: float = 0.0


class TopAFATrainingSAE(TopKTrainingSAE):
    """Training, with the loss that brings the code's norm to the input's."""

    share: Tensor
    cfg: TopAFATrainingSAEConfig

    def __init__(self, cfg: TopAFATrainingSAEConfig, use_error_term: bool = False):
        super().__init__(cfg, use_error_term)
        self.register_buffer("share", torch.tensor(1.0, dtype=self.dtype))

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """SAELens' pass; then the share of the norm moves towards the wanted L0, if one is wanted."""
        output = super().training_forward_pass(step_input)
        if self.cfg.target_l0:
            change = math.exp(-pace(output.feature_acts, self.cfg.target_l0))
            self.share = self.share * change  # a new tensor: the old one waits for its gradient
        return output

    def get_activation_fn(self) -> Callable[[Tensor], Tensor]:
        """Unused: how many are kept depends on the input as well."""
        return torch.nn.Identity()

    def encode_with_hidden_pre(self, x: Float[Tensor, "token d"]) -> tuple[Tensor, Tensor]:
        """Codes and pre-activations [token, d_sae]."""
        y = self.process_sae_in(x)
        hidden = y @ self.W_enc + self.b_enc
        if self.cfg.rescale_acts_by_decoder_norm:
            hidden = hidden * self.W_dec.norm(dim=-1)
        return norm_matching(hidden, self.share * (y - self.b_dec).detach().norm(dim=-1), self.cfg.k), hidden

    def calculate_aux_loss(
        self, step_input: TrainStepInput, feature_acts: Tensor, hidden_pre: Tensor, sae_out: Tensor
    ) -> dict[str, Tensor]:
        """TopK's auxiliary loss, and that of the norm."""
        norm = self.share * (step_input.sae_in - self.b_dec).norm(dim=-1)
        afa = self.cfg.afa * (feature_acts.norm(dim=-1) - norm).square().mean()
        return super().calculate_aux_loss(step_input, feature_acts, hidden_pre, sae_out) | {"afa_loss": afa}


register_sae_class(TopAFASAEConfig.NAME, TopAFASAE, TopAFASAEConfig)
register_sae_training_class(TopAFATrainingSAEConfig.NAME, TopAFATrainingSAE, TopAFATrainingSAEConfig)


def new(d_in: int, d_sae: int, l0: int) -> TopAFATrainingSAE:
    """An untrained top-AFA SAE whose share of the norm is driven to `l0`; no token may have 8 times as many latents."""
    config = TopAFATrainingSAEConfig(
        **shape(d_in, d_sae), k=min(d_sae, 8 * l0), target_l0=float(l0), use_sparse_activations=False
    )
    return TopAFATrainingSAE(config)


def new_own(d_in: int, d_sae: int, l0: int) -> TopAFATrainingSAE:
    """An untrained top-AFA SAE with the paper's whole norm: `l0` has no part in it, and no token may have more latents than dimensions."""
    return TopAFATrainingSAE(
        TopAFATrainingSAEConfig(**shape(d_in, d_sae), k=min(d_sae, d_in), use_sparse_activations=False)
    )
