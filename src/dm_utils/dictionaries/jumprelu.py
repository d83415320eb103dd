"""JumpReLU (Rajamanoharan et al. 2024b): a threshold per latent, learned through a straight-through estimate of its gradient.

Loss: ‖x − x̂‖² + λ · 2/L0* · (L0 − L0*)² (the quadratic penalty about a target that Gemma Scope 2 uses; it makes L0 comparable)
+ a pre-activation loss for dead latents. SAELens' class; bandwidth and coefficients are the lab's, for activations of unit variance.
"""

from __future__ import annotations

from sae_lens import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig

from dm_utils.dictionaries.common import shape


def new(d_in: int, d_sae: int, l0: int) -> JumpReLUTrainingSAE:
    """An untrained JumpReLU SAE."""
    config = JumpReLUTrainingSAEConfig(
        **shape(d_in, d_sae),
        decoder_init_norm=1.0,
        jumprelu_sparsity_loss_mode="quadratic",
        target_l0=float(l0),
        jumprelu_init_threshold=1.0,
        jumprelu_bandwidth=0.5,
        l0_coefficient=1.0,
        l0_warm_up_steps=200,
        pre_act_loss_coefficient=0.01,
    )
    return JumpReLUTrainingSAE(config)
