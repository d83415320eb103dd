"""Charts of the page "Results by profile" and of the how-to for your own SAE."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from .charts import COLORS, chooser, texts, width_axis
from .display import label

PROFILES = alt.Scale(scheme="tableau10")


def dots(rows: pd.DataFrame, name: str, quantity: str = "quantity", band: bool = False) -> alt.LayerChart:
    """Draw values with their intervals, one line of dots per `name`; a list chooses the quantity.

    `rows` holds `value, ci_low, ci_high`, the columns `name` and `quantity`, and with `band` the reported range
    `paper_low, paper_high`, drawn behind the dots.
    """
    pick = chooser("quantity", rows[quantity].unique().tolist(), "Show")
    data = rows.assign(text=texts(rows, "value", "ci_low", "ci_high")).round(5)
    base = alt.Chart(data).transform_filter(alt.datum[quantity] == pick)
    y = alt.Y(f"{name}:N", title=None, sort=rows[name].unique().tolist(), axis=alt.Axis(labelLimit=260))
    x = alt.X("value:Q", title=None, scale=alt.Scale(zero=False))
    hue = alt.Color(f"{name}:N", legend=None, scale=PROFILES)
    extra = [column for column in ("sae_id", "hook_name", "d_sae", "l0") if column in rows]
    tooltip = [alt.Tooltip(f"{name}:N"), alt.Tooltip("text:N", title="value"), *map(alt.Tooltip, extra)]
    layers = [
        base.mark_rule(opacity=0.5).encode(
            x=alt.X("ci_low:Q", title=None, scale=alt.Scale(zero=False)), x2="ci_high:Q", y=y, color=hue
        ),
        base.mark_point(opacity=0.8).encode(x=x, y=y, color=hue, tooltip=tooltip),
    ]
    if band:
        said = base.transform_aggregate(low="min(paper_low)", high="max(paper_high)")
        look = {"opacity": 0.25, "color": COLORS["error"]}
        layers.insert(0, said.mark_rect(**look).encode(x=alt.X("low:Q", title=None), x2="high:Q"))
        layers.insert(1, said.mark_rule(**(look | {"opacity": 0.6})).encode(x=alt.X("low:Q", title=None)))
    title = alt.TitleParams(text=alt.ExprRef("quantity"))
    height = max(90, 45 * rows[name].nunique())
    return alt.layer(*layers).add_params(pick).properties(width="container", height=height, title=title)


def across_widths(rows: pd.DataFrame, metrics: Sequence[str]) -> alt.LayerChart:
    """Draw a metric against SAE width for one profile at a time, one line per L0; lists choose the profile and the metric.

    `rows` are results in the columns of the book's tables that name their SAE.
    """
    kept = rows[rows["metric"].isin(metrics) & rows["d_sae"].notna() & rows["l0"].notna()]
    kept = kept.drop_duplicates(["profile", "metric", "hook_name", "sae_id"])
    near = (2 ** np.log2(kept["l0"]).round()).astype(int)
    data = kept.assign(near=near, metric=kept["metric"].map(label), text=texts(kept, "value", "ci_low", "ci_high"))
    data = data[
        ["profile", "metric", "hook_name", "sae_id", "d_sae", "l0", "near", "value", "ci_low", "ci_high", "text"]
    ]
    profile = chooser("profile", data["profile"].unique().tolist(), "Profile")
    metric = chooser("metric", data["metric"].unique().tolist(), "Show")
    base = alt.Chart(data.round(5).sort_values("d_sae")).transform_filter(
        (alt.datum.metric == metric) & (alt.datum.profile == profile)
    )
    hue = alt.Color("near:O", title="L0 near", scale=alt.Scale(scheme="tableau10"))
    y_scale = alt.Scale(zero=False)
    tooltip = [alt.Tooltip("text:N", title="value"), *map(alt.Tooltip, ("sae_id:N", "hook_name:N", "d_sae:Q", "l0:Q"))]
    bars = base.mark_rule(strokeWidth=1.5).encode(
        x=width_axis(), y=alt.Y("ci_low:Q", title=None, scale=y_scale), y2="ci_high:Q", color=hue
    )
    line = base.mark_point(size=60).encode(
        x=width_axis(), y=alt.Y("value:Q", title=None, scale=y_scale), color=hue, tooltip=tooltip
    )
    title = alt.TitleParams(text=alt.ExprRef("metric"))
    return alt.layer(bars, line).add_params(profile, metric).properties(width="container", height=300, title=title)
