"""Masked sparse sums: what a linear map can recover of the part that an SAE leaves out (Appendices B.2, C.3 and D)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_fvu(
    dictionary: Float[Tensor, "latent d"], variance: Float[Tensor, " latent"], kept: Bool[Tensor, " latent"]
) -> tuple[float, float]:
    """FVU and FVU_nonlinear (Eq. 12) when Sae(x) is x with part of its features masked (Appendix D), in closed form.

    For uncorrelated weights of the given variances, S and A the covariances of the kept and the masked part,

        FVU = tr(A) / tr(S + A),    FVU_nonlinear = tr(A (S + A)^+ S) / tr(S + A).

    Only second moments enter, so sparsity has no part in it. With S = (1 - f)(S + A) the second is f (1 - f): the parabola.
    """
    if kept.shape != variance.shape or dictionary.shape[0] != variance.shape[0]:
        raise ValueError(f"shapes disagree: {tuple(dictionary.shape)}, {tuple(variance.shape)}, {tuple(kept.shape)}.")
    y, v = dictionary.double(), variance.double()
    sums = [y[part].T @ (v[part, None] * y[part]) for part in (kept, ~kept)]
    total = float((sums[0] + sums[1]).trace())
    if total <= 0:
        raise ValueError("the weights do not vary: FVU is undefined.")
    lost = sums[1] @ torch.linalg.pinv(sums[0] + sums[1], hermitian=True) @ sums[0]
    return float(sums[1].trace()) / total, max(float(lost.trace()) / total, 0.0)


def recoverable_noise(covariance: Float[Tensor, "d d"], noise_variance: float) -> float:
    """Share of isotropic noise, independent of the signal, that the best linear map recovers from signal plus noise.

    With eigenvalues l_k of the signal's covariance and noise variance v in each dimension it is ``mean_k v / (l_k + v)``:
    noise is found where the signal is quiet and is lost elsewhere. Raises ``ValueError`` if ``noise_variance`` is not positive.
    """
    if noise_variance <= 0:
        raise ValueError(f"noise_variance is {noise_variance}; it must be positive.")
    eigenvalues = torch.linalg.eigvalsh(covariance.double()).clamp_min(0.0)
    return float((noise_variance / (eigenvalues + noise_variance)).mean())
