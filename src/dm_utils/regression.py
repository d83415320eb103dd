"""Affine least squares with one factorisation per design, and intervals for what it predicts.

Everything here is tensors: no model, no file, no plot. A *design* is the matrix of regressors, X in R^{N x d}.
Its second moments are accumulated in float64 about its mean and factorised once; each target then costs one
cross product and one triangular solve. Every reported number is held out, and its interval comes from
resampling the held-out *contexts* (groups of tokens), because tokens of one context are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLOCK = 8192
Sums = dict[str, Tensor]


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
    bad = ~torch.isfinite(values)
    if bad.any():
        raise ValueError(f"{what}: {int(bad.sum())} of {bad.numel()} values are NaN or Inf")


class HeldOutSums:
    """Sums over held-out tokens with one float64 row per context: all that a bootstrap needs."""

    def __init__(self, split: Split):
        self.split = split
        self.totals: Sums = {}

    def add(self, rows: slice, **columns: Tensor) -> None:
        """Add the block `rows` of per-token columns, each [token] or [token, d]."""
        held_out = ~self.split.fit[rows]
        local, index = torch.unique(self.split.group[rows][held_out], return_inverse=True)
        for name, column in {"n": held_out.double(), **columns}.items():
            values = column[held_out.to(column.device)]
            values = values if values.ndim == 2 else values[:, None]
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


@dataclass(frozen=True)
class AffineMap:
    """x ↦ x · coef + intercept; coef [d, target], intercept [target]."""

    coef: Float[Tensor, "d target"]
    intercept: Float[Tensor, " target"]

    def __call__(self, x: Float[Tensor, "token d"]) -> Float[Tensor, "token target"]:
        coef, intercept = (
            self.coef.to(x.device, x.dtype),
            self.intercept.to(x.device, x.dtype),
        )
        return torch.addmm(intercept, x, coef)


class Design:
    """The regressors of one site, their moments accumulated and factorised once for every target.

    Solves min_{B,c} Σ_fit ‖y − xB − c‖² (Eqs. 10 and 11 with the intercept the paper mentions) from
    G = Σ (x − x̄)ᵀ(x − x̄): Cholesky where G is well conditioned, else its eigenvalue pseudo-inverse. `rank` is
    the numerical rank of G. x [token, d] may sit on any device or be memory-mapped; blocks move to `device`.
    """

    def __init__(
        self,
        x: Float[Tensor, "token d"],
        split: Split,
        *,
        intercept: bool = True,
        block: int = BLOCK,
        device: torch.device | str | None = None,
        name: str = "x",
    ):
        if x.ndim != 2 or not x.is_floating_point():
            raise ValueError(f"{name} must be a floating-point [token, d] tensor; given {x.dtype} {tuple(x.shape)}")
        n_fit = int(split.fit.sum())
        if len(x) != len(split.fit):
            raise ValueError(f"{name} has {len(x)} tokens, the split has {len(split.fit)}")
        if n_fit <= x.shape[1] + intercept:
            raise ValueError(
                f"{name}: {n_fit} fitting tokens cannot determine {x.shape[1]} coefficients; "
                "give more contexts or a larger fit_fraction"
            )
        self.x, self.split, self.intercept, self.block, self.name = (
            x,
            split,
            intercept,
            block,
            name,
        )
        self.device = torch.device(device or x.device)
        self._exact = torch.float64 if self.device.type == "cpu" else x.dtype
        self.mean, gram = self._moments()
        self.rank, self._solve = factorise(gram)

    def __len__(self) -> int:
        return len(self.x)

    def blocks(self) -> Iterator[tuple[slice, Float[Tensor, "token d"]]]:
        """Walk through the tokens in order, `block` at a time, on the compute device."""
        for start in range(0, len(self.x), self.block):
            rows = slice(start, min(start + self.block, len(self.x)))
            yield rows, self.x[rows].to(self.device)

    def _moments(self) -> tuple[Tensor, Tensor]:
        d = self.x.shape[1]
        mean, gram = (
            torch.zeros(d, dtype=torch.float64),
            torch.zeros(d, d, dtype=torch.float64),
        )
        for rows, x in self.blocks():
            check_finite(x, f"{self.name}, tokens {rows.start} to {rows.stop - 1}")
            mean += x[self.split.fit[rows].to(x.device)].sum(0, dtype=self._exact).cpu().double()
        mean = mean / self.split.fit.sum() if self.intercept else torch.zeros_like(mean)
        for rows, x in self.blocks():
            centred = self._centred(x[self.split.fit[rows].to(x.device)], mean)
            gram += (centred.T @ centred).cpu().double()
        return mean, gram

    def _centred(self, x: Tensor, mean: Tensor) -> Tensor:
        return x.to(self._exact) - mean.to(x.device, self._exact)

    def fit_map(self, target: Callable[[slice, Tensor], Float[Tensor, "token target"]]) -> AffineMap:
        """Fit the affine map from x to `target(rows, x_block)`, reading each block once."""
        cross, y_sum = None, None
        for rows, x in self.blocks():
            y = target(rows, x)
            check_finite(y, f"target of {self.name}, tokens {rows.start} to {rows.stop - 1}")
            fit = self.split.fit[rows].to(x.device)
            y = y[fit].to(self._exact)
            if cross is None or y_sum is None:
                cross = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64)
                y_sum = torch.zeros(y.shape[1], dtype=torch.float64)
            cross += (self._centred(x[fit], self.mean).T @ y).cpu().double()
            y_sum += y.sum(0).cpu().double()
        if cross is None or y_sum is None:
            raise ValueError(f"{self.name} holds no tokens")
        coef = self._solve(cross)
        y_mean = y_sum / self.split.fit.sum() if self.intercept else torch.zeros_like(y_sum)
        return AffineMap(coef, y_mean - self.mean @ coef)

    def probe(
        self,
        targets: Float[Tensor, "token target"],
        n_bootstrap: int = 1000,
        seed: int = 0,
    ) -> list[Probe]:
        """Predict each scalar column of `targets` from x and report its held-out R² (Eq. 10)."""
        targets = targets.double()
        scale = targets.abs().amax(0).clamp_min(torch.finfo(torch.float64).tiny)
        affine = self.fit_map(lambda rows, x: (targets[rows] / scale).to(x.device))
        affine = AffineMap(affine.coef * scale, affine.intercept * scale)
        prediction = torch.cat([affine(x.to(self._exact)).cpu().double() for _, x in self.blocks()])
        return [
            Probe(
                r2_of_prediction(targets[:, i], prediction[:, i], self.split, n_bootstrap, seed),
                affine.coef[:, i],
                float(affine.intercept[i]),
                prediction[:, i],
            )
            for i in range(targets.shape[1])
        ]


@dataclass(frozen=True)
class Probe:
    """A scalar predicted from a design: held-out R², the probe a* (Eq. 10) and its prediction [token]."""

    r2: Estimate
    coef: Float[Tensor, " d"]
    intercept: float
    prediction: Float[Tensor, " token"]


def probe(
    x: Float[Tensor, "token d"],
    y: Float[Tensor, " token"],
    split: Split,
    *,
    intercept: bool = True,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Probe:
    """Predict one scalar per token from x, by least squares on the fitting tokens (Eq. 10)."""
    x = x if x.ndim == 2 else x[:, None]
    return Design(x, split, intercept=intercept).probe(y[:, None], n_bootstrap, seed)[0]


def r2_of_prediction(
    y: Float[Tensor, " token"],
    prediction: Float[Tensor, " token"],
    split: Split,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Held-out R² = 1 − Σ(y − ŷ)² / Σ(y − ȳ)² of any prediction, with its interval."""
    check_finite(prediction, "prediction")
    y = y.double()
    centred = y - y.mean()
    if centred.abs().max() <= 1e-6 * y.abs().max():
        return Estimate(math.nan, math.nan, math.nan, "the target is the same for every token")
    sums = HeldOutSums(split)
    residual = y - prediction.double()
    sums.add(slice(0, len(y)), y=centred, y2=centred**2, residual2=residual**2)
    return Bootstrap(sums.totals, n_bootstrap, seed).estimate(r2_weighted)


def factorise(gram: Float[Tensor, "d d"]) -> tuple[int, Callable[[Tensor], Tensor]]:
    """Factorise a float64 Gram matrix; return its numerical rank and the solver b ↦ G⁺b.

    Columns are scaled to unit variance first, so that the rank does not depend on units.
    """
    d = len(gram)
    scale = gram.diagonal().sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    correlation = gram / scale / scale[:, None]
    tolerance = 64 * d * torch.finfo(torch.float64).eps
    lower, failed = torch.linalg.cholesky_ex(correlation)
    if not failed and lower.diagonal().min() ** 2 > tolerance:
        return (
            d,
            lambda b: torch.cholesky_solve(b / scale[:, None], lower) / scale[:, None],
        )
    values, vectors = torch.linalg.eigh(correlation)
    kept = values > tolerance * values.max().clamp_min(torch.finfo(torch.float64).tiny)
    half = vectors[:, kept] / values[kept].sqrt()
    return int(kept.sum()), lambda b: half @ (half.T @ (b / scale[:, None])) / scale[:, None]
