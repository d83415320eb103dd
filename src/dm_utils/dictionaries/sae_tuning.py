"""SAE-Tuning (Resa, 2506.09967), its SAE stage: train an SAE, freeze it, insert it, and tune the model through it by low-rank updates.

W → W + (α/r) B A in every linear layer, B zero at first. Loss: the model's next-token cross-entropy with Sae(x) in the place of x, at
every token but the first of a context. Left open by the abstract and taken here: r = 32 and α = 128 (as its authors report), Adam at
1e-4 without decay, 40 steps of 8 contexts; the paper tunes on question-answer pairs for reasoning, which the lab has none of, so what
it did for reasoning is not reproduced. The question here is what tuning does to the SAE's error. The SAE is a TopK SAE, unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize
from tqdm.auto import tqdm


@dataclass(frozen=True)
class TuningPlan:
    """How the model is tuned."""

    steps: int = 40
    contexts: int = 8
    lr: float = 1e-4
    rank: int = 32
    alpha: float = 128.0
    seed: int = 0


class LowRank(nn.Module):
    """W + (α/r) B A, with A [r, in] small at random and B [out, r] zero."""

    def __init__(self, weight: Float[Tensor, "out in"], rank: int, alpha: float):
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, weight.shape[1]) / weight.shape[1] ** 0.5)
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))
        self.scale = alpha / rank

    def forward(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The updated weight."""
        return weight + self.scale * self.up @ self.down


@contextmanager
def low_rank(model: nn.Module, plan: TuningPlan) -> Iterator[list[nn.Parameter]]:
    """Freeze a model and give every linear layer but its head an update; the updates join the weights at the end."""
    model.requires_grad_(False)
    layers = [
        part for name, part in model.named_modules() if isinstance(part, nn.Linear) and not name.endswith("lm_head")
    ]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layer to tune")
    updates = [LowRank(layer.weight, plan.rank, plan.alpha) for layer in layers]
    for layer, update in zip(layers, updates, strict=True):
        parametrize.register_parametrization(layer, "weight", update)
    try:
        yield [parameter for update in updates for parameter in update.parameters()]
    finally:
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


@contextmanager
def inserted(block: nn.Module, reconstruct: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put Sae(x) in the place of a block's output, but at the first token of a context, whose activation is like no other."""

    def replace(_: nn.Module, __: Any, output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output  # [context, position, d]
        spliced = torch.cat([x[:, :1], reconstruct(x[:, 1:].flatten(0, 1)).view_as(x[:, 1:])], 1)
        return (spliced, *output[1:]) if isinstance(output, tuple) else spliced

    handle = block.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def loss_through(model: Any, tokens: Int[Tensor, "context position"]) -> Float[Tensor, ""]:
    """Mean next-token cross-entropy, nats."""
    logits = model(input_ids=tokens).logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())


def tune(
    model: Any, block: nn.Module, sae: Any, contexts: Int[Tensor, "context position"], plan: TuningPlan
) -> list[float]:
    """Tune a Hugging Face causal language model, in place, through a frozen SAE after one of its blocks; the loss of each step.

    Raises FloatingPointError where the loss is not finite, naming the step.
    """
    sae.eval().requires_grad_(False)
    generator, losses = torch.Generator().manual_seed(plan.seed), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        with low_rank(model, plan) as parameters, inserted(block, sae):
            optimizer = torch.optim.Adam(parameters, lr=plan.lr)
            for step in tqdm(range(plan.steps), desc="SAE-Tuning", unit="step"):
                chosen = torch.randint(len(contexts), (plan.contexts,), generator=generator)
                loss = loss_through(model, contexts[chosen])
                if not torch.isfinite(loss):
                    raise FloatingPointError(
                        f"SAE-Tuning: the loss is {float(loss)} at step {step}, lr {plan.lr:g}; lower lr"
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
    return losses
