"""Split the error of a sparse autoencoder into a part linear in the activation and a part that is not.

For activations x and reconstructions Sae(x) of one site,

    SaeError(x)       = x − Sae(x)                              (Eq. 4)
    LinearError(x)    = x B* + c*,  the least-squares map       (Eqs. 11, 14)
    NonlinearError(x) = SaeError(x) − LinearError(x)            (Eq. 15)

The design (moments of x, their factorisation) is shared by every SAE of the site. One SAE costs one encode, two
sparse decodes and d² products per token; what lasts is a row of scalars per token and a row of metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.maths.refit import Refitted, r2_of_column
from dm_utils.maths.regression import BLOCK, AffineMap, Design
from dm_utils.maths.resampling import (
    Bootstrap,
    Estimate,
    HeldOutSums,
    Split,
    Sums,
    check_finite,
    r2_mean,
    r2_weighted,
    runs,
)

Interval = Literal["held-out", "fit"]
INTERVALS: tuple[Interval, ...] = ("held-out", "fit")
Reconstruction = Callable[[slice, Float[Tensor, "token d"]], Float[Tensor, "token d"]]

NORMS = ("x_norm2", "sae_norm2", "error_norm2", "linear_norm2", "nonlinear_norm2")
NORM_METRICS = ("r2_x_norm", "r2_sae_norm", "r2_error_norm", "r2_linear_norm", "r2_nonlinear_norm")  # in their order
SCALARS = (*NORMS, "x_dot_sae", "x_dot_linear")
KEPT = 2**30  # bytes of reconstructions that are kept for the second pass, so that it need not decode again
FLOOR = 1e-12  # an error whose variance is below this share of E[x²] is rounding, not error


@dataclass(frozen=True)
class Decomposition:
    """The split of one SAE's error at one site.

    `metrics` maps a metric's name to its held-out estimate; `scalars` maps a name of `SCALARS` to float32
    [token]; `error_map` is LinearError; `shrinkage` is α of the best rescaling αSae(x).
    """

    metrics: dict[str, Estimate]
    scalars: dict[str, Float[Tensor, " token"]]
    error_map: AffineMap
    shrinkage: float


class Decomposer:
    """Decompose the errors of many SAEs of one site against one factorised design."""

    def __init__(self, design: Design, *, n_bootstrap: int = 1000, seed: int = 0, interval: Interval = "held-out"):
        if interval not in INTERVALS:
            raise ValueError(f"interval is {interval!r}; it must be one of {', '.join(map(repr, INTERVALS))}")
        self.design, self.n_bootstrap, self.seed, self.interval = design, n_bootstrap, seed, interval
        sums = HeldOutSums(design.split)
        for rows, x in design.blocks():
            centred = x - design.mean.to(x.device, x.dtype)
            sums.add(rows, x=centred, x2=centred**2)
        self._x_sums = sums.totals
        variance = self._x_sums["x2"].sum() / self._x_sums["n"].sum() / design.x.shape[1]
        self._floor = FLOOR * float(variance + (design.mean**2).mean())
        if self._floor == 0:
            raise ValueError(f"{design.name} is zero everywhere: there is nothing to decompose")

    def run(self, sae_out: Reconstruction, name: str = "sae_out") -> Decomposition:
        """Decompose the error of the SAE that reconstructs each block x as `sae_out(rows, x)`."""
        kept: dict[int, Tensor] = {}
        keeps = self.design.x.numel() * self.design.dtype.itemsize <= KEPT

        def error(rows: slice, x: Tensor) -> Tensor:
            reconstruction = sae_out(rows, x)
            check_reconstruction(reconstruction, x, name, rows)
            if keeps:
                kept[rows.start] = reconstruction
            return x - reconstruction

        error_map = self.design.fit_map(error)
        again: Reconstruction = (lambda rows, _: kept.pop(rows.start)) if keeps else sae_out
        sums, scalars = self._second_pass(again, error_map)
        fit = self.design.split.fit
        shared, size = (float(scalars[scalar][fit].sum()) for scalar in ("x_dot_sae", "sae_norm2"))
        shrinkage = shared / size if size > 0 else math.nan
        metrics = self._vector_metrics({**self._x_sums, **sums}, shrinkage)
        metrics |= self._scalar_metrics(scalars)
        if self.interval == "fit":
            metrics |= self._refitted(sae_out, scalars, shrinkage)
        return Decomposition(metrics, {k: v.float() for k, v in scalars.items()}, error_map, shrinkage)

    def _second_pass(self, sae_out: Reconstruction, error_map: AffineMap) -> tuple[Sums, dict[str, Tensor]]:
        """Per-context sums of the error and its parts, and the scalars of every token."""
        design, sums = self.design, HeldOutSums(self.design.split)
        mean_error = error_map(design.mean[None].to(design.dtype))[0]
        scalars = {name: torch.empty(len(design), dtype=torch.float64) for name in SCALARS}
        for rows, x in design.blocks():
            sae = sae_out(rows, x)
            error, linear = x - sae, error_map(x)
            nonlinear, held_out = error - linear, sums.held_out(rows).to(x.device)
            centred = error.index_select(0, held_out) - mean_error.to(x.device)
            sums.add_held_out(
                rows,
                y=centred,
                y2=centred**2,
                residual2=nonlinear.index_select(0, held_out) ** 2,
                xy=centred * (x.index_select(0, held_out) - design.mean.to(x.device, x.dtype)),
            )
            vectors = dict(zip(NORMS, (x, sae, error, linear, nonlinear), strict=True))
            for scalar, vector in vectors.items():
                scalars[scalar][rows] = torch.linalg.vector_norm(vector, dim=1).cpu().double() ** 2
            for scalar, other in {"x_dot_sae": sae, "x_dot_linear": linear}.items():
                scalars[scalar][rows] = torch.einsum("td,td->t", x, other).cpu().double()
        error2 = HeldOutSums(design.split)
        error2.add(
            slice(0, len(design)),
            error2=scalars["error_norm2"],
            nonlinear2=scalars["nonlinear_norm2"],
        )
        return sums.totals | error2.totals, scalars

    def _refitted(self, sae_out: Reconstruction, scalars: dict[str, Tensor], shrinkage: float) -> dict[str, Estimate]:
        """The metrics that depend on a fit, fitted again without each group of contexts (α and the parts' norms held)."""
        vectors = Refitted(self.design, lambda rows, x: x - sae_out(rows, x), squares=True)
        found = self._vector_statistics(vectors.estimate, shrinkage)
        norms = torch.stack([scalars[name] for name in NORMS], 1)
        norms = norms / norms.amax(0).clamp_min(torch.finfo(torch.float64).tiny)
        refitted = Refitted(self.design, lambda rows, x: norms[rows].to(x.device))
        for i, name in enumerate(NORM_METRICS):
            found[name] = refitted.estimate(partial(r2_of_column, i), "the target is the same for every token")
        return found

    def _vector_metrics(self, sums: Sums, shrinkage: float) -> dict[str, Estimate]:
        return self._vector_statistics(Bootstrap(sums, self.n_bootstrap, self.seed).estimate, shrinkage)

    def _vector_statistics(self, estimate: Callable[..., Estimate], shrinkage: float) -> dict[str, Estimate]:
        perfect = "the SAE reconstructs x to rounding error, so there is no error to predict"
        rescaled = partial(rescaled_sums, shrinkage=shrinkage)
        return {
            "fvu": estimate(lambda s: s["error2"][:, 0] / total_variance(s)),
            "fvu_nonlinear": estimate(lambda s: s["nonlinear2"][:, 0] / total_variance(s)),
            "r2_error_vector": estimate(partial(r2_mean, floor=self._floor), note=perfect),
            "r2_error_vector_weighted": estimate(partial(r2_weighted, floor=self._floor), note=perfect),
            "r2_error_vector_rescaled": estimate(lambda s: r2_mean(rescaled(s), self._floor), note=perfect),
        }

    def _scalar_metrics(self, scalars: dict[str, Tensor]) -> dict[str, Estimate]:
        probes = self.design.probe(torch.stack([scalars[n] for n in NORMS], 1), self.n_bootstrap, self.seed)
        metrics = {name: probe.r2 for name, probe in zip(NORM_METRICS, probes, strict=True)}
        x, sae, linear = (scalars[n].sqrt() for n in ("x_norm2", "sae_norm2", "linear_norm2"))
        tiny = torch.finfo(torch.float64).tiny
        ratios = {
            "norm_ratio": sae / x.clamp_min(tiny),
            "cos_linear_x": scalars["x_dot_linear"] / (x * linear).clamp_min(tiny),
        }
        for name, values in ratios.items():
            sums = HeldOutSums(self.design.split)
            sums.add(slice(0, len(values)), value=values)
            resampled = Bootstrap(sums.totals, self.n_bootstrap, self.seed)
            metrics[name] = resampled.estimate(lambda s: s["value"][:, 0] / s["n"][:, 0])
        return metrics


def total_variance(sums: Sums) -> Float[Tensor, " draw"]:
    """Σ‖x − mean‖² over the held-out tokens, the mean being theirs."""
    return (sums["x2"] - sums["x"] ** 2 / sums["n"]).sum(-1)


def rescaled_sums(sums: Sums, shrinkage: float) -> Sums:
    """Sums for the error of the rescaled reconstruction, x − αSae(x) = (1 − α)x + αSaeError(x).

    Its linear map is (1 − α)I + αB*, so its nonlinear part is α times the old one: rescaling a reconstruction
    moves variance into or out of the linear part and can only scale the nonlinear part.
    """
    a, b = 1 - shrinkage, shrinkage
    return {
        "n": sums["n"],
        "y": a * sums["x"] + b * sums["y"],
        "y2": a * a * sums["x2"] + 2 * a * b * sums["xy"] + b * b * sums["y2"],
        "residual2": b * b * sums["residual2"],
    }


def check_reconstruction(sae_out: Tensor, x: Tensor, name: str, rows: slice) -> None:
    """Refuse a reconstruction of another shape, dtype or device than x, or one that is not finite."""
    if sae_out.shape != x.shape or sae_out.dtype != x.dtype or sae_out.device != x.device:
        raise ValueError(
            f"{name} must match x: {tuple(x.shape)} {x.dtype} on {x.device}; "
            f"given {tuple(sae_out.shape)} {sae_out.dtype} on {sae_out.device}"
        )
    check_finite(sae_out, f"{name}, tokens {rows.start} to {rows.stop - 1}")


@dataclass(frozen=True)
class ErrorReport:
    """What `decompose` found: held-out estimates, and the parts of the error [token, d]."""

    r2_error_norm: Estimate
    r2_error_vector: Estimate
    r2_error_vector_weighted: Estimate
    fvu: Estimate
    fvu_nonlinear: Estimate
    rank: int
    sae_error: Float[Tensor, "token d"]
    linear_error: Float[Tensor, "token d"]
    nonlinear_error: Float[Tensor, "token d"]
    decomposition: Decomposition

    def __str__(self) -> str:
        names = (
            "fvu",
            "fvu_nonlinear",
            "r2_error_vector",
            "r2_error_vector_weighted",
            "r2_error_norm",
        )
        lines = [f"{name:26}{getattr(self, name)}" for name in names]
        return "\n".join([*lines, f"{'rank of x':26}{self.rank} of {self.sae_error.shape[1]}"])


def decompose(
    x: Float[Tensor, "token d"],
    sae_out: Float[Tensor, "token d"],
    *,
    seed: int = 0,
    split: Split | None = None,
    groups: Int[Tensor, " token"] | None = None,
    intercept: bool = True,
    n_bootstrap: int = 1000,
    block: int = BLOCK,
    interval: Interval = "held-out",
) -> ErrorReport:
    """Decompose the error of your own SAE (Eqs. 10–15).

    Parameters
    ----------
    x, sae_out : float [token, d], the activations and their reconstructions, on one device and of one dtype; float16 and
        bfloat16 are taken as float32 from the start, since squares overflow in the one and lose digits in the other.
    seed : seeds the split of the tokens (60.75 % fit, the rest evaluates) and the bootstrap.
    split : your own `Split` instead; then `groups` is not used.
    groups : int [token], the context of each token. Intervals resample contexts; without it, runs of tokens.
    intercept : fit affine maps, as the paper's text does (its released code does not).
    interval : "held-out" resamples held-out contexts with the fit held fixed; "fit" fits again without each group of
        contexts, and covers the value that more and more text would give. For few contexts, and for whole contexts held out.

    Raises
    ------
    ValueError : shapes, dtypes or devices differ, a value is NaN or Inf, or there are too few tokens for d.
    """
    if x.ndim != 2:
        raise ValueError(f"x must be [token, d]; given {tuple(x.shape)}")
    if x.is_floating_point() and sae_out.is_floating_point():
        x, sae_out = (values.to(torch.promote_types(values.dtype, torch.float32)) for values in (x, sae_out))
    check_reconstruction(sae_out, x, "sae_out", slice(0, len(x)))
    if split is None:
        if groups is not None and groups.shape != x.shape[:1]:
            raise ValueError(f"groups must be [{len(x)}], one context id per token; given {tuple(groups.shape)}")
        group = runs(len(x)) if groups is None else torch.unique(groups.cpu(), return_inverse=True)[1]
        split = Split.random(group, seed=seed)
    design = Design(x, split, intercept=intercept, block=block)
    decomposer = Decomposer(design, n_bootstrap=n_bootstrap, seed=seed, interval=interval)
    result = decomposer.run(lambda rows, _: sae_out[rows])
    error, linear = x - sae_out, result.error_map(x)
    names = (
        "r2_error_norm",
        "r2_error_vector",
        "r2_error_vector_weighted",
        "fvu",
        "fvu_nonlinear",
    )
    return ErrorReport(
        **{name: result.metrics[name] for name in names},
        rank=design.rank,
        sae_error=error,
        linear_error=linear,
        nonlinear_error=error - linear,
        decomposition=result,
    )
