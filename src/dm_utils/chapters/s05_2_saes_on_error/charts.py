"""Charts of this chapter: training curves, FVU by target, accuracy by decile, explanations."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.charts.marks import WIDE, chooser, texts, with_interval
from dm_utils.charts.theme import COLORS, INK

TARGET_NAMES = {
    "linear": "LinearError",
    "nonlinear": "NonlinearError",
    "linear_gaussian": "Gaussian like LinearError",
    "nonlinear_gaussian": "Gaussian like NonlinearError",
}


def _part_color() -> alt.Color:
    parts = [TARGET_NAMES["linear"], TARGET_NAMES["nonlinear"]]
    return alt.Color("part:N", title=None, scale=alt.Scale(domain=parts, range=[COLORS["linear"], COLORS["nonlinear"]]))


def _of_targets(table: pd.DataFrame) -> pd.DataFrame:
    """Add what a reader sees of a target: its name, the part that it belongs to, and its kind."""
    part = table["target"].str.removesuffix("_gaussian").map(TARGET_NAMES)
    kind = table["target"].str.endswith("_gaussian").map({False: "error", True: "Gaussian twin"})
    return table.assign(name=table["target"].map(TARGET_NAMES), part=part, kind=kind)


def loss_curves(curves: pd.DataFrame) -> alt.LayerChart:
    """Training of every SAE (columns `target, seed, lr, step, train_fvu, validation_fvu`): FVU against steps, one line per seed."""
    rows = _of_targets(curves).rename(columns={"validation_fvu": "validation", "train_fvu": "training"}).round(4)
    pick = chooser("tokens", ["validation", "training"], "FVU on tokens for", radio=True)
    kinds = alt.Scale(domain=["error", "Gaussian twin"], range=[[1, 0], [5, 4]])
    lines = (
        alt.Chart(rows[["part", "kind", "seed", "lr", "step", "validation", "training"]])
        .transform_calculate(fvu="datum[tokens]", run="datum.part + datum.kind + datum.seed")
        .mark_line(strokeWidth=1.5, clip=True)
        .encode(
            x=alt.X("step:Q", title="training step"),
            y=alt.Y("fvu:Q", title="FVU", scale=alt.Scale(zero=False)),
            color=_part_color(),
            strokeDash=alt.StrokeDash("kind:N", title=None, scale=kinds),
            detail="run:N",
            tooltip=["part:N", "kind:N", "seed:N", "lr:Q", "step:Q", "fvu:Q"],
        )
    )
    return alt.layer(lines).add_params(pick).properties(**WIDE, height=300)


def fvu_by_target(table: pd.DataFrame, dense: pd.DataFrame) -> alt.LayerChart:
    """Held-out FVU of every run with its interval, one row per target; a tick marks what k dense directions leave.

    `table` holds `target, seed, lr, converged, fvu, fvu_low, fvu_high`; `dense` holds `target, fvu`.
    """
    rows = _of_targets(table).assign(text=texts(table, "fvu", "fvu_low", "fvu_high"), offset=table["seed"].astype(str))
    y = alt.Y("name:N", title=None, sort=list(TARGET_NAMES.values()), axis=alt.Axis(labelLimit=260))
    tooltip = ["name:N", "seed:N", alt.Tooltip("text:N", title="FVU"), "lr:Q", "converged:N"]
    base = alt.Chart(rows.round(5)).encode(y=y, yOffset="offset:N", color=_part_color().legend(None), tooltip=tooltip)
    x = alt.X("fvu:Q", title="FVU on held-out tokens", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=8))
    runs = with_interval(base, x, low="fvu_low", high="fvu_high", rule={"strokeWidth": 2}, size=60)
    ticks = alt.Chart(_of_targets(dense).round(5)).encode(y=y, x="fvu:Q")
    marks = ticks.mark_tick(thickness=2, size=40, color=INK).encode(
        tooltip=["name:N", alt.Tooltip("fvu:Q", title="k principal components leave")]
    )
    first = ticks.transform_filter(alt.datum.target == "linear")
    said = first.mark_text(align="right", dx=-6, fontSize=11).encode(text=alt.value("principal components"))
    return alt.layer(runs, marks, said).properties(**WIDE, height=230)


def accuracy_by_decile(table: pd.DataFrame) -> alt.LayerChart:
    """Figure 7: accuracy per group of test windows with intervals; columns `part, kind, group, value, low, high, n_latents`.

    `part` (linear, nonlinear) decides the colour, `kind` (the latents themselves, then the controls) the dash; click a kind in
    the legend to single it out.
    """
    groups = [g for g in table["group"].drop_duplicates() if g != "balanced"]
    rows = table[table["group"] != "balanced"]
    rows = rows.assign(text=texts(rows, "value", "low", "high"), part=rows["part"].map(TARGET_NAMES)).round(4)
    kinds = rows["kind"].drop_duplicates().tolist()
    pick = alt.selection_point(fields=["kind"], bind="legend")
    dashes = alt.Scale(domain=kinds, range=[[1, 0], [1, 3], [6, 4]][: len(kinds)])
    dash = alt.StrokeDash(
        "kind:N", title=None, scale=dashes, legend=alt.Legend(orient="bottom", columns=1, symbolSize=500)
    )
    axis = alt.Axis(labelAngle=0)
    x = alt.X("group:N", sort=groups, title="test windows: silent ones, then tenths of the activation", axis=axis)
    opacity = alt.condition(pick, alt.value(1), alt.value(0.1))
    fields = {"part": "trained on", "kind": "latents", "group": "windows", "text": "accuracy", "n_latents": "tested"}
    tooltip = [alt.Tooltip(name, title=title) for name, title in fields.items()]
    base = alt.Chart(rows).encode(x=x, color=_part_color(), opacity=opacity, tooltip=tooltip)
    y = alt.Y("value:Q", title="share of right decisions", scale=alt.Scale(domain=[0, 1]))
    tenths = base.transform_filter(alt.datum.group != "not")
    line = tenths.mark_line(strokeWidth=1.5).encode(y=y, strokeDash=dash)
    points = with_interval(base, y, rule={"strokeWidth": 2}, size=45)
    return alt.layer(points, line).add_params(pick).properties(**WIDE, height=320)


def explanation_browser(latents: pd.DataFrame) -> alt.LayerChart:
    """Every tested latent by its balanced accuracy, with a search in the explanations; one without a decision has no place.

    `latents` holds `part` (linear, nonlinear), `latent, explanation, balanced, active` (accuracy over deciles), `silent`, and
    `window`, the text in which the latent is strongest.
    """
    rows = latents.dropna(subset="balanced")
    rows = rows.assign(part=rows["part"].map(TARGET_NAMES), explanation=rows["explanation"].fillna("no valid answer"))
    rows["rank"] = rows.groupby("part")["balanced"].rank(ascending=False, method="first").astype(int)
    query = alt.param(name="query", value="", bind=alt.binding(input="search", name="Find in explanations "))
    found = "query == '' || indexof(lower(datum.explanation), lower(query)) >= 0"
    base = alt.Chart(rows.round(4)).transform_calculate(found=found)
    columns = {
        "explanation": "rule or sentence",
        "window": "strongest window",
        "active": "right on active",
        "silent": "right on silent",
        "latent": "latent",
    }
    tooltip = [alt.Tooltip(name, title=title) for name, title in columns.items()]
    points = base.mark_point(size=32).encode(
        x=alt.X("rank:Q", title="latents, the best explained first"),
        y=alt.Y("balanced:Q", title="balanced accuracy", scale=alt.Scale(zero=False)),
        color=_part_color().legend(None),
        opacity=alt.condition("datum.found", alt.value(0.85), alt.value(0.05)),
        tooltip=tooltip,
    )
    says = "datum.part + ': ' + datum.n + ' latents, balanced accuracy ' + format(datum.mean, '.3f')"
    found_ones = base.transform_filter("datum.found").transform_aggregate(
        n="count()", mean="mean(balanced)", groupby=["part"]
    )
    lines = [
        found_ones.transform_filter(alt.datum.part == TARGET_NAMES[part])
        .transform_calculate(says=says)
        .mark_text(align="right", fontSize=13, color=COLORS[part])
        .encode(x=alt.value("width"), y=alt.value(10 + 18 * index), text="says:N")
        for index, part in enumerate(("linear", "nonlinear"))
    ]
    return alt.layer(points, *lines).add_params(query).properties(**WIDE, height=340)
