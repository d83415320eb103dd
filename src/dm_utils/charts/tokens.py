"""Pairs of SAEs as a matrix, and values token by token."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.charts.marks import texts
from dm_utils.charts.theme import COLORS


def pair_matrix(pairs: pd.DataFrame) -> alt.LayerChart:
    """Draw R² for each pair of SAEs (Fig. 4, 16): columns ``small, large`` (widths), ``r2, r2_low, r2_high``."""
    data = pairs.assign(text=texts(pairs, "r2", "r2_low", "r2_high"))
    middle = (data["r2"].min() + data["r2"].max()) / 2
    tooltip = [alt.Tooltip("small:O", title="from width"), alt.Tooltip("large:O", title="to width"), "text:N"]
    base = alt.Chart(data.round(5)).encode(
        x=alt.X("small:O", title="predicted from the SAE of width", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("large:O", title="SAE of width", sort="descending"),
        tooltip=tooltip,
    )
    cells = base.mark_rect().encode(color=alt.Color("r2:Q", title="R²", scale=alt.Scale(scheme="viridis", zero=False)))
    shade = alt.condition(f"datum.r2 > {middle}", alt.value("#111111"), alt.value("#ffffff"))
    numbers = base.mark_text(fontSize=13, lineBreak="|", lineHeight=14).encode(text="cell:N", color=shade)
    numbers = numbers.transform_calculate(cell="replace(datum.text, ' ', '|')")
    return alt.layer(cells, numbers).properties(width="container", height=360)


def token_lines(tokens: pd.DataFrame, level: tuple[str, float] | None = None) -> alt.VConcatChart:
    """Draw the squared error norm of each token, one line per SAE (Fig. 5, 12); drag over the lower chart to choose the tokens above.

    ``tokens`` holds ``index`` (position in the strip), ``token`` (its text), ``sae`` (the line's name, in order) and
    ``error_norm2``; ``level`` is the name and height of a horizontal line, in the colour of nonlinear error.
    """
    brush = alt.selection_interval(encodings=["x"], name="span", value={"x": [-0.5, 30.5]})
    data = tokens.assign(error_norm2=tokens["error_norm2"].astype(float).round(4))
    hue = alt.Color("sae:N", title="SAE", sort=data["sae"].unique().tolist(), scale=alt.Scale(scheme="viridis"))
    base = alt.Chart(data).encode(color=hue)
    domain = alt.Scale(domain={"param": "span", "encoding": "x"}, nice=False)
    hidden = alt.X("index:Q", title=None, scale=domain, axis=alt.Axis(labels=False, ticks=False))
    height = alt.Y("error_norm2:Q", title="squared error norm")
    tooltip = [
        alt.Tooltip("token:N"),
        alt.Tooltip("index:Q"),
        alt.Tooltip("sae:N", title="SAE"),
        alt.Tooltip("error_norm2:Q", format=".4g"),
    ]
    line = base.mark_line(clip=True).encode(x=hidden, y=height)
    marks = base.mark_point(size=40, clip=True).encode(x=hidden, y=height, tooltip=tooltip)
    words = alt.Chart(data[data["sae"] == data["sae"].iloc[0]]).mark_text(angle=270, align="right", clip=True, limit=85)
    words = words.transform_filter(brush).encode(x=hidden, y=alt.value(2), text="token:N")
    words = words.properties(width=640, height=90)
    whole = base.mark_line(strokeWidth=1).encode(y=alt.Y("error_norm2:Q", title=None, axis=None))
    whole = whole.encode(
        x=alt.X("index:Q", title="drag to choose the tokens above", scale=alt.Scale(nice=False, padding=4))
    )
    layers = [line, marks]
    if level is not None:
        flat = alt.Chart(pd.DataFrame({"name": [level[0]], "error_norm2": [round(level[1], 4)]}))
        flat = flat.encode(y="error_norm2:Q", tooltip=["name:N", "error_norm2:Q"])
        layers.append(flat.mark_rule(strokeDash=[5, 4], strokeWidth=2, color=COLORS["nonlinear"]))
        words_of_level = flat.mark_text(align="right", color=COLORS["nonlinear"])
        layers.append(words_of_level.encode(x=alt.value(640), y=alt.value(-8), text="name:N"))  # above the lines
    top = alt.layer(*layers).properties(width=640, height=240)
    return alt.vconcat(top, words, whole.add_params(brush).properties(width=640, height=55), spacing=4)
