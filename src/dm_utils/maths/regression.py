"""Affine least squares with one factorisation per design.

A *design* is the matrix of regressors, X in R^{N x d}. Its second moments are accumulated in float64 about its mean and
factorised once; each target then costs one cross product and one triangular solve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums, Split, check_finite, r2_weighted

BLOCK = 8192


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
