"""Charts of this chapter: latents of one token, and how each activation function chooses them."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.base.names import VECTOR_NAMES
from dm_utils.charts.marks import WIDE, chooser, named_colors, near
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


def to_scale(segments: pd.DataFrame, width: int = 480) -> alt.LayerChart:
    """Draw one activation as the sum of its parts, a unit as long in both directions; a slider goes back through the tokens.

    `segments` is what `to_scale.segments` gives. `width` is in pixels; the height follows from the data.
    """
    data = segments.round(4).assign(
        says=[f"{name} {norm:.2f}" for name, norm in segments[["vector", "norm"]].to_numpy()]
    )
    across, up = [[*segments[f"{axis}1"], *segments[f"{axis}2"]] for axis in "xy"]
    room = 0.06 * (max(across) - min(across))
    ends = [[min(values) - room, max(values) + room] for values in (across, up)]
    scales = [alt.Scale(domain=end, nice=False, zero=False) for end in ends]
    height = round(width * (ends[1][1] - ends[1][0]) / (ends[0][1] - ends[0][0]))
    top = int(segments["back"].max())
    back = alt.param(name="back", value=0, bind=alt.binding_range(min=0, max=top, step=1, name="tokens back "))
    hue = named_colors(list(VECTOR_NAMES.values()), list(VECTOR_NAMES))
    base = alt.Chart(data).transform_filter(near("back", back))
    base = base.encode(
        x=alt.X("x1:Q", title=None, axis=None, scale=scales[0]),
        y=alt.Y("y1:Q", title=None, axis=None, scale=scales[1]),
        color=alt.Color("vector:N", title=None, scale=hue, legend=alt.Legend(columns=3, symbolType="stroke")),
        tooltip=["vector:N", alt.Tooltip("norm:Q", format=".3f"), "token:N"],
    )
    lines = base.mark_rule(strokeWidth=3).encode(x2="x2:Q", y2="y2:Q")
    tips = base.mark_point(size=45).encode(
        x=alt.X("x2:Q", axis=None, scale=scales[0]), y=alt.Y("y2:Q", axis=None, scale=scales[1])
    )
    listed = base.transform_window(line="row_number()").mark_text(align="left", fontSize=12)
    listed = listed.encode(
        x=alt.value(4), y=alt.Y("line:O", axis=None, scale=alt.Scale(range=[10, 100])), text="says:N"
    )
    token = base.transform_filter(alt.datum.vector == VECTOR_NAMES["x"]).transform_calculate(
        said="'the token: “' + datum.token + '”'"
    )
    token = token.mark_text(align="right", fontSize=13, color=INK)
    token = token.encode(x=alt.value(width), y=alt.value(10), text="said:N", color=alt.value(INK))
    chart = alt.layer(lines, tips, listed, token).resolve_scale(y="independent")
    return chart.add_params(back).properties(width=width, height=height)
