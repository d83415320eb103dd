"""The list of methods: what each is called, who proposed it, how an untrained one is made, and what training it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sae_lens.saes.sae import TrainingSAE

from dm_utils.dictionaries import (
    abstopk,
    batchtopk,
    feature_choice,
    gated,
    gradient,
    group_bias,
    itda,
    jumprelu,
    matching_pursuit,
    matryoshka,
    mutual_choice,
    top_afa,
    topk,
    variational,
)

New = Callable[[int, int, int], TrainingSAE[Any]]


@dataclass(frozen=True)
class Method:
    """A way to learn a dictionary.

    `new(d_in, d_sae, l0)` makes an untrained SAE; `revive`: the loop points its dead latents at residuals, since its loss does not
    revive them; `gradients`: it reads those of the model's loss; `pursuit`: it encodes by a search of L0 products with the dictionary
    (otherwise by one product); `tokens`: the share of the training tokens that it needs; `rated`: it has a learning rate to find;
    `own_l0`: it sets its L0 itself, so that it cannot be compared at equal L0; `tunes`: its SAE is TopK's, through which the model is
    tuned, and the tuned model is measured instead of the model as it was.
    """

    name: str
    title: str
    new: New
    revive: bool = False
    gradients: bool = False
    pursuit: bool = False
    tokens: float = 1.0
    rated: bool = True
    own_l0: bool = False
    tunes: bool = False

    def encode_flops(self, d_in: int, d_sae: int, l0: float) -> float:
        """Multiplications and additions to encode one token: 2 d d_sae, for each step of a search."""
        return 2.0 * d_in * d_sae * (l0 if self.pursuit else 1.0)


METHODS = {
    method.name: method
    for method in (
        Method("topk", "TopK", topk.new),
        Method("jumprelu", "JumpReLU", jumprelu.new),
        Method("batchtopk", "BatchTopK", batchtopk.new),
        Method("matryoshka", "Matryoshka", matryoshka.new),
        Method("gated", "Gated", gated.new, revive=True),
        Method("abstopk", "AbsTopK", abstopk.new),
        Method("gradient", "Gradient SAE", gradient.new, gradients=True),
        Method("mutual_choice", "Mutual Choice", mutual_choice.new),
        Method("feature_choice", "Feature Choice", feature_choice.new),
        Method("group_bias", "Group Bias Adaptation", group_bias.new),
        Method("top_afa", "top-AFA", top_afa.new),
        Method("top_afa_own", "top-AFA at its own L0", top_afa.new_own, own_l0=True),
        Method("variational", "Variational SAE", variational.new),
        Method("itda", "ITDA", itda.new, pursuit=True, tokens=0.1, rated=False),
        Method("matching_pursuit", "Matching pursuit", matching_pursuit.new, revive=True, pursuit=True),
        Method("sae_tuning", "SAE-Tuning", topk.new, rated=False, tunes=True),
    )
}
