"""Inference-time decomposition of activations, ITDA (2505.17769): the dictionary is made of activations themselves.

Codes: signed matching pursuit, k steps (each takes the atom with the largest |inner product|). Dictionary: greedily, from batches of
activations, those that matching pursuit on the dictionary so far leaves worst: taken here, the 16 tokens of a batch with the largest
‖x/‖x‖ − x̂/‖x̂‖‖², where that is above 0.1, until the dictionary is full; the paper's code takes every token above its threshold. It
starts from d activations (of the first batch; the paper: the d commonest). Activations are taken about their mean, which the paper
does not do, and atoms have unit norm. There is no gradient: weights never move.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from sae_lens.registry import register_sae_class, register_sae_training_class
from sae_lens.saes.matching_pursuit_sae import (
    MatchingPursuitSAE,
    MatchingPursuitSAEConfig,
    MatchingPursuitTrainingSAE,
    MatchingPursuitTrainingSAEConfig,
)
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from torch import Tensor
from torch.nn import functional

from dm_utils.dictionaries.common import Named, forget, shape


@torch.no_grad()
def signed_pursuit(
    x: Float[Tensor, "token d"], atoms: Float[Tensor, "latent d"], steps: int
) -> Float[Tensor, "token latent"]:
    """Matching pursuit with signed weights on unit atoms: `steps` times, subtract the atom with the largest |inner product|."""
    codes, left = x.new_zeros(len(x), len(atoms)), x.clone()
    for _ in range(steps):
        dots = left @ atoms.T
        chosen = dots.abs().argmax(1, keepdim=True)
        value = dots.gather(1, chosen)
        codes.scatter_add_(1, chosen, value)
        left -= value * atoms[chosen[:, 0]]
    return codes


@dataclass
class ITDASAEConfig(Named, MatchingPursuitSAEConfig):
    """`max_iterations` is k."""

    NAME = "itda"


class ITDASAE(MatchingPursuitSAE):
    """Inference: signed matching pursuit."""

    def encode(self, x: Float[Tensor, "token d"]) -> Float[Tensor, "token latent"]:
        """Codes, dense; they may be negative."""
        return signed_pursuit(self.process_sae_in(x), self.W_dec, self.cfg.max_iterations or self.cfg.d_in)


@dataclass
class ITDATrainingSAEConfig(Named, MatchingPursuitTrainingSAEConfig):
    """Of matching pursuit; `threshold` and `per_batch` say which tokens join the dictionary."""

    NAME, SAVED_AS = "itda", ITDASAEConfig
    threshold: float = 0.1
    per_batch: int = 16


class ITDATrainingSAE(MatchingPursuitTrainingSAE):
    """A dictionary that grows; its loss has a gradient of zero, so that any trainer leaves it as it is."""

    cfg: ITDATrainingSAEConfig
    filled: Tensor

    def __init__(self, cfg: ITDATrainingSAEConfig, use_error_term: bool = False):
        super().__init__(cfg, use_error_term)
        self.W_dec.data.zero_()
        self.register_buffer("filled", torch.tensor(0))

    def encode_with_hidden_pre(self, x: Float[Tensor, "token d"]) -> tuple[Tensor, Tensor]:
        """Codes, and zeros in the place of pre-activations, which there are not."""
        n = max(1, int(self.filled))
        codes = signed_pursuit(
            self.process_sae_in(x), self.W_dec[:n].detach(), self.cfg.max_iterations or self.cfg.d_in
        )
        codes = functional.pad(codes, (0, self.cfg.d_sae - n))
        return codes, torch.zeros_like(codes)

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """Add the batch's worst tokens to the dictionary, and report its loss before that."""
        if not int(self.filled):
            self._append((step_input.sae_in - self.b_dec)[: self.cfg.d_in])
        with torch.no_grad():
            output = super().training_forward_pass(step_input)
            self.grow(step_input.sae_in - self.b_dec, output.sae_out - self.b_dec)
        output.loss = output.loss + 0.0 * (self.W_dec.sum() + self.b_dec.sum())
        return output

    @torch.no_grad()
    def grow(self, x: Float[Tensor, "token d"], out: Float[Tensor, "token d"]) -> None:
        """Take up the tokens that are reconstructed worst, in direction."""
        gap = (functional.normalize(x, dim=1) - functional.normalize(out, dim=1)).square().sum(1)
        worst = gap.topk(min(self.cfg.per_batch, self.cfg.d_sae - int(self.filled), len(x)))
        self._append(x[worst.indices[worst.values > self.cfg.threshold]])

    @torch.no_grad()
    def _append(self, x: Float[Tensor, "token d"]) -> None:
        n = int(self.filled)
        x = x[: self.cfg.d_sae - n]
        self.W_dec.data[n : n + len(x)] = functional.normalize(x, dim=1)
        self.filled += len(x)

    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        """Leave the count behind."""
        super().process_state_dict_for_saving_inference(state_dict)
        forget(state_dict, "filled")


register_sae_class(ITDASAEConfig.NAME, ITDASAE, ITDASAEConfig)
register_sae_training_class(ITDATrainingSAEConfig.NAME, ITDATrainingSAE, ITDATrainingSAEConfig)


def new(d_in: int, d_sae: int, l0: int) -> ITDATrainingSAE:
    """An empty ITDA dictionary."""
    fields = shape(d_in, d_sae) | {"apply_b_dec_to_input": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        config = ITDATrainingSAEConfig(**fields, decoder_init_norm=1.0, residual_threshold=0.0, max_iterations=l0)
    return ITDATrainingSAE(config)
