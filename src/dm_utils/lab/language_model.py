"""The lab's language model: a small Gemma 2, trained from scratch on documentation, with exact resumption."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from tqdm.auto import tqdm

from dm_utils.lab.text import BOS_ID, SPECIAL_TOKENS, VOCABULARY_SIZE


@dataclass(frozen=True)
class ModelRecipe:
    """Everything that determines the language model, apart from its text.

    The shape is Gemma 2's (grouped-query attention, a norm before and after each block, soft caps, alternating local
    and global attention) at a size that trains in about half an hour on two CPU cores.
    """

    n_layers: int = 6
    d_model: int = 128
    d_mlp: int = 512
    n_heads: int = 4
    n_key_value_heads: int = 2
    d_head: int = 32
    vocabulary_size: int = VOCABULARY_SIZE
    ctx_len: int = 256
    max_ctx_len: int = 512
    sliding_window: int = 128
    attention_softcap: float = 50.0
    logit_softcap: float = 30.0
    tokens: int = 19_660_800
    batch_contexts: int = 16
    peak_lr: float = 3e-3
    final_lr_fraction: float = 0.02
    warmup_steps: int = 300
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.1
    gradient_norm: float = 1.0
    checkpoint_steps: int = 400
    compile: bool = True
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimiser steps: the token budget over the tokens of one batch."""
        return max(1, self.tokens // (self.batch_contexts * self.ctx_len))

    def lr(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, then half a cosine down to a fraction of the peak."""
        if step < self.warmup_steps:
            return self.peak_lr * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        floor = self.final_lr_fraction
        return self.peak_lr * (floor + (1 - floor) * 0.5 * (1 + float(np.cos(np.pi * progress))))


def build_model(recipe: ModelRecipe) -> Any:
    """Return a freshly initialised ``Gemma2ForCausalLM`` of the recipe's shape, float32, on the CPU."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=recipe.vocabulary_size,
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.n_heads,
        num_key_value_heads=recipe.n_key_value_heads,
        head_dim=recipe.d_head,
        query_pre_attn_scalar=recipe.d_head,
        sliding_window=recipe.sliding_window,
        max_position_embeddings=recipe.max_ctx_len,
        attn_logit_softcapping=recipe.attention_softcap,
        final_logit_softcapping=recipe.logit_softcap,
        pad_token_id=SPECIAL_TOKENS.index("<pad>"),
        eos_token_id=SPECIAL_TOKENS.index("<eos>"),
        bos_token_id=BOS_ID,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    torch.manual_seed(recipe.seed)
    return Gemma2ForCausalLM(config)


def next_token_loss(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats of tokens 1 … ctx_len − 1, each given those before it. ``tokens``: [context, ctx_len]."""
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state  # [context, ctx_len, d_model]
    logits = model.lm_head(hidden[:, :-1]).float()  # [context, ctx_len - 1, vocabulary]
    cap = model.config.final_logit_softcapping
    logits = cap * torch.tanh(logits / cap)
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def batch_rows(step: int, n_contexts: int, recipe: ModelRecipe) -> np.ndarray:
    """Return the rows of the training contexts that a step uses: each epoch is its own seeded permutation."""
    per_epoch = n_contexts // recipe.batch_contexts
    if per_epoch == 0:
        raise ValueError(f"{n_contexts} training contexts do not fill one batch of {recipe.batch_contexts}.")
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng([recipe.seed, epoch]).permutation(n_contexts)
    return order[place * recipe.batch_contexts : (place + 1) * recipe.batch_contexts]


def train_model(
    contexts: np.ndarray,
    recipe: ModelRecipe,
    folder: Path,
    device: str = "cpu",
    stop_after: int | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Train the model, or go on from the folder's checkpoint, and return it with its training log.

    Parameters
    ----------
    contexts : ndarray of uint16, [context, ctx_len]
        The packed training text; may be memory-mapped.
    recipe : ModelRecipe
        Shape, optimiser and budget.
    folder : Path
        Holds the checkpoint (safetensors and JSON, each replaced atomically).
    device : str
        ``"cpu"`` or ``"cuda"``.
    stop_after : int, optional
        Stop, with a checkpoint, after this many steps in all.

    Returns
    -------
    model, log
        The log has ``losses`` (step, nats), ``seconds``, ``tokens`` and ``steps``.

    Raises
    ------
    ValueError
        If the folder's checkpoint comes from another recipe. The token budget alone may change on the way; the
        learning rate then follows the new schedule from that step on, and the log says so in ``budget_changes``.
    FloatingPointError
        If the loss stops being finite.
    """
    model = build_model(recipe).to(device)
    optimizer = _optimizer(model, recipe)
    log = _resume(model, optimizer, recipe, folder)
    loss_of: Callable[..., torch.Tensor] = torch.compile(next_token_loss) if recipe.compile else next_token_loss
    last = recipe.steps if stop_after is None else min(stop_after, recipe.steps)
    begun, spent = time.monotonic(), log["seconds"]
    batch_tokens = recipe.batch_contexts * recipe.ctx_len
    bar = tqdm(total=recipe.steps, initial=log["steps"], desc="language model", unit="step", mininterval=5)
    for step in range(log["steps"], last):
        rows = batch_rows(step, len(contexts), recipe)
        loss = _step(model, optimizer, loss_of, contexts[np.sort(rows)], recipe.lr(step), recipe.gradient_norm, device)
        if not np.isfinite(loss):
            raise FloatingPointError(f"The training loss is {loss} at step {step}: lower peak_lr ({recipe.peak_lr}).")
        log["losses"].append(round(loss, 4))
        log |= {"steps": step + 1, "tokens": (step + 1) * batch_tokens, "seconds": spent + time.monotonic() - begun}
        bar.update()
        if step % 20 == 0:
            bar.set_postfix(
                loss=f"{np.mean(log['losses'][-50:]):.3f}", tokens_per_s=int(log["tokens"] / log["seconds"])
            )
        if (step + 1) % recipe.checkpoint_steps == 0 or step + 1 == last:
            _checkpoint(model, optimizer, recipe, log, folder)
    bar.close()
    return model.eval(), log


def _step(
    model: Any, optimizer: Any, loss_of: Any, rows: np.ndarray, lr: float, gradient_norm: float, device: str
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = lr
    tokens = torch.from_numpy(rows.astype(np.int64)).to(device)  # [context, ctx_len]
    with torch.autocast(device, torch.bfloat16):
        loss = loss_of(model, tokens)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), gradient_norm)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def _optimizer(model: Any, recipe: ModelRecipe) -> torch.optim.AdamW:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=recipe.betas, fused=True)


def _checkpoint(model: Any, optimizer: Any, recipe: ModelRecipe, log: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": value.detach().contiguous() for name, value in model.named_parameters()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value.contiguous() for name, value in state.items()}
    record = json.dumps({"recipe": asdict(recipe), "log": log})
    # One file, one replacement: weights and log can never disagree.
    save_file(tensors, folder / "checkpoint.tmp", metadata={"record": record})
    os.replace(folder / "checkpoint.tmp", folder / "checkpoint.safetensors")


_BUDGET = {"tokens": None, "checkpoint_steps": None, "compile": None}
"""Fields of a recipe that may differ between a checkpoint and the run that goes on from it."""


def _resume(model: Any, optimizer: Any, recipe: ModelRecipe, folder: Path) -> dict[str, Any]:
    file = folder / "checkpoint.safetensors"
    if not file.exists():
        return {"steps": 0, "tokens": 0, "seconds": 0.0, "losses": []}
    record = checkpoint_record(file)
    log, wanted = record["log"], json.loads(json.dumps(asdict(recipe)))
    if {**record["recipe"], **_BUDGET} != {**wanted, **_BUDGET}:
        raise ValueError(
            f"{file} was written with another recipe ({record['recipe']}) than the one asked for ({wanted}): "
            "use another work folder, or delete the checkpoint."
        )
    if record["recipe"]["tokens"] != recipe.tokens:
        log.setdefault("budget_changes", []).append(
            {"step": log["steps"], "tokens_before": record["recipe"]["tokens"], "tokens_after": recipe.tokens}
        )
    tensors = load_file(file)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".")
            state.setdefault(int(index), {})[field] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return log


def checkpoint_record(file: Path) -> dict[str, Any]:
    """Return the recipe and the log kept in a checkpoint's header."""
    from safetensors import safe_open

    with safe_open(file, "pt") as handle:
        return json.loads(handle.metadata()["record"])


def save_model(model: Any, folder: Path) -> None:
    """Save the model as a Hugging Face folder (``config.json``, ``model.safetensors``) in float16."""
    from copy import deepcopy

    deepcopy(model).to("cpu", torch.float16).save_pretrained(folder)


@torch.no_grad()
def evaluate_model(model: Any, contexts: np.ndarray, batch_contexts: int = 16) -> np.ndarray:
    """Return the cross-entropy in nats of every predicted token: float32 [context, ctx_len − 1]."""
    device = next(model.parameters()).device
    losses = []
    for start in range(0, len(contexts), batch_contexts):
        tokens = torch.from_numpy(contexts[start : start + batch_contexts].astype(np.int64)).to(device)
        logits = model(input_ids=tokens, use_cache=False).logits.float()
        nats = functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        losses.append(nats.view(len(tokens), -1).cpu().numpy())
    result = np.concatenate(losses)
    if not np.isfinite(result).all():
        raise FloatingPointError(f"{np.sum(~np.isfinite(result))} evaluation losses are not finite.")
    return result
