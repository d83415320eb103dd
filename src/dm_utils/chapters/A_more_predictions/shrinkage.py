"""Is a reconstruction's smaller norm shrinkage, or what any honest reconstruction shows? (Appendix A.1)

If no rescaling of Sae(x) would lower its error, then Σ⟨x, Sae(x)⟩ = Σ‖Sae(x)‖², hence

    Σ‖x‖² = Σ‖Sae(x)‖² + Σ‖SaeError(x)‖²,   √(Σ‖Sae(x)‖² / Σ‖x‖²) = √(1 − Σ‖SaeError(x)‖² / Σ‖x‖²) < 1.

A reconstruction that leaves 19 % of the squared norm unexplained is thus 10 % too short without shrinking anything.
What does show shrinkage is the factor α = Σ⟨x, Sae(x)⟩ / Σ‖Sae(x)‖² that would fit best: above 1 when Sae(x) is too
short, 1 when it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums, Split

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef

NEEDED = ("x_norm2", "sae_norm2", "error_norm2", "x_dot_sae")
METRICS = ("norm_ratio_total", "norm_ratio_unshrunk", "best_scale")


def shrinkage(
    scalars: Mapping[str, np.ndarray], split: Split, n_bootstrap: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """The three quantities of this module over the held-out tokens, by name of `METRICS`.

    Parameters
    ----------
    scalars : float [token] under the names of `NEEDED`, as `Study.token_scalars` gives them.
    split : which tokens are held out, and the context of each.

    Returns
    -------
    dict
        `norm_ratio_total`, √(Σ‖Sae(x)‖²/Σ‖x‖²); `norm_ratio_unshrunk`, what it would be with the same error and no
        shrinkage; `best_scale`, α.
    """
    sums = HeldOutSums(split)
    sums.add(
        slice(0, len(split.fit)), **{name: torch.from_numpy(np.asarray(scalars[name])).double() for name in NEEDED}
    )
    estimate = Bootstrap(sums.totals, n_bootstrap, seed).estimate
    return {
        "norm_ratio_total": estimate(lambda s: (s["sae_norm2"] / s["x_norm2"]).sqrt()[:, 0]),
        "norm_ratio_unshrunk": estimate(lambda s: (1 - s["error_norm2"] / s["x_norm2"]).sqrt()[:, 0]),
        "best_scale": estimate(lambda s: (s["x_dot_sae"] / s["sae_norm2"])[:, 0]),
    }


def shrinkage_table(study: Study, refs: Sequence[SaeRef]) -> pd.DataFrame:
    """One row per SAE: its columns and, for each M of `METRICS`, the columns M, M_low, M_high."""
    p, rows = study.profile, []
    for ref in refs:
        names = ("hook_name", "layer", "component", "architecture", "d_sae", "l0")
        row = {"sae_id": ref.id} | {name: getattr(ref, name) for name in names}
        split = study.site(ref.layer, ref.component).split
        for name, found in shrinkage(study.token_scalars(ref), split, p.n_bootstrap, p.seed).items():
            row |= found.columns(name)
        rows.append(row)
    return pd.DataFrame(rows)
