"""Affine least squares with one factorisation per design.

A *design* is the matrix of regressors, X in R^{N x d}. Its second moments are accumulated in float64 about its mean and
factorised once; each target then costs one cross product and one triangular solve.

A float32 target's cross product is summed in float32 over `CHUNK` tokens and in float64 between chunks. A chunk of m terms
errs like a random walk by about u m σ_x σ_y, u = 2⁻²⁴; over n tokens that is u √(mn) σ_x σ_y, a share u √m = 2e-6 of what
the same sum scatters by from sample to sample (σ_x σ_y √n). The Gram matrix, whose errors its inverse multiplies, is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums, Split, check_finite, r2_weighted, warn_if_few

BLOCK = 8192
CHUNK = 1024  # tokens whose products are summed in the target's own precision
RESIDENT = 4  # a design stays on its device if it takes at most one part in so many of the memory that is free there
COLUMNS = 512  # of a Gram matrix, multiplied at once
CPU_BYTES = 2**24  # of a block on a CPU: memory that is used again, where more would be mapped anew each time
SAMPLE = 512  # tokens whose median is the shift about which moments are summed


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
    the numerical rank of G. x [token, d] may sit on any device or be memory-mapped; blocks move to `device`, halves
    as float32 (`dtype`).

    Sums run over x − shift and y − shift, each shift near the mean, and are moved to the means afterwards. The shift of x
    is the median of some tokens, a value that x takes: x − shift is then exactly zero where a column is constant, however
    inexact its mean. A column that moves by less than rounding moves its mean, ε|x̄|, counts as constant.
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
        warn_if_few(split, x.shape[1], name)
        self.n_fit = n_fit
        self.dtype = torch.promote_types(x.dtype, torch.float32)
        self.device = torch.device(device or x.device)
        self._exact = product_dtype(self.device, self.dtype)
        self._near = resident(x, self.device, self.dtype)
        self.shift, self._sum = self._shift(), torch.zeros(x.shape[1], dtype=torch.float64)
        gram = self._moments()
        self.mean = self.shift + self._sum / n_fit
        rounding = torch.finfo(self.dtype).eps * self.mean.abs() if intercept else torch.zeros_like(self.mean)
        self.rank, self._solve = factorise(gram, n_fit * rounding**2)

    def __len__(self) -> int:
        return len(self.x)

    def blocks(self) -> Iterator[tuple[slice, Float[Tensor, "token d"]]]:
        """Walk through the tokens in order, at most `block` at a time, on the compute device, in `dtype`."""
        step = self.block
        if self.device.type == "cpu":
            step = min(step, max(1, CPU_BYTES // (self.dtype.itemsize * self.x.shape[1])))
        for start in range(0, len(self.x), step):
            rows = slice(start, min(start + step, len(self.x)))
            yield rows, self._near[rows].to(self.device, self.dtype)

    def _shift(self) -> Float[Tensor, " d"]:
        """Of each column, the median of some fitting tokens; zero without an intercept, where nothing is centred."""
        if not self.intercept:
            return torch.zeros(self.x.shape[1], dtype=torch.float64)
        fit = self.split.fit.nonzero()[:, 0]
        some = fit[:: max(1, len(fit) // SAMPLE)].to(self.x.device)
        check_finite(self.x[some], self.name)
        return self.x[some].cpu().double().median(0).values

    def _moments(self) -> Float[Tensor, "d d"]:
        """Σ_fit (x − x̄)ᵀ(x − x̄), in float64 on every device; `_sum` becomes Σ_fit (x − shift)."""
        d = self.x.shape[1]
        gram = torch.zeros(d, d, dtype=torch.float64)
        for rows, x in self.blocks():
            check_finite(x, f"{self.name}, tokens {rows.start} to {rows.stop - 1}")
            moved = self._moved(x[self.split.fit[rows].to(x.device)])
            moved = moved.double() if moved.device.type != "mps" else moved.cpu().double()
            self._sum += moved.sum(0).cpu()
            add_gram(gram, moved)
        gram = gram.tril() + gram.tril(-1).T
        return gram - torch.outer(self._sum, self._sum) / self.n_fit if self.intercept else gram

    def _moved(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        dtype = dtype or self._exact
        return x.to(dtype) - self.shift.to(x.device, dtype)

    def fit_map(self, target: Callable[[slice, Tensor], Float[Tensor, "token target"]]) -> AffineMap:
        """Fit the affine map from x to `target(rows, x_block)`, reading each block once."""
        cross, y_shift = torch.zeros(0), torch.zeros(0)
        y_sum = torch.zeros(0)
        for rows, x in self.blocks():
            y = target(rows, x)
            check_finite(y, f"target of {self.name}, tokens {rows.start} to {rows.stop - 1}")
            fit = self.split.fit[rows].nonzero().squeeze(1).to(x.device)
            if not len(fit):
                continue
            y = y.index_select(0, fit)
            y = y.to(self._exact if y.dtype == torch.float64 else self.dtype)
            if not len(cross):
                y_shift = y.mean(0) if self.intercept else torch.zeros_like(y[0])
                y_sum = torch.zeros(y.shape[1], dtype=torch.float64)
                cross = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64)
            y = y - y_shift
            cross += cross_product(self._moved(x.index_select(0, fit), y.dtype), y)
            y_sum += y.sum(0).cpu().double()
        if not self.intercept:
            return AffineMap(self._solve(cross), torch.zeros_like(y_sum))
        coef = self._solve(cross - torch.outer(self._sum, y_sum) / self.n_fit)
        return AffineMap(coef, y_shift.cpu().double() + y_sum / self.n_fit - self.mean @ coef)

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


def resident(x: Float[Tensor, "token d"], device: torch.device, dtype: torch.dtype) -> Float[Tensor, "token d"]:
    """x on a GPU, moved once for all passes of all SAEs, if there is room; else x as it is, so that blocks are moved."""
    if device.type != "cuda" or x.numel() * dtype.itemsize * RESIDENT > torch.cuda.mem_get_info(device)[0]:
        return x
    return x.to(device, dtype)


def add_gram(gram: Float[Tensor, "d d"], x: Float[Tensor, "token d"]) -> None:
    """Add xᵀx to the lower triangle of a matrix, in the precision of x: each block of columns times those up to it, half of the work."""
    for start in range(0, x.shape[1], COLUMNS):
        rows, upto = slice(start, start + COLUMNS), slice(0, start + COLUMNS)
        gram[rows, upto] += (x[:, rows].T @ x[:, upto]).cpu()


def cross_product(x: Float[Tensor, "token d"], y: Float[Tensor, "token target"]) -> Float[Tensor, "d target"]:
    """xᵀy in float64, from products in the precision of x and y over `CHUNK` tokens each (a GPU: over all of them)."""
    step = CHUNK if x.device.type == "cpu" and x.dtype != torch.float64 else len(x)
    total = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64)
    for a, b in zip(x.split(step), y.split(step), strict=True):
        total += (a.T @ b).cpu()
    return total


def product_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """In which numbers moments and float64 targets are summed: float64 on a CPU; elsewhere those of x, as GPUs are slow at more."""
    return torch.float64 if device.type == "cpu" else dtype


def factorise(gram: Float[Tensor, "d d"], floor: Tensor | float = 0.0) -> tuple[int, Callable[[Tensor], Tensor]]:
    """Factorise a float64 Gram matrix; return its numerical rank and the solver b ↦ G⁺b.

    Columns are scaled to unit variance first, so that the rank does not depend on units. A column whose diagonal entry
    does not exceed `floor` holds nothing but rounding: its coefficients are 0.
    """
    varies = gram.diagonal() > floor
    scale = gram.diagonal()[varies].sqrt()[:, None]
    correlation = gram[varies][:, varies] / scale.T / scale
    tolerance = 64 * len(gram) * torch.finfo(torch.float64).eps
    lower, failed = torch.linalg.cholesky_ex(correlation)
    inverse: Callable[[Tensor], Tensor]
    if len(scale) and not failed and lower.diagonal().min() ** 2 > tolerance:
        rank, inverse = len(scale), partial(_cholesky_solve, lower)
    else:
        values, vectors = torch.linalg.eigh(correlation)
        kept = values > tolerance * values.amax() if len(scale) else values > 0
        half = vectors[:, kept] / values[kept].sqrt()
        rank, inverse = int(kept.sum()), lambda b: half @ (half.T @ b)

    def solve(b: Tensor) -> Tensor:
        coef = torch.zeros_like(b)
        coef[varies] = inverse(b[varies] / scale) / scale
        return coef

    return rank, solve


def _cholesky_solve(lower: Tensor, b: Tensor) -> Tensor:
    return torch.cholesky_solve(b, lower)
