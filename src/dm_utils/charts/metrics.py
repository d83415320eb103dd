"""Charts that several chapters draw: metrics over width, L0 and layer."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from dm_utils.base.words import label
from dm_utils.charts.marks import chooser, sae_tooltip, tidy, width_axis, with_interval
from dm_utils.charts.theme import INK
from dm_utils.engine.suite import near_l0


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
    base = alt.Chart(data).encode(x=x, color=hue, tooltip=sae_tooltip())
    base = base.transform_filter(alt.datum.metric == metric)
    y_axis = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))
    chart = with_interval(base, y_axis, "line", band=True, point=alt.OverlayMarkDef(size=60)).add_params(metric)
    return chart.properties(width="container", height=300, title=alt.TitleParams(text=alt.ExprRef("metric")))


def metric_by_width(table: pd.DataFrame, metrics: Sequence[str], group: str = "l0_label") -> alt.LayerChart:
    """Draw metrics against SAE width, one line per L0 (column ``group``; made from ``l0`` if the table lacks it)."""
    if group not in table:
        table = table.assign(**{group: near_l0(table["l0"])})
    return lines(table.sort_values("d_sae"), metrics, width_axis(), group, "L0 near")


def metric_by_layer(table: pd.DataFrame, metrics: Sequence[str]) -> alt.LayerChart:
    """Draw metrics against the layer, one line per component."""
    return lines(table.sort_values("layer"), metrics, layer_axis(), "component", "component")


def layer_axis() -> alt.X:
    """Return an axis of layers, marked at whole numbers."""
    return alt.X("layer:Q", title="layer", axis=alt.Axis(tickMinStep=1, format="d"))
