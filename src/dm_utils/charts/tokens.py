"""Pairs of SAEs as a matrix, and values token by token."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.charts.marks import texts
from dm_utils.charts.theme import COLORS


def pair_matrix(pairs: pd.DataFrame, value: str = "r2", title: str = "R²") -> alt.LayerChart:
    """Draw a value for each pair of SAEs (Fig. 4, 16): columns ``small, large`` (widths), ``value, value_low, value_high``."""
    data = pairs.assign(text=texts(pairs, value, f"{value}_low", f"{value}_high"), short=pairs[value].round(2))
    middle = (data[value].min() + data[value].max()) / 2
    tooltip = [alt.Tooltip("small:O", title="from width"), alt.Tooltip("large:O", title="to width"), "text:N"]
    base = alt.Chart(data.round(5)).encode(
        x=alt.X("small:O", title="predicted from the SAE of width", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("large:O", title="SAE of width", sort="descending"),
        tooltip=tooltip,
    )
    cells = base.mark_rect().encode(
        color=alt.Color(f"{value}:Q", title=title, scale=alt.Scale(scheme="viridis", zero=False))
    )
    shade = alt.condition(f"datum['{value}'] > {middle}", alt.value("#111111"), alt.value("#ffffff"))
    numbers = base.mark_text(fontSize=13, lineBreak="|", lineHeight=14).encode(text="cell:N", color=shade)
    numbers = numbers.transform_calculate(cell="replace(datum.text, ' ', '|')")
    return alt.layer(cells, numbers).properties(width="container", height=360)


def token_lines(
    tokens: pd.DataFrame,
    value: str = "error_norm2",
    title: str = "squared error norm",
    level: tuple[str, float] | None = None,
) -> alt.VConcatChart:
    """Draw a per-token value, one line per SAE (Fig. 5, 12); drag over the lower chart to choose the tokens above.

    ``tokens`` holds ``index`` (position in the strip), ``token`` (its text), ``sae`` (the line's name, in order) and the
    value; ``level`` is the name and height of a horizontal line, in the colour of nonlinear error.
    """
    brush = alt.selection_interval(encodings=["x"], name="span", value={"x": [-0.5, 30.5]})
    data = tokens.assign(**{value: tokens[value].astype(float).round(4)})
    hue = alt.Color("sae:N", title="SAE", sort=data["sae"].unique().tolist(), scale=alt.Scale(scheme="viridis"))
    base = alt.Chart(data).encode(color=hue)
    domain = alt.Scale(domain={"param": "span", "encoding": "x"}, nice=False)
    hidden = alt.X("index:Q", title=None, scale=domain, axis=alt.Axis(labels=False, ticks=False))
    height = alt.Y(f"{value}:Q", title=title)
    tooltip = [
        alt.Tooltip("token:N"),
        alt.Tooltip("index:Q"),
        alt.Tooltip("sae:N", title="SAE"),
        alt.Tooltip(f"{value}:Q", format=".4g"),
    ]
    line = base.mark_line(clip=True).encode(x=hidden, y=height)
    marks = base.mark_point(size=40, clip=True).encode(x=hidden, y=height, tooltip=tooltip)
    words = alt.Chart(data[data["sae"] == data["sae"].iloc[0]]).mark_text(angle=270, align="right", clip=True, limit=85)
    words = words.transform_filter(brush).encode(x=hidden, y=alt.value(2), text="token:N")
    words = words.properties(width=640, height=90)
    whole = base.mark_line(strokeWidth=1).encode(y=alt.Y(f"{value}:Q", title=None, axis=None))
    whole = whole.encode(
        x=alt.X("index:Q", title="drag to choose the tokens above", scale=alt.Scale(nice=False, padding=4))
    )
    layers = [line, marks]
    if level is not None:
        flat = alt.Chart(pd.DataFrame({"name": [level[0]], value: [round(level[1], 4)]}))
        flat = flat.encode(y=f"{value}:Q", tooltip=["name:N", f"{value}:Q"])
        layers.append(flat.mark_rule(strokeDash=[5, 4], strokeWidth=2, color=COLORS["nonlinear"]))
        words_of_level = flat.mark_text(align="right", dy=-8, color=COLORS["nonlinear"])
        layers.append(words_of_level.encode(x=alt.value(636), text="name:N"))
    top = alt.layer(*layers).properties(width=640, height=240)
    return alt.vconcat(top, words, whole.add_params(brush).properties(width=640, height=55), spacing=4)
