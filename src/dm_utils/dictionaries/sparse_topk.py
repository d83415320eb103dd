"""SAELens' TopK training, at the cost of the latents that are active.

SAELens decodes, and differentiates, through dense [token, d_sae] arrays. Only k entries per token are not zero, and
only they have a gradient; here the decoder and the whole backward pass touch those alone. Loss and gradients are the
same (a test holds the two together); on two CPU cores a step is several times faster at 8192 latents.
"""

from __future__ import annotations

from typing import Any

import torch
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.saes.topk_sae import TopKTrainingSAE
from torch.nn import functional


class _Selected(torch.autograd.Function):
    """The given ``selected[t, i] = (x @ w_enc + b_enc)[t, index[t, i]]``, with a sparse gradient."""

    @staticmethod
    def forward(ctx: Any, x: Any, w_enc: Any, b_enc: Any, selected: Any, index: Any) -> Any:
        ctx.save_for_backward(x, index)
        ctx.d_sae = len(b_enc)
        return selected.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, index = ctx.saved_tensors
        weight = gradients[0]  # [token, k]
        w_grad = scatter_outer(weight, x, index, ctx.d_sae)  # [d_sae, d]
        b_grad = weight.new_zeros(ctx.d_sae).index_add_(0, index.flatten(), weight.flatten())
        return None, w_grad.T, b_grad, None, None


def scatter_outer(weight: torch.Tensor, x: torch.Tensor, index: torch.Tensor, d_sae: int) -> torch.Tensor:
    """Add ``weight[t, i] * x[t]`` to row ``index[t, i]`` of a zero [d_sae, d] array; ``index``: [token, k]."""
    n_tokens, k = index.shape
    tokens = torch.arange(n_tokens, device=index.device).repeat_interleave(k)
    entries = torch.stack([index.flatten(), tokens])
    return torch.sparse.mm(torch.sparse_coo_tensor(entries, weight.flatten(), (d_sae, n_tokens)), x)


def decode_selected(values: torch.Tensor, index: torch.Tensor, w_dec: torch.Tensor) -> torch.Tensor:
    """Return ``sum_i values[t, i] * w_dec[index[t, i]]``: [token, d]."""
    return functional.embedding_bag(index, w_dec, per_sample_weights=values, mode="sum")


class SparseTopKTrainingSAE(TopKTrainingSAE):
    """A ``TopKTrainingSAE`` whose training step never builds a dense gradient.

    It needs inputs that the decoder bias is not subtracted from, decoder norms that rescale the selection, and no
    activation normalisation inside the SAE. The factor ‖W_dec‖ of a latent's activation and 1/‖W_dec‖ of its decoder
    row cancel, so they enter the selection only.

    For the first ``anneal_steps`` steps more than k latents may be active: the number falls geometrically from
    ``k_start`` to k. Wide, sparse SAEs would otherwise leave many latents that never win a place.

    From ``resample_from`` to ``resample_until``, every ``resample_every`` steps, the latents that have long been silent
    are given a new direction: what the SAE misses of a token, drawn in proportion to the squared error.
    """

    k_start: int = 0
    anneal_steps: int = 0
    resample_from: int = 0
    resample_until: int = 0
    resample_every: int = 10
    resample_gain: float = 0.6

    def k_at(self, step: int) -> int:
        """How many latents are active at a step of training."""
        if step >= self.anneal_steps or self.k_start <= self.cfg.k:
            return self.cfg.k
        return round(self.k_start * (self.cfg.k / self.k_start) ** (step / self.anneal_steps))

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        x = step_input.sae_in  # [token, d]
        with torch.no_grad():
            norms = self.W_dec.norm(dim=1)
            hidden_pre = torch.addmm(self.b_enc * norms, x, self.W_enc * norms)  # [token, d_sae]
            largest, index = hidden_pre.topk(self.k_at(step_input.n_training_steps), sorted=False)  # [token, k]
        values = _Selected.apply(x, self.W_enc, self.b_enc, largest / norms[index], index).relu()
        sae_out = decode_selected(values, index, self.W_dec) + self.b_dec
        mse_loss = (sae_out - x).square().sum(1).mean()
        self._resample(x, sae_out.detach(), step_input)
        aux_loss = self._dead_latents_loss(x, sae_out, norms, step_input.dead_neuron_mask)
        return TrainStepOutput(
            sae_in=x,
            sae_out=sae_out,
            feature_acts=self._codes(values.detach() * norms[index], index),
            hidden_pre=hidden_pre,
            loss=mse_loss + aux_loss,
            losses={"mse_loss": mse_loss, "auxiliary_reconstruction_loss": aux_loss},
        )

    @torch.no_grad()
    def _resample(self, x: torch.Tensor, sae_out: torch.Tensor, step_input: TrainStepInput) -> None:
        """Point silent latents at residuals, at most one in four tokens of the batch at a time."""
        step, dead = step_input.n_training_steps, step_input.dead_neuron_mask
        due = self.resample_from <= step < self.resample_until and step % self.resample_every == 0
        if not due or dead is None or not bool(dead.any()):
            return
        silent = dead.nonzero().flatten()
        silent = silent[torch.randperm(len(silent), device=x.device)[: len(x) // 4]]
        residual = x - sae_out  # [token, d]
        tokens = torch.multinomial(residual.square().sum(1), len(silent), replacement=False)
        directions = functional.normalize(residual[tokens], dim=1)  # [silent, d]
        # Through .data: these rows take no part in the step under way, whose graph must stay valid.
        self.W_dec.data[silent] = directions
        self.W_enc.data[:, silent] = self.resample_gain * directions.T
        self.b_enc.data[silent] = -self.resample_gain * directions @ self.b_dec

    def _codes(self, values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        n_tokens, k = index.shape
        tokens = torch.arange(n_tokens, device=index.device).repeat_interleave(k)
        positive = values.flatten() > 0
        entries = torch.stack([tokens, index.flatten()])[:, positive]
        shape = (n_tokens, self.cfg.d_sae)
        return torch.sparse_coo_tensor(entries, values.flatten()[positive], shape, is_coalesced=False)

    def _dead_latents_loss(
        self, x: torch.Tensor, sae_out: torch.Tensor, norms: torch.Tensor, dead: torch.Tensor | None
    ) -> torch.Tensor:
        """SAELens' auxiliary loss: the strongest dead latents reconstruct the residual; only their columns are used."""
        if self.cfg.aux_loss_coefficient == 0 or dead is None or not bool(dead.any()):
            return sae_out.new_tensor(0.0)
        columns = dead.nonzero().flatten()
        half = x.shape[1] // 2
        k_aux, scale = min(half, len(columns)), min(len(columns) / half, 1.0)
        pre = x @ self.W_enc[:, columns] + self.b_enc[columns]  # [token, n_dead]
        chosen = (pre.detach() * norms[columns]).topk(k_aux, sorted=False).indices
        recons = decode_selected(pre.gather(1, chosen), chosen, self.W_dec[columns])
        residual = (x - sae_out).detach()
        return self.cfg.aux_loss_coefficient * scale * (recons - residual).square().sum(1).mean()
