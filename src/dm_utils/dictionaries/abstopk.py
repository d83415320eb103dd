"""AbsTopK (2510.00404): the k pre-activations of largest magnitude, signs kept, so that one latent holds two opposite meanings.

Loss: as TopK's, dead latents chosen by magnitude (coefficient 1 here as for TopK; the paper's code has 1/32 of a normalised loss).
SAELens' class.
"""

from __future__ import annotations

from sae_lens.saes.abstopk_sae import AbsTopKTrainingSAE, AbsTopKTrainingSAEConfig

from dm_utils.dictionaries.common import shape


def new(d_in: int, d_sae: int, l0: int) -> AbsTopKTrainingSAE:
    """An untrained AbsTopK SAE."""
    return AbsTopKTrainingSAE(AbsTopKTrainingSAEConfig(**shape(d_in, d_sae), k=l0))
