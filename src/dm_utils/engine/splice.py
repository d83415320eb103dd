"""What a model loses when other vectors take the place of its activations at one site (Section 5.3).

The layers before the site run once per context: where the site is reached, the context's activations are repeated along
the batch, one copy per variant with that variant's vectors in it, and the rest of the model runs on all copies at once.
One context at a time, because masks and position embeddings, which the model made before, broadcast over a batch of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from dm_utils.maths.resampling import check_finite

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ORIGINAL = "original"
LOGITS_AT_ONCE = 2**27  # 512 MiB of float32
HAND_OVER = {torch.float32: 1e-3, torch.float64: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.1}
"""Largest change of one token's loss, in nats, that the rounding of a larger batch may explain."""

Variants = Callable[[Float[Tensor, "kept d"], int], dict[str, Float[Tensor, "kept d"]]]


@dataclass(frozen=True)
class Spliced:
    """Losses of every scored token under every variant; the first variant is the original.

    Attributes
    ----------
    names : the variants, in order.
    cross_entropy : float32 [variant, token], nats: −ln p(next token).
    kl : float32 [variant, token], nats: KL(original ‖ variant) of the predicted distributions.
    context, position : int64 [token], where each scored token stands.
    hand_over : the largest change of one token's loss, on the first context, that splicing in x itself makes.
    """

    names: tuple[str, ...]
    cross_entropy: Float[Tensor, "variant token"]
    kl: Float[Tensor, "variant token"]
    context: Int[Tensor, " token"]
    position: Int[Tensor, " token"]
    hand_over: float


@torch.inference_mode()
def splice(
    model: TransformerBridge,
    contexts: Int[Tensor, "context ctx_len"],
    hook_name: str,
    variants: Variants,
    *,
    kept: slice,
    scored: Bool[Tensor, "context kept"] | None = None,
    at_once: int = 128,
    progress: bool = True,
) -> Spliced:
    """Replace x at the kept positions of a site by each variant and measure the losses (Section 5.3).

    Parameters
    ----------
    model : a TransformerLens bridge, in evaluation mode.
    contexts : int64 [context, ctx_len].
    hook_name : the site, for example ``blocks.4.hook_resid_post``.
    variants : called once per context with x float32 [kept, d] (heads flattened) and the context's index; returns the
        vectors of every variant, [kept, d], the same names each time. The original is added by itself.
    kept : the positions to replace; a position outside keeps its activation. Each must have a next token.
    scored : which of them to measure (all, unless given).
    at_once : copies of a context that the later layers hold at once; more variants run in several passes.

    Raises
    ------
    ValueError
        Positions without a next token, variants of another shape or not finite, an unknown site, or a model whose loss
        changes when x itself is spliced in.
    """
    positions = torch.arange(contexts.shape[1])[kept]
    _check(model, contexts, hook_name, positions, scored)
    pieces: list[tuple[Tensor, Tensor, Tensor]] = []
    names: tuple[str, ...] = ()
    hand_over = 0.0
    for index, tokens in enumerate(tqdm(contexts, desc="splicing", unit="context", disable=not progress, leave=False)):
        at = positions if scored is None else positions[scored[index].cpu()]
        if not len(at):
            continue
        run = _ContextRun(model, tokens.to(model.cfg.device), hook_name, positions, at, index)
        names, losses = run.losses(variants, at_once)
        if not pieces:
            hand_over = float((losses[0, 0] - run.plain_loss()).abs().max())
            _check_hand_over(hand_over, model.cfg.dtype, hook_name)
        pieces.append((losses.cpu(), torch.full((len(at),), index), at))
    losses = torch.cat([piece[0] for piece in pieces], -1)
    context, position = (torch.cat([piece[i] for piece in pieces]) for i in (1, 2))
    return Spliced(names, losses[0], losses[1], context, position, hand_over)


class _ContextRun:
    """One context: its variants, and the final hidden states [variant, scored, d_model] that each leads to."""

    def __init__(
        self, model: TransformerBridge, tokens: Tensor, hook_name: str, positions: Tensor, at: Tensor, index: int
    ):
        self.model, self.tokens, self.hook_name, self.index = model, tokens, hook_name, index
        self.positions, self.at = positions.to(tokens.device), at.to(tokens.device)
        self.vectors: dict[str, Tensor] = {}

    def losses(self, variants: Variants, at_once: int) -> tuple[tuple[str, ...], Float[Tensor, "2 variant scored"]]:
        """Cross-entropy and KL of the original and of every variant."""
        hidden = self._final_hidden(variants, 0, at_once)
        names = (ORIGINAL, *self.vectors)
        rest = [self._final_hidden(variants, start, at_once) for start in range(at_once, len(names), at_once)]
        return names, torch.cat(list(self._from_hidden(torch.cat([hidden, *rest]))), 1)

    def plain_loss(self) -> Float[Tensor, " scored"]:
        """Cross-entropy of the model as it is, through its own head."""
        logits = self.model(self.tokens[None], return_type="logits", logits_to_keep=self.at)[0].float()
        return torch.nn.functional.cross_entropy(logits, self.tokens[self.at + 1], reduction="none")

    def _final_hidden(self, variants: Variants, start: int, at_once: int) -> Float[Tensor, "variant scored d_model"]:
        """Run the model once on copies ``start`` to ``start + at_once``, up to the input of its head."""
        found: dict[str, Tensor] = {}

        def spread(value: Tensor, *, hook: object) -> Tensor:
            if not self.vectors:
                self.vectors = self._checked(variants(value[0, self.positions].flatten(1).float(), self.index), value)
            copies = [None, *self.vectors.values()][start : start + at_once]
            spliced = value.repeat(len(copies), *[1] * (value.ndim - 1))
            for copy, vectors in zip(spliced, copies, strict=True):
                if vectors is not None:
                    copy[self.positions] = vectors.to(value.dtype).view_as(copy[self.positions])
            return spliced

        def keep(value: Tensor, *, hook: object) -> Tensor:
            found["hidden"] = value
            return value[:1, :1]  # the head's own logits are not used: they would be [variant, scored, vocabulary]

        hooks: list[tuple[Any, Any]] = [(self.hook_name, spread), ("unembed.hook_in", keep)]
        self.model.run_with_hooks(self.tokens[None], return_type=None, fwd_hooks=hooks, logits_to_keep=self.at)
        return found["hidden"]

    def _checked(self, vectors: dict[str, Tensor], value: Tensor) -> dict[str, Tensor]:
        shape = (len(self.positions), value[0, 0].numel())
        for name, array in vectors.items():
            if name == ORIGINAL:
                raise ValueError(f"a variant is called {ORIGINAL!r}; that one is always there, so choose another name")
            if array.shape != shape:
                raise ValueError(f"variant {name!r} is {tuple(array.shape)}; it must be {shape}")
            check_finite(array, f"variant {name!r} at {self.hook_name}, context {self.index}")
        return vectors

    def _from_hidden(self, hidden: Tensor) -> Iterator[Float[Tensor, "2 variant scored"]]:
        """Losses from hidden states, few enough variants at a time for their logits to fit."""
        targets = self.tokens[self.at + 1]
        original = head_logits(self.model, hidden[:1])[0].log_softmax(-1)
        probabilities, entropy = original.exp(), -(original.exp() * original).sum(-1)
        for part in hidden.split(max(1, LOGITS_AT_ONCE // original.numel())):
            log_p = head_logits(self.model, part).log_softmax(-1)  # [variant, scored, vocabulary]
            loss = -log_p[:, torch.arange(len(targets)), targets]
            kl = -entropy - torch.einsum("kv,nkv->nk", probabilities, log_p)
            yield torch.stack([loss, kl])


def head_logits(model: TransformerBridge, hidden: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocabulary"]:
    """Logits in float32 from what enters the model's head: its unembedding, and its soft cap if it has one."""
    logits = model.unembed(hidden).float()
    cap = getattr(model.original_model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _check(
    model: TransformerBridge, contexts: Tensor, hook_name: str, positions: Tensor, scored: Tensor | None
) -> None:
    if hook_name not in model.hook_dict:
        raise ValueError(f"the model has no hook {hook_name!r}; a site is named like 'blocks.4.hook_resid_post'")
    if not len(positions) or int(positions[-1]) >= contexts.shape[1] - 1:
        raise ValueError(
            f"kept covers {len(positions)} positions of contexts of {contexts.shape[1]} tokens; "
            "it must hold at least one, and not the last, which has no next token"
        )
    if scored is not None and (scored.shape != (len(contexts), len(positions)) or scored.dtype != torch.bool):
        raise ValueError(
            f"scored is {scored.dtype} {tuple(scored.shape)}; it must be bool {(len(contexts), len(positions))}"
        )
    if scored is not None and not scored.any():
        raise ValueError("scored names no token, so there is no loss to measure")


def _check_hand_over(gap: float, dtype: torch.dtype, hook_name: str) -> None:
    if not gap <= HAND_OVER[dtype]:
        raise ValueError(
            f"splicing x itself in at {hook_name} changes a token's loss by {gap:.2g} nats "
            f"(rounding in {dtype} explains {HAND_OVER[dtype]:g}): this model does more at its head, "
            "or its layers do not accept a longer batch"
        )
