"""Where the unexplained variance goes as SAEs widen: absent features, linear error, nonlinear error (Fig. 1).

FVU falls along a power law that ends at a constant c. Below c lies what scaling does not remove: FVU_nonlinear (Eq. 12),
and the linear error that stays, c minus the height at which FVU_nonlinear ends. Above c lie the absent features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.decomposition import total_variance
from dm_utils.regression import Bootstrap, Design, Estimate, HeldOutSums
from dm_utils.scaling import Array, Level, ScalingFit, fit_level, fit_scaling, percentiles

if TYPE_CHECKING:
    from dm_utils.saes import SaeRef
    from dm_utils.study import Study


@dataclass(frozen=True)
class Steps:
    """How often a metric falls from one SAE to its neighbour along one hyperparameter, the other held near its value."""

    falls: int
    total: int

    def __str__(self) -> str:
        return f"falls in {self.falls} of {self.total} steps"


def steps(table: pd.DataFrame, metric: str, along: str, fixed: str) -> Steps:
    """Count the steps between neighbours in `along` (for instance `d_sae`) at equal `fixed` that lower the metric."""
    changes = table.pivot_table(index=fixed, columns=along, values=metric).T.diff().to_numpy()
    changes = changes[np.isfinite(changes)]
    return Steps(int((changes < 0).sum()), len(changes))


def fvu_draws(
    design: Design, norm2: Float[Tensor, "sae token"], n_bootstrap: int = 1000, seed: int = 0
) -> tuple[Float[Array, " sae"], Float[Array, "draw sae"]]:
    """FVU of each error on the held-out tokens, observed and with the held-out contexts resampled.

    The same contexts are resampled for every SAE, with the seed of the engine: what SAEs share cancels in comparisons.

    Parameters
    ----------
    design : the site's; gives x, the split and Σ‖x − mean‖².
    norm2 : [sae, token], squared norms of an error of each SAE, for instance `error_norm2` or `nonlinear_norm2`.

    Raises
    ------
    ValueError : `norm2` does not have one column per token of the design.
    """
    if norm2.ndim != 2 or norm2.shape[1] != len(design):
        raise ValueError(f"norm2 must be [sae, {len(design)}], one column per token; given {tuple(norm2.shape)}")
    sums = HeldOutSums(design.split)
    for rows, x in design.blocks():
        centred = x - design.mean.to(x.device, x.dtype)
        sums.add(rows, x=centred, x2=centred**2, error2=norm2[:, rows].T.double())
    resampled = Bootstrap(sums.totals, n_bootstrap, seed)

    def fvu(s: dict[str, Tensor]) -> Array:
        return (s["error2"] / total_variance(s)[:, None]).numpy()

    return fvu(resampled.observed)[0], fvu(resampled.draws)


def curve(fit: ScalingFit | Level, widths: Array) -> tuple[Float[Array, " width"], Float[Array, "draw width"]]:
    """A fit at each width, and its draws."""
    if isinstance(fit, Level):
        return np.full(len(widths), fit.level.value), np.repeat(fit.draws[:, None], len(widths), 1)
    return fit.law(widths), fit.draws(widths)


def asymptotic_gap(total: ScalingFit, nonlinear: ScalingFit | Level) -> Estimate:
    """Linear error left at infinite width: the constant of FVU minus the asymptote of FVU_nonlinear (Section 4.3)."""
    floor = nonlinear.draws.constant if isinstance(nonlinear, ScalingFit) else nonlinear.draws
    return percentiles(total.constant.value - nonlinear.asymptote.value, total.draws.constant - floor)


def breakdown(total: ScalingFit, nonlinear: ScalingFit | Level, widths: Sequence[float]) -> pd.DataFrame:
    """The curves of Fig. 1: nonlinear error below, then the linear error that stays, absent features on top.

    The linear error that stays is max(0, c − asymptote of FVU_nonlinear): where the power law ends below the nonlinear
    level, nothing of it is left, and the break-down does not hold.

    Returns
    -------
    DataFrame
        `d_sae, part, bottom, top, top_low, top_high, extrapolated`; heights are fractions of variance unexplained.
    """
    w = np.asarray(widths, dtype=float)
    (upper, uppers), (lower, lowers) = curve(total, w), curve(nonlinear, w)
    gap = asymptotic_gap(total, nonlinear).value
    floor = nonlinear.draws.constant if isinstance(nonlinear, ScalingFit) else nonlinear.draws
    gaps = np.maximum(total.draws.constant - floor, 0)[:, None]
    upper, uppers = np.maximum(upper, lower), np.maximum(uppers, lowers)
    middle, middles = np.minimum(lower + max(gap, 0), upper), np.minimum(lowers + gaps, uppers)
    edges = {"nonlinear": (0 * w, lower, lowers), "linear": (lower, middle, middles), "absent": (middle, upper, uppers)}
    outside = (w < total.width.min()) | (w > total.width.max())
    rows = []
    for part, (bottom, top, tops) in edges.items():
        band = [percentiles(value, draws) for value, draws in zip(top, tops.T, strict=True)]
        low, high = [e.low for e in band], [e.high for e in band]
        heights = {"bottom": bottom, "top": top, "top_low": low, "top_high": high}
        rows.append(pd.DataFrame({"d_sae": w, "part": part, **heights, "extrapolated": outside}))
    return pd.concat(rows, ignore_index=True)


@dataclass(frozen=True)
class WidthFits:
    """Every fit to SAEs of several widths at one L0: the law and the trend of FVU and of FVU_nonlinear."""

    fvu: ScalingFit
    fvu_trend: Level
    fvu_nonlinear: ScalingFit
    fvu_nonlinear_level: Level

    def gap(self, nonlinear: str = "fvu_nonlinear_level") -> Estimate:
        """Linear error that stays, under one of the two assumptions on the nonlinear error (a field's name)."""
        return asymptotic_gap(self.fvu, getattr(self, nonlinear))


def fit_widths(
    design: Design,
    widths: Sequence[int],
    error_norm2: Float[Tensor, "sae token"],
    nonlinear_norm2: Float[Tensor, "sae token"],
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> WidthFits:
    """Fit Fig. 1 to SAEs of one site and one L0, from their per-token squared norms.

    Raises
    ------
    ValueError : see `scaling.fit_power_law` and `fvu_draws`.
    """
    fvu, fvus = fvu_draws(design, error_norm2, n_bootstrap, seed)
    part, parts = fvu_draws(design, nonlinear_norm2, n_bootstrap, seed)
    return WidthFits(
        fvu=fit_scaling(widths, fvu, fvus, seed=seed),
        fvu_trend=fit_level(widths, fvu, fvus, seed=seed),
        fvu_nonlinear=fit_scaling(widths, part, parts, seed=seed + 10),
        fvu_nonlinear_level=fit_level(widths, part, parts, seed=seed + 10),
    )


def fit_study(study: Study, refs: Sequence[SaeRef]) -> WidthFits:
    """`fit_widths` for SAEs of one site of a study, from the scalars that it keeps."""
    p, scalars = study.profile, [study.token_scalars(ref) for ref in refs]
    parts = (np.stack([some[f"{part}_norm2"] for some in scalars]) for part in ("error", "nonlinear"))
    error, nonlinear = (torch.from_numpy(part) for part in parts)
    design = study.site(refs[0].layer, refs[0].component).design
    return fit_widths(design, [ref.d_sae for ref in refs], error, nonlinear, p.n_bootstrap, p.seed)
