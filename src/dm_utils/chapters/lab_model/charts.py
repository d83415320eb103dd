"""Charts of this chapter: how the lab's model was trained and what its SAEs cost it."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.charts.marks import WIDE, width_axis, with_interval
from dm_utils.charts.theme import COLORS


def training_curve(losses: pd.DataFrame, levels: pd.DataFrame) -> alt.LayerChart:
    """Training loss (columns `tokens, nats`) with horizontal levels to compare with (columns `name, nats`)."""
    y = alt.Y("nats:Q", title="nats per token", scale=alt.Scale(zero=False))
    line = (
        alt.Chart(losses)
        .mark_line(color=COLORS["x"])
        .encode(
            x=alt.X("tokens:Q", title="tokens seen", axis=alt.Axis(format="~s")), y=y, tooltip=["tokens:Q", "nats:Q"]
        )
    )
    rules = alt.Chart(levels).mark_rule(strokeDash=[5, 4], strokeWidth=1.5).encode(y=y, tooltip=["name:N", "nats:Q"])
    names = (
        alt.Chart(levels)
        .mark_text(align="right", baseline="bottom", dy=-4, fontSize=12)
        .encode(x=alt.value("width"), y=y, text=alt.Text("name:N"))
    )
    return alt.layer(line, rules, names).properties(**WIDE, height=280)


def spliced_losses(table: pd.DataFrame, levels: pd.DataFrame) -> alt.LayerChart:
    """Cross-entropy with reconstructions spliced in against width, by L0: `d_sae, near_l0, value, low, high`; and levels."""
    hue = alt.Color("near_l0:N", title="L0 near", scale=alt.Scale(scheme="tableau10"))
    y = alt.Y("value:Q", title="nats per token", scale=alt.Scale(zero=False))
    tooltip = ["sae_id:N", *[alt.Tooltip(f"{side}:Q", format=".3f") for side in ("value", "low", "high")]]
    base = alt.Chart(table.round(5)).encode(x=width_axis(), color=hue, tooltip=tooltip)
    line = with_interval(base, y, "line", band=True, point=alt.OverlayMarkDef(size=60))
    rules = alt.Chart(levels).mark_rule(strokeDash=[5, 4]).encode(y="nats:Q", tooltip=["name:N", "nats:Q"])
    names = (
        alt.Chart(levels)
        .mark_text(align="left", baseline="bottom", dy=-4, fontSize=12)
        .encode(x=alt.value(4), y="nats:Q", text="name:N")
    )
    return alt.layer(line, rules, names).properties(**WIDE, height=280)


def over_seeds(rows: pd.DataFrame) -> alt.FacetChart:
    """Each metric against width, one point with its interval per training seed (rows of `seeds.beside`, `metric` in words)."""
    seed = alt.Color("seed:N", title="training seed", scale=alt.Scale(scheme="tableau10"))
    base = alt.Chart(rows.round(5)).encode(
        x=width_axis(ticks=5),
        xOffset="seed:N",
        color=seed,
        tooltip=["sae_id:N", "seed:N", *[alt.Tooltip(f"{end}:Q", format=".4f") for end in ("value", "low", "high")]],
    )
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))
    drawn = with_interval(base, y, "point", filled=True, size=45).properties(width=250, height=170)
    return drawn.facet(alt.Facet("metric:N", title=None), columns=2).resolve_scale(y="independent")
