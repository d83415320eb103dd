"""A power law with a constant, c + a (W / W₀)^(−m), and its least-squares fit within c ≥ 0, a ≥ 0, 0 < m ≤ 4.

W₀ is the geometric mean of the fitted widths, so that a is the height that scaling removes at a typical width. Given the
exponent the law is linear, so many fits cost one search over the exponent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares

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
    w, y = checked(width, value)
    reference = float(np.exp(np.log(w).mean()))
    if len(np.unique(w)) == 2:
        plain = through_two(w, y[None], np.zeros(1), reference)
        return PowerLaw(0.0, float(np.ravel(plain.scale)[0]), float(np.ravel(plain.exponent)[0]), reference)
    start = fit_many(w, y[None], reference)
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


def checked(width: Numbers, value: Numbers) -> tuple[Array, Array]:
    """Widths and values as arrays [SAE] that a curve can be fitted to. Raises ValueError where they are none."""
    w, y = np.asarray(width, dtype=float), np.asarray(value, dtype=float)
    if w.shape != y.shape or w.ndim != 1:
        raise ValueError(f"width {w.shape} and value {y.shape} must be lists of the same length")
    if len(np.unique(w)) < 2:
        raise ValueError("SAEs of one width say nothing about scaling with it; give at least 2 different widths")
    if not (np.isfinite(w).all() and np.isfinite(y).all() and (w > 0).all() and (y > 0).all()):
        raise ValueError("widths and values must be finite and positive")
    return w, y


def fit_many(width: Array, values: Float[Array, "draw sae"], reference: float) -> PowerLaw:
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


def through_two(
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
    w, y = checked(width, value)
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
