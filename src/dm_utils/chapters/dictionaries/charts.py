"""Charts of this chapter: the kind of error against its size, every metric by method, and what a method costs."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.base.words import LABELS
from dm_utils.chapters.dictionaries.experiment import METRICS
from dm_utils.charts.dots import dots
from dm_utils.charts.marks import WIDE, texts, with_interval
from dm_utils.charts.theme import COLORS

METHOD = alt.Color(
    "title:N", title=None, scale=alt.Scale(scheme="tableau20"), legend=alt.Legend(orient="bottom", columns=4)
)
NAMES = {
    **LABELS,
    "linear_share": "linear share of the squared error",
    "ce_recovered": "cross-entropy recovered",
    "kl": "KL divergence, nats per token",
    "fvu_pursued": "FVU after pursuit",
    "fvu_nonlinear_pursued": "FVU nonlinear after pursuit",
}


def kind_and_size(methods: pd.DataFrame, curve: pd.DataFrame) -> alt.LayerChart:
    """Draw FVU_nonlinear against FVU: TopK's curve over L0, and each method with its interval over text."""
    x = alt.X("fvu:Q", title="FVU", scale=alt.Scale(type="log", nice=False, padding=24))
    y = alt.Y("fvu_nonlinear:Q", title="FVU nonlinear", scale=alt.Scale(type="log", nice=False, padding=24))
    line = alt.Chart(curve.round(5)).encode(x=x, y=y)
    said = [alt.Tooltip("l0:Q", title="TopK, L0", format=".1f"), "fvu:Q", "fvu_nonlinear:Q"]
    data = methods.assign(text=texts(methods, "fvu_nonlinear", "fvu_nonlinear_low", "fvu_nonlinear_high")).round(5)
    tooltip = [alt.Tooltip("title:N"), alt.Tooltip("l0:Q"), alt.Tooltip("text:N", title="FVU nonlinear"), "fvu:Q"]
    base = alt.Chart(data).encode(x=x, color=METHOD, tooltip=tooltip)
    points = with_interval(base, y, low="fvu_nonlinear_low", high="fvu_nonlinear_high", filled=True, size=90)
    layers = [
        line.mark_line(color=COLORS["error"], point=alt.OverlayMarkDef(color=COLORS["error"], size=30)).encode(
            tooltip=said
        ),
        points,
    ]
    return alt.layer(*layers).properties(**WIDE, height=420)


def by_method(methods: pd.DataFrame) -> alt.LayerChart:
    """Draw every metric by method, with its interval over text; a list chooses the metric."""
    rows = [
        methods[["title", "d_sae", "l0"] if "d_sae" in methods else ["title", "l0"]].assign(
            quantity=NAMES.get(name, name),
            value=methods[name],
            ci_low=methods[f"{name}_low"],
            ci_high=methods[f"{name}_high"],
        )
        for name in METRICS
    ]
    data = pd.concat(rows, ignore_index=True).dropna(subset="value")
    chart = dots(data, "title")
    return chart.properties(height=max(120, 26 * methods["title"].nunique()))


def price(methods: pd.DataFrame) -> alt.Chart:
    """Draw FVU against training time, the size of a point by the FLOPs to encode a token."""
    data = methods.assign(text=texts(methods, "fvu", "fvu_low", "fvu_high")).round(5)
    x = alt.X(
        "train_seconds:Q", title="training, processor seconds", scale=alt.Scale(type="log", nice=False, padding=30)
    )
    y = alt.Y("fvu:Q", title="FVU", scale=alt.Scale(zero=False, padding=20))
    tooltip = [
        "title:N",
        alt.Tooltip("text:N", title="FVU"),
        "train_seconds:Q",
        alt.Tooltip("encode_flops:Q", format=","),
    ]
    size = alt.Size("encode_flops:Q", title="FLOPs to encode a token", scale=alt.Scale(type="log", range=[50, 400]))
    dot = (
        alt.Chart(data).mark_point(filled=True, opacity=0.9).encode(x=x, y=y, color=METHOD, size=size, tooltip=tooltip)
    )
    return dot.properties(**WIDE, height=340)
