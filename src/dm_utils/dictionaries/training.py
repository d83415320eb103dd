"""The one training loop of every dictionary: data, normalisation, schedule, revival of dead latents, checkpoints.

A method is a SAELens `TrainingSAE`: its forward pass gives its loss. What methods share stands here, so that a comparison of
methods compares nothing else. A run is determined by its seed; killed, it goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Float16
from sae_lens.saes.sae import TrainCoefficientConfig, TrainingSAE, TrainStepInput
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from dm_utils.maths.noise import variance


@dataclass(frozen=True)
class Plan:
    """How a dictionary is trained: Adam, a linear warm-up, and a linear decay to zero over the last share of the steps.

    A latent that was silent for `dead_after` steps is dead. Methods whose loss does not revive them get it from the loop: every
    `revive_every` steps, until the share `revive_until` of the steps, dead latents are pointed at what the dictionary misses.
    """

    steps: int = 1000
    batch: int = 2048
    lr: float = 2.5e-3
    warm_up: int = 40
    decay: float = 0.5
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    dead_after: int = 150
    revive_every: int = 50
    revive_until: float = 0.75
    checkpoint_every: int = 100
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rising = min(1.0, (step + 1) / self.warm_up) if self.warm_up else 1.0
        return self.lr * rising * min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))


class Activations:
    """What a dictionary trains on: float16 [token, d], memory-mapped or not, drawn in a seeded order that each pass draws anew.

    Parameters
    ----------
    x : activations.
    gradients : of the model's loss at the same tokens, for methods that read them.

    Raises ValueError for gradients of another shape, or activations that do not vary.
    """

    def __init__(self, x: Float16[Tensor, "token d"], gradients: Float16[Tensor, "token d"] | None = None):
        if gradients is not None and gradients.shape != x.shape:
            raise ValueError(f"gradients are {tuple(gradients.shape)} for activations {tuple(x.shape)}")
        self.x, self.gradients = x, gradients
        sample = x[:: max(1, len(x) // 200_000)].double()
        self.mean = sample.mean(0).float()
        spread = variance(sample)
        if not spread > 0:
            raise ValueError("the activations do not vary (or are not finite); there is nothing to learn from them")
        self.scale = (x.shape[1] / spread) ** 0.5

    def batches(self, size: int, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Endless batches from the `first` on: scaled to unit variance per dimension on average, and their gradients."""
        per_pass = len(self.x) // size
        if not per_pass:
            raise ValueError(f"a batch of {size} tokens was asked for; there are {len(self.x)}")
        number, order = -1, torch.empty(0, dtype=torch.int64)
        while True:
            if first // per_pass != number:
                number = first // per_pass
                order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed * 1000 + number))
            start = first % per_pass * size
            rows = order[start : start + size].sort().values  # sorted: a memory map is read forwards
            gradients = None if self.gradients is None else self.gradients[rows].float()
            yield self.x[rows].float() * self.scale, gradients
            first += 1


def fit(
    sae: TrainingSAE[Any], data: Activations, plan: Plan, folder: Path | None = None, revive: bool = False
) -> float:
    """Train a SAELens `TrainingSAE` in place, into the activations' own units; the processor seconds it took, before kills too.

    Parameters
    ----------
    sae : its decoder bias starts at the mean of the data, its encoder bias cancels that.
    folder : for checkpoints; training goes on from the one that it holds.
    revive : whether the loop points dead latents at residuals (methods whose loss does not revive them).

    Raises
    ------
    FloatingPointError : the loss is not finite; names the step and the learning rate.
    ValueError : the folder holds the checkpoint of another plan.
    """
    centre(sae, data.mean * data.scale)
    optimizer = torch.optim.Adam(sae.parameters(), lr=plan.lr, betas=plan.betas, fused=True)
    silent = torch.zeros(sae.cfg.d_sae)
    first, spent = (0, 0.0) if folder is None else load_checkpoint(folder, sae, optimizer, silent, plan)
    begun = time.process_time() - spent
    batches = data.batches(plan.batch, plan.seed, first)
    sae.train()
    for step in tqdm(range(first, plan.steps), initial=first, total=plan.steps, desc=str(sae.cfg.architecture())):
        x, gradients = next(batches)
        _step(sae, optimizer, x, gradients, silent, plan, step, revive)
        done = step + 1
        if folder is not None and done % plan.checkpoint_every == 0 and done < plan.steps:
            save_checkpoint(folder, sae, optimizer, silent, plan, done, time.process_time() - begun)
    sae.fold_activation_norm_scaling_factor(data.scale)
    for name, value in sae.named_parameters():
        if not torch.isfinite(value).all():
            raise FloatingPointError(
                f"{sae.cfg.architecture()}: {name} is not finite after training; lower lr ({plan.lr:g})"
            )
    sae.eval()
    return time.process_time() - begun


@torch.sparse.check_sparse_tensor_invariants(False)  # said aloud, or PyTorch warns
def _step(
    sae: Any, optimizer: Any, x: Tensor, gradients: Tensor | None, silent: Tensor, plan: Plan, step: int, revive: bool
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = plan.rate(step)
    sae.loss_gradients = gradients
    dead = silent > plan.dead_after
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed * 1_000_003 + step)  # a step's noise is the same after a kill
        given = TrainStepInput(x, coefficients(sae, step), dead, step, is_logging_step=False)
        output = sae.training_forward_pass(given)
        if not torch.isfinite(output.loss):
            raise FloatingPointError(
                f"{sae.cfg.architecture()}: the loss is {float(output.loss.detach())} at step {step}, with lr {plan.rate(step):g}; lower lr"
            )
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), plan.clip)
        optimizer.step()
        if revive and step and step % plan.revive_every == 0 and step < plan.revive_until * plan.steps:
            point_at_residuals(sae, x, x - output.sae_out.detach(), dead)
            silent[dead] = 0
    fired = output.feature_acts.detach()
    fired = fired.coalesce().indices()[1].unique() if fired.is_sparse else fired.any(0)
    silent += 1
    silent[fired] = 0


def coefficients(sae: TrainingSAE[Any], step: int) -> dict[str, float]:
    """The coefficients of a method's loss at a step, each risen linearly over its own warm-up."""
    found = {}
    for name, given in sae.get_coefficients().items():
        given = given if isinstance(given, TrainCoefficientConfig) else TrainCoefficientConfig(given, 0)
        found[name] = given.value * min(1.0, (step + 1) / given.warm_up_steps) if given.warm_up_steps else given.value
    return found


@torch.no_grad()
def centre(sae: Any, mean: Float[Tensor, " d"]) -> None:
    """Start the decoder bias at the mean, and let the encoder's biases cancel it where the input is not centred."""
    sae.b_dec.copy_(mean)
    if not sae.cfg.apply_b_dec_to_input:
        for name in ("b_enc", "b_gate", "b_mag"):
            if isinstance(bias := getattr(sae, name, None), Tensor):
                bias.copy_(-mean @ sae.W_enc)


@torch.no_grad()
def point_at_residuals(sae: Any, x: Tensor, residual: Tensor, dead: Bool[Tensor, " latent"], gain: float = 0.6) -> None:
    """Give dead latents the directions of residuals [token, d], drawn in proportion to their squared length.

    At most one in four tokens of the batch at a time; biases put the latent's zero at the decoder bias, as `centre` does.
    """
    silent = dead.nonzero().flatten()[: len(x) // 4]
    if not len(silent):
        return
    tokens = torch.multinomial(residual.square().sum(1), len(silent), replacement=False)
    directions = functional.normalize(residual[tokens], dim=1)
    sae.W_dec.data[silent] = directions
    if "W_enc" not in sae._parameters:
        return  # tied: the decoder is all there is
    sae.W_enc.data[:, silent] = gain * directions.T
    for name in ("b_enc", "b_gate", "b_mag"):
        if name in sae._parameters:
            sae._parameters[name].data[silent] = -gain * directions @ sae.b_dec
    if "r_mag" in sae._parameters:
        sae.r_mag.data[silent] = 0.0


def save_checkpoint(
    folder: Path, sae: Any, optimizer: Any, silent: Tensor, plan: Plan, step: int, spent: float
) -> None:
    """Write the weights and the optimiser's state, in one file that appears whole or not at all."""
    tensors = {f"sae.{name}": value for name, value in sae.state_dict().items()}
    for name, parameter in sae.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"adam.{key}.{name}"] = value
    header = {"step": str(step), "spent": str(spent), "plan": json.dumps(asdict(plan))}
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "checkpoint.tmp"
    save_file(
        {name: value.detach().contiguous().clone() for name, value in (tensors | {"silent": silent}).items()},
        temporary,
        header,
    )
    os.replace(temporary, folder / "checkpoint.safetensors")


def load_checkpoint(folder: Path, sae: Any, optimizer: Any, silent: Tensor, plan: Plan) -> tuple[int, float]:
    """Take up a folder's checkpoint, if it has one; how many steps are done, and what they took."""
    from safetensors import safe_open

    file = folder / "checkpoint.safetensors"
    if not file.exists():
        return 0, 0.0
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    if json.loads(header["plan"]) != json.loads(json.dumps(asdict(plan))):
        raise ValueError(f"{file} belongs to another plan: {header['plan']}; remove it, or give that plan")
    tensors = load_file(file)
    sae.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("sae.")})
    for name, parameter in sae.named_parameters():
        keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"adam.{key}.{name}" in tensors]
        if keys:
            optimizer.state[parameter] = {key: tensors[f"adam.{key}.{name}"] for key in keys}
    silent.copy_(tensors["silent"])
    return int(header["step"]), float(header["spent"])
