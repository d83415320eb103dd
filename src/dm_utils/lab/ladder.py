"""The ladder: the lab again at other widths of its model, by one recipe, to tell what is about size from what is not.

A rung has the lab's text, tokenizer, depth and tokens; its model has d dimensions, an MLP of 4d, heads of 32. Its SAEs stand at the lab's
main layer, matched across rungs in L0/d, W/d, and tokens per latent: a batch of 16 d tokens at each of as many steps, from as many
contexts per dimension, so that each token is seen as often.
"""

from __future__ import annotations

from dataclasses import replace

from dm_utils.lab import sae_training
from dm_utils.lab.pipeline import LabRecipe, fast_lab
from dm_utils.lab.suite import FACE, SaeSpec

RUNGS = (32, 64, 128)
"""The rungs whose results ship; 128 is the lab itself."""
NEXT = 256
"""The rung that is left to whoever has the hours."""
HEAD = 32
WIDTHS = (16, 8, 4)
"""W/d of the series, in the order of training."""
L0_SHARES = (1 / 16, 1 / 8, 1 / 32)
"""L0/d: all of `WIDTHS` at the first, the first of `WIDTHS` at the others; an L0 below 2 is left out."""
SEEDS = 3
BATCH_OVER_D, START_OVER_D = 16, 1 / 4
FAST = "n_layers vocabulary_size ctx_len max_ctx_len sliding_window tokens batch_contexts warmup_steps checkpoint_steps compile"
"""What a test's rung takes from the lab's fast recipe."""


def specs(d: int, seeds: int = SEEDS) -> tuple[SaeSpec, ...]:
    """The SAEs of a rung, in the order of training: what is needed most comes first, every seed of it before the next.

    Raises
    ------
    ValueError
        If d is no multiple of 32, the width of a head.
    """
    if d < HEAD or d % HEAD:
        raise ValueError(f"size = {d}: it must be a multiple of {HEAD}, the width of an attention head")
    wanted = [(width, L0_SHARES[0]) for width in WIDTHS] + [(WIDTHS[0], share) for share in L0_SHARES[1:]]
    found = [(width * d, round(share * d)) for width, share in wanted if share * d >= 2]
    return tuple(SaeSpec("resid", FACE, "topk", *each, seed) for each in found for seed in range(seeds))


def rung(d: int, seeds: int = SEEDS) -> LabRecipe:
    """The recipe of a rung: the lab's, with what depends on d scaled by d; at 128 it is the lab's own."""
    lab = LabRecipe()
    heads = d // HEAD
    model = replace(lab.model, d_model=d, d_mlp=4 * d, n_heads=heads, n_key_value_heads=max(1, heads // 2))
    saes = replace(sae_training.SaeRecipe(), batch_tokens=BATCH_OVER_D * d, k_start=round(START_OVER_D * d))
    contexts = round(lab.sae_contexts * d / lab.model.d_model)
    return replace(lab, model=model, saes=saes, suite=tuple(spec.id for spec in specs(d, seeds)), sae_contexts=contexts)


def fast_rung(d: int) -> LabRecipe:
    """A rung that runs through every step in seconds, for tests: two layers, SAEs of two widths at their last one."""
    fast = fast_lab()
    model = replace(rung(d).model, **{name: getattr(fast.model, name) for name in FAST.split()})
    saes = replace(fast.saes, batch_tokens=BATCH_OVER_D * d, k_start=round(START_OVER_D * d))
    small = [replace(spec, layer=1).id for spec in specs(d, 2) if spec.d_sae in (4 * d, 16 * d)]
    return replace(fast, model=model, saes=saes, suite=tuple(small))
