"""Charts of this chapter beside its arrows: what each repair removes, and the dense channel by rank."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.chapters.repairs.prices import name
from dm_utils.charts.dots import dots
from dm_utils.charts.marks import WIDE, texts, with_interval

SHOWN = {
    "removed": "of the error, removed",
    "removed_linear": "of the linear error, removed",
    "removed_nonlinear": "of the nonlinear error, removed",
    "ce_removed": "of the added cross-entropy, removed",
}


def shares(table: pd.DataFrame) -> alt.LayerChart:
    """Draw what each repair removes, with its interval over text: one line of dots per repair; a list chooses SAE and share."""
    data = table[table["repair"] != "as it is"].sort_values("removed", ascending=False)
    rows = [
        data[["d_sae", "l0"]].assign(
            repair=data["repair"].map(name),
            value=data[share],
            ci_low=data[f"{share}_low"],
            ci_high=data[f"{share}_high"],
            quantity=[f"{width:,} latents: {words}" for width in data["d_sae"]],
        )
        for share, words in SHOWN.items()
    ]
    long = pd.concat(rows, ignore_index=True).dropna(subset="value")
    chart = dots(long, "repair")
    return chart.properties(height=max(160, 20 * long["repair"].nunique()))


def by_rank(curves: pd.DataFrame, table: pd.DataFrame) -> alt.LayerChart:
    """Draw FVU with the best dense channel of every rank, one line per SAE; a dashed line is its decoder refitted, which costs nothing."""
    data = curves.assign(
        sae=[f"{width:,} latents" for width in curves["d_sae"]], text=texts(curves, "fvu", "fvu_low", "fvu_high")
    )
    order = data["sae"].unique().tolist()
    hue = alt.Color("sae:N", title=None, sort=order, scale=alt.Scale(scheme="viridis"))
    tooltip = ["sae:N", "rank:Q", alt.Tooltip("text:N", title="FVU"), alt.Tooltip("recovered:Q", format=".0%")]
    base = alt.Chart(data.round(5)).encode(
        x=alt.X("rank:Q", title="rank of the dense channel"), color=hue, tooltip=tooltip
    )
    y = alt.Y("fvu:Q", title="FVU", scale=alt.Scale(zero=False))
    line = with_interval(base, y, "line", "fvu_low", "fvu_high", band=True, rule={"opacity": 0})
    free = table[table["repair"] == "decoder"].assign(sae=lambda t: [f"{width:,} latents" for width in t["d_sae"]])
    rule = alt.Chart(free[["sae", "fvu"]].round(5)).mark_rule(strokeDash=[5, 4]).encode(y=y, color=hue)
    return alt.layer(line, rule).properties(**WIDE, height=300)
