"""What a grid of planted noises gave back: each estimate with its interval, Table 1's correlations, and slopes (App. C.3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dm_utils.maths.regression import factorise
from dm_utils.maths.resampling import Estimate


@dataclass(frozen=True)
class Recovery:
    """Recovered amounts over the grid of a plan, with every bootstrap draw.

    ``cells`` has one row per (noise_x, masked, noise_sae); ``draws`` maps "error" and "nonlinear" to [1 + draw, cell], the
    observed value first, in units of the variance of x'.
    """

    cells: pd.DataFrame
    draws: dict[str, Float[Tensor, "draw cell"]] = field(repr=False)

    def select(self, name: str, rows: Bool[Tensor, " cell"]) -> Float[Tensor, "draw cell"]:
        """Draws of an estimate ("error", "nonlinear", "introduced", "dense") for the chosen cells."""
        values = self.draws["nonlinear"] if name in ("nonlinear", "introduced") else self.draws["error"]
        return (values - self.draws["nonlinear"] if name == "dense" else values)[:, rows]

    def at(self, masked: float) -> Bool[Tensor, " cell"]:
        """The cells of one masked fraction. Raises ``ValueError`` if the plan has no such fraction."""
        rows = torch.from_numpy((self.cells["masked"] == masked).to_numpy(copy=True))
        if not rows.any():
            raise ValueError(f"masked = {masked}: this plan has {sorted(self.cells['masked'].unique().tolist())}.")
        return rows

    def table(self) -> pd.DataFrame:
        """The grid with each estimate and its interval: error, nonlinear (Introduced), dense (the gap)."""
        found = self.cells.copy()
        everything = torch.ones(len(found), dtype=torch.bool)
        for name in ("error", "nonlinear", "dense"):
            for side, values in zip(("", "_low", "_high"), summarise(self.select(name, everything)), strict=True):
                found[name + side] = values.numpy()
        return found


def summarise(draws: Float[Tensor, "draw ..."]) -> tuple[Tensor, Tensor, Tensor]:
    """Observed value, low and high end of the 95 % interval from draws whose first row is the observed value."""
    quantiles = torch.quantile(draws[1:], torch.tensor([0.025, 0.975], dtype=draws.dtype), dim=0)
    return draws[0], quantiles[0], quantiles[1]


def as_estimate(draws: Float[Tensor, " draw"]) -> Estimate:
    """One statistic's draws, observed value first, as an estimate."""
    value, low, high = (float(v) for v in summarise(draws))
    return Estimate(value, low, high)


def correlations(recovery: Recovery, masked: float = 0.0) -> dict[tuple[str, str], Estimate]:
    """Table 1: correlation over noise levels of each planted amount with each estimate, at one masked fraction.

    Returns
    -------
    dict
        (noise, estimate) with noise in {"noise_x", "noise_sae"} and estimate in {"dense", "introduced"}. A noise with one
        level only has no correlation and is left out.
    """
    rows = recovery.at(masked)
    found = {}
    for noise, name in product(("noise_x", "noise_sae"), ("dense", "introduced")):
        planted = torch.from_numpy(recovery.cells.loc[rows.numpy(), noise].to_numpy(copy=True))
        if planted.max() > planted.min():
            found[noise, name] = as_estimate(_correlate(recovery.select(name, rows), planted))
    return found


def _correlate(values: Float[Tensor, "draw cell"], planted: Float[Tensor, " cell"]) -> Float[Tensor, " draw"]:
    a, b = values - values.mean(1, keepdim=True), planted - planted.mean()
    return (a * b).sum(1) / (a.square().sum(1) * b.square().sum()).sqrt()


def shares(recovery: Recovery, masked: float = 0.0) -> dict[tuple[str, str], Estimate]:
    """How much each estimate rises per unit of planted noise (1 and 0 would be perfect), at one masked fraction.

    Least-squares slopes on both planted levels at once; keys as in :func:`correlations`.
    """
    rows = recovery.at(masked)
    levels = torch.from_numpy(recovery.cells.loc[rows.numpy(), ["noise_x", "noise_sae"]].to_numpy(copy=True))
    varying = levels.amax(0) > levels.amin(0)
    design = torch.cat([levels[:, varying], torch.ones(len(levels), 1, dtype=levels.dtype)], 1)
    _, solve = factorise(design.T @ design)
    found: dict[tuple[str, str], Estimate] = {}
    for name in ("dense", "introduced"):
        slopes = solve(design.T @ recovery.select(name, rows).T)
        names = [noise for noise, varies in zip(("noise_x", "noise_sae"), varying, strict=True) if varies]
        found |= {(noise, name): as_estimate(slopes[i]) for i, noise in enumerate(names)}
    return found


def found_share(recovery: Recovery, level: float) -> Estimate:
    """Rise of the linear part from no noise to noise of one level on x', per unit planted; nothing else planted or masked."""
    cells = recovery.cells
    here = (cells["masked"] == 0) & (cells["noise_sae"] == 0)
    dense = [
        recovery.select("dense", torch.from_numpy((here & (cells["noise_x"] == v)).to_numpy(copy=True)))
        for v in (level, 0)
    ]
    if level <= 0 or not all(values.shape[1] for values in dense):
        raise ValueError(f"level = {level}: the plan needs this level of noise on x′ and 0, with nothing else planted.")
    return as_estimate((dense[0] - dense[1])[:, 0] / level)
