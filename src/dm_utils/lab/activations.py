"""Activations of the lab's language model, collected once for every site and kept as memory-mapped files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from dm_utils.maths.noise import variance

SKIP = 16
"""Positions t < SKIP are left out: the first tokens of a context have almost nothing to attend to."""


def load_bridge(folder: Path, device: str = "cpu") -> Any:
    """Boot a local Hugging Face model folder through TransformerLens, in float32."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(str(folder), device=device, dtype=torch.float32).eval()


def kept_positions(ctx_len: int, skip: int = SKIP) -> slice:
    """Return the positions that count: skip ≤ t < ctx_len − 1, those with a next token to predict."""
    return slice(skip, ctx_len - 1)


@torch.no_grad()
def site_activations(
    bridge: Any, contexts: np.ndarray, hook_names: Sequence[str], batch_contexts: int = 32
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield, batch by batch, the kept activations of each site.

    Parameters
    ----------
    bridge : TransformerBridge
    contexts : ndarray of integers, [context, ctx_len]
    hook_names : sequence of str
        All of them are read in one forward pass, which stops at the last layer needed.
    batch_contexts : int
        Contexts per forward pass.

    Yields
    ------
    dict of str to Tensor
        For each hook name float32 [token, d]; the heads of ``hook_z`` stand side by side.
    """
    last_layer = max(int(name.split(".")[1]) for name in hook_names)
    keep = kept_positions(contexts.shape[1])
    device = next(bridge.parameters()).device
    for start in range(0, len(contexts), batch_contexts):
        tokens = torch.from_numpy(contexts[start : start + batch_contexts].astype(np.int64)).to(device)
        found: dict[str, torch.Tensor] = {}
        hooks = [(name, _recorder(found, name, keep)) for name in hook_names]
        bridge.run_with_hooks(tokens, fwd_hooks=hooks, return_type=None, stop_at_layer=last_layer + 1)
        yield {name: found[name] for name in hook_names}


def _recorder(found: dict[str, torch.Tensor], name: str, keep: slice) -> Callable[..., None]:
    def record(value: torch.Tensor, hook: Any) -> None:
        found[name] = value[:, keep].flatten(2).flatten(0, 1).float()

    return record


def collect(bridge: Any, contexts: np.ndarray, hook_names: Sequence[str], folder: Path) -> dict[str, Path]:
    """Write the kept activations of each site to one float16 ``.npy`` file; sites already written are left alone.

    Returns
    -------
    dict of str to Path
        For each hook name the file, [token, d] in the order of the contexts.

    Raises
    ------
    FloatingPointError
        If an activation is not finite, or too large for float16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.npy" for name in hook_names}
    missing = [name for name in hook_names if not files[name].exists()]
    if not missing:
        return files
    keep = kept_positions(contexts.shape[1])
    n_tokens = len(contexts) * (keep.stop - keep.start)
    maps: dict[str, np.memmap] = {}
    row = 0
    with tqdm(total=n_tokens, desc="activations", unit="token", mininterval=5) as bar:
        for batch in site_activations(bridge, contexts, missing):
            n_rows = 0
            for name, x in batch.items():
                n_rows = len(x)
                if name not in maps:
                    shape = (n_tokens, x.shape[1])
                    maps[name] = np.lib.format.open_memmap(folder / f"{name}.tmp", "w+", np.float16, shape)
                maps[name][row : row + n_rows] = _as_float16(x, name)
            row += n_rows
            bar.update(n_rows)
    for name in missing:
        maps[name].flush()
        os.replace(folder / f"{name}.tmp", files[name])
    return files


def _as_float16(x: torch.Tensor, name: str) -> np.ndarray:
    half = x.half()
    if not torch.isfinite(half).all():
        raise FloatingPointError(f"Activations of {name} are not finite in float16 (largest: {x.abs().max():.3g}).")
    return half.cpu().numpy()


class ActivationBatches:
    """Endless shuffled batches of one site's activations, float32 [batch, d]; each epoch is a seeded permutation.

    ``mean`` [d] and ``scale`` (√d over the root mean square distance from the mean, so that the scaled and centred
    activations have unit variance per dimension on average) describe the site.
    """

    def __init__(self, file: Path, batch_size: int, seed: int, n_stats: int = 200_000) -> None:
        self.x = torch.from_numpy(np.load(file))  # float16 [token, d]
        self.batch_size, self.seed = batch_size, seed
        if len(self.x) < batch_size:
            raise ValueError(f"{file} holds {len(self.x)} tokens, fewer than one batch of {batch_size}.")
        sample = self.x[:: max(1, len(self.x) // n_stats)].double()
        self.mean = sample.mean(0).float()
        self.scale = (self.x.shape[1] / variance(sample)) ** 0.5
        self._batches = self._endless()

    def _endless(self) -> Iterator[torch.Tensor]:
        epoch = 0
        while True:
            generator = torch.Generator().manual_seed(self.seed * 1000 + epoch)
            order = torch.randperm(len(self.x), generator=generator)
            for start in range(0, len(order) - self.batch_size + 1, self.batch_size):
                yield self.x[order[start : start + self.batch_size]].float()
            epoch += 1

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self

    def __next__(self) -> torch.Tensor:
        return next(self._batches)
