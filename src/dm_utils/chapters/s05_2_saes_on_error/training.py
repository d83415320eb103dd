"""Train SAEs on the parts of an SAE's error, with one budget and a stated rule of convergence (Section 5.2).

Training is SAELens' `SAETrainer`, one TopK shape for every target. Targets are the linear and the nonlinear error, and
for each a Gaussian with the same mean and covariance: what an SAE makes of the covariance alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from sae_lens import SAETrainer, TopKSAE, TopKSAEConfig, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from torch import Tensor
from tqdm.auto import tqdm

from dm_utils.chapters.s05_2_saes_on_error.plan import TrainingPlan
from dm_utils.chapters.s05_2_saes_on_error.streams import MeanCovariance, Stream, moments
from dm_utils.dictionaries.sparse_topk import SparseTopKTrainingSAE
from dm_utils.engine.store import Arrays

TARGETS = ("linear", "nonlinear", "linear_gaussian", "nonlinear_gaussian")


@dataclass(frozen=True)
class Trained:
    """One training run.

    `arrays` holds W_enc, b_enc, W_dec, b_dec of the inference SAE (in the target's own units); `curve` has one row per
    look: step, train_fvu (mean over the steps since the last look), validation_fvu. `improvement` is what the rule looks at.
    """

    arrays: Arrays
    curve: pd.DataFrame
    improvement: float

    @property
    def steps(self) -> int:
        """Steps taken."""
        return int(self.curve["step"].iloc[-1])

    @property
    def validation_fvu(self) -> float:
        """The validation FVU at the end: what the grid compares."""
        return float(self.curve["validation_fvu"].iloc[-1])


def improvement(fvu: np.ndarray, plan: TrainingPlan) -> float:
    """By what share the validation FVU [look] fell from the last window but one to the last: what the rule looks at."""
    n = plan.patience // plan.check_every
    before, last = fvu[-2 * n : -n].mean(), fvu[-n:].mean()
    return float((before - last) / before)


@torch.sparse.check_sparse_tensor_invariants(False)  # said aloud, or PyTorch warns on the reader's page
def train(stream: Stream, validation: Stream, plan: TrainingPlan, lr: float, seed: int) -> Trained:
    """Train one TopK SAE on a stream for the plan's steps.

    Rows are centred and divided by one number before they reach the SAE, so that learning rates mean the same for every
    target; the returned SAE undoes that and works in the target's own units.

    Raises
    ------
    ValueError
        If the stream has fewer rows than a batch, does not vary, or the loss is no longer finite.
    """
    like = moments(stream)
    device = next(stream.blocks(1))[1].device
    trainer = _trainer(len(like.mean), plan, lr, seed, device)
    held_out = like.standardise(torch.cat([rows for _, rows in validation.blocks(plan.batch)]))
    batches = stream.batches(plan.batch, seed)
    looks: list[dict[str, float]] = []
    recent: list[float] = []
    end = plan.max_steps + plan.cool_down
    for step in tqdm(range(1, end + 1), desc=f"SAE, lr {lr:g}, seed {seed}", unit="step", leave=False):
        if step > plan.max_steps:
            set_rate(trainer, lr * (end + 1 - step) / (plan.cool_down + 1))
        recent.append(_step(trainer, like.standardise(next(batches))))
        if step % plan.check_every and step != end:
            continue
        looks.append({"step": step, "train_fvu": float(np.mean(recent)), "validation_fvu": fvu(trainer.sae, held_out)})
        recent = []
        if not np.isfinite(looks[-1]["train_fvu"]):
            raise ValueError(
                f"the loss is no longer finite at step {step} with learning rate {lr:g}; use a smaller one"
            )
    curve = pd.DataFrame(looks)
    full_rate = curve["validation_fvu"][curve["step"] <= plan.max_steps].to_numpy()
    return Trained(inference_arrays(trainer.sae, like), curve, improvement(full_rate, plan))


def set_rate(trainer: SAETrainer[Any, Any], lr: float) -> None:
    """The learning rate of the next step, whatever the trainer's own schedule says."""
    for group in trainer.optimizer.param_groups:
        group["lr"] = lr


def _trainer(d_in: int, plan: TrainingPlan, lr: float, seed: int, device: torch.device) -> SAETrainer[Any, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = TopKTrainingSAEConfig(
            d_in=d_in, d_sae=plan.d_sae, k=plan.k, apply_b_dec_to_input=False, device=str(device)
        )
        sae = SparseTopKTrainingSAE(config)
    steps = SAETrainerConfig(
        total_training_samples=plan.max_steps * plan.batch,
        train_batch_size_samples=plan.batch,
        lr=lr,
        lr_end=lr,
        lr_warm_up_steps=plan.warm_up,
        dead_feature_window=200,
        device=str(device),
    )
    return SAETrainer(cfg=steps, sae=sae.to(device), data_provider=iter(()))


def _step(trainer: SAETrainer[Any, Any], batch: Float[Tensor, "row d"]) -> float:
    """One step of SAELens' trainer; the FVU of the batch before it."""
    output = trainer.step(batch)
    trainer.n_training_steps += 1
    residual = (output.sae_out.detach() - batch).square().sum()
    return float(residual / (batch - batch.mean(0)).square().sum())


@torch.no_grad()
def fvu(sae: Any, rows: Float[Tensor, "row d"]) -> float:
    """Σ‖y − Sae(y)‖² / Σ‖y − ȳ‖² over the rows."""
    sae.eval()
    return float((rows - sae(rows)).square().sum() / (rows - rows.mean(0)).square().sum())


@torch.no_grad()
def inference_arrays(sae: SparseTopKTrainingSAE, like: MeanCovariance) -> Arrays:
    """Weights of the inference SAE in the target's own units, decoder rows of unit norm.

    With y' = (y − mean)/scale, the latents y' W_enc + b_enc become those of y, scale times as large, for
    b_enc → scale · b_enc − mean · W_enc and b_dec → scale · b_dec + mean: TopK commutes with a positive factor.
    """
    norm, scale, mean = sae.W_dec.norm(dim=-1), like.scale, like.mean.to(sae.W_dec.device, sae.W_dec.dtype)
    tensors = {
        "W_enc": sae.W_enc * norm,
        "b_enc": (sae.b_enc * scale - mean @ sae.W_enc) * norm,
        "W_dec": sae.W_dec / norm[:, None],
        "b_dec": sae.b_dec * scale + mean,
    }
    return {name: tensor.float().cpu().numpy() for name, tensor in tensors.items()}


def inference_sae(arrays: Mapping[str, np.ndarray], k: int, device: torch.device | str = "cpu") -> TopKSAE:
    """The SAE that `inference_arrays` describes."""
    d_sae, d_in = arrays["W_dec"].shape
    sae = TopKSAE(TopKSAEConfig(d_in=d_in, d_sae=d_sae, k=k, apply_b_dec_to_input=False, device=str(device)))
    sae.load_state_dict({name: torch.from_numpy(np.asarray(arrays[name], dtype=np.float32)) for name in arrays})
    return sae.to(device).eval().requires_grad_(False)
