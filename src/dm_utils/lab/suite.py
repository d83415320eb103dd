"""The lab's suite of sparse autoencoders: which ones there are, and how each is trained, saved and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from dm_utils.lab.activations import ActivationBatches

MODEL_NAME = "dm-lab"
FACE = 4
"""The layer that has the whole suite: the first at which a table of token identities explains less of the error than x does."""
HOOKS = {"resid": "hook_resid_post", "att": "attn.hook_z", "mlp": "hook_mlp_out"}
_ID = re.compile(
    r"(?P<component>resid|att|mlp)_(?P<layer>\d+)_(?P<architecture>topk|jumprelu)_(?P<d_sae>\d+)_l0_(?P<l0>\d+)"
    r"(?:_seed_(?P<seed>\d+))?"
)


@dataclass(frozen=True)
class SaeSpec:
    """Which SAE: its site, architecture, width, the L0 on its label, and the seed of its training."""

    component: str
    layer: int
    architecture: str
    d_sae: int
    l0: int
    seed: int = 0

    @property
    def id(self) -> str:
        """Name of the SAE and of its folder, e.g. ``resid_4_topk_2048_l0_4``; other seeds than 0 stand at its end."""
        name = f"{self.component}_{self.layer}_{self.architecture}_{self.d_sae}_l0_{self.l0}"
        return f"{name}_seed_{self.seed}" if self.seed else name

    @property
    def hook_name(self) -> str:
        """TransformerLens name of the site, e.g. ``blocks.4.hook_resid_post``."""
        return f"blocks.{self.layer}.{HOOKS[self.component]}"

    @classmethod
    def from_id(cls, sae_id: str) -> SaeSpec:
        """Read a name such as ``resid_4_topk_2048_l0_4``; anything else raises ``ValueError``."""
        match = _ID.fullmatch(sae_id)
        if match is None:
            raise ValueError(f"{sae_id!r} is not an id of the lab's suite; expected e.g. resid_4_topk_2048_l0_4.")
        part = match.groupdict()
        numbers = (int(part[name] or 0) for name in ("d_sae", "l0", "seed"))
        return cls(part["component"], int(part["layer"]), part["architecture"], *numbers)


def full_suite() -> tuple[SaeSpec, ...]:
    """Return the 28 SAEs of the lab, in the order in which they are trained."""
    widths = (512, 1024, 2048, 4096, 8192)
    sweep = {l0: [SaeSpec("resid", FACE, "topk", width, l0) for width in widths] for l0 in (4, 16, 8)}
    layers = [SaeSpec("resid", layer, "topk", 2048, 4) for layer in (3, 5, 2, 1, 0)]
    parts = [SaeSpec(part, layer, "topk", 2048, 4) for part in ("mlp", "att") for layer in (FACE, FACE - 1)]
    jump = [SaeSpec("resid", FACE, "jumprelu", width, l0) for width in (512, 2048) for l0 in (4, 16)]
    return (*sweep[4], *layers, *parts, *sweep[16], *jump, *sweep[8])


def reseeded(n_seeds: int) -> tuple[SaeSpec, ...]:
    """Return the headline SAEs (the face at L0 4, up to 2,048 latents) once more for each seed from 1 to ``n_seeds`` − 1."""
    headline = [SaeSpec("resid", FACE, "topk", width, 4) for width in (512, 1024, 2048)]
    return tuple(replace(spec, seed=seed) for seed in range(1, n_seeds) for spec in headline)


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
    from sae_lens import LoggingConfig, SAETrainer
    from sae_lens.config import SAETrainerConfig

    torch.manual_seed(batches.seed)
    sae = _new_sae(spec, batches.x.shape[1], recipe, device)
    steps = recipe.steps_of(spec)
    if spec.architecture == "topk":
        start_from_data(sae, batches, recipe)
    with torch.no_grad():
        mean = (batches.mean * batches.scale).to(device)
        sae.b_dec.copy_(mean)
        sae.b_enc.copy_(-mean @ sae.W_enc)
    config = SAETrainerConfig(
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
    trainer = SAETrainer(config, sae, data_provider=_scaled(batches, batches.scale))
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


def label_with(l0: float, folder: Path) -> None:
    """Let a saved SAE say the L0 that it was measured to have instead of the one that it was trained towards."""
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"].pop("near_l0", None)
    config["metadata"]["l0"] = round(l0, 3)
    (folder / "cfg.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def say_where(sae: Any, hook_name: str, layer: int, l0: float) -> None:
    """Write into an SAE's metadata what it was trained on: the lab's model, the site, the L0 on its label."""
    site = {"model_name": MODEL_NAME, "hook_name": hook_name, "hook_layer": layer, "near_l0": l0, "prepend_bos": True}
    for name, value in site.items():
        sae.cfg.metadata[name] = value


def save_sae(sae: Any, spec: SaeSpec, folder: Path, **metadata: Any) -> None:
    """Save in SAELens' inference format (``cfg.json``, ``sae_weights.safetensors``), the weights as float16."""
    for name in set(sae.cfg.metadata.keys()) - {"sae_lens_version", "sae_lens_training_version"}:
        delattr(sae.cfg.metadata, name)
    say_where(sae, spec.hook_name, spec.layer, spec.l0)
    for name, value in metadata.items():
        sae.cfg.metadata[name] = value
    if spec.architecture == "jumprelu":
        sae.fold_W_dec_norm()
    sae.to("cpu").save_inference_model(folder)
    weights = folder / "sae_weights.safetensors"
    save_file({name: value.half().contiguous() for name, value in load_file(weights).items()}, weights)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


@torch.no_grad()
def health(folder: Path, x: torch.Tensor, block: int = 8192) -> dict[str, float]:
    """Measure a saved SAE on activations it never saw.

    Parameters
    ----------
    folder : Path
        Holds ``cfg.json`` and ``sae_weights.safetensors``.
    x : Tensor, [token, d]
        Raw activations of its site, any floating dtype.

    Returns
    -------
    dict
        ``fvu`` = Σ‖x − Sae(x)‖² / Σ‖x − mean‖²; ``l0``, the mean number of active latents per token; and
        ``dead_fraction``, the share of latents that are active on no token of ``x``.
    """
    from sae_lens import SAE

    sae: Any = SAE.load_from_disk(folder, dtype="float32")
    if sae.cfg.reshape_activations == "hook_z":
        sae.turn_off_forward_pass_hook_z_reshaping()
    error = active = 0.0
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    for start in range(0, len(x), block):
        batch = x[start : start + block].float()
        codes = sae.encode(batch)  # [token, d_sae]
        error += (batch - sae.decode(codes)).double().square().sum().item()
        fired |= (codes > 0).any(0)
        active += (codes > 0).sum().item()
    total = (x.double() - x.double().mean(0)).square().sum().item()
    result = {"fvu": error / total, "l0": active / len(x), "dead_fraction": 1 - fired.double().mean().item()}
    if not np.isfinite(list(result.values())).all():
        raise FloatingPointError(f"{folder.name}: the health check gives {result}.")
    return result
