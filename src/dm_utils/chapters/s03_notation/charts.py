"""Charts of this chapter: latents of one token, and how each activation function chooses them."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.charts.marks import WIDE, chooser, named_colors
from dm_utils.charts.theme import COLORS, INK


def latent_bars(latents: pd.DataFrame) -> alt.LayerChart:
    """Pre-activations of one token in order (Eqs. 6 and 8): columns `architecture, rank, latent, z, threshold, kept`."""
    pick = chooser("architecture", latents["architecture"].unique().tolist(), "SAE")
    base = alt.Chart(latents).transform_filter(alt.datum.architecture == pick)
    rank = alt.X("rank:O", title="latents, the largest first", axis=alt.Axis(labelOverlap=True, labelAngle=0))
    tooltip = [alt.Tooltip(name) for name in ("latent:N", "z:Q", "threshold:Q", "kept:N")]
    hue = alt.Color("kept:N", title=None, scale=named_colors(["kept", "set to zero"], ["sae", "error"]))
    bars = base.mark_bar().encode(x=rank, y=alt.Y("z:Q", title="pre-activation z"), color=hue, tooltip=tooltip)
    ticks = base.mark_tick(thickness=2, color=INK).encode(x=rank, y="threshold:Q", tooltip=tooltip)
    return alt.layer(bars, ticks).add_params(pick).properties(**WIDE, height=260)


def active_counts(counts: pd.DataFrame) -> alt.Chart:
    """How many latents a token activates (Eq. 5 before the mean): columns `architecture, active, share`."""
    names = counts["architecture"].unique().tolist()
    scale = named_colors(names, ["sae", "x", "error"][: len(names)])
    share = alt.Axis(format="%")
    return (
        alt.Chart(counts)
        .transform_calculate(left="datum.active - 0.5", right="datum.active + 0.5")
        .mark_bar(opacity=0.6)
        .encode(
            x=alt.X("left:Q", title="active latents of a token", scale=alt.Scale(zero=True)),
            x2="right:Q",
            y=alt.Y("share:Q", title="share of tokens", stack=None, scale=alt.Scale(type="sqrt"), axis=share),
            color=alt.Color("architecture:N", title=None, scale=scale),
            tooltip=["architecture:N", "active:Q", alt.Tooltip("share:Q", format=".2%")],
        )
        .properties(**WIDE, height=220)
    )


def keep_k(curves: pd.DataFrame) -> alt.LayerChart:
    """Error of one token against the number of latents kept, with a slider: columns `architecture, k, left`."""
    k = alt.param(
        name="k", value=16, bind=alt.binding_range(min=0, max=int(curves["k"].max()), step=1, name="latents kept ")
    )
    pick = chooser("architecture", curves["architecture"].unique().tolist(), "SAE")
    base = alt.Chart(curves).transform_filter(alt.datum.architecture == pick)
    x, title = alt.X("k:Q", title="latents kept"), "‖x − Sae(x)‖² / ‖x − mean‖²"
    line = base.mark_line(color=COLORS["error"]).encode(x=x, y=alt.Y("left:Q", title=title))
    here = base.transform_filter(alt.datum.k == k).encode(x=x, y="left:Q")
    dot = here.mark_point(size=120, color=COLORS["error"])
    text = here.mark_text(dx=10, dy=-14, align="left", fontSize=13).encode(text=alt.Text("left:Q", format=".3f"))
    return alt.layer(line, dot, text).add_params(k, pick).properties(**WIDE, height=240)
