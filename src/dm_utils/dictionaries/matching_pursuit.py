"""Matching pursuit SAE (2506.03093): the encoder is the search itself, of one tied dictionary: argmax of W·r, subtract, repeat.

Loss: ‖x − x̂‖². SAELens' class; k iterations and no threshold on the residual (the papers stop at a threshold), so that L0 is what the
other methods have, less the latents that are chosen twice. It has no loss for dead latents; the training loop revives them.
"""

from __future__ import annotations

import warnings

from sae_lens import MatchingPursuitTrainingSAE, MatchingPursuitTrainingSAEConfig

from dm_utils.dictionaries.common import shape


def new(d_in: int, d_sae: int, l0: int) -> MatchingPursuitTrainingSAE:
    """An untrained matching-pursuit SAE."""
    fields = shape(d_in, d_sae) | {"apply_b_dec_to_input": True}  # tied: the bias is taken off before the search
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        config = MatchingPursuitTrainingSAEConfig(
            **fields, decoder_init_norm=1.0, residual_threshold=0.0, max_iterations=l0, stop_on_duplicate_support=False
        )
    return MatchingPursuitTrainingSAE(config)
