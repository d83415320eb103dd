"""Charts of this chapter: predictors of the error norm, its parts over widths."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import altair as alt
import numpy as np
import pandas as pd

from dm_utils.base.names import PART_TITLES
from dm_utils.charts.marks import chooser, texts, width_axis, with_interval
from dm_utils.charts.theme import COLORS

PREDICTOR_COLORS = [COLORS["x"], "#4c78a8", "#e45756", "#72b7b2", "#54a24b", "#88d27a", "#9d755d", "#8a8a8a", "#b279a2"]
TARGET_TITLES = {
    "r2_norm": "‖SaeError(x)‖, straight lines (Fig. 13)",
    "r2_norm2": "‖SaeError(x)‖², straight lines (Eq. 10)",
    "r2_norm_binned": "‖SaeError(x)‖, scalars through 64 bins",
    "r2_norm2_binned": "‖SaeError(x)‖², scalars through 64 bins",
}


def part_color(parts: Collection[str]) -> alt.Color:
    """Return the colour of the error's parts, each by its meaning."""
    names = [PART_TITLES[part] for part in parts]
    return alt.Color("part:N", title=None, scale=alt.Scale(domain=names, range=[COLORS[part] for part in parts]))


def norm_predictors(table: pd.DataFrame) -> alt.LayerChart:
    """Draw the R² of every predictor of the error norm over layers (Fig. 13), as `compare_norm_predictors` gives it.

    A list chooses the target; a click in the legend singles out predictors.
    """
    order = list(dict.fromkeys(table["predictor"]))
    parts = []
    for metric, title in TARGET_TITLES.items():
        columns = {metric: "value", f"{metric}_low": "low", f"{metric}_high": "high"}
        part = table[["sae_id", "layer", "predictor", *columns]].rename(columns=columns).assign(target=title)
        parts.append(part.assign(text=texts(part, "value", "low", "high")))
    target, picked = (
        chooser("target", list(TARGET_TITLES.values()), "Predict"),
        alt.selection_point(fields=["predictor"], bind="legend"),
    )
    scale, legend = alt.Scale(domain=order, range=PREDICTOR_COLORS), alt.Legend(columns=3)
    base = (
        alt.Chart(pd.concat(parts, ignore_index=True).round(5))
        .encode(
            x=alt.X("layer:Q", title="layer", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(padding=14)),
            color=alt.Color("predictor:N", title="predicted from", sort=order, scale=scale, legend=legend),
            opacity=alt.condition(picked, alt.value(1), alt.value(0.12)),
        )
        .transform_filter(alt.datum.target == target)
    )
    tooltip = ["predictor:N", alt.Tooltip("text:N", title="R²"), "layer:Q", alt.Tooltip("sae_id:N", title="SAE")]
    y, point = alt.Y("value:Q", title="R², held out"), alt.OverlayMarkDef(size=55)
    chart = with_interval(base.encode(tooltip=tooltip), y, "line", rule={"strokeWidth": 2}, point=point)
    return chart.add_params(target, picked).properties(width="container", height=360)


def learning_lines(table: pd.DataFrame) -> alt.LayerChart:
    """Draw the R² of two predictors against the number of fitting tokens, as `learning_curve.norm_learning_curve` gives it."""
    data = table.assign(text=texts(table, "r2", "r2_low", "r2_high")).round(5)
    names = list(dict.fromkeys(data["predictor"]))
    hue = alt.Color("predictor:N", title="predicted from", scale=alt.Scale(domain=names, range=PREDICTOR_COLORS))
    base = alt.Chart(data).encode(x=alt.X("n_fit:Q", title="fitting tokens", scale=alt.Scale(type="log")), color=hue)
    per = alt.Tooltip("per_identity:Q", title="fitting tokens per identity", format=".1f")
    base = base.encode(
        tooltip=["predictor:N", alt.Tooltip("text:N", title="R²"), alt.Tooltip("n_fit:Q", format=","), per]
    )
    y = alt.Y("r2:Q", title="R², held out")
    chart = with_interval(
        base, y, "line", "r2_low", "r2_high", rule={"strokeWidth": 2}, point=alt.OverlayMarkDef(size=60)
    )
    return chart.properties(width="container", height=260)


def part_lines(tokens: pd.DataFrame, parts: Sequence[str] = ("linear", "nonlinear")) -> alt.VConcatChart:
    """Draw the norms of the error's parts along the tokens, one line per SAE (Fig. 12); drag below to choose tokens."""
    brush = alt.selection_interval(encodings=["x"], name="span", value={"x": [0, 30]})
    data = tokens.round({part: 4 for part in parts})
    top = float(data[list(parts)].to_numpy().max())
    hue = alt.Color("d_sae:O", title="SAE width", scale=alt.Scale(scheme="viridis"))
    x = alt.X(
        "index:Q",
        title="token (hover for its text)",
        scale=alt.Scale(domain={"param": "span", "encoding": "x"}, nice=False),
    )
    panels = []
    for part in parts:
        tooltip = [alt.Tooltip(name) for name in ("token:N", "position:Q", "sae:N")]
        tooltip.append(alt.Tooltip(f"{part}:Q", title=f"norm of {PART_TITLES[part]}", format=".4g"))
        y = alt.Y(f"{part}:Q", title=f"‖{PART_TITLES[part]}‖", scale=alt.Scale(domain=[0, top]))
        base = alt.Chart(data).encode(x=x, y=y, color=hue)
        marks = base.mark_line(clip=True) + base.mark_point(size=36, clip=True).encode(tooltip=tooltip)
        panels.append(marks.properties(width=620, height=190))
    small = (
        alt.Chart(data)
        .mark_line(strokeWidth=1)
        .encode(
            x=alt.X("index:Q", title="drag to choose the tokens above"),
            y=alt.Y(f"{parts[-1]}:Q", title=None, axis=None),
            color=hue,
        )
    )
    return alt.vconcat(*panels, small.add_params(brush).properties(width=620, height=50))


def part_means(table: pd.DataFrame) -> alt.LayerChart:
    """Draw the held-out mean norm of each part against width, as `part_trends.width_table` gives it."""
    shares = {"mean norm": table, "relative to the narrowest SAE": relative(table)}
    data = pd.concat([part.assign(shown=name) for name, part in shares.items()], ignore_index=True)
    data = data.assign(part=data["part"].map(PART_TITLES), text=texts(data, "value", "low", "high")).round(5)
    shown = chooser("shown", list(shares), "Show", radio=True)
    tooltip = ["part:N", alt.Tooltip("text:N", title="norm"), alt.Tooltip("sae_id:N", title="SAE")]
    base = alt.Chart(data).encode(x=width_axis(), color=part_color(PART_TITLES), tooltip=tooltip)
    y = alt.Y("value:Q", title="norm", scale=alt.Scale(zero=True))
    lines = with_interval(
        base.transform_filter(alt.datum.shown == shown), y, "line", band=True, point=alt.OverlayMarkDef(size=60)
    )
    return lines.add_params(shown).properties(width="container", height=280)


def relative(table: pd.DataFrame) -> pd.DataFrame:
    """Divide each part's means and interval ends by the mean at the narrowest width."""
    first = table.sort_values("d_sae").groupby("part")["value"].first()
    by = table["part"].map(first)
    return table.assign(**{name: table[name] / by for name in ("value", "low", "high")})


def change_densities(changes: Mapping[str, np.ndarray], n_bins: int = 80) -> alt.LayerChart:
    """Draw how each token's norm changes per doubling of the width, in percent, as a density per part."""
    everything = np.concatenate(list(changes.values()))
    low, high = np.quantile(everything, [0.002, 0.998])
    edges, rows = np.linspace(low, high, n_bins + 1), []
    for part, values in changes.items():
        counts = np.histogram(values, edges)[0]
        rows.append(
            pd.DataFrame({"part": PART_TITLES[part], "at": edges[:-1], "end": edges[1:], "share": counts / len(values)})
        )
    base = alt.Chart(pd.concat(rows, ignore_index=True).round(6)).encode(
        x=alt.X("at:Q", title="change of a token's norm per doubling of the width (%)", bin="binned"),
        x2="end:Q",
        y=alt.Y("share:Q", title="share of tokens", axis=alt.Axis(format="%"), stack=None),
        color=part_color(changes),
    )
    tooltip = [
        "part:N",
        alt.Tooltip("at:Q", format=".1f", title="from"),
        alt.Tooltip("end:Q", format=".1f", title="to"),
    ]
    bars = base.mark_bar(opacity=0.55).encode(tooltip=[*tooltip, alt.Tooltip("share:Q", format=".2%")])
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(strokeDash=[4, 4]).encode(x="x:Q")
    return alt.layer(bars, zero).properties(width="container", height=240)


def token_means(table: pd.DataFrame) -> alt.LayerChart:
    """Draw the mean squared error norm of every frequent token against how often it occurs; hover for its text."""
    base = alt.Chart(table.round(4)).encode(x=alt.X("count:Q", title="occurrences", scale=alt.Scale(type="log")))
    tooltip = [
        "token:N",
        "count:Q",
        alt.Tooltip("mean:Q", format=".4g"),
        alt.Tooltip("low:Q", title="10 % below", format=".4g"),
    ]
    tooltip.append(alt.Tooltip("high:Q", title="10 % above", format=".4g"))
    y = alt.Y("mean:Q", title="squared error norm")
    base = base.encode(tooltip=tooltip)
    marks = with_interval(base, y, rule={"opacity": 0.12}, color=COLORS["error"], size=34, opacity=0.8)
    return marks.properties(width="container", height=300).interactive()
