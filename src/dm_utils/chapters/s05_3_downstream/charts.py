"""Charts of this chapter: loss recovered and damage done by each part of the error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import pandas as pd

from dm_utils.base.names import PART_NAMES, PARTS
from dm_utils.charts.marks import PART_HUE, WIDE, chooser, dashes, sae_tooltip, texts, width_axis, with_interval
from dm_utils.charts.theme import INK
from dm_utils.maths.resampling import Estimate

MEASURED, OF_NORM, OF_VARIANCE = "recovered", "its share of the error's norm", "its share of the variance"


def estimates(table: pd.DataFrame, metrics: Mapping[str, Mapping[str, str]], keep: Sequence[str] = ()) -> pd.DataFrame:
    """Long form of estimates of `recovery.downstream_table`: `value, low, high, text` beside the SAE's columns `keep`.

    `metrics` maps each metric to the columns that tell it apart, for example ``{"part": "LinearError"}``.
    """
    rows = [
        {"sae_id": row["sae_id"], **{name: row[name] for name in keep}, **about, **Estimate.read(row, metric).columns()}
        for metric, about in metrics.items()
        for _, row in table.iterrows()
    ]
    found = pd.DataFrame(rows)
    return found.assign(text=texts(found, "value", "low", "high")).round({"value": 5, "low": 5, "high": 5, "l0": 2})


def recovery(table: pd.DataFrame, x: str, title: str) -> alt.LayerChart:
    """Draw what adding each part back recovers, beside the two predictions (Fig. 8), against ``x`` (d_sae or l0)."""
    sources = {MEASURED: "{loss}_recovered_{part}", OF_NORM: "share_norm_{part}", OF_VARIANCE: "share_variance_{part}"}
    losses = {"ce": "cross-entropy", "kl": "KL to the original"}
    about = ["d_sae", "l0", "layer", "architecture"]
    rows = pd.concat(
        estimates(table, {source.format(loss=loss, part=part): {"part": PART_NAMES[part]}}, about).assign(
            quantity=quantity, loss=words
        )
        for loss, words in losses.items()
        for part in PARTS[1:]
        for quantity, source in sources.items()
    )
    choice = chooser("loss", list(losses.values()), "Loss", radio=True)
    log2 = alt.Scale(type="log", base=2, padding=14)
    along = width_axis() if x == "d_sae" else alt.X(f"{x}:Q", title=title, scale=log2)
    legend = alt.Legend(values=rows["part"].unique().tolist())
    base = alt.Chart(rows).encode(x=along, color=alt.Color("part:N", title=None, scale=PART_HUE, legend=legend))
    base = base.transform_filter(alt.datum.loss == choice)
    y = alt.Y("value:Q", title="share of the increase", axis=alt.Axis(format="%"))
    dash = dashes("quantity", [MEASURED, OF_NORM, OF_VARIANCE], [[1, 0], [6, 4], [2, 3]])
    tooltip = [alt.Tooltip("part:N"), alt.Tooltip("quantity:N"), *sae_tooltip("share")]
    measured = base.transform_filter(alt.datum.quantity == MEASURED)
    lines = base.mark_line(point=alt.OverlayMarkDef(size=60)).encode(y=y, strokeDash=dash, tooltip=tooltip)
    return alt.layer(with_interval(measured, y, size=1), lines).add_params(choice).properties(**WIDE, height=320)


def by_sae(rows: pd.DataFrame, title: str, reference: float | None = None, own_scales: bool = False) -> alt.FacetChart:
    """Draw one panel per value of ``panel``: every SAE a row, every part a point with its interval, a line at ``reference``.

    `rows` is what `estimates` gives, with columns ``panel`` and ``part``.
    """
    order, panels = rows["sae_id"].unique().tolist(), rows["panel"].unique().tolist()
    drawn = alt.Legend(values=rows["part"].unique().tolist(), orient="top")
    base = alt.Chart().encode(
        y=alt.Y("sae_id:N", title=None, sort=order, axis=alt.Axis(labelLimit=220)),
        yOffset="part:N",
        color=alt.Color("part:N", title=None, scale=PART_HUE, legend=drawn),
        tooltip=["sae_id:N", "part:N", alt.Tooltip("text:N", title=title)],
    )
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False))
    layers = [with_interval(base, x, size=40)]
    if reference is not None:
        layers.append(alt.Chart().mark_rule(color=INK, strokeDash=[3, 3]).encode(x=alt.datum(reference)))
    chart = alt.layer(*layers, data=rows).properties(width=250, height=26 * len(order))
    chart = chart.facet(facet=alt.Facet("panel:N", title=None, sort=panels), columns=2)
    return chart.resolve_scale(x="independent") if own_scales else chart


def damage(table: pd.DataFrame) -> alt.LayerChart:
    """Draw the KL that taking each part of the error out of x causes, beside random changes as long; choose the SAE."""
    names = {
        "without": "x without this part",
        "random": "x + random direction",
        "difference": "x + difference of two activations",
    }
    metrics = {
        f"kl_{kind}_{part}": {"part": words, "kind": label}
        for part, words in PART_NAMES.items()
        for kind, label in names.items()
    }
    data, sae = estimates(table, metrics), chooser("sae", table["sae_id"].tolist(), "SAE")
    base = alt.Chart().encode(
        y=alt.Y("kind:N", title=None, sort=list(names.values()), axis=alt.Axis(labelLimit=260)),
        color=alt.Color("part:N", legend=None, scale=PART_HUE),
        tooltip=["part:N", "kind:N", "text:N"],
    )
    x = alt.X("value:Q", title="KL to the original, nats per token")
    bars = with_interval(base, x, "bar", rule={"strokeWidth": 2, "color": INK}, opacity=0.75)
    layered = alt.layer(bars, data=data).transform_filter(alt.datum.sae_id == sae).properties(width=420, height=80)
    header = alt.Header(labelAngle=0, labelAlign="left")
    rows = alt.Row("part:N", title=None, sort=list(PART_NAMES.values()), header=header)
    return layered.facet(row=rows).add_params(sae)


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
