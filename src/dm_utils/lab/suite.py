"""The lab's suite of sparse autoencoders: which ones there are, and how each is saved and checked."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

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
