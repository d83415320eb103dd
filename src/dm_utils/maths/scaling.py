"""How what SAEs leave unexplained scales with their width (Section 4.3, Fig. 1), and how well that is known.

    FVU(W)           = c + a (W / W₀)^(−m),   c ≥ 0, a ≥ 0, 0 < m ≤ 4      a power law with a constant
    FVU_nonlinear(W) = h                                                   the paper's horizontal fit

W₀ is the geometric mean of the fitted widths, so that a is the height that scaling removes at a typical width. A fit of a
few SAEs has two sources of error: the held-out text is finite, and SAEs scatter about any smooth law. Each draw of a fit
resamples the held-out contexts (the same ones for every SAE) and adds scatter of the size seen, and the law is fitted again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares

from dm_utils.maths.resampling import Estimate

Array = np.ndarray
Numbers = Sequence[float] | np.ndarray
MIN_EXPONENT, MAX_EXPONENT = 0.01, 4.0
GRID = np.geomspace(MIN_EXPONENT, MAX_EXPONENT, 97)
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class PowerLaw:
    """c + a (W/W₀)^(−m). Each parameter is a number, or an array [draw] for many laws at once."""

    constant: float | Float[Array, " draw"]
    scale: float | Float[Array, " draw"]
    exponent: float | Float[Array, " draw"]
    reference: float

    def __call__(self, width: Float[Array, " width"]) -> Float[Array, "*draw width"]:
        """The law at each width (number of latents)."""
        ratio = np.asarray(width, dtype=float) / self.reference
        c, a, m = (np.asarray(p)[..., None] for p in (self.constant, self.scale, self.exponent))
        return c + a * ratio**-m


def fit_power_law(width: Numbers, value: Numbers) -> PowerLaw:
    """Fit c + a (W/W₀)^(−m) by least squares within bounds (Fig. 1; `scipy.optimize.least_squares`).

    Parameters
    ----------
    width : [sae], latents. Two different widths are met by a law with any constant below both values; c is 0 then.
    value : [sae], the fraction of variance that each SAE leaves unexplained.

    Raises
    ------
    ValueError : fewer than 2 different widths, lengths that differ, or values that are not finite and positive.
    """
    w, y = _checked(width, value)
    reference = float(np.exp(np.log(w).mean()))
    if len(np.unique(w)) == 2:
        plain = _through_two(w, y[None], np.zeros(1), reference)
        return PowerLaw(0.0, float(np.ravel(plain.scale)[0]), float(np.ravel(plain.exponent)[0]), reference)
    start = _fit_many(w, y[None], reference)
    low, high = np.array([0, 0, MIN_EXPONENT]), np.array([np.inf, np.inf, MAX_EXPONENT])
    guess = np.concatenate([start.constant, start.scale, start.exponent])

    def law(p: Array) -> PowerLaw:
        return PowerLaw(float(p[0]), float(p[1]), float(p[2]), reference)

    def residual(p: Array) -> Array:
        return law(p)(w) - y

    inside = np.clip(guess, low + 1e-9, np.minimum(high - 1e-9, guess + 1))
    found = least_squares(residual, inside, bounds=(low, high), x_scale=np.maximum(guess, 1e-3), xtol=1e-12, ftol=1e-12)
    best = min((found.x, guess), key=lambda p: float((residual(p) ** 2).sum()))
    return law(best)


def _checked(width: Numbers, value: Numbers) -> tuple[Array, Array]:
    w, y = np.asarray(width, dtype=float), np.asarray(value, dtype=float)
    if w.shape != y.shape or w.ndim != 1:
        raise ValueError(f"width {w.shape} and value {y.shape} must be lists of the same length")
    if len(np.unique(w)) < 2:
        raise ValueError("SAEs of one width say nothing about scaling with it; give at least 2 different widths")
    if not (np.isfinite(w).all() and np.isfinite(y).all() and (w > 0).all() and (y > 0).all()):
        raise ValueError("widths and values must be finite and positive")
    return w, y


def _fit_many(width: Array, values: Float[Array, "draw sae"], reference: float) -> PowerLaw:
    """Fit every row of `values`: given the exponent the law is linear, so only the exponent is searched for.

    A grid over log m finds the valley, golden sections its bottom.
    """
    log_ratio = np.log(width / reference)
    rss = np.stack([_linear_part(np.exp(-m * log_ratio), values)[2] for m in GRID], 1)  # [draw, grid]
    best = rss.argmin(1)
    low, high = np.log(GRID[np.maximum(best - 1, 0)]), np.log(GRID[np.minimum(best + 1, len(GRID) - 1)])

    def cost(log_m: Array) -> Array:
        return _linear_part(np.exp(-np.exp(log_m)[:, None] * log_ratio), values)[2]

    for _ in range(45):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        smaller = cost(left) <= cost(right)
        low, high = np.where(smaller, low, left), np.where(smaller, right, high)
    exponent = np.exp((low + high) / 2)
    constant, scale, _ = _linear_part(np.exp(-exponent[:, None] * log_ratio), values)
    return PowerLaw(constant, scale, exponent, reference)


def _through_two(
    width: Array, values: Float[Array, "draw sae"], constant: Float[Array, " draw"], reference: float
) -> PowerLaw:
    """The law of each given constant through the mean values at two widths, its exponent within bounds."""
    ends = np.unique(width)
    left = np.stack([values[:, width == end].mean(1) for end in ends], 1) - constant[:, None]
    log_left, log_ratio = np.log(np.maximum(left, 1e-12)), np.log(ends / reference)
    exponent = np.clip((log_left[:, 0] - log_left[:, 1]) / (log_ratio[1] - log_ratio[0]), MIN_EXPONENT, MAX_EXPONENT)
    scale = np.exp((log_left + exponent[:, None] * log_ratio).mean(1))
    return PowerLaw(constant, scale, exponent, reference)


def _linear_part(
    u: Float[Array, "*draw sae"], y: Float[Array, "draw sae"]
) -> tuple[Float[Array, " draw"], Float[Array, " draw"], Float[Array, " draw"]]:
    """Least squares of y on c + a u within c ≥ 0, a ≥ 0, in closed form: c, a and the residual sum of squares."""
    u = np.broadcast_to(u, y.shape)
    du, dy = u - u.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    a = (du * dy).sum(-1) / np.maximum((du**2).sum(-1), 1e-300)
    c = y.mean(-1) - a * u.mean(-1)
    through_zero = np.maximum((u * y).sum(-1) / (u**2).sum(-1), 0)
    level = np.maximum(y.mean(-1), 0)
    candidates = [(c, a, (c >= 0) & (a >= 0)), (np.zeros_like(c), through_zero, True), (level, np.zeros_like(a), True)]
    costs = [np.where(ok, ((y - c[:, None] - a[:, None] * u) ** 2).sum(-1), np.inf) for c, a, ok in candidates]
    chosen = np.argmin(costs, 0)
    pick = np.arange(len(y))
    constants, scales = np.stack([c for c, _, _ in candidates]), np.stack([a for _, a, _ in candidates])
    return constants[chosen, pick], scales[chosen, pick], np.stack(costs)[chosen, pick]


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

    @property
    def asymptote(self) -> Estimate:
        """The height at infinite width, c."""
        return self.constant

    @property
    def rms_residual(self) -> float:
        """Root mean square distance of the SAEs from the law."""
        return float(np.sqrt(np.mean((self.law(self.width) - self.value) ** 2)))

    def predict(self, width: Numbers) -> list[Estimate]:
        """The law at other widths, with its 95 % band."""
        w = np.asarray(width, dtype=float)
        return [percentiles(v, d) for v, d in zip(self.law(w), self.draws(w).T, strict=True)]


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
    w, y = _checked(width, value)
    if draws is not None and (draws.ndim != 2 or draws.shape[1] != len(y)):
        raise ValueError(f"draws must be [draw, {len(y)}], one column per SAE; given {draws.shape}")
    law = fit_power_law(w, y)
    n_draws = n_draws if draws is None else len(draws)
    drawn = scattered(law(w), y, draws, 3, n_draws, seed + 1)
    if len(np.unique(w)) == 2:
        even = np.random.default_rng(seed + 1).uniform(0, 1, n_draws)
        many = _through_two(w, drawn, even * drawn.min(1).clip(min=0), law.reference)
    else:
        many = _fit_many(w, drawn, law.reference)
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
    return np.concatenate([np.atleast_1d(_fit_many(width[k], value[None, k], reference).constant) for k in others])


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
    def asymptote(self) -> Estimate:
        """The height at infinite width, if it stays where it is."""
        return self.level

    @property
    def horizontal(self) -> bool:
        """Whether the interval of the slope holds zero."""
        return self.per_doubling.low <= 0 <= self.per_doubling.high

    def predict(self, width: Numbers) -> list[Estimate]:
        """The same level at every width."""
        return [self.level for _ in width]


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
    w, y = _checked(width, value)
    n_draws = n_draws if draws is None else len(draws)
    flat = scattered(np.full_like(y, y.mean()), y, draws, 1, n_draws, seed + 2).mean(1)
    octaves = np.log2(w) - np.log2(w).mean()
    weights = octaves / (octaves**2).sum()
    slope = float(weights @ np.log(y))
    line = np.exp(np.log(y).mean() + slope * octaves)
    slopes = np.log(np.maximum(scattered(line, y, draws, 2, n_draws, seed + 3), 1e-12)) @ weights
    return Level(percentiles(y.mean(), flat), percentiles(np.expm1(slope), np.expm1(slopes)), flat)


@dataclass(frozen=True)
class ConstantProfile:
    """The best law for each constant c held fixed: how the fit changes as c does. Arrays are [constant]."""

    law: PowerLaw
    rms_residual: Float[Array, " constant"]


def profile_constant(width: Numbers, value: Numbers, n: int = 41) -> ConstantProfile:
    """Fit a and m for each of `n` constants from 0 to just below the smallest value.

    Where `rms_residual` is nearly as small over a range of constants, the SAEs cannot tell them apart.

    Raises
    ------
    ValueError : see `fit_power_law`.
    """
    w, y = _checked(width, value)
    reference = float(np.exp(np.log(w).mean()))
    constants = np.linspace(0, 0.995 * y.min(), n)
    exponents = np.geomspace(MIN_EXPONENT, MAX_EXPONENT, 2001)
    u = np.exp(-exponents[:, None] * np.log(w / reference))  # [grid, sae]
    left = y - constants[:, None]  # [constant, sae]
    scales = left @ u.T / (u**2).sum(1)  # [constant, grid]
    rss = ((left[:, None] - scales[..., None] * u) ** 2).sum(-1)
    best = rss.argmin(1)
    pick = np.arange(n)
    law = PowerLaw(constants, scales[pick, best], exponents[best], reference)
    return ConstantProfile(law, np.sqrt(rss[pick, best] / len(w)))
