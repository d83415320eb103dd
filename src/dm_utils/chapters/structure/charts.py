"""Charts of this chapter: every test on every vector beside its twins, and the layers' FVU against their shape."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from dm_utils.base.names import VECTOR_NAMES
from dm_utils.base.words import LABELS
from dm_utils.chapters.structure.coding import LEARNED, OWN
from dm_utils.chapters.structure.components import COMPONENTS, DECODER, RANDOM
from dm_utils.chapters.structure.experiment import PREDICTORS, SHOWN, TARGETS
from dm_utils.chapters.structure.findings import WORDS
from dm_utils.chapters.structure.measures import CODING, DIMENSION, KURTOSIS, PARTICIPATION
from dm_utils.chapters.structure.twins import GAUSSIAN, ITSELF, KINDS
from dm_utils.charts.marks import WIDE, chooser, named_colors, texts, with_interval
from dm_utils.charts.theme import COLORS

NAMES = [VECTOR_NAMES[name] for name in SHOWN]
KIND_HUE = named_colors(KINDS, ("nonlinear", "error", "absent"))
VECTOR_HUE = named_colors(NAMES, SHOWN)
TOOLTIP = ["name:N", "kind:N", alt.Tooltip("text:N", title="value")]


def _shown(table: pd.DataFrame, test: str) -> pd.DataFrame:
    some = table[table["test"] == test]
    some = some.assign(name=some["vector"].map(VECTOR_NAMES), text=texts(some, "value", "low", "high"))
    return some.drop(columns=["test", "vector"]).round(5)


def spectra(table: pd.DataFrame) -> alt.LayerChart:
    """The share of variance in the leading directions, one line per vector, its twin's as a dashed line; rows of `experiment.spectra`."""
    data = table.assign(name=table["vector"].map(VECTOR_NAMES)).drop(columns="vector").round(5)
    base = alt.Chart(data).encode(
        x=alt.X("direction:Q", title="leading directions", scale=alt.Scale(type="log", nice=False)),
        y=alt.Y("share:Q", title="share of the variance", axis=alt.Axis(format="%")),
        color=alt.Color("name:N", title=None, sort=NAMES, scale=VECTOR_HUE),
        tooltip=["name:N", "kind:N", "direction:Q", alt.Tooltip("share:Q", format=".3f")],
    )
    own = base.transform_filter(alt.datum.kind == ITSELF).mark_line()
    twin = base.transform_filter(alt.datum.kind == GAUSSIAN).mark_line(strokeDash=[4, 4], strokeWidth=3, opacity=0.6)
    return alt.layer(own, twin).properties(**WIDE, height=260)


def _beside_twins(data: pd.DataFrame, panel: str, order: list[str], scale: alt.Scale, title: Any) -> alt.ConcatChart:
    def one(name: str) -> alt.LayerChart:
        base = alt.Chart(data[data[panel] == name]).encode(
            y=alt.Y("name:N", title=None, sort=NAMES),
            yOffset=alt.YOffset("kind:N", sort=KINDS),
            color=alt.Color("kind:N", title=None, sort=KINDS, scale=KIND_HUE),
            tooltip=TOOLTIP,
        )
        drawn = with_interval(base, alt.X("value:Q", title=title, scale=scale), size=45)
        return drawn.properties(width=200, height=150, title=name)

    return alt.concat(*map(one, order), columns=2)


def kurtosis(table: pd.DataFrame) -> alt.ConcatChart:
    """Excess kurtosis of each vector and its twins along three kinds of directions, on a scale that is linear near zero."""
    data = _shown(table, KURTOSIS).drop(columns="l0")
    scale = alt.Scale(type="symlog", constant=0.1)
    return _beside_twins(data, "case", [COMPONENTS, RANDOM, DECODER], scale, "excess kurtosis, median")


def dimensions(table: pd.DataFrame) -> alt.ConcatChart:
    """How many directions each vector and its twins spread over, and the dimension of their neighbourhoods."""
    names = {PARTICIPATION: "participation ratio", DIMENSION: "intrinsic dimension"}
    parts = [_shown(table, test).assign(panel=words) for test, words in names.items()]
    data = pd.concat(parts).drop(columns=["l0", "case"])
    return _beside_twins(data, "panel", list(names.values()), alt.Scale(type="log"), "dimensions")


def codes(table: pd.DataFrame) -> alt.LayerChart:
    """FVU of sparse codes over L0: the vector that is chosen, beside its Gaussian twin; crosses are codes of the SAE's own decoder."""
    data = _shown(table, CODING)
    pick = chooser("vector", NAMES, "Vector")
    base = alt.Chart(data).transform_filter(alt.datum.name == pick)
    base = base.encode(
        x=alt.X("l0:Q", title="latents per token (L0)", scale=alt.Scale(type="log", base=2, padding=14)),
        color=alt.Color("kind:N", title=None, sort=KINDS[:2], scale=named_colors(KINDS[:2], ("nonlinear", "error"))),
        tooltip=[*TOOLTIP, "case:N", "l0:Q"],
    )
    y = alt.Y("value:Q", title="FVU on held-out contexts", scale=alt.Scale(zero=True))
    learned = base.transform_filter(alt.datum.case == LEARNED)
    own = base.transform_filter(alt.datum.case == OWN)
    layers = [
        with_interval(learned, y, "line"),
        with_interval(learned, y),
        with_interval(own, y, shape="cross", size=140),
    ]
    return alt.layer(*layers).add_params(pick).properties(**WIDE, height=280)


def over_layers(table: pd.DataFrame) -> alt.LayerChart:
    """FVU of the like SAE of each layer against what is chosen of the shape of x there; rows of `experiment.by_layer`."""
    long = pd.concat(
        table[["layer"]].assign(
            show=f"{LABELS[target]} against {WORDS[predictor]}",
            **{side: table[f"{target}{end}"] for side, end in (("value", ""), ("low", "_low"), ("high", "_high"))},
            **{f"x{end}": table[f"{predictor}{end}"] for end in ("", "_low", "_high")},
        )
        for predictor in PREDICTORS
        for target in TARGETS
    )
    long = long.assign(text=texts(long, "value", "low", "high"), shape=texts(long, "x", "x_low", "x_high")).round(5)
    show = chooser("show", long["show"].unique().tolist(), "Show")
    base = alt.Chart(long).transform_filter(alt.datum.show == show)
    x = alt.X("x:Q", title="shape of x at the layer", scale=alt.Scale(zero=False, padding=20))
    tooltip = ["layer:O", alt.Tooltip("text:N", title="FVU"), alt.Tooltip("shape:N", title="shape")]
    y = alt.Y("value:Q", title="FVU", scale=alt.Scale(zero=False, padding=20))
    points = with_interval(base.encode(x=x, tooltip=tooltip), y, color=COLORS["x"], rule={"color": COLORS["x"]})
    across = base.mark_rule(color=COLORS["x"]).encode(
        x=alt.X("x_low:Q", title="shape of x at the layer"), x2="x_high:Q", y=y
    )
    names = base.mark_text(align="left", dx=8, dy=-8).encode(x=x, y=y, text="layer:O")
    return alt.layer(across, points, names).add_params(show).properties(**WIDE, height=300)
