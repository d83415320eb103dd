"""How an SAE of the lab's suite is trained, with SAELens, and a JumpReLU SAE given its L0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from dm_utils.lab.activations import ActivationBatches
from dm_utils.lab.suite import SaeSpec


@dataclass(frozen=True)
class SaeRecipe:
    """How every SAE of the suite is trained: SAELens' trainer, Adam, warm-up, then linear decay to zero.

    TopK SAEs start from directions of the data with decoders of norm 1, so that no latent falls behind before it is first
    used, and with more active latents than k, a number that falls to k; silent latents are resampled instead of having an
    auxiliary loss. Without this the wide ones end with many latents that never win a place.
    """

    steps: int = 1600
    batch_tokens: int = 2048
    lr_at_512: float = 3e-3
    lr_width_exponent: float = 0.25
    warmup_fraction: float = 0.04
    decay_fraction: float = 0.5
    betas: tuple[float, float] = (0.9, 0.999)
    dead_window_steps: int = 40
    k_start: int = 32
    k_start_over_k: int = 2
    anneal_fraction: float = 0.5
    resample_until: float = 0.75
    encoder_gain: float = 0.05
    jumprelu_steps: int = 800
    jumprelu_decoder_norm: float = 1.0
    jumprelu_threshold: float = 1.0
    jumprelu_bandwidth: float = 0.5
    jumprelu_l0_coefficient: float = 1.0
    jumprelu_l0_warmup_fraction: float = 0.5
    jumprelu_pre_act_coefficient: float = 0.01
    seed: int = 0

    def steps_of(self, spec: SaeSpec) -> int:
        """Optimiser steps of an SAE."""
        return self.jumprelu_steps if spec.architecture == "jumprelu" else self.steps

    def lr(self, d_sae: int) -> float:
        """Peak learning rate: ``lr_at_512 * (512 / d_sae) ** lr_width_exponent``."""
        return self.lr_at_512 * (512 / d_sae) ** self.lr_width_exponent


def train_sae(spec: SaeSpec, batches: ActivationBatches, recipe: SaeRecipe, device: str = "cpu") -> Any:
    """Train one SAE with SAELens and return it taking and giving raw activations.

    The activations are scaled to unit variance per dimension, the decoder bias starts at their mean and the encoder
    bias cancels it; when training ends the scale is folded into the weights.

    Raises
    ------
    FloatingPointError
        If a weight is not finite at the end.
    """
    from sae_lens import SAETrainer

    torch.manual_seed(batches.seed)
    sae = _new_sae(spec, batches.x.shape[1], recipe, device)
    if spec.architecture == "topk":
        start_from_data(sae, batches, recipe)
    with torch.no_grad():
        mean = (batches.mean * batches.scale).to(device)
        sae.b_dec.copy_(mean)
        sae.b_enc.copy_(-mean @ sae.W_enc)
    trainer = SAETrainer(_schedule(spec, recipe, device), sae, data_provider=_scaled(batches, batches.scale))
    for group in trainer.optimizer.param_groups:
        group["fused"] = True
    trainer.fit()
    sae.fold_activation_norm_scaling_factor(batches.scale)
    for name, parameter in sae.named_parameters():
        if not torch.isfinite(parameter).all():
            raise FloatingPointError(
                f"{spec.id}: {name} is not finite after training; lower lr_at_512 ({recipe.lr_at_512})."
            )
    return sae.eval()


def _schedule(spec: SaeSpec, recipe: SaeRecipe, device: str) -> Any:
    from sae_lens import LoggingConfig
    from sae_lens.config import SAETrainerConfig

    steps = recipe.steps_of(spec)
    return SAETrainerConfig(
        total_training_samples=steps * recipe.batch_tokens,
        train_batch_size_samples=recipe.batch_tokens,
        lr=recipe.lr(spec.d_sae),
        lr_end=recipe.lr(spec.d_sae),
        lr_warm_up_steps=max(2, int(recipe.warmup_fraction * steps)),
        lr_decay_steps=int(recipe.decay_fraction * steps),
        adam_beta1=recipe.betas[0],
        adam_beta2=recipe.betas[1],
        dead_feature_window=recipe.dead_window_steps,
        device=device,
        logger=LoggingConfig(log_to_wandb=False),
    )


@torch.no_grad()
def start_from_data(sae: Any, batches: ActivationBatches, recipe: SaeRecipe) -> None:
    """Point each latent at one randomly chosen centred activation, and begin with more active latents than k."""
    generator = torch.Generator().manual_seed(batches.seed + 7)
    rows = torch.randperm(len(batches.x), generator=generator)[: sae.cfg.d_sae]
    directions = functional.normalize(batches.x[rows].float() - batches.mean, dim=1)  # [d_sae, d]
    sae.W_dec.copy_(directions)
    sae.W_enc.copy_(recipe.encoder_gain * directions.T)
    sae.k_start = max(recipe.k_start, recipe.k_start_over_k * sae.cfg.k)
    sae.anneal_steps = int(recipe.anneal_fraction * recipe.steps)
    sae.resample_from = recipe.dead_window_steps
    sae.resample_until = int(recipe.resample_until * recipe.steps)


def _scaled(batches: Iterator[torch.Tensor], scale: float) -> Iterator[torch.Tensor]:
    return (batch * scale for batch in batches)


def _new_sae(spec: SaeSpec, d_in: int, recipe: SaeRecipe, device: str) -> Any:
    from sae_lens import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig, TopKTrainingSAEConfig

    from dm_utils.dictionaries.sparse_topk import SparseTopKTrainingSAE

    common: dict[str, Any] = {
        "d_in": d_in,
        "d_sae": spec.d_sae,
        "device": device,
        "apply_b_dec_to_input": False,
        "reshape_activations": "hook_z" if spec.component == "att" else "none",
    }
    if spec.architecture == "topk":
        return SparseTopKTrainingSAE(TopKTrainingSAEConfig(**common, k=spec.l0, aux_loss_coefficient=0.0))
    return JumpReLUTrainingSAE(
        JumpReLUTrainingSAEConfig(
            **common,
            decoder_init_norm=recipe.jumprelu_decoder_norm,
            jumprelu_sparsity_loss_mode="quadratic",
            target_l0=float(spec.l0),
            jumprelu_init_threshold=recipe.jumprelu_threshold,
            jumprelu_bandwidth=recipe.jumprelu_bandwidth,
            l0_coefficient=recipe.jumprelu_l0_coefficient,
            l0_warm_up_steps=int(recipe.jumprelu_l0_warmup_fraction * recipe.steps_of(spec)),
            pre_act_loss_coefficient=recipe.jumprelu_pre_act_coefficient,
        )
    )


@torch.no_grad()
def calibrate_thresholds(sae: Any, x: torch.Tensor, l0: float) -> float:
    """Multiply a JumpReLU SAE's thresholds by one factor so that it has the wanted L0 on ``x`` [token, d].

    Returns the factor, found by bisection between 1/4 and 4.

    Raises
    ------
    ValueError
        If no factor in that range gives the L0.
    """
    hidden_pre = x @ sae.W_enc + sae.b_enc  # [token, d_sae]
    threshold = sae.threshold.clone()

    def l0_at(factor: float) -> float:
        return (hidden_pre > threshold * factor).sum(1).float().mean().item()

    low, high = 0.25, 4.0
    if not l0_at(high) <= l0 <= l0_at(low):
        reach = f"{l0_at(high):.1f} … {l0_at(low):.1f}"
        raise ValueError(f"L0 {l0} is out of reach: thresholds times {low} … {high} give {reach}.")
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if l0_at(middle) > l0 else (low, middle)
    factor = (low * high) ** 0.5
    sae.threshold.copy_(threshold * factor)
    return factor
