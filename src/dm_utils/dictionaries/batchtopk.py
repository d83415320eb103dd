"""BatchTopK (Bussmann et al. 2024): the k · n largest pre-activations of a batch of n tokens, however they fall on tokens.

Loss: as TopK's, with its auxiliary loss (coefficient 1, SAELens' default). SAELens' class; for inference a threshold, the moving
average of the smallest active value, stands in for the batch: a JumpReLU SAE.
"""

from __future__ import annotations

from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

from dm_utils.dictionaries.common import shape


def new(d_in: int, d_sae: int, l0: int) -> BatchTopKTrainingSAE:
    """An untrained BatchTopK SAE."""
    return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**shape(d_in, d_sae), k=float(l0)))
