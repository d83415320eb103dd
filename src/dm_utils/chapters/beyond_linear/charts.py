"""Charts of this chapter: what predictors of growing size leave of the error, and what linear maps of every rank leave."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.charts.marks import PART_HUE, WIDE, chooser, near, texts, with_interval
from dm_utils.charts.theme import COLORS, INK

SHOW = {
    "fvu_error": "of the SAE error (FVU of the error)",
    "fvu": "of x (FVU of Sae(x) and the prediction)",
    "left": "of NonlinearError",
}


def by_size(table: pd.DataFrame) -> alt.LayerChart:
    """What a predictor leaves against its hidden units, one point with its interval per seed; rows of `experiment.by_size`."""
    long = pd.concat(
        table[["target", "hidden", "seed", "n_parameters", "epochs"]].assign(
            show=words, value=table[name], low=table[f"{name}_low"], high=table[f"{name}_high"]
        )
        for name, words in SHOW.items()
    )
    long = long.assign(text=texts(long, "value", "low", "high")).round({"value": 5, "low": 5, "high": 5})
    show = chooser("show", list(SHOW.values()), "What is left")
    targets = table["target"].unique().tolist()
    hue = alt.Scale(domain=targets, range=[COLORS["nonlinear"], COLORS["error"]])
    axis = alt.Axis(labelAngle=0, labelExpr="datum.value == 0 ? 'affine map' : datum.label")
    tooltip = [alt.Tooltip(name) for name in ("target:N", "hidden:O", "seed:O", "n_parameters:Q", "epochs:Q", "text:N")]
    base = alt.Chart(long).transform_filter(alt.datum.show == show)
    base = base.encode(
        x=alt.X("hidden:O", title="hidden units of the network on top of the affine map", axis=axis),
        color=alt.Color("target:N", title=None, scale=hue),
        tooltip=tooltip,
    )
    y = alt.Y("value:Q", title="fraction left on held-out contexts", scale=alt.Scale(zero=False))
    means = base.mark_line(strokeWidth=1.5).encode(y=alt.Y("mean(value):Q", scale=alt.Scale(zero=False)), tooltip=[])
    points = with_interval(base.encode(xOffset="seed:O"), y, size=45)
    return alt.layer(means, points).add_params(show).properties(**WIDE, height=300)


def by_rank(curve: pd.DataFrame, full: float) -> alt.LayerChart:
    """FVU of Sae(x) plus the best linear map of each rank, with a slider that reads one off; `full` is FVU nonlinear."""
    data = curve.assign(text=texts(curve, "fvu", "fvu_low", "fvu_high")).round(5)
    top = int(curve["rank"].max())
    at = alt.param(name="at", value=top // 4, bind=alt.binding_range(min=0, max=top, step=1, name="rank "))
    base = alt.Chart(data).encode(x=alt.X("rank:Q", title="rank of the linear map"))
    y = alt.Y("fvu:Q", title="FVU of Sae(x) + map of that rank", scale=alt.Scale(zero=False))
    line = with_interval(base, y, "line", "fvu_low", "fvu_high", band=True, rule={"opacity": 0}, color=COLORS["linear"])
    floor = alt.Chart(pd.DataFrame({"fvu": [round(full, 5)]})).mark_rule(strokeDash=[4, 4], color=COLORS["nonlinear"])
    here = base.transform_filter(near("rank", at))
    dot = here.mark_point(size=120, color=COLORS["linear"]).encode(y=y)
    says = (
        "'rank ' + datum.rank + ': FVU ' + datum.text + ', ' + format(datum.recovered, '.0%') + ' of the linear error'"
    )
    text = here.transform_calculate(says=says).mark_text(align="right", fontSize=13, color=INK)
    text = text.encode(x=alt.value("width"), y=alt.value(8), text="says:N")
    return alt.layer(line, floor.encode(y="fvu:Q"), dot, text).add_params(at).properties(**WIDE, height=280)


def spectrum(directions: pd.DataFrame) -> alt.FacetChart:
    """Per direction of the linear error: its share of that error's variance, and how much of x the SAE leaves along it."""
    shown = {"share": "share of the linear error's variance", "unexplained": "error's variance over that of x"}
    long = pd.concat(
        directions[["direction"]].assign(
            panel=words,
            value=directions[name],
            low=directions.get(f"{name}_low", directions[name]),
            high=directions.get(f"{name}_high", directions[name]),
        )
        for name, words in shown.items()
    )
    long = long.assign(part="LinearError").where(long["panel"] != shown["unexplained"], long.assign(part="SaeError"))
    tooltip = ["direction:Q", *[alt.Tooltip(f"{side}:Q", format=".4f") for side in ("value", "low", "high")]]
    base = alt.Chart().encode(
        x=alt.X("direction:Q", title="direction, most linear error first"),
        color=alt.Color("part:N", legend=None, scale=PART_HUE),
        tooltip=tooltip,
    )
    layers = with_interval(base, alt.Y("value:Q", title=None), size=22)
    chart = alt.layer(layers, data=long.round(5)).properties(width=280, height=200)
    chart = chart.facet(facet=alt.Facet("panel:N", title=None, sort=list(shown.values())), columns=2)
    return chart.resolve_scale(y="independent")
