"""Charts of this chapter: masked features of random and of real dictionaries."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.charts.marks import SHARE, chooser, with_interval
from dm_utils.charts.theme import COLORS, INK


def curves(table: pd.DataFrame, title: str) -> alt.LayerChart:
    """Plot FVU_nonlinear against FVU as features are masked, one line per case, over the parabola f (1 - f).

    ``table`` has ``case, order, fvu, fvu_nonlinear`` and, where measured, ``fvu_nonlinear_low`` and ``_high``; a list
    chooses the order of masking, a click in the legend singles out a case.
    """
    order = chooser("order", list(dict.fromkeys(table["order"])), "Masked")
    picked = alt.selection_point(fields=["case"], bind="legend")
    share = [i / 50 for i in range(51)]
    parabola = alt.Chart(pd.DataFrame({"fvu": share, "fvu_nonlinear": [f * (1 - f) for f in share]}))
    parabola = parabola.mark_line(strokeDash=[5, 4], color=INK).encode(x="fvu:Q", y="fvu_nonlinear:Q")
    base = alt.Chart(table.round(5)).transform_filter(alt.datum.order == order)
    cases = list(dict.fromkeys(table["case"]))
    base = base.encode(
        x=alt.X("fvu:Q", title="FVU: share of the variance masked", axis=SHARE, scale=alt.Scale(domain=[0, 1])),
        color=alt.Color(
            "case:N",
            title=title,
            sort=cases,
            legend=alt.Legend(orient="bottom", columns=1, titleLimit=500, labelLimit=500),
        ),
        opacity=alt.condition(picked, alt.value(1), alt.value(0.12)),
        tooltip=["case:N", *(alt.Tooltip(f"{n}:Q", format=".3f") for n in ("masked", "fvu", "fvu_nonlinear"))],
    )
    y = alt.Y("fvu_nonlinear:Q", title="FVU nonlinear (0 would be right)", axis=SHARE)
    low, high, point = "fvu_nonlinear_low", "fvu_nonlinear_high", alt.OverlayMarkDef(size=40)
    lines = with_interval(base, y, "line", low, high, rule={"strokeWidth": 3}, point=point)
    return alt.layer(parabola, lines).add_params(order, picked).properties(width="container", height=360)


def sweep(table: pd.DataFrame) -> alt.LayerChart:
    """Plot how bent the curve is against one property of the dictionary at a time, chosen from a list.

    ``table`` has ``property, setting, position, bend``; ``bend`` is 0 for a straight line and 1 for the full parabola.
    """
    prop = chooser("prop", list(dict.fromkeys(table["property"])), "Change")
    base = alt.Chart(table.round(4)).transform_filter(alt.datum.property == prop)
    x = alt.X("setting:N", title=None, sort=alt.EncodingSortField("position"), axis=alt.Axis(labelAngle=0))
    y = alt.Y("bend:Q", title="bend (1: the full parabola)", scale=alt.Scale(domain=[0, 1.05]))
    line = base.mark_line(color=COLORS["nonlinear"]).encode(x=x, y=y)
    point = base.mark_point(color=COLORS["nonlinear"]).encode(
        x=x, y=y, tooltip=["property:N", "setting:N", alt.Tooltip("bend:Q", format=".3f")]
    )
    return alt.layer(line, point).add_params(prop).properties(width="container", height=260)
