"""Small networks that predict what an affine map leaves of a vector: one hidden layer, early stopping, a known start."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dm_utils.maths.resampling import Split

RATE, BATCH = 3e-3, 512
VALIDATION = 1 / 6  # of the fitting contexts: they choose when to stop, and the best network
TOLERANCE = 1e-10  # of the largest variance: directions of x below it hold nothing but rounding


@dataclass(frozen=True)
class Network:
    """What a trained network predicts for every token, in the target's units; its size, and what it leaves of validation.

    `left` is Σ‖target − prediction‖² / Σ‖target‖² on the validation tokens, `epochs` that of the weights that were kept
    (0: no step helped, and it predicts zero).
    """

    prediction: Float[Tensor, "token target"]
    n_parameters: int
    left: float
    epochs: int


def validation_tokens(split: Split, seed: int = 0) -> Bool[Tensor, " token"]:
    """Tokens of a sixth of the contexts that fit, at least one: they train nothing. Raises ValueError where there is one only."""
    contexts = torch.unique(split.group[split.fit])
    if len(contexts) < 2:
        raise ValueError(
            f"{len(contexts)} fitting context(s); early stopping needs two or more: give more n_contexts or a larger fit_fraction"
        )
    chosen = torch.randperm(len(contexts), generator=torch.Generator().manual_seed(seed))
    kept = contexts[chosen[: max(1, round(VALIDATION * len(contexts)))]]
    return split.fit & torch.isin(split.group, kept)


def whitened(x: Float[Tensor, "token d"], fit: Bool[Tensor, " token"]) -> Float[Tensor, "token direction"]:
    """Uncorrelated coordinates of x of unit variance on the fitting tokens, so that no direction is small for being weak."""
    mean = x[fit].double().mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((x[fit].double() - mean).T, correction=0))
    kept = values > TOLERANCE * values.amax()
    turn = vectors[:, kept] / values[kept].sqrt()
    return (x - mean.to(x)) @ turn.to(x)


def train(
    z: Float[Tensor, "token d"],
    target: Float[Tensor, "token target"],
    split: Split,
    *,
    hidden: int,
    seed: int,
    max_epochs: int,
    device: torch.device | str = "cpu",
) -> Network:
    """Train z → `hidden` GELU units → target on the fitting tokens, and keep the epoch that predicts validation best.

    The last layer starts at zero, so training starts from predicting nothing, and a network that finds nothing stays there.
    """
    valid = validation_tokens(split)
    model = perceptron(z.shape[1], hidden, target.shape[1], seed).to(device)
    training, checking = ((split.fit & ~valid).nonzero()[:, 0], valid.nonzero()[:, 0])
    scale = target[training].square().mean().sqrt()
    goal = target / scale
    steps = max_epochs * math.ceil(len(training) / BATCH)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    whole = float(goal[checking].double().square().sum())
    least, best, epochs = whole, _weights(model), 0
    for epoch in range(1, max_epochs + 1):
        for rows in training[torch.randperm(len(training), generator=generator)].split(BATCH):
            loss = (model(z[rows].to(device)) - goal[rows].to(device)).square().sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        left = float((predict(model, z, checking, device) - goal[checking]).double().square().sum())
        if left < least:
            least, best, epochs = left, _weights(model), epoch
    model.load_state_dict(best)
    n_parameters = sum(weights.numel() for weights in model.parameters())
    everything = torch.arange(len(z))
    return Network(scale * predict(model, z, everything, device), n_parameters, least / whole, epochs)


def perceptron(d_in: int, hidden: int, d_out: int, seed: int) -> nn.Sequential:
    """One hidden layer of GELU units whose output starts at zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(d_in, hidden), nn.GELU(), nn.Linear(hidden, d_out))
    for weights in model[2].parameters():
        nn.init.zeros_(weights)
    return model


@torch.no_grad()
def predict(
    model: nn.Module, z: Float[Tensor, "token d"], rows: Int[Tensor, " row"], device: torch.device | str
) -> Float[Tensor, "row target"]:
    """The model's output on some tokens, a block at a time."""
    return torch.cat([model(z[some].to(device)).cpu() for some in rows.split(8192)])


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: values.detach().clone() for name, values in model.state_dict().items()}
