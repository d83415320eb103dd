"""Charts of this chapter: the norm that a probe predicts, token by token."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.charts.marks import WIDE, chooser, texts, with_interval
from dm_utils.charts.theme import COLORS, INK


def probe_scatter(points: pd.DataFrame) -> alt.LayerChart:
    """True against predicted norms of held-out tokens (Eq. 10); drag over points to read the R² of those tokens.

    `points` holds `sae` (the SAE's name), `true`, `predicted` and `token` (its text).
    """
    names = points["sae"].unique().tolist()
    pick = chooser("which", names, "SAE")
    brush = alt.selection_interval(name="chosen")
    base = alt.Chart(points).transform_filter(alt.datum.sae == pick)
    y_axis = alt.Y("true:Q", title="‖SaeError(x)‖², true", scale=alt.Scale(zero=False))
    x_axis = alt.X("predicted:Q", title="‖SaeError(x)‖², predicted from x", scale=alt.Scale(zero=False))
    tooltip = [alt.Tooltip("token:N"), alt.Tooltip("true:Q", format=".4g"), alt.Tooltip("predicted:Q", format=".4g")]
    shade = alt.condition(brush, alt.value(COLORS["error"]), alt.value("#bbbbbb"))
    dots = base.mark_point(size=22, opacity=0.6).encode(x=x_axis, y=y_axis, color=shade, tooltip=tooltip)
    equal = base.mark_line(strokeDash=[4, 4], color=INK, opacity=0.6, strokeWidth=1).encode(x="true:Q", y="true:Q")
    text = (
        base.transform_filter(brush)
        .transform_joinaggregate(mean="mean(true)")
        .transform_calculate(rss="pow(datum.true - datum.predicted, 2)", tss="pow(datum.true - datum.mean, 2)")
        .transform_aggregate(rss="sum(rss)", tss="sum(tss)", n="count()")
        .transform_calculate(
            says="'R² of the ' + datum.n + ' tokens shown or chosen: ' + format(1 - datum.rss / datum.tss, '.2f')"
        )
        .mark_text(align="left", fontSize=13)
        .encode(x=alt.value(8), y=alt.value(8), text="says:N")
    )
    return alt.layer(equal, dots.add_params(brush), text).add_params(pick).properties(**WIDE, height=320)


def by_position(bins: pd.DataFrame, early: int) -> alt.LayerChart:
    """Draw FVU by position in the context, one point with its interval per bin; a line marks where the kept positions begin."""
    data = bins.assign(text=texts(bins, "value", "low", "high")).round({"value": 5, "low": 5, "high": 5})
    scale = alt.Scale(type="log", base=2, padding=14, nice=False)
    tooltip = ["first:Q", "last:Q", alt.Tooltip("text:N", title="FVU")]
    base = alt.Chart(data).encode(
        x=alt.X("first:Q", title="position in the context, from", scale=scale), tooltip=tooltip
    )
    y = alt.Y("value:Q", title="FVU at these positions", scale=alt.Scale(zero=False))
    points = with_interval(
        base, y, "line", color=COLORS["error"], point=alt.OverlayMarkDef(size=60, color=COLORS["error"])
    )
    rule = alt.Chart(pd.DataFrame({"first": [early]})).mark_rule(strokeDash=[4, 4], color=INK).encode(x="first:Q")
    return alt.layer(points, rule).properties(**WIDE, height=220)
