"""Charts of this chapter: results over widths, profile by profile."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from dm_utils.base.words import label
from dm_utils.charts.marks import chooser, texts, width_axis, with_interval
from dm_utils.engine.suite import near_l0


def across_widths(rows: pd.DataFrame, metrics: Sequence[str]) -> alt.LayerChart:
    """Draw a metric against SAE width for one profile at a time, one line per L0; lists choose the profile and the metric.

    `rows` are results in the columns of the book's tables that name their SAE.
    """
    kept = rows[rows["metric"].isin(metrics) & rows["d_sae"].notna() & rows["l0"].notna()]
    kept = kept.drop_duplicates(["profile", "metric", "hook_name", "sae_id"])
    data = kept.assign(
        near=near_l0(kept["l0"]), metric=kept["metric"].map(label), text=texts(kept, "value", "ci_low", "ci_high")
    )
    data = data[
        ["profile", "metric", "hook_name", "sae_id", "d_sae", "l0", "near", "value", "ci_low", "ci_high", "text"]
    ]
    profile = chooser("profile", data["profile"].unique().tolist(), "Profile")
    metric = chooser("metric", data["metric"].unique().tolist(), "Show")
    base = alt.Chart(data.round(5).sort_values("d_sae")).transform_filter(
        (alt.datum.metric == metric) & (alt.datum.profile == profile)
    )
    hue = alt.Color("near:O", title="L0 near", scale=alt.Scale(scheme="tableau10"))
    tooltip = [alt.Tooltip("text:N", title="value"), *map(alt.Tooltip, ("sae_id:N", "hook_name:N", "d_sae:Q", "l0:Q"))]
    value = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))
    base = base.encode(x=width_axis(), color=hue, tooltip=tooltip)
    chart = with_interval(base, value, low="ci_low", high="ci_high", size=60).add_params(profile, metric)
    title = alt.TitleParams(text=alt.ExprRef("metric"))
    return chart.properties(width="container", height=300, title=title)
