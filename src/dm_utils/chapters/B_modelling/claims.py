"""Small experiments, with intervals, that check statements of the paper one at a time (see the errata page).

Every simulation is repeated with independent draws and returned as an `Estimate`: the mean over
the repetitions with its 95 % Student interval. None of them needs a model.
"""

from __future__ import annotations

import math
from itertools import product

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.maths import jackknife, norm_theory, synthetic
from dm_utils.maths.jackknife import replicate
from dm_utils.maths.noise import variance
from dm_utils.maths.regression import factorise
from dm_utils.maths.resampling import Estimate
from dm_utils.maths.weight_laws import slopes

N_ONE = 400_000  # draws of a single latent's weight
IDEAL_CASES = ((1.0, 1.0), (0.2, 1.0), (0.2, 3.0), (0.05, 1.0), (0.01, 10.0))  # probability and standard deviation of w


def held_out_r2(x: Float[Tensor, "token d"], y: Float[Tensor, "token target"], centred: bool = True) -> float:
    """Variance-weighted R^2 of affine least squares from x to y, fitted on the even rows and measured on the odd ones."""
    rows, target = x.double(), y.double() if y.ndim == 2 else y.double()[:, None]
    if centred:
        rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
    fit, rest = rows[::2], rows[1::2]
    coef = factorise(fit.T @ fit)[1](fit.T @ target[::2])
    return 1 - variance(target[1::2] - rest @ coef) / variance(target[1::2])


def norm_r2(
    dictionary: Float[Tensor, "latent d"],
    family: str,
    probability: Float[Tensor, " latent"],
    n_tokens: int = 20_000,
    scale: float | Float[Tensor, " latent"] = 1.0,
    shape: float = 1.0,
    n: int = 20,
    seed: int = 0,
) -> Estimate:
    """Draw x = sum_i w_i y_i and predict ||x||^2 from x (Eq. 10 with x itself): held-out R^2, by Monte Carlo."""

    def once(draw: int) -> float:
        x = synthetic.sparse_weights(family, probability, n_tokens, scale, shape, draw).superpose(dictionary)
        return held_out_r2(x, x.double().square().sum(1))

    return replicate(once, n, seed)


def _one_weight(family: str, probability: float, shape: float, draw: int) -> Float[Tensor, " token"]:
    law = synthetic.sparse_weights(family, torch.tensor([probability]), N_ONE, 1.0, shape, draw, block=N_ONE)
    return law.values.to_dense()[:, 0].double()


def slope(
    family: str, probability: float, intercept: bool = True, shape: float = 1.0, n: int = 20, seed: int = 0
) -> Estimate:
    """Least-squares slope of w^2 on w for one latent, with or without an intercept (Appendix C.1's b_i)."""

    def once(draw: int) -> float:
        w = _one_weight(family, probability, shape, draw)
        shift = w.mean() if intercept else 0.0
        return float(((w - shift) * w**2).sum() / ((w - shift) * w).sum())

    return replicate(once, n, seed)


def correlation(family: str, probability: float, shape: float = 1.0, n: int = 20, seed: int = 0) -> Estimate:
    """Correlation of w with w^2, which is rho of Appendix C.1 when every latent has the same law.

    Heavy tails bias a sample correlation upwards, by about one over the number of active tokens, hence the large samples.
    """

    def once(draw: int) -> float:
        w = _one_weight(family, probability, shape, draw)
        return float(torch.corrcoef(torch.stack([w, w**2]))[0, 1])

    return replicate(once, n, seed)


def ideal_sae(
    probability: float, signal: float, n_tokens: int = 50_000, n: int = 20, seed: int = 0
) -> dict[str, Estimate]:
    """Appendix B.2's estimates when the SAE is the best possible one, Sae(x) = E(sum_i w_i y_i | x), one dimension at a time.

    x = w + Dense with w normal of standard deviation ``signal`` with the given probability and 0 otherwise, and Dense a
    standard normal. No feature is absent, so SaeError = Dense + Introduced (Eq. 20, signs corrected). All values are
    fractions of the variance of x, except ``correlation``, that of Introduced with x.

    Returns
    -------
    dict
        ``introduced`` and ``dense`` (planted), ``nonlinear`` and ``gap`` (the estimates of Appendix B.2), ``correlation``.
    """

    def once(draw: int) -> dict[str, float]:
        generator = torch.Generator().manual_seed(draw)
        on = torch.rand(n_tokens, generator=generator) < probability
        w = on * signal * torch.randn(n_tokens, generator=generator).double()
        dense = torch.randn(n_tokens, generator=generator).double()
        x = w + dense
        sae_out = spike_and_slab_mean(x, probability, signal)
        error, introduced = x - sae_out, w - sae_out
        residual = error - x * (error @ x) / (x @ x)
        variances = {"introduced": introduced.var(), "dense": dense.var(), "nonlinear": residual.var()}
        shares = {name: float(value / x.var()) for name, value in variances.items()}
        gap = float((error.var() - residual.var()) / x.var())
        return shares | {"gap": gap, "correlation": float(torch.corrcoef(torch.stack([introduced, x]))[0, 1])}

    draws = {i: once(seed * 1_000_003 + i) for i in range(n)}
    return {name: replicate(lambda i, name=name: draws[i][name], n) for name in draws[0]}  # type: ignore[misc]


def spike_and_slab_mean(x: Tensor, probability: float, signal: float) -> Tensor:
    """E(w | w + standard normal = x) for w normal(0, signal) with the given probability and 0 otherwise."""
    wide = 1 + signal**2
    on = probability * torch.exp(-(x**2) / (2 * wide)) / wide**0.5
    off = (1 - probability) * torch.exp(-(x**2) / 2)
    return on / (on + off) * signal**2 / wide * x


def shrinkage_cosine(mean_share: float, d: int = 64, n_tokens: int = 4000, n: int = 20, seed: int = 0) -> Estimate:
    """Mean cosine of LinearError(x) with x when all error is shrinkage, Sae(x) - x_bar = 0.9 (x - x_bar) (Appendix A.1).

    ``mean_share`` is the share of E||x||^2 that the mean activation x_bar holds; SaeError = 0.1 (x - x_bar) is then linear
    in x, with no other content.
    """
    if not 0 <= mean_share < 1:
        raise ValueError(f"mean_share is {mean_share}; it lies in [0, 1).")

    def once(draw: int) -> float:
        generator = torch.Generator().manual_seed(draw)
        mean = torch.randn(d, generator=generator)
        mean = mean / mean.norm() * (d * mean_share / (1 - mean_share)) ** 0.5
        x = mean + torch.randn(n_tokens, d, generator=generator)
        linear = 0.1 * (x - x.mean(0))
        return float(torch.nn.functional.cosine_similarity(linear, x).mean())

    return replicate(once, n, seed)


def soft_threshold_r2(probability: float = 0.05, threshold: float = 0.5, n: int = 20, seed: int = 0) -> Estimate:
    """R^2 of predicting Introduced = w - max(w - threshold, 0) from x = w: a nonlinear SAE with a largely linear error.

    Appendix B.2 takes it as reasonable that Introduced is not predictable from x because the SAE is nonlinear.
    """

    def once(draw: int) -> float:
        w = synthetic.sparse_weights("exponential", torch.tensor([probability]), 20_000, seed=draw).values.to_dense()
        return held_out_r2(w, w - (w - threshold).clamp_min(0))

    return replicate(once, n, seed)


def overfitting(d: int, n_fit: int, n: int = 20, seed: int = 0) -> Estimate:
    """Held-out R^2 of least squares with nothing to find: d unrelated Gaussian regressors, ``n_fit`` fitting tokens.

    Section 4 fits on 150k tokens because the dimension is below 5000, which "prevents overfitting". The exact mean is
    ``-(d + 1 - 2 / n_fit) / (n_fit - d - 2)`` or nearly ``-d / n_fit``: small, not zero.
    """

    def once(draw: int) -> float:
        generator = torch.Generator().manual_seed(draw)
        rows = torch.randn(2 * n_fit, d, generator=generator)
        return held_out_r2(rows, torch.randn(2 * n_fit, generator=generator))

    return replicate(once, n, seed)


def nonlinear_from_sae(
    x: Float[Tensor, "token d"], sae_out: Float[Tensor, "token d"], context: Int[Tensor, " token"], seed: int = 0
) -> dict[str, Estimate]:
    """Section 6.2: R^2 of predicting NonlinearError from Sae(x), and the same with pure noise put in its place.

    The surrogate draws Gaussian noise with NonlinearError's covariance, independent of everything, and sets
    Sae = x - LinearError - noise, so that Eq. 15 still holds. Held out; intervals leave out groups of contexts.
    """
    rows = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64, device=x.device)], dim=1)
    error = (x - sae_out).double()
    linear = rows @ factorise(rows.T @ rows)[1](rows.T @ error)
    nonlinear = error - linear
    values, vectors = torch.linalg.eigh(nonlinear.T @ nonlinear / len(x))
    root = vectors * values.clamp_min(0).sqrt()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) @ root.T
    pairs = {
        "nonlinear_error": (sae_out.double(), nonlinear),
        "independent_noise": (x.double() - linear - noise, noise),
    }
    return {name: _jackknifed_r2(given, target, context) for name, (given, target) in pairs.items()}


def _jackknifed_r2(x: Tensor, y: Tensor, context: Tensor) -> Estimate:
    columns = torch.cat([torch.ones_like(x[:, :1]), x, y], dim=1)
    fit, rest = jackknife.halves(columns, jackknife.groups(context))
    residual, spread = jackknife.held_out(fit, rest, x.shape[1] + 1)
    value, low, high = jackknife.interval(1 - residual / spread)
    return Estimate(float(value), float(low), float(high))


def gaussian_norm_r2(
    mean: Float[Tensor, " d"], root: Float[Tensor, "d d"], n_tokens: int = 20_000, n: int = 20, seed: int = 0
) -> Estimate:
    """Held-out R^2 of ||x||^2 from x for Gaussian x with the given mean and covariance ``root @ root.T``, by Monte Carlo."""

    def once(draw: int) -> float:
        z = torch.randn(n_tokens, len(mean), generator=torch.Generator().manual_seed(draw), dtype=torch.float64)
        x = mean.double() + z @ root.double().T
        return held_out_r2(x, x.square().sum(1))

    return replicate(once, n, seed)


CHECKED_LAWS = (
    ("Bernoulli, p = 0.05", "bernoulli", 0.05, 1.0),
    ("Poisson, λ = 1", "poisson", 1 - math.exp(-1), 1.0),
    ("exponential, p = 0.05", "exponential", 0.05, 1.0),
    ("gamma of shape 4, p = 0.05", "gamma", 0.05, 4.0),
    ("lognormal of σ = 0.5, p = 0.05", "lognormal", 0.05, 0.5),
)


def correlation_checks(n: int = 20, seed: int = 0) -> pd.DataFrame:
    """rho of Appendix C.1 for each law, closed form beside Monte Carlo: columns ``case, exact, value, low, high``."""
    rows = []
    for name, family, p, shape in CHECKED_LAWS:
        moments = synthetic.law_moments(family, torch.tensor([p], dtype=torch.float64), 1.0, shape)
        found = correlation(family, p, shape, n, seed)
        rows.append({"case": name, "exact": norm_theory.orthonormal_r2(moments) ** 0.5, **found.columns()})
    return pd.DataFrame(rows)


def slope_checks(n: int = 20, seed: int = 0) -> pd.DataFrame:
    """Least-squares slopes of w^2 on w, with and without intercept, and ``printed``, the paper's E(w^2)/E(w)."""
    rows = []
    for (name, family, p, shape), intercept in product(CHECKED_LAWS[:4], (True, False)):
        exact = slopes(synthetic.law_moments(family, torch.tensor([p], dtype=torch.float64), 1.0, shape))
        found = slope(family, p, intercept, shape, n, seed)
        value = float(exact.best if intercept else exact.through_origin)
        case = f"{name}, {'with' if intercept else 'no'} intercept"
        rows.append({"case": case, "exact": value, **found.columns(), "printed": float(exact.paper)})
    return pd.DataFrame(rows)
