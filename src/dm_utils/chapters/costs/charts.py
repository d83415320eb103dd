"""Charts of this chapter: what the bound leaves in question, and the time of each stage."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.charts.marks import WIDE, width_axis
from dm_utils.charts.theme import COLORS


def in_question(table: pd.DataFrame) -> alt.LayerChart:
    """Candidates for each active latent against width: columns `sae_id, architecture, d_sae, near_l0, ratio, …`."""
    shown = table[["sae_id", "architecture", "d_sae", "near_l0", "active", "candidates", "ratio"]].round(3)
    base = alt.Chart(shown).encode(
        x=width_axis(),
        y=alt.Y("ratio:Q", title="candidates per active latent", scale=alt.Scale(domainMin=1, zero=False)),
        color=alt.Color("near_l0:N", title="L0 near", scale=alt.Scale(scheme="tableau10")),
    )
    tooltip = [alt.Tooltip(name) for name in ("sae_id:N", "active:Q", "candidates:Q", "ratio:Q")]
    lines = base.mark_line(opacity=0.6).encode(detail="architecture:N")
    points = base.mark_point(size=80).encode(shape=alt.Shape("architecture:N", title=None), tooltip=tooltip)
    return alt.layer(lines, points).properties(**WIDE, height=280)


def stages(table: pd.DataFrame) -> alt.LayerChart:
    """Microseconds per token of each stage, in the order of the table: columns `stage, us`."""
    base = alt.Chart(table.round(2)).encode(
        y=alt.Y("stage:N", sort=table["stage"].tolist(), title=None, axis=alt.Axis(labelLimit=300)),
        x=alt.X(
            "us:Q",
            title="microseconds of processor time per token",
            scale=alt.Scale(domainMax=1.35 * table["us"].max()),
        ),  # room for the number beside the longest bar
    )
    bars = base.mark_bar(color=COLORS["sae"], opacity=0.8).encode(
        tooltip=["stage:N", alt.Tooltip("us:Q", format=".1f")]
    )
    numbers = base.mark_text(align="left", dx=4).encode(text=alt.Text("us:Q", format=".1f"))
    return alt.layer(bars, numbers).properties(**WIDE, height={"step": 30})
