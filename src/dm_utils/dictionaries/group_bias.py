"""Group Bias Adaptation (2506.14002): biases that say when a latent fires are set, not learned: each until it fires at its group's rate.

Loss: ‖x − x̂‖², no sparsity penalty. The abstract says that biases are adapted "to ensure appropriate activation sparsity", by groups.
Taken here: 8 groups of equal size with target rates in the proportion 1 : ½ : … : 1/128 that sum to L0 (none above ½); after each
step the bias b_j of latent j of group g moves by −η q_j, with q_j the batch's quantile of z_j + b_j that a share p_g lies above (the
largest, where p_g of a batch is less than one token) and η = 0.3: where q_j is zero, j fires at its rate. The bias decides only whether
j fires, z_j + b_j > 0, and its value is z_j: in a ReLU SAE a bias that makes a latent rare takes as much off its value, and what was
left unexplained was more than twice as much. The input is taken about the decoder bias, so that weights cannot do what biases should.
The rule for biases, and that they only choose, are choices taken here, since the abstract gives neither. The decoder is not tied (the
paper's theory ties it). The result is a JumpReLU SAE with thresholds −b.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import JumpReLUSAEConfig, StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.registry import register_sae_training_class
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from torch import Tensor

from dm_utils.dictionaries.common import Named, forget, shape


def group_rates(d_sae: int, l0: float, groups: int) -> Float[Tensor, " latent"]:
    """The target rate of each latent: groups of equal size, each half as often as the one before, none above ½, together L0.

    Raises ValueError where more than half of all latents would have to be active.
    """
    if l0 > d_sae / 2:
        raise ValueError(f"an L0 of {l0:g} of {d_sae} latents: no rate may be above one half")
    group = torch.arange(d_sae) * groups // d_sae
    weight = 0.5 ** group.double()
    low, high = 0.0, float(d_sae) * 2.0**groups
    for _ in range(200):  # the factor that makes clipped rates sum to L0
        middle = (low + high) / 2
        low, high = (low, middle) if float((middle * weight).clamp_max(0.5).sum()) > l0 else (middle, high)
    return (high * weight).clamp_max(0.5).float()


@dataclass
class GroupBiasTrainingSAEConfig(Named, StandardTrainingSAEConfig):
    """A standard SAE's configuration, with the groups' number, their L0 together, and how fast biases move."""

    NAME, SAVED_AS = "group_bias", JumpReLUSAEConfig
    target_l0: float = 16.0
    groups: int = 8
    bias_rate: float = 0.3
    l1_coefficient: float = 0.0


class GroupBiasTrainingSAE(StandardTrainingSAE):
    """An SAE whose latents fire where their pre-activation exceeds what their group's target rate asks for."""

    cfg: GroupBiasTrainingSAEConfig
    target: Tensor
    bias: Tensor

    def __init__(self, cfg: GroupBiasTrainingSAEConfig, use_error_term: bool = False):
        super().__init__(cfg, use_error_term)
        self.b_enc.requires_grad_(False)
        self.register_buffer("target", group_rates(cfg.d_sae, cfg.target_l0, cfg.groups))
        self.register_buffer("bias", torch.zeros(cfg.d_sae))

    def encode_with_hidden_pre(
        self, x: Float[Tensor, "token d"]
    ) -> tuple[Float[Tensor, "token latent"], Float[Tensor, "token latent"]]:
        """What each latent is where it fires; and its pre-activation."""
        hidden = self.process_sae_in(x) @ self.W_enc + self.b_enc
        return hidden.relu() * (hidden + self.bias > 0), hidden

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """The loss of reconstruction; then the biases move."""
        output = super().training_forward_pass(step_input)
        self.adapt(output.hidden_pre.detach())
        return output

    @torch.no_grad()
    def adapt(self, hidden: Float[Tensor, "token latent"]) -> None:
        """Move each bias towards its group's rate, after a batch's pre-activations."""
        above = (self.target * len(hidden)).long()  # tokens that should fire
        largest = hidden.topk(min(len(hidden), int(above.max()) + 1), dim=0).values  # sorted
        quantile = largest.gather(0, above.clamp_max(len(largest) - 1)[None])[0]
        self.bias -= self.cfg.bias_rate * (quantile + self.bias)

    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        """Leave the target rates behind; a bias becomes a threshold."""
        super().process_state_dict_for_saving_inference(state_dict)
        state_dict["threshold"] = -self.bias
        forget(state_dict, "target", "bias")


register_sae_training_class(GroupBiasTrainingSAEConfig.NAME, GroupBiasTrainingSAE, GroupBiasTrainingSAEConfig)


def new(d_in: int, d_sae: int, l0: int) -> GroupBiasTrainingSAE:
    """An untrained SAE of Group Bias Adaptation."""
    return GroupBiasTrainingSAE(
        GroupBiasTrainingSAEConfig(
            **(shape(d_in, d_sae) | {"apply_b_dec_to_input": True}), decoder_init_norm=1.0, target_l0=float(l0)
        )
    )
