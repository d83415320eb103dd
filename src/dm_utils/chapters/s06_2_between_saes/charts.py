"""Charts of this chapter: what neighbouring sites predict of each part."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from dm_utils.base.names import PART_NAMES
from dm_utils.charts.marks import PART_HUE, WIDE, chooser, texts, with_interval
from dm_utils.charts.theme import COLORS, INK


def neighbour_bars(table: pd.DataFrame, order: Sequence[str]) -> alt.LayerChart:
    """Draw the R² of each part of the error from each neighbour (Fig. 9b), rows of `experiment.predict_parts`.

    Lists choose the regressor (reconstruction or raw activation; alone or with x) and which R².
    """
    rows = []
    for name, words in (("r2", "mean over dimensions (the paper's)"), ("r2_weighted", "variance-weighted")):
        values = {"value": table[name], "low": table[f"{name}_low"], "high": table[f"{name}_high"]}
        rows.append(table[["neighbour", "reading", "kind", "given", "target", "sae_id"]].assign(**values, r2=words))
    data = pd.concat(rows, ignore_index=True)
    data = data.assign(part=data["target"].map(PART_NAMES), text=texts(data, "value", "low", "high")).round(5)
    data["regressor"] = data["kind"] + ", " + data["given"]
    kind = chooser("regressor", list(dict.fromkeys(data["regressor"])), "Predict from")
    metric = chooser("which", list(dict.fromkeys(data["r2"])), "R²")
    base = alt.Chart(data).transform_filter((alt.datum.regressor == kind) & (alt.datum.r2 == metric))
    y_axis = alt.Y("neighbour:N", title=None, sort=list(order), axis=alt.Axis(labelLimit=220))
    offset = alt.YOffset("part:N", sort=list(PART_NAMES.values()))
    x_axis = alt.X("value:Q", title="held-out R²")
    tooltip = [
        "neighbour:N",
        "reading:N",
        alt.Tooltip("sae_id:N", title="SAE"),
        "part:N",
        alt.Tooltip("text:N", title="R²"),
    ]
    hue = alt.Color("part:N", title=None, scale=PART_HUE)
    base = base.encode(y=y_axis, yOffset=offset, color=hue, tooltip=tooltip)
    bars = with_interval(base, x_axis, "bar", rule={"color": INK}, opacity=0.8)
    return bars.add_params(kind, metric).properties(**WIDE, height=64 * len(order))


def built_in_bars(rows: pd.DataFrame) -> alt.LayerChart:
    """Draw measured R² beside its controls: columns ``case, r2`` (which), ``value, low, high``."""
    order = list(dict.fromkeys(rows["case"]))
    data = rows.assign(text=texts(rows, "value", "low", "high")).round(5)
    metric = chooser("which", list(dict.fromkeys(rows["r2"])), "R²")
    base = alt.Chart(data).transform_filter(alt.datum.r2 == metric)
    y_axis = alt.Y("case:N", title=None, sort=order, axis=alt.Axis(labelLimit=420))
    x_axis = alt.X("value:Q", title="held-out R² of NonlinearError from Sae(x)", scale=alt.Scale(domainMin=0))
    hue = alt.condition(alt.datum.case == order[0], alt.value(COLORS["nonlinear"]), alt.value(COLORS["error"]))
    base = base.encode(y=y_axis, color=hue, tooltip=["case:N", "text:N"])
    bars = with_interval(base, x_axis, "bar", rule={"strokeWidth": 2, "color": INK}, opacity=0.8)
    return bars.add_params(metric).properties(**WIDE, height=44 * len(order))


def scale_slider(curve: pd.DataFrame, measured: float) -> alt.LayerChart:
    """Draw the R² that arithmetic gives if the nonlinear part of Sae(x) were scaled; a slider reads the curve.

    ``curve`` holds ``scale`` (1 is the SAE as it is) and ``r2``; ``measured`` is the R² found at scale 1.
    """
    steps = sorted(curve["scale"].unique().tolist())
    step = round(float(np.diff(steps).min()), 6)
    at = alt.param(
        name="noise", value=1.0, bind=alt.binding_range(min=steps[0], max=steps[-1], step=step, name="Scale ")
    )
    base = alt.Chart(curve.round(5))
    x_axis = alt.X("scale:Q", title="the nonlinear part of Sae(x), times")
    y_axis = alt.Y("r2:Q", title="R² of NonlinearError from Sae(x)", scale=alt.Scale(domain=[0, 1]))
    line = base.mark_line(color=COLORS["error"]).encode(x=x_axis, y=y_axis)
    here = base.transform_filter("abs(datum.scale - noise) < 1e-6")
    dot = here.mark_point(size=120, color=COLORS["nonlinear"]).encode(x=x_axis, y=y_axis)
    words = here.mark_text(align="left", dx=12, dy=12).encode(x=x_axis, y=y_axis, text=alt.Text("r2:Q", format=".3f"))
    found = alt.Chart(pd.DataFrame({"scale": [1.0], "r2": [measured]})).mark_point(
        shape="cross", size=160, filled=False, color=INK
    )
    return (
        alt.layer(
            line,
            found.encode(x=x_axis, y=y_axis, tooltip=[alt.Tooltip("r2:Q", title="measured", format=".3f")]),
            dot,
            words,
        )
        .add_params(at)
        .properties(**WIDE, height=280)
    )
