"""One activation as Sae(x) + LinearError + NonlinearError, laid out in a plane with every length true."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.base.names import VECTOR_NAMES

ENDS = {"x": ("O", "X"), "sae": ("O", "P"), "error": ("P", "X"), "linear": ("P", "Q"), "nonlinear": ("Q", "X")}


def corners(
    sae_out: Float[Tensor, "token d"], linear: Float[Tensor, "token d"], nonlinear: Float[Tensor, "token d"]
) -> dict[str, Float[Tensor, "token 2"]]:
    """Where the vectors of each token start and end in the plane: O, the tip X of x, P of Sae(x), Q of Sae(x) + LinearError.

    Three vectors that sum to a fourth need three dimensions. The triangles (Sae(x), SaeError, x) and (LinearError, NonlinearError,
    SaeError) are flat, and share the side SaeError: unfolded about it into one plane, with Q on the far side of O, they keep
    each length, and every angle within a triangle. x lies along the first axis.
    """
    error = linear + nonlinear
    x = sae_out + error
    zero = torch.zeros(len(x), dtype=x.dtype)
    tip = torch.stack([x.norm(dim=1), zero], 1)
    along, across = _split(sae_out, x)
    p = torch.stack([along, across], 1)
    side = torch.nn.functional.normalize(tip - p, dim=1)  # along SaeError
    outward = torch.stack([-side[:, 1], side[:, 0]], 1)  # a right angle from it, away from O, as P lies above x
    along, across = _split(linear, error)
    q = p + along[:, None] * side + across[:, None] * outward
    return {"O": torch.zeros_like(tip), "X": tip, "P": p, "Q": q}


def _split(vector: Float[Tensor, "token d"], onto: Float[Tensor, "token d"]) -> tuple[Tensor, Tensor]:
    """A vector's component along another, and the length of the rest."""
    unit = torch.nn.functional.normalize(onto, dim=1)
    along = (vector * unit).sum(1)
    return along, (vector - along[:, None] * unit).norm(dim=1)


def segments(
    sae_out: Float[Tensor, "token d"],
    linear: Float[Tensor, "token d"],
    nonlinear: Float[Tensor, "token d"],
    text: Sequence[str],
) -> pd.DataFrame:
    """The five vectors of each token as segments: `back` (how many tokens before the last), `token`, `vector`, `x1, y1, x2, y2, norm`."""
    found = corners(sae_out.double(), linear.double(), nonlinear.double())
    rows = []
    for i, token in enumerate(text):
        for vector, (start, end) in ENDS.items():
            (x1, y1), (x2, y2) = found[start][i].tolist(), found[end][i].tolist()
            norm = float((found[end][i] - found[start][i]).norm())
            about = {"back": len(text) - 1 - i, "token": token, "vector": VECTOR_NAMES[vector]}
            rows.append(about | {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "norm": norm})
    return pd.DataFrame(rows)


def angles(vectors: dict[str, Float[Tensor, " d"]]) -> pd.DataFrame:
    """The norm of each vector of one token, its share of that of x, and its angle in degrees with every other."""
    rows = []
    for name, v in vectors.items():
        row: dict[str, str | float] = {"vector": VECTOR_NAMES[name], "norm": float(v.norm())}
        row["norm / ‖x‖"] = float(v.norm() / vectors["x"].norm())
        cosines = {
            other: torch.cosine_similarity(v.double(), w.double(), dim=0).clamp(-1, 1) for other, w in vectors.items()
        }
        rows.append(row | {f"angle with {VECTOR_NAMES[o]}, °": float(c.arccos().rad2deg()) for o, c in cosines.items()})
    return pd.DataFrame(rows)
