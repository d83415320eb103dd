"""Features in a plane, and a dictionary whose first atom is tilted: the error that this introduces, and how much of it is linear."""

from __future__ import annotations

import math

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

FEATURES = {
    "two features at a right angle": (0.0, 90.0),
    "two features at 60°": (0.0, 60.0),
    "three features in the plane": (0.0, 60.0, 120.0),
}  # angles in degrees
RATE, SAMPLE = 0.4, 20_000  # how often a feature is active; tokens that the map is fitted on


def draw(angles: tuple[float, ...], n: int = SAMPLE, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit features at these angles, active independently, with weights 0.3 + exponential: x [n, 2] and the weights [n, feature]."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in angles], dtype=torch.float64)
    active = torch.rand(n, len(y), generator=generator, dtype=torch.float64) < RATE
    size = 0.3 - torch.rand(n, len(y), generator=generator, dtype=torch.float64).clamp_min(1e-12).log()
    weights = active * size
    return weights @ y, weights


def tilted_error(weights: Float[Tensor, "token feature"], degrees: float) -> Float[Tensor, "token 2"]:
    """SaeError where the SAE knows every weight, and its atom for the first feature is turned by some degrees: w₁ (y₁ − ŷ₁)."""
    turned = math.radians(degrees)
    return weights[:, :1] * torch.tensor([[1 - math.cos(turned), -math.sin(turned)]], dtype=weights.dtype)


def tokens(n_shown: int = 70) -> pd.DataFrame:
    """For each set of features some tokens: `case, x1, x2, weight` (of the first feature), `linear` (its best affine prediction from x),
    and of all tokens drawn `r2` (of that prediction) and `scale` (the mean of w₁² over the variance of x).
    """
    parts = []
    for case, angles in FEATURES.items():
        x, weights = draw(angles)
        first, design = weights[:, 0], torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
        linear = design @ torch.linalg.lstsq(design, first).solution
        r2 = 1 - float((first - linear).square().sum() / (first - first.mean()).square().sum())
        scale = float(first.square().mean() / x.var(0, correction=0).sum())
        columns = {"x1": x[:, 0], "x2": x[:, 1], "weight": first, "linear": linear}
        some = {name: values[:n_shown].numpy().round(4) for name, values in columns.items()}
        parts.append(pd.DataFrame(some).assign(case=case, r2=r2, scale=scale))
    return pd.concat(parts, ignore_index=True)
