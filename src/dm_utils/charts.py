"""Charts of the book: one theme, one colour per meaning, intervals always drawn.

Every builder takes a table as :meth:`dm_utils.Study.measure` returns it (columns ``M``, ``M_low``, ``M_high`` for a metric
``M``) and returns an Altair chart whose parameters stay live in a static page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import pandas as pd

from .chart_parts import COLORS, INK, SAE_COLUMNS, chooser, render, sae_tooltip, texts, theme, tidy, width_axis
from .display import label

__all__ = [
    "COLORS",
    "INK",
    "SAE_COLUMNS",
    "breakdown",
    "chooser",
    "interpolate",
    "lines",
    "metric_by_layer",
    "metric_by_width",
    "pair_matrix",
    "render",
    "sae_tooltip",
    "texts",
    "theme",
    "tidy",
    "token_lines",
    "violins",
    "width_axis",
    "width_l0_grid",
]


def interpolate(table: pd.DataFrame, metric: str, cells: int = 22) -> pd.DataFrame:
    """Interpolate a metric linearly between SAEs over log2(width) × log2(L0); nothing outside their convex hull.

    Returns
    -------
    DataFrame
        Columns ``x1, x2, y1, y2`` (the cell's borders, in latents and L0) and ``value``; empty if the SAEs do not span an area.
    """
    from scipy.interpolate import LinearNDInterpolator
    from scipy.spatial import QhullError

    points = np.log2(table[["d_sae", "l0"]].to_numpy(float))
    edges = [np.linspace(low, high, cells + 1) for low, high in zip(points.min(0), points.max(0), strict=True)]
    mids = np.meshgrid(*[(edge[1:] + edge[:-1]) / 2 for edge in edges], indexing="ij")
    try:
        value = LinearNDInterpolator(points, table[metric].to_numpy(float))(*mids)
    except (QhullError, ValueError):
        return pd.DataFrame(columns=["x1", "x2", "y1", "y2", "value"])
    x, y = (2**edge for edge in edges)
    i, j = np.nonzero(np.isfinite(value))
    seam = 1.002  # cells overlap a little, so that no light shows between them
    grid = pd.DataFrame({"x1": x[i], "x2": x[i + 1] * seam, "y1": y[j], "y2": y[j + 1] * seam, "value": value[i, j]})
    return grid.round({"x1": 1, "x2": 1, "y1": 3, "y2": 3, "value": 5})


def width_l0_grid(table: pd.DataFrame, metrics: Sequence[str]) -> alt.LayerChart:
    """Draw the metrics over SAE width × L0 (Fig. 2): points are SAEs, colour between them is linear interpolation.

    A drop-down list chooses the metric; hovering shows a value with its interval. Only the most frequent architecture is
    interpolated; the others appear as points of another shape.
    """
    main = table["architecture"].mode()[0]
    cells = [interpolate(table[table["architecture"] == main], name).assign(metric=label(name)) for name in metrics]
    metric = chooser("metric", [label(name) for name in metrics], "Show")
    color = alt.Color("value:Q", title=None, scale=alt.Scale(scheme="viridis", zero=False))
    powers = alt.Axis(values=[2**power for power in range(12)])
    y_axis = alt.Y("y1:Q", title="L0", scale=alt.Scale(type="log", base=2, nice=False, padding=14), axis=powers)
    chosen = alt.datum.metric == metric
    heat = (
        alt.Chart(pd.concat(cells))
        .mark_rect()
        .encode(x=width_axis(field="x1"), x2="x2:Q", y=y_axis, y2="y2:Q", color=color)
        .transform_filter(chosen)
    )
    points = (
        alt.Chart(tidy(table, metrics))
        .mark_point(size=110, stroke=INK, strokeWidth=1.5)
        .encode(
            x=width_axis(),
            y=alt.Y("l0:Q"),
            fill=alt.Fill("value:Q", legend=None, scale=alt.Scale(scheme="viridis", zero=False)),
            shape=alt.Shape("architecture:N", title="architecture"),
            tooltip=sae_tooltip(),
        )
        .transform_filter(chosen)
    )
    title = alt.TitleParams(text=alt.ExprRef("metric"))
    return alt.layer(heat, points).add_params(metric).properties(width="container", height=340, title=title)


def lines(table: pd.DataFrame, metrics: Sequence[str], x: alt.X, color: str, title: str) -> alt.LayerChart:
    """Draw metrics along ``x``, one line per ``color``, each with its 95 % band; a drop-down list chooses the metric."""
    metric = chooser("metric", [label(name) for name in metrics], "Show")
    data = tidy(table, metrics, keep=[color])
    hue = alt.Color(f"{color}:N", title=title, scale=alt.Scale(scheme="tableau10"))
    base = alt.Chart(data).encode(x=x, color=hue).transform_filter(alt.datum.metric == metric)
    y_axis = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))
    band = base.mark_area(opacity=0.14).encode(y=alt.Y("low:Q", title=None, scale=alt.Scale(zero=False)), y2="high:Q")
    bars = base.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high:Q")
    line = base.mark_line(point=alt.OverlayMarkDef(size=60)).encode(y=y_axis, tooltip=sae_tooltip())
    chart = alt.layer(band, bars, line).add_params(metric)
    return chart.properties(width="container", height=300, title=alt.TitleParams(text=alt.ExprRef("metric")))


def metric_by_width(table: pd.DataFrame, metrics: Sequence[str], group: str = "l0_label") -> alt.LayerChart:
    """Draw metrics against SAE width, one line per L0 (column ``group``; made from ``l0`` if the table lacks it)."""
    if group not in table:
        table = table.assign(**{group: (2 ** np.log2(table["l0"].astype(float)).round()).astype(int)})
    return lines(table.sort_values("d_sae"), metrics, width_axis(), group, "L0 near")


def metric_by_layer(table: pd.DataFrame, metrics: Sequence[str], group: str = "component") -> alt.LayerChart:
    """Draw metrics against the layer, one line per ``group`` (component, or model when several are compared)."""
    x = alt.X("layer:Q", title="layer", axis=alt.Axis(tickMinStep=1, format="d"))
    return lines(table.sort_values("layer"), metrics, x, group, group)


PART_NAMES = {
    "absent": "absent features",
    "linear": "linear error",
    "encoder": "encoder error",
    "nonlinear": "nonlinear error",
}


def breakdown(points: pd.DataFrame, curve: pd.DataFrame, choose: str | None = None) -> alt.LayerChart:
    """Draw what SAEs leave unexplained against width (Fig. 1): stacked parts, 95 % bands, dotted where extrapolated.

    Parameters
    ----------
    points : DataFrame
        What was measured: ``d_sae, part, value, low, high``, where ``value`` is the height of the part's upper edge (FVU for
        ``absent``, FVU_nonlinear for ``nonlinear``), plus ``choose`` if given.
    curve : DataFrame
        The fit: ``d_sae, part`` (``absent``, ``linear``, ``encoder``, ``nonlinear``), ``bottom, top`` (heights of the part's
        edges), ``top_low, top_high`` (95 % band of the upper edge), ``extrapolated`` (bool), plus ``choose`` if given.
    choose : str, optional
        A column, for example ``near_l0``, whose value the reader chooses under the chart, in order of appearance.
    """
    parts = [name for name in PART_NAMES if name in set(curve["part"])]
    scale = alt.Scale(domain=[PART_NAMES[part] for part in parts], range=[COLORS[part] for part in parts])
    hue = alt.Color("name:N", title=None, scale=scale)
    points = points.assign(name=points["part"].map(PART_NAMES), text=texts(points, "value", "low", "high")).round(5)
    curve = curve.assign(name=curve["part"].map(PART_NAMES), text=texts(curve, "top", "top_low", "top_high")).round(5)
    tooltip = [
        alt.Tooltip("name:N", title="part"),
        alt.Tooltip("d_sae:Q", title="width"),
        alt.Tooltip("text:N", title="up to"),
    ]
    base = alt.Chart(curve).encode(x=width_axis(), color=hue, tooltip=tooltip)
    dots = alt.Chart(points).encode(x=width_axis(), color=hue, tooltip=tooltip)
    if choose is not None:  # on each layer: layers with data of their own ignore the filter of the whole
        pick = chooser("choice", points[choose].unique().tolist(), choose.replace("_", " "))
        base, dots = (part.transform_filter(alt.datum[choose] == pick) for part in (base, dots))
    height = alt.Y("top:Q", title="fraction of variance unexplained", scale=alt.Scale(zero=True))
    area = base.mark_area(opacity=0.5).encode(y=height, y2="bottom:Q")
    band = base.mark_area(opacity=0.3).encode(y=alt.Y("top_low:Q"), y2="top_high:Q")
    known = base.mark_line().encode(y=height).transform_filter("!datum.extrapolated")
    guess = base.mark_line(strokeDash=[2, 4]).encode(y=height)
    bars = dots.mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q", color=alt.value(INK))
    marks = dots.mark_point(stroke=INK, strokeWidth=1).encode(y="value:Q")
    chart = alt.layer(area, band, guess, known, bars, marks)
    chart = chart if choose is None else chart.add_params(pick)
    return chart.properties(width="container", height=380)


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


def violins(
    values: pd.DataFrame,
    order: Sequence[str],
    value: str = "value",
    title: str = "R²",
    names: Mapping[str, str] | None = None,
) -> alt.LayerChart:
    """Draw the distribution of a value per component (Fig. 6): every SAE a hoverable point over its density.

    ``values`` holds ``component`` (one of ``order``, each a key of :data:`COLORS`), ``value, low, high`` and the SAE's columns;
    ``names`` says how the axis calls the components.
    """
    from scipy.stats import gaussian_kde

    shapes, dots = [], values[values["component"].isin(order)].copy()
    dots["text"] = texts(dots, value, "low", "high")
    dots["middle"] = dots["component"].map({name: index for index, name in enumerate(order)}).astype(float)
    for name, part in dots.groupby("component"):
        if part[value].nunique() > 1:
            at = np.linspace(part[value].min(), part[value].max(), 60)
            density = gaussian_kde(part[value])(at)
            half = 0.4 * density / density.max()
            shapes.append(
                pd.DataFrame(
                    {value: at, "left": order.index(name) - half, "right": order.index(name) + half, "component": name}
                )
            )
    dots["place"] = dots["middle"] + np.random.default_rng(0).uniform(-0.12, 0.12, len(dots))
    shown = [(names or {}).get(name, name) for name in order]
    label = " : ".join(f"datum.value == {index} ? '{name}'" for index, name in enumerate(shown)) + " : ''"
    axis = alt.Axis(values=list(range(len(order))), labelExpr=label, grid=False)
    y_scale = alt.Scale(domain=[-0.6, len(order) - 0.4], reverse=True, nice=False)
    hue = alt.Color(
        "component:N", legend=None, scale=alt.Scale(domain=list(order), range=[COLORS[name] for name in order])
    )
    x_axis = alt.X(f"{value}:Q", title=title, scale=alt.Scale(zero=False))
    y_axis = alt.Y("left:Q", title=None, axis=axis, scale=y_scale)
    layers = (
        [
            alt.Chart(pd.concat(shapes).round(4))
            .mark_area(opacity=0.35, orient="vertical")
            .encode(x=x_axis, y=y_axis, y2="right:Q", color=hue)
        ]
        if shapes
        else []
    )
    base = alt.Chart(dots.round(4)).encode(y=alt.Y("place:Q", title=None, axis=axis, scale=y_scale), color=hue)
    bars = base.mark_rule(opacity=0.35).encode(x=alt.X("low:Q", title=title, scale=alt.Scale(zero=False)), x2="high:Q")
    points = base.mark_point(size=45).encode(x=x_axis, tooltip=[alt.Tooltip("component:N"), *sae_tooltip(title)])
    return alt.layer(*layers, bars, points).properties(width="container", height=70 * len(order) + 40)


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
    words = words.encode(x=hidden, y=alt.value(2), text="token:N").properties(width=640, height=90)
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
