"""Repairs that are trained through the model: the SAE's weights by ½(MSE + α KL), or a low-rank adapter of its output (2503.17272).

α = detach(MSE / (KL + 1e-8)), so that both count alike at every step. The paper's recipe is AdamW at 5e-5 with a linear decay, in the
last part of an SAE's training; here finished SAEs are tuned for few steps, at a rate of their own training's size (`Descent`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from dm_utils.dictionaries.sae_tuning import inserted
from dm_utils.dictionaries.training import load_checkpoint, save_checkpoint
from dm_utils.lab.activations import SKIP

LOSSES = ("kl", "mse")


@dataclass(frozen=True)
class Descent:
    """AdamW, a learning rate that falls linearly to zero, so many contexts of text in a step."""

    steps: int = 60
    contexts: int = 4
    lr: float = 5e-4
    checkpoint_every: int = 20
    seed: int = 0


class Adapter(nn.Module):
    """Sae(x) + Sae(x) D U, without bias: D [d, r] small at random, U [r, d] zero at first. The SAE stays as it is."""

    def __init__(self, sae: Any, d: int, rank: int):
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(d, rank) / d**0.5), nn.Parameter(torch.zeros(rank, d))
        self._sae = [sae.requires_grad_(False)]  # in a list: no part of what is trained and saved

    def forward(self, x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """The adapted reconstruction."""
        out = self._sae[0](x)
        return out + out @ self.down @ self.up


class Through:
    """The losses of a reconstruction in the place of a block's output, at every position from `SKIP` on, where SAEs were trained."""

    def __init__(self, model: Any, block: nn.Module):
        self.model, self.block = model.requires_grad_(False), block

    def terms(
        self, reconstruct: Callable[[Tensor], Tensor], tokens: Int[Tensor, "context position"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """MSE = mean ‖x − R(x)‖², and the mean KL divergence, nats, of the predictions from those of the model as it is."""
        with torch.no_grad():
            original = self.model(input_ids=tokens).logits[:, SKIP:-1].log_softmax(-1)
        late = torch.arange(1, tokens.shape[1]).repeat(len(tokens))[:, None] >= SKIP  # `inserted` leaves out position 0
        mse: list[Tensor] = []

        def spliced(x: Tensor) -> Tensor:
            out = reconstruct(x)
            mse.append((x - out)[late[:, 0]].square().sum(-1).mean())
            return torch.where(late, out, x)

        with inserted(self.block, spliced):
            found = self.model(input_ids=tokens).logits[:, SKIP:-1].log_softmax(-1)
        return mse[0], (original.exp() * (original - found)).sum(-1).mean()

    def loss(self, kind: str, reconstruct: Callable[[Tensor], Tensor], tokens: Tensor) -> Float[Tensor, ""]:
        """½(MSE + α KL) for "kl"; MSE alone for "mse", the control."""
        mse, kl = self.terms(reconstruct, tokens)
        return mse if kind == "mse" else 0.5 * (mse + (mse / (kl + 1e-8)).detach() * kl)


def descend(
    name: str,
    trained: nn.Module,
    loss: Callable[[Tensor], Float[Tensor, ""]],
    contexts: Int[Tensor, "context position"],
    plan: Descent,
    folder: Path,
) -> float:
    """Train a module's weights in place on random contexts; the processor seconds it took. Killed, it goes on from its checkpoint.

    Raises FloatingPointError where the loss is not finite, naming the repair, the step and the learning rate.
    """
    optimizer, silent = torch.optim.AdamW(trained.parameters(), lr=plan.lr), torch.zeros(1)
    said: Any = plan  # of a checkpoint's plan only the fields are written and compared
    first, spent = load_checkpoint(folder, trained, optimizer, silent, said)
    begun = time.process_time() - spent
    for step in tqdm(range(first, plan.steps), initial=first, total=plan.steps, desc=name, unit="step", mininterval=5):
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        rate = plan.lr * (1 - step / plan.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        value = loss(contexts[torch.randint(len(contexts), (plan.contexts,), generator=generator)])
        if not torch.isfinite(value):
            raise FloatingPointError(f"{name}: the loss is {float(value)} at step {step}, with lr {rate:g}; lower lr")
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if (step + 1) % plan.checkpoint_every == 0:
            save_checkpoint(folder, trained, optimizer, silent, said, step + 1, time.process_time() - begun)
    return time.process_time() - begun
