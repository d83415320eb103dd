"""Charts of Sections 3 and 4 and of the lab's chapter that no other chapter draws; theme and colours are the book's."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from .charts import COLORS, INK, chooser, width_axis
from .display import label

WIDE: dict[str, str] = {"width": "container"}


def named_colors(names: Sequence[str], colors: Sequence[str]) -> alt.Scale:
    """A colour for each name, in order."""
    return alt.Scale(domain=list(names), range=[COLORS[color] for color in colors])


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


def probe_scatter(points: pd.DataFrame, unit: str = "‖SaeError(x)‖²") -> alt.LayerChart:
    """True against predicted norms of held-out tokens (Eq. 10); drag over points to read the R² of those tokens.

    `points` holds `sae` (the SAE's name), `true`, `predicted` and `token` (its text).
    """
    names = points["sae"].unique().tolist()
    pick = chooser("which", names, "SAE")
    brush = alt.selection_interval(name="chosen")
    base = alt.Chart(points).transform_filter(alt.datum.sae == pick)
    y_axis = alt.Y("true:Q", title=f"{unit}, true", scale=alt.Scale(zero=False))
    x_axis = alt.X("predicted:Q", title=f"{unit}, predicted from x", scale=alt.Scale(zero=False))
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


def dimension_scatter(dimensions: pd.DataFrame) -> alt.Chart:
    """R² of each dimension of the error against its share of the error's variance: columns `dimension, share, r2`."""
    return (
        alt.Chart(dimensions)
        .mark_point(size=50, opacity=0.7, color=COLORS["linear"])
        .encode(
            x=alt.X(
                "share:Q",
                title="share of the error's variance",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(format="~%"),
            ),
            y=alt.Y("r2:Q", title="R² of the dimension", scale=alt.Scale(zero=False)),
            tooltip=["dimension:Q", alt.Tooltip("share:Q", format=".2%"), alt.Tooltip("r2:Q", format=".3f")],
        )
        .properties(**WIDE, height=260)
    )


def shrinkage_lines(table: pd.DataFrame, metrics: Sequence[str]) -> alt.LayerChart:
    """Several metrics of the same SAEs against width in one panel (App. A.1), for the L0 that the reader chooses."""
    parts = []
    for metric in metrics:
        part = table[["sae_id", "d_sae", "near_l0"]].assign(metric=label(metric), value=table[metric])
        parts.append(part.assign(low=table.get(f"{metric}_low"), high=table.get(f"{metric}_high")))
    pick = chooser("l0", sorted(table["near_l0"].unique().tolist()), "L0 near")
    base = alt.Chart(pd.concat(parts).round(5)).transform_filter(alt.datum.near_l0 == pick)
    legend = alt.Legend(orient="bottom", columns=1, symbolType="stroke", symbolSize=300)
    order = [label(metric) for metric in metrics]
    hue = alt.Color("metric:N", title=None, legend=legend, sort=order, scale=alt.Scale(scheme="tableau10"))
    dash = alt.StrokeDash("metric:N", title=None, sort=order, legend=legend)  # lines that coincide stay visible
    tooltip = ["metric:N", "sae_id:N", *[alt.Tooltip(f"{side}:Q", format=".3f") for side in ("value", "low", "high")]]
    base = base.encode(x=width_axis(), color=hue)
    band = base.mark_area(opacity=0.22).encode(y=alt.Y("low:Q", title=None), y2="high:Q")
    line = base.mark_line(point=alt.OverlayMarkDef(size=60)).encode(
        y=alt.Y("value:Q", title=None), strokeDash=dash, tooltip=tooltip
    )
    return alt.layer(band, line).add_params(pick).properties(**WIDE, height=260)


def rescaling(saes: pd.DataFrame) -> alt.LayerChart:
    """What is left by αSae(x), split in two, with a slider for α.

    `saes` holds `sae` and the terms of ‖x − αSae(x)‖² over the held-out tokens as fractions of Σ‖x − mean‖²: `x2`, `cross`
    (of x with Sae(x)), `sae2` and `nonlinear`.
    """
    pick = chooser("which", saes["sae"].tolist(), "SAE")
    alpha = alt.param(name="alpha", value=1, bind=alt.binding_range(min=0, max=1.5, step=0.02, name="α "))
    total = "max(0, datum.x2 - 2 * alpha * datum.cross + alpha * alpha * datum.sae2)"
    base = (
        alt.Chart(saes.round(6))
        .add_params(alpha, pick)
        .transform_filter(alt.datum.sae == pick)
        .transform_calculate(total=total, nonlinear_part="alpha * alpha * datum.nonlinear")
        .transform_calculate(linear_part="max(0, datum.total - datum.nonlinear_part)")
        .transform_fold(["nonlinear_part", "linear_part"], as_=["part", "height"])
        .transform_calculate(part="datum.part == 'linear_part' ? 'linear' : 'nonlinear'")
    )
    hue = alt.Color("part:N", title=None, scale=named_colors(["linear", "nonlinear"], ["linear", "nonlinear"]))
    x = alt.X(
        "sum(height):Q",
        title="‖x − αSae(x)‖² / ‖x − mean‖²",
        scale=alt.Scale(domain=[0, 1.05], clamp=True),
        axis=alt.Axis(grid=False),
    )
    bars = base.mark_bar(height=46).encode(x=x, color=hue, tooltip=["part:N", alt.Tooltip("height:Q", format=".3f")])
    says = "'left over ' + format(datum.total, '.3f') + ', of it nonlinear ' + format(datum.nonlinear_part, '.3f')"
    says += " + ' (' + format(datum.nonlinear_part / datum.total, '.0%') + ')'"
    text = base.transform_filter("datum.part == 'linear'").transform_calculate(says=says)
    text = text.mark_text(align="left", fontSize=13).encode(x=alt.value(4), y=alt.value(12), text="says:N")
    return alt.layer(bars, text).properties(**WIDE, height=110)


def constant_slider(curves: pd.DataFrame, points: pd.DataFrame) -> alt.VConcatChart:
    """The best power law for a chosen constant, and how well each constant fits.

    `curves` holds `index` (of the constant), `constant`, `rms` (of the residuals), `d_sae`, `fvu`; `points` the SAEs' `d_sae`,
    `value`, `low`, `high`.
    """
    last = int(curves["index"].max())
    best = int(curves["index"].iloc[curves["rms"].argmin()])
    at = alt.param(name="at", value=best, bind=alt.binding_range(min=0, max=last, step=1, name="constant: from 0 up "))
    here = alt.datum.index == at
    y_axis = alt.Y("fvu:Q", title="FVU", scale=alt.Scale(zero=True))
    law = alt.Chart(curves).transform_filter(here).encode(x=width_axis())
    line = law.mark_line(color=COLORS["absent"]).encode(y=y_axis)
    floor = law.mark_line(color=COLORS["linear"], strokeDash=[2, 4]).encode(y="constant:Q")
    dots = alt.Chart(points).mark_point(color=INK).encode(x=width_axis(), y="value:Q", tooltip=["d_sae:Q", "value:Q"])
    bars = alt.Chart(points).mark_rule(strokeWidth=2).encode(x=width_axis(), y="low:Q", y2="high:Q")
    fit = alt.layer(line, floor, bars, dots).properties(width=560, height=240)
    one = curves.drop_duplicates("index")[["index", "constant", "rms"]]
    valley = alt.Chart(one).encode(x=alt.X("constant:Q", title="constant c"), y=alt.Y("rms:Q", title="RMS distance"))
    mark = valley.mark_point(size=120, color=COLORS["linear"]).transform_filter(here)
    profile = alt.layer(valley.mark_line(color=INK), mark).properties(width=560, height=90)
    return alt.vconcat(fit, profile).add_params(at)


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
        .mark_text(align="right", dy=-7, fontSize=12)
        .encode(x=alt.value("width"), y=y, text=alt.Text("name:N"))
    )
    return alt.layer(line, rules, names).properties(**WIDE, height=280)


def spliced_losses(table: pd.DataFrame, levels: pd.DataFrame) -> alt.LayerChart:
    """Cross-entropy with reconstructions spliced in against width, by L0: `d_sae, near_l0, value, low, high`; and levels."""
    hue = alt.Color("near_l0:N", title="L0 near", scale=alt.Scale(scheme="tableau10"))
    y = alt.Y("value:Q", title="nats per token", scale=alt.Scale(zero=False))
    base = alt.Chart(table.round(5)).encode(x=width_axis(), color=hue)
    band = base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q", scale=alt.Scale(zero=False)), y2="high:Q")
    tooltip = ["sae_id:N", *[alt.Tooltip(f"{side}:Q", format=".3f") for side in ("value", "low", "high")]]
    line = base.mark_line(point=alt.OverlayMarkDef(size=60)).encode(y=y, tooltip=tooltip)
    rules = alt.Chart(levels).mark_rule(strokeDash=[5, 4]).encode(y="nats:Q", tooltip=["name:N", "nats:Q"])
    names = (
        alt.Chart(levels).mark_text(align="left", dy=-7, fontSize=12).encode(x=alt.value(4), y="nats:Q", text="name:N")
    )
    return alt.layer(band, line, rules, names).properties(**WIDE, height=280)
