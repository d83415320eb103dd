"""TopK (Gao et al. 2024): the k largest pre-activations of a token.

Loss: ‖x − x̂‖² + auxiliary loss (the strongest d/2 dead latents reconstruct the residual), coefficient 1 (SAELens' default; the
paper's 1/32 stands beside a loss divided by the variance). Trained by `sparse_topk`, which costs only what is active.
"""

from __future__ import annotations

from sae_lens import TopKTrainingSAEConfig

from dm_utils.dictionaries.common import shape
from dm_utils.dictionaries.sparse_topk import SparseTopKTrainingSAE


def new(d_in: int, d_sae: int, l0: int) -> SparseTopKTrainingSAE:
    """An untrained TopK SAE."""
    return SparseTopKTrainingSAE(TopKTrainingSAEConfig(**shape(d_in, d_sae), k=l0))
