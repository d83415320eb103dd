"""Matryoshka BatchTopK (Bussmann et al. 2025): every prefix of the dictionary must reconstruct by itself.

Loss: the sum over nested widths of ‖x − x̂ of the first latents‖², + BatchTopK's auxiliary loss. SAELens' class; the widths, which the
paper leaves to the user, are 1/16, 1/8, 1/4, 1/2 and all of the dictionary, of equal weight (SAELens sums them).
"""

from __future__ import annotations

from sae_lens import MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig

from dm_utils.dictionaries.common import shape


def new(d_in: int, d_sae: int, l0: int) -> MatryoshkaBatchTopKTrainingSAE:
    """An untrained Matryoshka SAE."""
    widths = [d_sae // part for part in (16, 8, 4, 2, 1)]
    config = MatryoshkaBatchTopKTrainingSAEConfig(**shape(d_in, d_sae), k=float(l0), matryoshka_widths=widths)
    return MatryoshkaBatchTopKTrainingSAE(config)
