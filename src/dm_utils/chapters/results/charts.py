"""Charts of this chapter: results over widths, profile by profile."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from dm_utils.base.words import label
from dm_utils.charts.marks import chooser, texts, width_axis


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
