"""A dense side channel beside an SAE, trained with it from the start (2606.14040): x̂ = C(x) + Sae(x − C(x)), C(x) = x D U of rank r.

Known from the abstract: a linear bottleneck of rank 24, in parallel to BatchTopK or Matryoshka. Open there and taken here: the SAE reads
and reconstructs what the channel leaves (an encoder on x differs from it by a linear map), no bias, D small at random, U zero at first,
one learning rate for all. Losses are the SAE's own, so each prefix of a Matryoshka SAE has the channel beside it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE
from sae_lens.saes.matryoshka_batchtopk_sae import MatryoshkaBatchTopKTrainingSAE
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from torch import Tensor, nn

from dm_utils.dictionaries import batchtopk, matryoshka
from dm_utils.dictionaries.common import forget


class _WithChannel:
    """What a training SAE gains: the channel takes its part of x before the SAE sees it."""

    down: nn.Parameter
    up: nn.Parameter

    def open_channel(self: Any, rank: int) -> Any:
        """Give it a channel of a rank; itself."""
        d = self.cfg.d_in
        self.down = nn.Parameter(torch.randn(d, rank) / d**0.5)
        self.up = nn.Parameter(torch.zeros(rank, d))
        return self

    def dense(self, x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """What the channel carries."""
        return x @ self.down @ self.up

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """The SAE's own, on what the channel leaves."""
        dense = self.dense(step_input.sae_in)
        left = replace(step_input, sae_in=step_input.sae_in - dense)
        output: TrainStepOutput = super().training_forward_pass(left)  # type: ignore[misc]
        return replace(output, sae_in=step_input.sae_in, sae_out=output.sae_out + dense)

    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        """The SAE's own: the channel is kept apart from it."""
        super().process_state_dict_for_saving_inference(state_dict)  # type: ignore[misc]
        forget(state_dict, "down", "up")


class _BatchTopK(_WithChannel, BatchTopKTrainingSAE):
    pass


class _Matryoshka(_WithChannel, MatryoshkaBatchTopKTrainingSAE):
    pass


def new(base: str, d_in: int, d_sae: int, l0: int, rank: int) -> Any:
    """An untrained SAE, `base` batchtopk or matryoshka, with a channel of a rank beside it; none at rank 0."""
    plain = {"batchtopk": batchtopk, "matryoshka": matryoshka}[base].new(d_in, d_sae, l0)
    if not rank:
        return plain
    kind = {"batchtopk": _BatchTopK, "matryoshka": _Matryoshka}[base]
    return kind(plain.cfg).open_channel(rank)  # type: ignore[arg-type]
