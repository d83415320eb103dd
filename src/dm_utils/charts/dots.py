"""Dots with their intervals: values of several names, and what a closed form says beside what was simulated."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.charts.marks import chooser, texts, with_interval
from dm_utils.charts.theme import COLORS, INK


def exact_and_simulated(checks: pd.DataFrame, title: str) -> alt.LayerChart:
    """Set each simulated value (point, interval) beside its closed form (tick) and, where there is one, the printed value.

    ``checks`` has ``case, exact, value, low, high`` and optionally ``printed``.
    """
    order = list(checks["case"])
    table = checks.assign(text=texts(checks, "value", "low", "high")).round(5)
    base = alt.Chart(table).encode(y=alt.Y("case:N", title=None, sort=order, axis=alt.Axis(labelLimit=320)))
    axis = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, padding=20), axis=alt.Axis(format=".2f"))
    tooltip = ["case:N", alt.Tooltip("exact:Q", format=".4f"), alt.Tooltip("text:N", title="simulated")]
    layers = [
        base.mark_tick(thickness=3, size=26, color=COLORS["linear"]).encode(x=alt.X("exact:Q"), tooltip=tooltip),
        with_interval(base.encode(tooltip=tooltip), axis, rule={"strokeWidth": 2}, color=INK, size=55),
    ]
    if "printed" in checks:
        printed = base.transform_filter("isValid(datum.printed)").mark_point(shape="cross", angle=45, size=90)
        layers.append(printed.encode(x="printed:Q", color=alt.value(COLORS["nonlinear"]), tooltip=["printed:Q"]))
    return alt.layer(*layers).properties(width="container", height=alt.Step(30))


def dots(rows: pd.DataFrame, name: str, band: bool = False) -> alt.LayerChart:
    """Draw values with their intervals, one line of dots per `name`; a list chooses the quantity.

    `rows` holds `value, ci_low, ci_high`, the columns `name` and ``quantity``, and with `band` the reported range
    `paper_low, paper_high`, drawn behind the dots.
    """
    pick = chooser("quantity", rows["quantity"].unique().tolist(), "Show")
    data = rows.assign(text=texts(rows, "value", "ci_low", "ci_high")).round(5)
    base = alt.Chart(data).transform_filter(alt.datum.quantity == pick)
    y = alt.Y(f"{name}:N", title=None, sort=rows[name].unique().tolist(), axis=alt.Axis(labelLimit=260))
    x = alt.X("value:Q", title=None, scale=alt.Scale(zero=False))
    hue = alt.Color(f"{name}:N", legend=None, scale=alt.Scale(scheme="tableau10"))
    extra = [column for column in ("sae_id", "hook_name", "d_sae", "l0") if column in rows]
    tooltip = [alt.Tooltip(f"{name}:N"), alt.Tooltip("text:N", title="value"), *map(alt.Tooltip, extra)]
    value = base.encode(y=y, color=hue, tooltip=tooltip)
    layers = [with_interval(value, x, low="ci_low", high="ci_high", rule={"opacity": 0.5}, opacity=0.8)]
    if band:
        said = base.transform_aggregate(low="min(paper_low)", high="max(paper_high)")
        look = {"opacity": 0.25, "color": COLORS["error"]}
        layers.insert(0, said.mark_rect(**look).encode(x=alt.X("low:Q", title=None), x2="high:Q"))
        layers.insert(1, said.mark_rule(**(look | {"opacity": 0.6})).encode(x=alt.X("low:Q", title=None)))
    title = alt.TitleParams(text=alt.ExprRef("quantity"))
    height = max(90, 45 * rows[name].nunique())
    return alt.layer(*layers).add_params(pick).properties(width="container", height=height, title=title)
