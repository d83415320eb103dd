"""The exact cousin of gradient pursuit: the same greedy choice of latents, with their best weights after every one."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.maths.pursuit import SparseCodes, pursuit_codes, refit_weights

BLOCK = 4096


def gradient(sae: object, x: Float[Tensor, "token d"], l0: Int[Tensor, " token"]) -> Float[Tensor, "token d"]:
    """The reconstruction of gradient pursuit (Section 6.1), each token at a given L0."""
    codes = pursuit_codes(x, sae, l0)  # type: ignore[arg-type]
    return codes.decode(sae.W_dec, sae.b_dec)  # type: ignore[attr-defined]


def exact(sae: object, x: Float[Tensor, "token d"], l0: Int[Tensor, " token"]) -> Float[Tensor, "token d"]:
    """The reconstruction of orthogonal pursuit, each token at a given L0."""
    found = [
        orthogonal_pursuit(some - sae.b_dec, sae.W_dec, steps).decode(sae.W_dec, sae.b_dec)  # type: ignore[attr-defined]
        for some, steps in zip(x.split(BLOCK), l0.split(BLOCK), strict=True)
    ]
    return torch.cat(found)


@torch.no_grad()
def orthogonal_pursuit(
    x: Float[Tensor, "token d"], dictionary: Float[Tensor, "atom d"], l0: Int[Tensor, " token"]
) -> SparseCodes:
    """Each token as a non-negative sum of at most `l0` atoms: take the atom of largest inner product with the residual, solve, repeat.

    Weights solve min_{w ≥ 0} ‖x − D_Sᵀ w‖² exactly after every atom (`refit_weights`); gradient pursuit moves them by one step. Atoms are
    compared as unit vectors; a token stops where none has a positive inner product.
    """
    norms = dictionary.norm(dim=1).clamp_min(torch.finfo(dictionary.dtype).tiny)
    units, width = dictionary / norms[:, None], int(l0.max()) if len(l0) else 0
    indices = torch.zeros(len(x), width, dtype=torch.int64, device=x.device)
    weights = x.new_zeros(len(x), width)
    residual = x
    for step in range(width):
        likeness = residual @ units.T
        if step:
            likeness.scatter_(1, indices[:, :step], -torch.inf)
        best, indices[:, step] = likeness.max(1)
        weights[:, step] = torch.where(step < l0, best, 0).clamp_min(0)
        codes = refit_weights(x, units, SparseCodes(indices[:, : step + 1], weights[:, : step + 1]))
        weights[:, : step + 1] = codes.weights
        residual = x - codes.decode(units)
    return SparseCodes(indices, weights / norms[indices])
