"""How what SAEs leave unexplained scales with their width (Section 4.3, Fig. 1), and how well that is known.

    FVU(W)           = c + a (W / W₀)^(−m)      a power law with a constant (`power_law`)
    FVU_nonlinear(W) = h                        the paper's horizontal fit

A fit of a few SAEs has two sources of error: the held-out text is finite, and SAEs scatter about any smooth law. Each draw
of a fit resamples the held-out contexts (the same ones for every SAE) and adds scatter of the size seen, and the law is
fitted again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dm_utils.maths.power_law import (
    MAX_EXPONENT,
    Array,
    Numbers,
    PowerLaw,
    checked,
    fit_many,
    fit_power_law,
    through_two,
)
from dm_utils.maths.resampling import Estimate


def percentiles(value: float | Array, draws: float | Array, note: str = "") -> Estimate:
    """A value with the central 95 % of its draws, widened where needed to hold the value itself."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(value), min(float(low), float(value)), max(float(high), float(value)), note)


def scattered(
    fitted: Float[Array, " sae"],
    value: Float[Array, " sae"],
    draws: Float[Array, "draw sae"] | None,
    n_parameters: int,
    n_draws: int,
    seed: int,
) -> Float[Array, "draw sae"]:
    """Draws of the values of a fit: resampled text plus Student-t scatter of the size of its residuals.

    With `n` SAEs the residuals leave n − n_parameters degrees of freedom; with none left the scatter is unknown and only
    the text is resampled.
    """
    text = np.zeros((n_draws, len(value))) if draws is None else draws - value
    freedom = len(value) - n_parameters
    if freedom <= 0:
        return fitted + text
    sigma = math.sqrt(float(((value - fitted) ** 2).sum()) / freedom)
    return fitted + text + sigma * np.random.default_rng(seed).standard_t(freedom, size=text.shape)


@dataclass(frozen=True)
class ScalingFit:
    """A power law with a constant, fitted to SAEs of several widths, and what the data leave open.

    `constant`, `scale`, `exponent` carry 95 % intervals; `note` says why the constant is not identified, and is empty when
    it is. `leave_one_out` [sae] are the constants found without each SAE in turn (NaN with fewer than 4 SAEs).
    """

    width: Float[Array, " sae"]
    value: Float[Array, " sae"]
    law: PowerLaw
    draws: PowerLaw
    constant: Estimate
    scale: Estimate
    exponent: Estimate
    leave_one_out: Float[Array, " sae"]
    note: str = ""


def fit_scaling(
    width: Numbers,
    value: Numbers,
    draws: Float[Array, "draw sae"] | None = None,
    *,
    n_draws: int = 1000,
    seed: int = 0,
) -> ScalingFit:
    """Fit FVU(W) = c + a (W/W₀)^(−m) and its uncertainty (Fig. 1).

    Parameters
    ----------
    width, value : [sae]. With two different widths the draws go evenly over every constant that fits, from 0 to the
        smaller value.
    draws : [draw, sae] from `breakdown.fvu_draws`; without it only the scatter of the SAEs makes the intervals.

    Raises
    ------
    ValueError : see `fit_power_law`; or `draws` does not have one column per SAE.
    """
    w, y = checked(width, value)
    if draws is not None and (draws.ndim != 2 or draws.shape[1] != len(y)):
        raise ValueError(f"draws must be [draw, {len(y)}], one column per SAE; given {draws.shape}")
    law = fit_power_law(w, y)
    n_draws = n_draws if draws is None else len(draws)
    drawn = scattered(law(w), y, draws, 3, n_draws, seed + 1)
    if len(np.unique(w)) == 2:
        even = np.random.default_rng(seed + 1).uniform(0, 1, n_draws)
        many = through_two(w, drawn, even * drawn.min(1).clip(min=0), law.reference)
    else:
        many = fit_many(w, drawn, law.reference)
    constant = percentiles(law.constant, many.constant)
    return ScalingFit(
        width=w,
        value=y,
        law=law,
        draws=many,
        constant=constant,
        scale=percentiles(law.scale, many.scale),
        exponent=percentiles(law.exponent, many.exponent),
        leave_one_out=_leave_one_out(w, y, law.reference),
        note=_identified(w, y, law, constant),
    )


def _leave_one_out(width: Array, value: Array, reference: float) -> Float[Array, " sae"]:
    others = [np.arange(len(width)) != i for i in range(len(width))]
    if any(len(np.unique(width[kept])) < 3 for kept in others):
        return np.full(len(width), np.nan)
    return np.concatenate([np.atleast_1d(fit_many(width[k], value[None, k], reference).constant) for k in others])


def _identified(width: Array, value: Array, law: PowerLaw, constant: Estimate) -> str:
    """Why the constant is not identified, or an empty string."""
    if len(np.unique(width)) == 2:
        return "two widths fit every constant from zero to the smaller value: the interval shows all of them"
    if len(width) <= 3:
        return (
            "three parameters meet as few SAEs, so their scatter is unknown: the interval shows the text's share only"
        )
    if constant.low <= 1e-3 * value.min():
        return "the interval of the constant reaches zero: these widths do not tell a floor from a slower power law"
    if law.exponent >= MAX_EXPONENT - 1e-6 or law.scale <= 1e-9:
        return "the curve is flat over these widths: the constant is their level, and the exponent means nothing"
    return ""


@dataclass(frozen=True)
class Level:
    """A horizontal fit (the mean over SAEs) and how far from horizontal the SAEs are.

    `per_doubling` is the relative change per doubling of the width, the slope of a straight line in log(value) over
    log2(W): 0 where the fit's assumption holds.
    """

    level: Estimate
    per_doubling: Estimate
    draws: Float[Array, " draw"]

    @property
    def horizontal(self) -> bool:
        """Whether the interval of the slope holds zero."""
        return self.per_doubling.low <= 0 <= self.per_doubling.high


def fit_level(
    width: Numbers,
    value: Numbers,
    draws: Float[Array, "draw sae"] | None = None,
    *,
    n_draws: int = 1000,
    seed: int = 0,
) -> Level:
    """Fit a horizontal line, as the paper does to FVU_nonlinear (Eq. 12, Fig. 1), and test that it is horizontal.

    Raises
    ------
    ValueError : see `fit_power_law`.
    """
    w, y = checked(width, value)
    n_draws = n_draws if draws is None else len(draws)
    flat = scattered(np.full_like(y, y.mean()), y, draws, 1, n_draws, seed + 2).mean(1)
    octaves = np.log2(w) - np.log2(w).mean()
    weights = octaves / (octaves**2).sum()
    slope = float(weights @ np.log(y))
    line = np.exp(np.log(y).mean() + slope * octaves)
    slopes = np.log(np.maximum(scattered(line, y, draws, 2, n_draws, seed + 3), 1e-12)) @ weights
    return Level(percentiles(y.mean(), flat), percentiles(np.expm1(slope), np.expm1(slopes)), flat)
