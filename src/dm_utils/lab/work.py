"""The lab's work folder, as training on the lab's text needs it: its text, its model, and the activations of one layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from dm_utils.base.files import digest_of
from dm_utils.lab import activations, pipeline


def hook_of(layer: int) -> str:
    """The site: the residual stream after a layer."""
    return f"blocks.{layer}.hook_resid_post"


def prepare(work: Path, layer: int) -> None:
    """Put text, model and activations into the work folder, as far as they are not there.

    The text is the lab's training text: the documentation inside the installed packages, so another environment has another text.
    """
    pipeline.adopt_model(work)
    recipe = pipeline.LabRecipe(suite=(f"resid_{layer}_topk_512_l0_16",))  # names the site, no more
    training, held_out = pipeline.prepare_text(work, recipe)
    pipeline.collect_activations(work, training, held_out, recipe)


def identity(work: Path) -> str:
    """A digest of the training text's tokens."""
    return digest_of(work / "text" / "training.npy")[:16]


def load(work: Path, part: str, layer: int) -> torch.Tensor:
    """Activations [token, d], float16, of the text that trains or calibrates."""
    return torch.from_numpy(np.load(work / "activations" / part / f"{hook_of(layer)}.npy"))


def training_contexts(work: Path, layer: int) -> torch.Tensor:
    """The contexts, int64 [context, ctx_len], whose activations train."""
    training, recipe = np.load(work / "text" / "training.npy", mmap_mode="r"), pipeline.LabRecipe()
    order = np.random.default_rng([recipe.seed, 1]).permutation(len(training))  # as the lab chooses them
    keep = activations.kept_positions(training.shape[1])
    n = len(load(work, "training", layer)) // (keep.stop - keep.start)
    return torch.from_numpy(training[np.sort(order[:n])].astype(np.int64))


def language_model(work: Path) -> Any:
    """The lab's model as Hugging Face has it, float32, to be tuned."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.float32, attn_implementation="eager")
    return model.eval()
