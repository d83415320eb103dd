"""Activations of the lab's training text with the gradients of the model's loss at them, as one method needs them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from dm_utils.dictionaries.training import Activations
from dm_utils.lab import activations, pipeline
from dm_utils.lab.work import hook_of, load, training_contexts

GRADIENT_CONTEXTS = 1714


def with_gradients(work: Path, layer: int) -> Activations:
    """Activations of `GRADIENT_CONTEXTS` contexts, drawn at random, with the loss's gradients at them.

    Fewer contexts than other methods draw from, since each costs a pass through the model and back.
    The gradients are computed once, and kept in the work folder.
    """
    x, contexts = load(work, "training", layer), training_contexts(work, layer).numpy()
    kept, order = len(x) // len(contexts), np.random.default_rng([pipeline.LabRecipe().seed, 2])
    chosen = np.sort(order.permutation(len(contexts))[:GRADIENT_CONTEXTS])
    file = work / "activations" / "training" / f"{hook_of(layer)}.gradients.{len(chosen)}.npy"
    if not file.exists():
        found = loss_gradients(activations.load_bridge(work / "model"), contexts[chosen], hook_of(layer))
        np.save(file.with_suffix(".half.npy"), found.numpy())
        os.replace(file.with_suffix(".half.npy"), file)
    mine = x.view(len(contexts), kept, -1)[torch.from_numpy(chosen)].flatten(0, 1)
    return Activations(mine, torch.from_numpy(np.load(file)))


def loss_gradients(bridge: Any, contexts: np.ndarray, hook_name: str, batch: int = 16) -> torch.Tensor:
    """∇ₓ of a context's summed next-token cross-entropy at the kept positions of a site: float16 [token, d], in order.

    Raises FloatingPointError where a gradient is not finite.
    """
    bridge.requires_grad_(False)
    keep, pieces = activations.kept_positions(contexts.shape[1]), []
    for start in tqdm(range(0, len(contexts), batch), desc="gradients", unit="batch", mininterval=10):
        tokens = torch.from_numpy(contexts[start : start + batch].astype(np.int64))
        leaf: list[torch.Tensor] = []

        def take(value: torch.Tensor, *, hook: object, leaf: list[torch.Tensor] = leaf) -> torch.Tensor:
            leaf.append(value.detach().requires_grad_())
            return leaf[0]

        logits = bridge.run_with_hooks(tokens, fwd_hooks=[(hook_name, take)], return_type="logits")
        torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum"
        ).backward()
        gradient = leaf[0].grad
        if gradient is None or not torch.isfinite(gradient).all():
            raise FloatingPointError(f"the gradient at {hook_name} is not finite, contexts from {start} on")
        pieces.append(gradient[:, keep].flatten(0, 1).half())
    return torch.cat(pieces)
