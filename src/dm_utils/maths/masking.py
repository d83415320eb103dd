r"""Masked sparse sums: what a linear map can recover of the part that an SAE leaves out (Appendices B.2, C.3 and D).

Mask part of the features of ``x = sum_i w_i y_i`` and call what is kept Sae(x). Nothing is introduced, so the right value of
FVU_nonlinear is zero. With uncorrelated weights of variances ``s_i^2`` and ``C = sum_i s_i^2 y_i y_i^T``, the linear map that
predicts the masked part from x recovers the share

    h_i = s_i^2 y_i^T C^+ y_i        (the leverage of feature i, between 0 and 1)

of a feature masked alone. Leverages sum to the rank of C, at most d: with m features in d dimensions they average d / m or
less, so most of a crowded dictionary cannot be recovered, however sparse it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dm_utils.maths import jackknife, synthetic
from dm_utils.maths.jackknife import replicate
from dm_utils.maths.noise import variance as total_variance
from dm_utils.maths.regression import factorise
from dm_utils.maths.resampling import Estimate


def _check(dictionary: Tensor, variance: Tensor) -> None:
    if dictionary.ndim != 2 or variance.shape != dictionary.shape[:1]:
        raise ValueError(
            f"the dictionary {tuple(dictionary.shape)} and the variances {tuple(variance.shape)} disagree; "
            "expected [latent, d] and [latent]."
        )
    if not (variance >= 0).all() or variance.sum() <= 0:
        raise ValueError("variances must be finite, not negative, and not all zero.")


def masked_fvu(
    dictionary: Float[Tensor, "latent d"], variance: Float[Tensor, " latent"], kept: Bool[Tensor, " latent"]
) -> tuple[float, float]:
    """FVU and FVU_nonlinear (Eq. 12) when Sae(x) is x with part of its features masked (Appendix D), in closed form.

    For uncorrelated weights of the given variances, S and A the covariances of the kept and the masked part,

        FVU = tr(A) / tr(S + A),    FVU_nonlinear = tr(A (S + A)^+ S) / tr(S + A).

    Only second moments enter, so sparsity has no part in it. With A = f (S + A) the second is f (1 - f): the parabola.
    """
    _check(dictionary, variance)
    y, v = dictionary.double(), variance.double()
    everything = y.T @ (v[:, None] * y)
    masked = y[~kept].T @ (v[~kept, None] * y[~kept])
    total = float(everything.trace())
    lost = masked @ factorise(everything)[1](everything - masked)
    return float(masked.trace()) / total, max(float(lost.trace()) / total, 0.0)


def leverage(dictionary: Float[Tensor, "latent d"], variance: Float[Tensor, " latent"]) -> Float[Tensor, " latent"]:
    """``h_i = s_i^2 y_i^T C^+ y_i``: the R^2 of the best linear prediction of w_i from x, for uncorrelated weights."""
    _check(dictionary, variance)
    y, v = dictionary.double(), variance.double()
    _, solve = factorise(y.T @ (v[:, None] * y))
    return v * (y * solve(y.T).T).sum(1)


def mean_leverage(dictionary: Float[Tensor, "latent d"], variance: Float[Tensor, " latent"]) -> float:
    """Leverage averaged with the variances as weights, h: masking a random share f leaves f (1 - f) (1 - h) on average.

    That is exact for masks drawn independently for each feature, whatever the dictionary, and is why only leverage counts.
    """
    return float((leverage(dictionary, variance) * variance).sum() / variance.sum())


def recoverable_noise(covariance: Float[Tensor, "d d"], noise_variance: float) -> float:
    """Share of isotropic noise, independent of the signal, that the best linear map recovers from signal plus noise.

    With eigenvalues l_k of the signal's covariance and noise variance v in each dimension it is ``mean_k v / (l_k + v)``:
    noise is found where the signal is quiet and is lost elsewhere. Raises ``ValueError`` if ``noise_variance`` is not positive.
    """
    if noise_variance <= 0:
        raise ValueError(f"noise_variance is {noise_variance}; it must be positive.")
    eigenvalues = torch.linalg.eigvalsh(covariance.double()).clamp_min(0.0)
    return float((noise_variance / (eigenvalues + noise_variance)).mean())


def kept_after(order: Int[Tensor, " latent"], fraction: float) -> Bool[Tensor, " latent"]:
    """Which latents remain when the first ``fraction`` of ``order`` is masked."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"the masked fraction is {fraction}; it lies between 0 and 1.")
    kept = torch.ones(len(order), dtype=torch.bool)
    kept[order[: round(fraction * len(order))]] = False
    return kept


def masked_curve(
    dictionary: Float[Tensor, "latent d"],
    variance: Float[Tensor, " latent"],
    order: Int[Tensor, " latent"],
    fractions: Sequence[float],
) -> pd.DataFrame:
    """Closed-form FVU and FVU_nonlinear as more and more features are masked: Appendix D's curve.

    Returns
    -------
    DataFrame
        One row per fraction: ``masked`` (share of features), ``fvu``, ``fvu_nonlinear``.
    """
    _check(dictionary, variance)
    y, v = dictionary.double(), variance.double()
    everything = y.T @ (v[:, None] * y)
    (_, solve), total = factorise(everything), float(everything.trace())
    rows = []
    for fraction in fractions:
        gone = ~kept_after(order, fraction)
        masked = y[gone].T @ (v[gone, None] * y[gone])
        lost = float(masked.trace() - (solve(masked) * masked).sum())
        rows.append((fraction, float(masked.trace()) / total, max(lost / total, 0.0)))
    return pd.DataFrame(rows, columns=["masked", "fvu", "fvu_nonlinear"])


def measured_curve(
    weights: Tensor,
    dictionary: Float[Tensor, "latent d"],
    context: Int[Tensor, " token"],
    order: Int[Tensor, " latent"],
    fractions: Sequence[float],
) -> tuple[pd.DataFrame, Estimate]:
    """The same curve by least squares on sums ``weights @ dictionary`` that may co-activate, held out, and its bend.

    ``weights`` is sparse COO [token, latent]. Adds ``fvu_nonlinear_low`` and ``fvu_nonlinear_high`` to the columns of
    :func:`masked_curve`; all intervals leave out one group of contexts at a time.
    """
    x = torch.sparse.mm(weights, dictionary).double()
    group, d = jackknife.groups(context), x.shape[1]
    fvu, left = [], []
    for fraction in fractions:
        masked = torch.sparse.mm(weights, dictionary * (~kept_after(order, fraction))[:, None]).double()
        columns = torch.cat([torch.ones_like(x[:, :1]), x, masked], dim=1)
        fit, rest = jackknife.halves(columns, group)
        residual, spread = jackknife.held_out(fit, rest, d + 1)
        inside = rest[:, 1 : d + 1, 1 : d + 1].diagonal(dim1=1, dim2=2).sum(1)
        total = inside - (rest[:, 0, 1 : d + 1] ** 2).sum(1) / rest[:, 0, 0]
        fvu.append(spread / total)
        left.append(residual / total)
    shares, heights = torch.stack(fvu, 1), torch.stack(left, 1)  # [fit, fraction]
    value, low, high = jackknife.interval(heights)
    table = pd.DataFrame({"masked": list(fractions), "fvu": shares[0].numpy(), "fvu_nonlinear": value})
    bends = [bend(pd.DataFrame({"fvu": f, "fvu_nonlinear": h})) for f, h in zip(shares, heights, strict=True)]
    ends = jackknife.interval(torch.tensor(bends, dtype=torch.float64))
    bent = Estimate(float(ends[0]), float(ends[1]), float(ends[2]))
    return table.assign(fvu_nonlinear_low=low, fvu_nonlinear_high=high), bent


def bend(curve: pd.DataFrame) -> float:
    """How bent a curve is: its area over that of the full parabola f (1 - f), against FVU; 0 is straight, 1 the parabola.

    Masking nothing and masking everything leave nothing to predict, so both ends are 0 and need not be in the curve.
    """
    points = curve.sort_values("fvu")
    fvu = np.concatenate([[0.0], points["fvu"].to_numpy(), [1.0]])
    height = np.concatenate([[0.0], points["fvu_nonlinear"].to_numpy(), [0.0]])
    return float(np.trapezoid(height, fvu) * 6)


def recovered_part(x: Float[Tensor, "token d"], masked: Float[Tensor, "token d"]) -> tuple[float, float]:
    """FVU and FVU_nonlinear of ``x - masked``, fitted on the even rows and measured on the odd ones."""
    rows = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    fit, rest = rows[::2], rows[1::2]
    coef = factorise(fit.T @ fit)[1](fit.T @ masked[::2].double())
    total = total_variance(x[1::2])
    return total_variance(masked[1::2]) / total, total_variance(masked[1::2] - rest @ coef) / total


def simulated_fvu_nonlinear(
    dictionary: Float[Tensor, "latent d"],
    family: str,
    probability: Float[Tensor, " latent"],
    kept: Bool[Tensor, " latent"],
    n_tokens: int = 20_000,
    n: int = 8,
    seed: int = 0,
) -> Estimate:
    """FVU_nonlinear of a masked random sum by Monte Carlo, held out, to set beside :func:`masked_fvu`."""
    absent = dictionary * (~kept)[:, None]

    def once(draw: int) -> float:
        weights = synthetic.sparse_weights(family, probability, n_tokens, seed=draw)
        return recovered_part(weights.superpose(dictionary), weights.superpose(absent))[1]

    return replicate(once, n, seed)


def shuffled(values: Tensor, seed: int = 0) -> Tensor:
    """Permute each latent's codes over tokens: the same marginals and dictionary, no co-activation.

    ``values`` is sparse COO [token, latent]; collisions within a latent cannot occur, since each keeps distinct tokens.
    """
    n_tokens, n_latents = values.shape
    generator = torch.Generator().manual_seed(seed)
    token, latent = values.coalesce().indices()
    offset = torch.randint(n_tokens, (n_latents,), generator=generator)
    scramble = torch.randperm(n_tokens, generator=generator)
    moved = scramble[(token + offset[latent]) % n_tokens]
    sparse = torch.sparse_coo_tensor(
        torch.stack([moved, latent]), values.coalesce().values(), values.shape, check_invariants=False
    )
    return sparse.coalesce()
