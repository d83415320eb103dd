"""Charts of this chapter: loss recovered and damage done by each part of the error."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from dm_utils.base.names import PART_NAMES
from dm_utils.charts.marks import PART_HUE, WIDE, chooser, dashes, sae_tooltip, texts, width_axis
from dm_utils.charts.theme import INK

MEASURED, OF_NORM, OF_VARIANCE = "recovered", "its share of the error's norm", "its share of the variance"


def recovery_rows(table: pd.DataFrame, along: str) -> pd.DataFrame:
    """Long form of `downstream.downstream_table` for :func:`recovery`: one row per SAE, part, loss and quantity.

    ``along`` names the comparison that these SAEs make, for example "width, at L0 near 16".
    """
    sources = {MEASURED: "{loss}_recovered_{part}", OF_NORM: "share_norm_{part}", OF_VARIANCE: "share_variance_{part}"}
    rows = []
    for loss, words in (("ce", "cross-entropy"), ("kl", "KL to the original")):
        for part in ("linear", "nonlinear"):
            for quantity, source in sources.items():
                name = source.format(loss=loss, part=part)
                about = table[["sae_id", "d_sae", "l0", "layer", "architecture"]]
                values = {"value": table[name], "low": table[f"{name}_low"], "high": table[f"{name}_high"]}
                rows.append(about.assign(**values, quantity=quantity, part=PART_NAMES[part], loss=words, along=along))
    return pd.concat(rows, ignore_index=True)


def recovery(rows: pd.DataFrame, x: str, title: str) -> alt.LayerChart:
    """Draw what adding each part back recovers, beside the two predictions (Fig. 8), against ``x`` (d_sae or l0)."""
    rows = rows.assign(text=texts(rows, "value", "low", "high")).round({"value": 5, "low": 5, "high": 5, "l0": 2})
    loss = chooser("loss", list(dict.fromkeys(rows["loss"])), "Loss", radio=True)
    along = (
        width_axis() if x == "d_sae" else alt.X(f"{x}:Q", title=title, scale=alt.Scale(type="log", base=2, padding=14))
    )
    order, drawn = [MEASURED, OF_NORM, OF_VARIANCE], rows["part"].unique().tolist()
    base = (
        alt.Chart(rows)
        .encode(x=along, color=alt.Color("part:N", title=None, scale=PART_HUE, legend=alt.Legend(values=drawn)))
        .transform_filter(alt.datum.loss == loss)
    )
    y_axis = alt.Y("value:Q", title="share of the increase", axis=alt.Axis(format="%"))
    dash = dashes("quantity", order, [[1, 0], [6, 4], [2, 3]])
    bars = (
        base.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high:Q").transform_filter(alt.datum.quantity == MEASURED)
    )
    tooltip = [alt.Tooltip("part:N"), alt.Tooltip("quantity:N"), *sae_tooltip("share")]
    lines = base.mark_line(point=alt.OverlayMarkDef(size=60)).encode(y=y_axis, strokeDash=dash, tooltip=tooltip)
    return alt.layer(bars, lines).add_params(loss).properties(**WIDE, height=320)


def damage(table: pd.DataFrame) -> alt.LayerChart:
    """Draw the KL that taking each part of the error out of x causes, beside random changes as long; choose the SAE."""
    names = {
        "without": "x without this part",
        "random": "x + random direction",
        "difference": "x + difference of two activations",
    }
    rows = []
    for part, words in PART_NAMES.items():
        for kind, label in names.items():
            name = f"kl_{kind}_{part}"
            values = {"value": table[name], "low": table[f"{name}_low"], "high": table[f"{name}_high"]}
            rows.append(table[["sae_id"]].assign(**values, part=words, kind=label))
    data = pd.concat(rows, ignore_index=True)
    data = data.assign(text=texts(data, "value", "low", "high")).round(5)
    sae = chooser("sae", table["sae_id"].tolist(), "SAE")
    base = alt.Chart(data).transform_filter(alt.datum.sae_id == sae)
    y_axis = alt.Y("kind:N", title=None, sort=list(names.values()), axis=alt.Axis(labelLimit=260))
    hue = alt.Color("part:N", legend=None, scale=PART_HUE)
    x_axis = alt.X("value:Q", title="KL to the original, nats per token")
    bars = base.mark_bar(opacity=0.75).encode(y=y_axis, x=x_axis, color=hue, tooltip=["part:N", "kind:N", "text:N"])
    rules = base.mark_rule(strokeWidth=2, color=INK).encode(y=y_axis, x="low:Q", x2="high:Q")
    layered = alt.layer(bars, rules, data=data).properties(width=420, height=80)
    rows_of = alt.Row(
        "part:N", title=None, sort=list(PART_NAMES.values()), header=alt.Header(labelAngle=0, labelAlign="left")
    )
    return layered.facet(row=rows_of).add_params(sae)


def mixing(grid: pd.DataFrame) -> alt.LayerChart:
    """Draw the loss over how much of each part is added back; two sliders choose a mixture and read it off.

    ``grid`` holds ``linear, nonlinear`` (the shares added), ``value, low, high`` (nats per token above the original).
    """
    steps = sorted(grid["linear"].unique().tolist())
    width = float(np.diff(steps).min())
    data = grid.assign(text=texts(grid, "value", "low", "high"), largest=grid["value"].max()).round(5)
    at = {
        name: alt.param(
            name=f"share_{name}",
            value=0,
            bind=alt.binding_range(min=0, max=1, step=width, name=f"{PART_NAMES[name]} added "),
        )
        for name in ("linear", "nonlinear")
    }
    base = alt.Chart(data).encode(
        x=alt.X("linear:O", title="share of LinearError added to Sae(x)", axis=alt.Axis(labelAngle=0, format=".0%")),
        y=alt.Y("nonlinear:O", title="share of NonlinearError added", sort="descending", axis=alt.Axis(format=".0%")),
        tooltip=["linear:Q", "nonlinear:Q", "text:N"],
    )
    hue = alt.Color("value:Q", legend=None, scale=alt.Scale(scheme="viridis", reverse=True))
    chosen = "abs(datum.linear - share_linear) < 1e-6 && abs(datum.nonlinear - share_nonlinear) < 1e-6"
    frame = base.mark_rect(fill=None, stroke=INK, strokeWidth=3).transform_filter(chosen)
    dark = alt.condition("datum.value > 0.6 * datum.largest", alt.value("#ffffff"), alt.value("#111111"))
    numbers = base.mark_text(fontSize=12).encode(text=alt.Text("value:Q", format=".3f"), color=dark)
    reading = (
        alt.Chart(data)
        .mark_text(align="left", fontSize=13, fontWeight=600, color=INK)
        .encode(x=alt.value(0), y=alt.value(-10), text="reading:N")
        .transform_filter(chosen)
        .transform_calculate(reading="'loss above the original: ' + datum.text")
    )
    cells = base.mark_rect().encode(color=hue)
    return alt.layer(cells, frame, numbers, reading).add_params(*at.values()).properties(**WIDE, height=300)
