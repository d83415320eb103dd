"""Which tokens fit and which evaluate, sums over held-out tokens per context, and intervals from resampling contexts.

Tokens of one context are not independent, so contexts are what a bootstrap draws. Every reported number is held out.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

log = logging.getLogger("dm_utils")
Sums = dict[str, Tensor]
ENOUGH_CONTEXTS = 30  # from here on percentile intervals cover 93 % or more
NOISE = 0.1  # how much of the residual may be noise of the fit before a warning


@dataclass(frozen=True)
class Estimate:
    """A held-out value with its 95 % interval; `note` says why when the value is undefined."""

    value: float
    low: float
    high: float
    note: str = ""

    def __str__(self) -> str:
        if self.note and math.isnan(self.value):
            return f"undefined: {self.note}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def __float__(self) -> float:
        return self.value

    def columns(self, name: str = "value") -> dict[str, float]:
        """The columns of a table that hold it: M, M_low, M_high for a metric M; value, low, high without a name."""
        return dict(zip(_columns(name), (self.value, self.low, self.high), strict=True))

    @classmethod
    def read(cls, row: Any, name: str = "value") -> Estimate:
        """The estimate that a row (of a data frame, or a mapping) holds in the columns of `columns`."""
        value, low, high = (float(row[column]) for column in _columns(name))
        return cls(value, low, high)

    def plain(self) -> list[Any]:
        """Value, low, high and note as JSON takes them: NaN is None."""
        return [None if math.isnan(v) else v for v in (self.value, self.low, self.high)] + [self.note]

    @classmethod
    def from_plain(cls, stored: Sequence[Any]) -> Estimate:
        """The estimate that `plain` wrote."""
        value, low, high = (math.nan if number is None else float(number) for number in stored[:3])
        return cls(value, low, high, *stored[3:])


def _columns(name: str) -> tuple[str, str, str]:
    return (name, "low", "high") if name == "value" else (name, f"{name}_low", f"{name}_high")


@dataclass(frozen=True)
class Split:
    """Which tokens fit a regression, and the context of each token.

    `fit` bool [token]; `group` int64 [token], values 0 … n_groups − 1. Tokens with `fit` false evaluate.
    """

    fit: Bool[Tensor, " token"]
    group: Int[Tensor, " token"]
    n_groups: int = field(init=False)

    def __post_init__(self) -> None:
        if self.fit.shape != self.group.shape or self.fit.dtype != torch.bool:
            raise ValueError(
                f"split: fit must be bool and as long as group; given {self.fit.dtype} {tuple(self.fit.shape)} "
                f"and group {tuple(self.group.shape)}"
            )
        held_out_groups = len(torch.unique(self.group[~self.fit]))
        if held_out_groups < 2:
            raise ValueError(
                f"split: {held_out_groups} context(s) hold out tokens; an interval needs at least 2. "
                "Give more contexts, or groups=None."
            )
        object.__setattr__(self, "n_groups", int(self.group.max()) + 1)

    @classmethod
    def random(
        cls,
        group: Int[Tensor, " token"],
        fit_fraction: float = 0.6075,
        seed: int = 0,
        by: str = "token",
    ) -> Split:
        """Draw the fitting tokens (paper: 150 k of 247 k tokens, 60.75 %), or whole contexts with by="context"."""
        if by not in ("token", "context"):
            raise ValueError(f"split_by is {by!r}; it must be 'token' or 'context'")
        if not 0 < fit_fraction < 1:
            raise ValueError(f"fit_fraction is {fit_fraction}; it must lie strictly between 0 and 1")
        generator = torch.Generator().manual_seed(seed)
        group = group.cpu().long()
        units = len(group) if by == "token" else int(group.max()) + 1
        chosen = torch.zeros(units, dtype=torch.bool)
        chosen[torch.randperm(units, generator=generator)[: round(fit_fraction * units)]] = True
        return cls(fit=chosen if by == "token" else chosen[group], group=group)


def runs(n_tokens: int, n_runs: int = 500) -> Int[Tensor, " token"]:
    """Group tokens of unknown context into contiguous runs, so that resampling respects their order."""
    return torch.arange(n_tokens) * min(n_runs, n_tokens) // n_tokens


def check_finite(values: Tensor, what: str) -> None:
    """Refuse NaN and Inf, naming what holds them."""
    if values.numel() == 0 or torch.isfinite(torch.stack(torch.aminmax(values))).all():  # NaN passes into both
        return
    bad = ~torch.isfinite(values)
    raise ValueError(f"{what}: {int(bad.sum())} of {bad.numel()} values are NaN or Inf")


def coverage(n_groups: int) -> float:
    """How often a percentile bootstrap over n groups covers the mean of a normal: P(|t_{n−1}| < 1.96 √((n−1)/n))."""
    from scipy.stats import t as student

    return float(2 * student.cdf(1.96 * math.sqrt((n_groups - 1) / n_groups), n_groups - 1) - 1)


def warn_if_few(split: Split, d: int, name: str) -> None:
    """Say in numbers what too few contexts do to intervals, and too few tokens to the values themselves.

    The noise of a fit of d coefficients to n tokens adds d/(n − d − 2) to the residual (x normal).
    """
    held_out, n_fit = len(torch.unique(split.group[~split.fit])), int(split.fit.sum())
    if held_out < ENOUGH_CONTEXTS:
        log.warning(
            "%s: %d contexts hold out tokens; 95 %% intervals from so few cover the truth about %.0f %% of the time. "
            "Give %d contexts or more, or ask for interval = 'fit'",
            *(name, held_out, 100 * coverage(held_out), 2 * ENOUGH_CONTEXTS),
        )
    spare = n_fit - d - 2
    if d > NOISE * spare:
        log.warning(
            "%s: %d tokens fit %d coefficients; the noise of the fit alone raises what is left unexplained %s, and lowers R². "
            "Give %d fitting tokens or more",
            *(name, n_fit, d, f"by about {100 * d / spare:.0f} %" if spare > 0 else "without bound", 11 * d + 2),
        )


class HeldOutSums:
    """Sums over held-out tokens with one float64 row per context: all that a bootstrap needs."""

    def __init__(self, split: Split):
        self.split = split
        self.totals: Sums = {}

    def add(self, rows: slice, **columns: Tensor) -> None:
        """Add the block `rows` of per-token columns, each [token] or [token, d]."""
        held_out = self.held_out(rows)
        self.add_held_out(rows, **{name: column[held_out.to(column.device)] for name, column in columns.items()})

    def held_out(self, rows: slice) -> Int[Tensor, " held"]:
        """Which tokens of a block are held out, by their place in it."""
        return (~self.split.fit[rows]).nonzero().squeeze(1)

    def add_held_out(self, rows: slice, **columns: Tensor) -> None:
        """Add columns that hold only the held-out tokens of the block `rows`."""
        local, index = torch.unique(self.split.group[rows][self.held_out(rows)], return_inverse=True)
        for name, column in {"n": torch.ones(len(index)), **columns}.items():
            values = column if column.ndim == 2 else column[:, None]
            exact = values.dtype if values.device.type == "mps" else torch.float64
            sums = torch.zeros(len(local), values.shape[1], dtype=exact, device=values.device)
            sums.index_add_(0, index.to(values.device), values.to(exact))
            total = self.totals.setdefault(
                name,
                torch.zeros(self.split.n_groups, values.shape[1], dtype=torch.float64),
            )
            total[local] += sums.cpu().double()


class Bootstrap:
    """Context sums, observed and resampled once, from which any statistic gets its interval.

    `sums` maps names to float64 [context, ...] and includes n. A statistic takes the same names summed over the
    (re)sampled contexts, [draw, ...], and returns [draw]. The fit is held fixed: the interval is that of the
    held-out value of the fitted map.
    """

    def __init__(self, sums: Sums, n_bootstrap: int = 1000, seed: int = 0):
        used = sums["n"][:, 0] > 0
        n_groups = int(used.sum())
        weights = resampling_weights(n_groups, n_bootstrap, seed)
        self.observed = {name: total[used].sum(0, keepdim=True) for name, total in sums.items()}
        self.draws = {name: weights @ total[used] for name, total in sums.items()}

    def estimate(self, statistic: Callable[[Sums], Tensor], note: str = "it does not vary") -> Estimate:
        """The statistic and its 95 % percentile interval; `note` says why it may be undefined."""
        value = float(statistic(self.observed))
        if math.isnan(value):
            return Estimate(math.nan, math.nan, math.nan, note)
        quantiles = torch.tensor([0.025, 0.975], dtype=torch.float64)
        low, high = torch.nanquantile(statistic(self.draws), quantiles).tolist()
        return Estimate(value, low, high)


@lru_cache(maxsize=4)
def resampling_weights(n_groups: int, n_bootstrap: int, seed: int) -> Float[Tensor, "draw group"]:
    """How often each draw of a bootstrap holds each group, float64."""
    uniform = np.full(n_groups, 1 / n_groups)
    return torch.from_numpy(np.random.default_rng(seed).multinomial(n_groups, uniform, size=n_bootstrap)).double()


def r2_per_dimension(sums: Sums, floor: Tensor | float = 0.0) -> Float[Tensor, "draw d"]:
    """R² = 1 − RSS/TSS of each dimension; NaN where the variance TSS/n does not exceed `floor`.

    `sums` holds n, and per dimension y and y2 (the target and its square, shifted to be near zero mean) and
    residual2.
    """
    tss = sums["y2"] - sums["y"] ** 2 / sums["n"]
    return torch.where(tss > floor * sums["n"], 1 - sums["residual2"] / tss, torch.nan)


def r2_mean(sums: Sums, floor: Tensor | float = 0.0) -> Float[Tensor, " draw"]:
    """Unweighted mean over dimensions of the R² of each (the paper's definition for vectors)."""
    return r2_per_dimension(sums, floor).nanmean(-1)


def r2_weighted(sums: Sums, floor: Tensor | float = 0.0) -> Float[Tensor, " draw"]:
    """1 − ΣRSS/ΣTSS: the R² of each dimension weighted by its variance."""
    tss = (sums["y2"] - sums["y"] ** 2 / sums["n"]).sum(-1)
    varies = tss > sums["n"][..., 0] * torch.as_tensor(floor).sum()
    return torch.where(varies, 1 - sums["residual2"].sum(-1) / tss, torch.nan)


def held_out_mean(values: Float[Tensor, " token"], split: Split, n_bootstrap: int = 1000, seed: int = 0) -> Estimate:
    """Mean of a per-token value over held-out tokens, with its interval over contexts."""
    held_out, columns = ~split.fit, torch.stack([torch.ones_like(values), values], 1).double()
    check_finite(columns, "values")
    sums = torch.zeros(split.n_groups, 2, dtype=torch.float64)
    sums.index_add_(0, split.group[held_out], columns[held_out])
    resampled = Bootstrap({"n": sums[:, :1], "value": sums[:, 1:]}, n_bootstrap, seed)
    return resampled.estimate(lambda s: s["value"][:, 0] / s["n"][:, 0])
