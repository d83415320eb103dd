"""Charts of this chapter: the constant of the scaling law under a slider, and beside dead latents by training length."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.base.words import label
from dm_utils.charts.marks import SHARE, dashes, tidy, width_axis, with_interval
from dm_utils.charts.theme import COLORS, INK


def constant_slider(curves: pd.DataFrame, points: pd.DataFrame) -> alt.VConcatChart:
    """The best power law for a chosen constant, and how well each constant fits.

    `curves` holds `index` (of the constant), `constant`, `rms` (of the residuals), `d_sae`, `fvu`; `points` the SAEs' `d_sae`,
    `value`, `low`, `high`.
    """
    last = int(curves["index"].max())
    best = int(curves["index"].iloc[curves["rms"].argmin()])
    at = alt.param(name="at", value=best, bind=alt.binding_range(min=0, max=last, step=1, name="constant c "))
    here = alt.datum.index == at
    y_axis = alt.Y("fvu:Q", title="FVU", scale=alt.Scale(zero=True))
    law = alt.Chart(curves).transform_filter(here).encode(x=width_axis())
    line = law.mark_line(color=COLORS["absent"]).encode(y=y_axis)
    floor = law.mark_line(color=COLORS["linear"], strokeDash=[2, 4]).encode(y="constant:Q")
    saes = alt.Chart(points).encode(x=width_axis(), tooltip=["d_sae:Q", "value:Q"])
    saes = with_interval(saes, alt.Y("value:Q"), rule={"strokeWidth": 2}, color=INK)
    fit = alt.layer(line, floor, saes).properties(width=560, height=240)
    one = curves.drop_duplicates("index")[["index", "constant", "rms"]]
    valley = alt.Chart(one).encode(x=alt.X("constant:Q", title="constant c"), y=alt.Y("rms:Q", title="RMS distance"))
    mark = valley.mark_point(size=120, color=COLORS["linear"]).transform_filter(here)
    profile = alt.layer(valley.mark_line(color=INK), mark).properties(width=560, height=90)
    says = {"at": [f"{value:.4f}" for value in one.sort_values("index")["constant"]]}
    return alt.vconcat(fit, profile).add_params(at).properties(usermeta={"sliders": says})


def by_length(saes: pd.DataFrame, constants: pd.DataFrame) -> alt.ConcatChart:
    """FVU and FVU nonlinear against width, a line per training length, and c beside the dead share of the widest SAE.

    `saes` are rows of `lengths.shipped`, `constants` those of `findings.by_length`.
    """
    hue = alt.Color("steps:O", title="training steps", scale=alt.Scale(scheme="tableau10"))
    dash = dashes("metric", [label("fvu"), label("fvu_nonlinear")], [[1, 0], [5, 4]])
    rows = tidy(saes, ["fvu", "fvu_nonlinear"], keep=["steps", "dead_fraction"])
    dead = alt.Tooltip("dead_fraction:Q", title="dead latents", format=".1%")
    tooltip = ["sae_id:N", "steps:O", "metric:N", alt.Tooltip("text:N", title="value"), dead]
    base = alt.Chart(rows).encode(x=width_axis(ticks=5), color=hue, strokeDash=dash, tooltip=tooltip)
    y = alt.Y("value:Q", title="FVU", scale=alt.Scale(zero=False))
    lines = with_interval(base, y, "line", point=alt.OverlayMarkDef(size=45)).properties(width=290, height=260)
    ends = ["steps", "dead_fraction", "constant", "constant_low", "constant_high"]
    tooltip = ["steps:O", dead, *[alt.Tooltip(f"{end}:Q", format=".3f") for end in ends[2:]]]
    x = alt.X("dead_fraction:Q", title="dead latents of the widest SAE", axis=SHARE, scale=alt.Scale(zero=True))
    base = alt.Chart(constants[ends].round(5)).encode(x=x, color=hue, tooltip=tooltip)
    floors = with_interval(
        base, alt.Y("constant:Q", title="constant c"), "point", "constant_low", "constant_high", size=70
    )
    return alt.concat(lines, floors.properties(width=210, height=260), columns=2)
