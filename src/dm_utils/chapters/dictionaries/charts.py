"""Charts of this chapter: the kind of error against its size, each method beside TopK's curve, every metric, and what a method costs."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.chapters.dictionaries.experiment import BASELINE, METRICS
from dm_utils.chapters.dictionaries.findings import SAME
from dm_utils.chapters.dictionaries.views import NAMES
from dm_utils.charts.marks import WIDE, chooser, texts, with_interval
from dm_utils.charts.theme import COLORS

METHOD = alt.Color(
    "title:N", title=None, scale=alt.Scale(scheme="tableau20"), legend=alt.Legend(orient="bottom", columns=4)
)
LOG = alt.Scale(type="log", nice=False, padding=24)


def kind_and_size(methods: pd.DataFrame, curve: pd.DataFrame, rows: pd.DataFrame) -> alt.LayerChart:
    """Draw FVU_nonlinear against FVU: TopK's curve over L0, each method with its interval over text, and a small dot per seed.

    The curve is left out where it is denser than any method (below half of the least FVU).
    """
    curve = curve[curve["fvu"] >= methods["fvu"].min() / 2]
    x, y = (alt.X("fvu:Q", title="FVU", scale=LOG), alt.Y("fvu_nonlinear:Q", title="FVU nonlinear", scale=LOG))
    said = [alt.Tooltip("l0:Q", title="TopK, L0", format=".1f"), "fvu:Q", "fvu_nonlinear:Q"]
    line = alt.Chart(curve.round(5)).encode(x=x, y=y, tooltip=said)
    data = methods.assign(text=texts(methods, "fvu_nonlinear", "fvu_nonlinear_low", "fvu_nonlinear_high")).round(5)
    tooltip = [alt.Tooltip("title:N"), alt.Tooltip("l0:Q"), alt.Tooltip("text:N", title="FVU nonlinear"), "fvu:Q"]
    base = alt.Chart(data).encode(x=x, color=METHOD, tooltip=tooltip)
    seeds = rows.loc[
        rows["headline"] & rows["title"].isin(methods["title"]), ["title", "seed", "fvu", "fvu_nonlinear"]
    ].round(5)
    small = alt.Chart(seeds).mark_point(filled=True, size=18, opacity=0.6)
    return alt.layer(
        line.mark_line(color=COLORS["error"], point=alt.OverlayMarkDef(color=COLORS["error"], size=30)),
        small.encode(x=x, y=y, color=METHOD, tooltip=["title:N", "seed:Q", "fvu:Q", "fvu_nonlinear:Q"]),
        with_interval(base, y, low="fvu_nonlinear_low", high="fvu_nonlinear_high", filled=True, size=90),
    ).properties(**WIDE, height=420)


def beside_topk(against: pd.DataFrame, runs: pd.DataFrame) -> alt.LayerChart:
    """Draw each method's ratio to TopK's curve: interval over text, a tick per seed, and the range of TopK's own seeds behind.

    `runs` are those of `experiment.ratios`.
    """
    shown = against.dropna(subset="ratio")
    order, y = shown["title"].tolist(), "title:N"
    axis = {"title": "ratio ρ", "scale": alt.Scale(zero=False, padding=16)}
    x = alt.X("ratio:Q", **axis)
    place = alt.Y(y, title=None, sort=order, axis=alt.Axis(labelLimit=260))
    data = shown.assign(text=texts(shown, "ratio", "low", "high")).round(5)
    base = alt.Chart(data).encode(y=place, color=alt.value(COLORS["nonlinear"]))
    base = base.encode(tooltip=["title:N", alt.Tooltip("text:N", title="ratio"), "seeds:Q"])
    ticks = runs[runs["headline"] & (runs["method"] != BASELINE)].dropna(subset="ratio")
    layers = [with_interval(base, x, filled=True, size=70)]
    each = alt.Chart(ticks[["title", "seed", "ratio"]].round(5)).mark_tick(thickness=2, size=14, opacity=0.7)
    layers.append(each.encode(x=x, y=place, color=alt.value(COLORS["error"]), tooltip=["title:N", "seed:Q", "ratio:Q"]))
    limits = alt.Chart(pd.DataFrame({"ratio": [1 - SAME, 1 + SAME]})).mark_rule(strokeDash=[4, 4], opacity=0.6)
    layers.insert(0, limits.encode(x=x))
    if shown["own_least"].notna().any():
        own = shown[["own_least", "own_most"]].iloc[:1].round(5)
        band = alt.Chart(own).mark_rect(opacity=0.18, color=COLORS["error"])
        layers.insert(0, band.encode(x=alt.X("own_least:Q", **axis), x2="own_most:Q"))
    return alt.layer(*layers).properties(**WIDE, height=alt.Step(26))


def budget(budgets: pd.DataFrame) -> alt.LayerChart:
    """Draw each method's ratio to TopK's curve at both budgets, with intervals over text, beside the limits of the rule."""
    order = budgets[budgets["longer"]].sort_values("ratio")["title"].tolist()
    most = budgets.groupby("longer")["tokens"].max().map("{:,} tokens".format)
    data = budgets.assign(text=texts(budgets, "ratio", "low", "high"), budget=budgets["longer"].map(most)).round(5)
    scale = alt.Scale(domain=most.tolist(), range=[COLORS["error"], COLORS["nonlinear"]])
    base = alt.Chart(data).encode(
        y=alt.Y("title:N", title=None, sort=order, axis=alt.Axis(labelLimit=260)),
        yOffset=alt.YOffset("budget:N", sort=most.tolist()),
        color=alt.Color("budget:N", title=None, scale=scale),
        tooltip=["title:N", "budget:N", alt.Tooltip("text:N", title="ratio"), "fvu:Q"],
    )
    limits = alt.Chart(pd.DataFrame({"ratio": [1 - SAME, 1 + SAME]})).mark_rule(strokeDash=[4, 4], opacity=0.6)
    x = alt.X("ratio:Q", title="ratio ρ", scale=alt.Scale(zero=False, padding=16))
    points = with_interval(base, x, filled=True, size=60)
    return alt.layer(limits.encode(x=x), points).properties(**WIDE, height=alt.Step(18))


def by_method(methods: pd.DataFrame, rows: pd.DataFrame) -> alt.LayerChart:
    """Draw every metric by method, with its interval over text and a tick per seed; a list chooses the metric."""
    long = pd.concat([_long(methods, name, ("_low", "_high")) for name in METRICS], ignore_index=True)
    each = pd.concat([_long(_seeds_of(methods, rows), name, ()) for name in METRICS], ignore_index=True)
    data = long.assign(text=texts(long, "value", "low", "high")).dropna(subset="value").round(5)
    pick = chooser("quantity", data["quantity"].unique().tolist(), "Show")
    y = alt.Y("title:N", title=None, sort=methods["title"].tolist(), axis=alt.Axis(labelLimit=260))
    x = alt.X("value:Q", title=None, scale=alt.Scale(zero=False))
    base = (
        alt.Chart(data).transform_filter(alt.datum.quantity == pick).encode(y=y, color=alt.value(COLORS["nonlinear"]))
    )
    base = base.encode(tooltip=["title:N", alt.Tooltip("text:N", title="value")])
    seeds = alt.Chart(each.dropna(subset="value").round(5)).transform_filter(alt.datum.quantity == pick)
    ticks = seeds.mark_tick(thickness=2, size=14, opacity=0.7).encode(x=x, y=y, color=alt.value(COLORS["error"]))
    layers = [with_interval(base, x, filled=True, size=70), ticks.encode(tooltip=["title:N", "value:Q"])]
    title = alt.TitleParams(text=alt.ExprRef("quantity"))
    return alt.layer(*layers).add_params(pick).properties(**WIDE, height=alt.Step(26), title=title)


def _seeds_of(methods: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["headline"] & rows["method"].isin(methods["method"])]


def _long(frame: pd.DataFrame, name: str, ends: tuple[str, ...]) -> pd.DataFrame:
    found = frame[["title"]].assign(quantity=NAMES.get(name, name), value=frame[name])
    return found.assign(**{end[1:]: frame[f"{name}{end}"] for end in ends})


def price(methods: pd.DataFrame) -> alt.Chart:
    """Draw FVU against training time, the size of a point by the FLOPs to encode a token."""
    data = methods.assign(text=texts(methods, "fvu", "fvu_low", "fvu_high")).round(5)
    x = alt.X(
        "train_seconds:Q", title="training, processor seconds", scale=alt.Scale(type="log", nice=False, padding=30)
    )
    y = alt.Y("fvu:Q", title="FVU", scale=alt.Scale(zero=False, padding=20))
    tooltip = [
        "title:N",
        alt.Tooltip("text:N", title="FVU"),
        "train_seconds:Q",
        alt.Tooltip("encode_flops:Q", format=","),
    ]
    size = alt.Size(
        "encode_flops:Q",
        title="FLOPs to encode a token",
        legend=alt.Legend(format="~s", tickCount=3),
        scale=alt.Scale(type="log", range=[50, 400]),
    )
    dot = (
        alt.Chart(data).mark_point(filled=True, opacity=0.9).encode(x=x, y=y, color=METHOD, size=size, tooltip=tooltip)
    )
    return dot.properties(**WIDE, height=340)
