"""Where the unexplained variance goes as SAEs widen: absent features, linear error, nonlinear error (Fig. 1).

FVU is a nonlinear part (Eq. 12) and a linear part. *Absent features* are what width still takes off the linear part: what
lies above its constant. The paper holds the nonlinear part at a height h; the constant of the linear part is then c − h,
with c that of FVU, and no less than zero.
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

from dm_utils.maths.decomposition import total_variance
from dm_utils.maths.power_law import Array
from dm_utils.maths.regression import Design
from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums
from dm_utils.maths.scaling import Level, ScalingFit, fit_level, fit_scaling, percentiles

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef


Curve = tuple[Array, Array]  # heights [width] and their draws [draw, width]
TINY = 1e-9


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


def curve(fit: ScalingFit | Level, widths: Array) -> Curve:
    """A fit at each width, and its draws."""
    if isinstance(fit, Level):
        return np.full(len(widths), fit.level.value), np.repeat(fit.draws[:, None], len(widths), 1)
    return fit.law(widths), fit.draws(widths)


def asymptotic_gap(total: ScalingFit, nonlinear: Level) -> Estimate:
    """Linear error left at infinite width if FVU_nonlinear stays where it is: the constant of FVU minus it (Section 4.3)."""
    return percentiles(total.constant.value - nonlinear.level.value, total.draws.constant - nonlinear.draws)


def level_parts(total: ScalingFit, nonlinear: Level, widths: Sequence[float] | Array) -> pd.DataFrame:
    """The curves of Fig. 1 under the paper's assumption: nonlinear error stays, linear error ends at c − h.

    The linear error that stays is max(0, c − h): where the power law ends below the nonlinear level, nothing of it is
    left, absent features end at h, and the paper's picture does not hold.

    Returns
    -------
    DataFrame
        `d_sae, part, bottom, top, top_low, top_high, extrapolated`; heights are fractions of variance unexplained.
    """
    w = np.asarray(widths, dtype=float)
    (upper, uppers), (lower, lowers) = curve(total, w), curve(nonlinear, w)
    gap, gaps = asymptotic_gap(total, nonlinear).value, total.draws.constant - nonlinear.draws
    upper, uppers = np.maximum(upper, lower), np.maximum(uppers, lowers)
    middle = np.minimum(lower + max(gap, 0), upper), np.minimum(lowers + np.maximum(gaps, 0)[:, None], uppers)
    edges = {"nonlinear": (lower, lowers), "linear": middle, "absent": (upper, uppers)}
    return stacked(w, edges, total)


def falling_parts(linear: ScalingFit, nonlinear: ScalingFit, widths: Sequence[float] | Array) -> pd.DataFrame:
    """The same curves if both parts of the error fall, each along a power law with a constant of its own.

    Absent features are what the linear part still loses, linear error is its constant, and FVU is the sum of both parts.
    Columns as in `level_parts`.
    """
    w = np.asarray(widths, dtype=float)
    (line, lines), (lower, lowers) = curve(linear, w), curve(nonlinear, w)
    constants = np.asarray(linear.draws.constant)[:, None]
    middle = lower + linear.constant.value, lowers + constants
    edges = {"nonlinear": (lower, lowers), "linear": middle, "absent": (lower + line, lowers + lines)}
    return stacked(w, edges, linear)


def stacked(widths: Array, edges: dict[str, Curve], fit: ScalingFit) -> pd.DataFrame:
    """Rows of `level_parts` from the upper edge of each part, from below; widths that `fit` has not seen are extrapolated."""
    rows, bottom = [], np.zeros(len(widths))
    outside = (widths < fit.width.min()) | (widths > fit.width.max())
    for part, (top, tops) in edges.items():
        heights = [percentiles(value, draws).columns("top") for value, draws in zip(top, tops.T, strict=True)]
        about = pd.DataFrame({"d_sae": widths, "part": part, "bottom": bottom, "extrapolated": outside})
        rows.append(about.join(pd.DataFrame(heights)))
        bottom = top
    return pd.concat(rows, ignore_index=True)


@dataclass(frozen=True)
class WidthFits:
    """Every fit to SAEs of several widths at one L0: of FVU, and of its linear and nonlinear parts (they add up to it).

    `linear_lead`: how much more of FVU the linear part loses from the narrowest SAE to the widest than the nonlinear part
    does; its interval is over text (both ends are SAEs trained once).
    """

    fvu: ScalingFit
    fvu_trend: Level
    fvu_linear: ScalingFit
    fvu_nonlinear: ScalingFit
    fvu_nonlinear_level: Level
    linear_lead: Estimate

    def gap(self, falling: bool = False) -> Estimate:
        """Linear error that stays: c − h, or, if the nonlinear part falls, too, the constant of the linear part's own law."""
        return self.fvu_linear.constant if falling else asymptotic_gap(self.fvu, self.fvu_nonlinear_level)

    def breakdown(self, widths: Sequence[float] | Array, falling: bool = False) -> pd.DataFrame:
        """The curves of Fig. 1: `level_parts` or, if the nonlinear part falls, too, `falling_parts`."""
        if falling:
            return falling_parts(self.fvu_linear, self.fvu_nonlinear, widths)
        return level_parts(self.fvu, self.fvu_nonlinear_level, widths)


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
    widest, narrowest = int(np.argmax(widths)), int(np.argmin(widths))

    def lead(total: Array, nonlinear: Array) -> Array:
        """What the linear part, total − nonlinear, loses on the way, minus what the nonlinear part loses."""
        loss = (total - 2 * nonlinear)[..., [narrowest, widest]]
        return loss[..., 0] - loss[..., 1]

    return WidthFits(
        fvu=fit_scaling(widths, fvu, fvus, seed=seed),
        fvu_trend=fit_level(widths, fvu, fvus, seed=seed),
        fvu_linear=fit_scaling(widths, np.maximum(fvu - part, TINY), fvus - parts, seed=seed + 20),
        fvu_nonlinear=fit_scaling(widths, part, parts, seed=seed + 10),
        fvu_nonlinear_level=fit_level(widths, part, parts, seed=seed + 10),
        linear_lead=percentiles(lead(fvu, part), lead(fvus, parts)),
    )


def fit_study(study: Study, refs: Sequence[SaeRef]) -> WidthFits:
    """`fit_widths` for SAEs of one site of a study, from the scalars that it keeps."""
    p, scalars = study.profile, [study.token_scalars(ref) for ref in refs]
    parts = (np.stack([some[f"{part}_norm2"] for some in scalars]) for part in ("error", "nonlinear"))
    error, nonlinear = (torch.from_numpy(part) for part in parts)
    design = study.site(refs[0].layer, refs[0].component).design
    return fit_widths(design, [ref.d_sae for ref in refs], error, nonlinear, p.n_bootstrap, p.seed)
