"""Charts of this chapter: the regression of the error vector, dimension by dimension, and shrinkage."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from dm_utils.base.words import label
from dm_utils.charts.marks import WIDE, chooser, named_colors, width_axis, with_interval
from dm_utils.charts.theme import COLORS


def dimension_scatter(dimensions: pd.DataFrame) -> alt.Chart:
    """R² of each dimension of the error against its share of the error's variance: columns `dimension, share, r2`."""
    return (
        alt.Chart(dimensions)
        .mark_point(size=50, opacity=0.7, color=COLORS["linear"])
        .encode(
            x=alt.X(
                "share:Q",
                title="share of the error's variance",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(format="~%"),
            ),
            y=alt.Y("r2:Q", title="R² of the dimension", scale=alt.Scale(zero=False)),
            tooltip=["dimension:Q", alt.Tooltip("share:Q", format=".2%"), alt.Tooltip("r2:Q", format=".3f")],
        )
        .properties(**WIDE, height=260)
    )


def shrinkage_lines(table: pd.DataFrame, metrics: Sequence[str]) -> alt.LayerChart:
    """Several metrics of the same SAEs against width in one panel (App. A.1), for the L0 that the reader chooses."""
    parts = []
    for metric in metrics:
        part = table[["sae_id", "d_sae", "near_l0"]].assign(metric=label(metric), value=table[metric])
        parts.append(part.assign(low=table.get(f"{metric}_low"), high=table.get(f"{metric}_high")))
    pick = chooser("l0", sorted(table["near_l0"].unique().tolist()), "L0 near")
    base = alt.Chart(pd.concat(parts).round(5)).transform_filter(alt.datum.near_l0 == pick)
    legend = alt.Legend(orient="bottom", columns=1, symbolType="stroke", symbolSize=300)
    order = [label(metric) for metric in metrics]
    hue = alt.Color("metric:N", title=None, legend=legend, sort=order, scale=alt.Scale(scheme="tableau10"))
    dash = alt.StrokeDash("metric:N", title=None, sort=order, legend=legend)  # lines that coincide stay visible
    tooltip = ["metric:N", "sae_id:N", *[alt.Tooltip(f"{side}:Q", format=".3f") for side in ("value", "low", "high")]]
    base = base.encode(x=width_axis(), color=hue, strokeDash=dash, tooltip=tooltip)
    value = alt.Y("value:Q", title=None)
    chart = with_interval(base, value, "line", band=True, point=alt.OverlayMarkDef(size=60))
    return chart.add_params(pick).properties(**WIDE, height=260)


def rescaling(saes: pd.DataFrame) -> alt.LayerChart:
    """What is left by αSae(x), split in two, with a slider for α.

    `saes` holds `sae` and the terms of ‖x − αSae(x)‖² over the held-out tokens as fractions of Σ‖x − mean‖²: `x2`, `cross`
    (of x with Sae(x)), `sae2` and `nonlinear`.
    """
    pick = chooser("which", saes["sae"].tolist(), "SAE")
    alpha = alt.param(name="alpha", value=1, bind=alt.binding_range(min=0, max=1.5, step=0.02, name="α "))
    total = "max(0, datum.x2 - 2 * alpha * datum.cross + alpha * alpha * datum.sae2)"
    base = (
        alt.Chart(saes.round(6))
        .add_params(alpha, pick)
        .transform_filter(alt.datum.sae == pick)
        .transform_calculate(total=total, nonlinear_part="alpha * alpha * datum.nonlinear")
        .transform_calculate(linear_part="max(0, datum.total - datum.nonlinear_part)")
        .transform_fold(["nonlinear_part", "linear_part"], as_=["part", "height"])
        .transform_calculate(part="datum.part == 'linear_part' ? 'linear' : 'nonlinear'")
    )
    hue = alt.Color("part:N", title=None, scale=named_colors(["linear", "nonlinear"], ["linear", "nonlinear"]))
    x = alt.X(
        "sum(height):Q",
        title="‖x − αSae(x)‖² / ‖x − mean‖²",
        scale=alt.Scale(domain=[0, 1.05], clamp=True),
        axis=alt.Axis(grid=False),
    )
    bars = base.mark_bar(height=46).encode(x=x, color=hue, tooltip=["part:N", alt.Tooltip("height:Q", format=".3f")])
    says = "'left over ' + format(datum.total, '.3f') + ', of it nonlinear ' + format(datum.nonlinear_part, '.3f')"
    says += " + ' (' + format(datum.nonlinear_part / datum.total, '.0%') + ')'"
    text = base.transform_filter("datum.part == 'linear'").transform_calculate(says=says)
    text = text.mark_text(align="left", fontSize=13).encode(x=alt.value(4), y=alt.value(12), text="says:N")
    return alt.layer(bars, text).properties(**WIDE, height=110)
