"""How much of "Sae(x) predicts NonlinearError" had to come out, whatever the SAE (Section 6.2).

Sae(x) = A(x) + r(x), where A(x) = x − LinearError(x) is the affine map nearest to Sae(x) and r(x) = −NonlinearError(x) is
uncorrelated with x. So Cov(Sae(x), r) = Cov(r) whatever r is, and regressing NonlinearError(x) on Sae(x) must give

    R² = tr(Σ_r Σ_S⁻¹ Σ_r) / tr Σ_r,    Σ_S = Σ_A + Σ_r,

the same as for noise of covariance Σ_r that has nothing to do with x. The controls here measure that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.chapters.s06_2_between_saes.experiment import vector_r2
from dm_utils.maths.regression import factorise
from dm_utils.maths.resampling import Split

if TYPE_CHECKING:
    from dm_utils.engine.study import Parts


def shuffled_within(split: Split, seed: int = 0) -> Int[Tensor, " token"]:
    """A random order of the tokens that keeps fitting tokens among fitting ones and held-out among held-out ones."""
    rng, order = torch.Generator().manual_seed(seed), torch.arange(len(split.fit))
    for side in (split.fit, ~split.fit):
        rows = side.nonzero().squeeze(1)
        order[rows] = rows[torch.randperm(len(rows), generator=rng)]
    return order


def random_rotation(d: int, seed: int = 0) -> Float[Tensor, "d d"]:
    """A rotation drawn uniformly (Haar), float32."""
    gauss = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(gauss)
    return (q * r.diagonal().sign()).float()


def built_in(parts: Parts, split: Split, *, n_bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Predict NonlinearError from Sae(x), as it is and where the answer is known to hold no information about x.

    Returns
    -------
    dict
        R² (mean over dimensions, variance-weighted) of: ``measured``; ``shuffled``, each token's nonlinear part moved to
        another token before A(x) is added, so that it is noise; ``rotated``, the nonlinear part turned in a random
        direction, in both places; ``arithmetic``, the formula of this module's heading, no interval.
    """
    affine, r = parts.x - parts.linear_error, -parts.nonlinear_error
    moved, turned = r[shuffled_within(split, seed)], r @ random_rotation(r.shape[1], seed).to(r)
    cases = {"measured": r, "shuffled": moved, "rotated": turned}
    found: dict[str, Any] = {}
    for name, noise in cases.items():

        def target(rows: slice, noise: Tensor = noise) -> Tensor:
            return -noise[None, rows]

        pair = vector_r2(affine + noise, target, split, n_bootstrap=n_bootstrap, seed=seed)
        found[name] = pair[0]
    return found | {"arithmetic": arithmetic_r2(affine[split.fit], r[split.fit])}


def arithmetic_r2(
    affine: Float[Tensor, "token d"], noise: Float[Tensor, "token d"], scale: float = 1.0
) -> tuple[float, float]:
    """R² of predicting ``noise`` from ``affine + scale * noise`` if the two are uncorrelated: mean, and weighted.

    Uses the second moments of the two only. ``scale`` asks what it would be if the noise in the regressor were larger.
    """
    sigma_a, sigma_r = (torch.atleast_2d(torch.cov(part.double().T)) for part in (affine, noise))
    _, solve = factorise(sigma_a + scale**2 * sigma_r)
    explained, variance = (scale**2 * sigma_r @ solve(sigma_r)).diagonal(), sigma_r.diagonal()
    return float((explained / variance).nanmean()), float(explained.sum() / variance.sum())
