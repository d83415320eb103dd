"""Distributions of a value, one per component, every SAE a point over its density."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import pandas as pd

from dm_utils.charts.marks import named_colors, sae_tooltip, texts, with_interval


def violins(
    values: pd.DataFrame, order: Sequence[str], title: str = "R²", names: Mapping[str, str] | None = None
) -> alt.LayerChart:
    """Draw the distribution of a value per component (Fig. 6): every SAE a hoverable point over its density.

    ``values`` holds ``component`` (one of ``order``, each a key of :data:`COLORS`), ``value, low, high`` and the SAE's columns;
    ``names`` says how the axis calls the components.
    """
    dots = values[values["component"].isin(order)].copy()
    middle = dots["component"].map({name: index for index, name in enumerate(order)}).astype(float)
    dots["place"] = middle + np.random.default_rng(0).uniform(-0.12, 0.12, len(dots))
    dots["text"] = texts(dots, "value", "low", "high")
    shown = [(names or {}).get(name, name) for name in order]
    label = " : ".join(f"datum.value == {index} ? '{name}'" for index, name in enumerate(shown)) + " : ''"
    axis = alt.Axis(values=list(range(len(order))), labelExpr=label, grid=False)
    along = {"title": None, "axis": axis, "scale": alt.Scale(domain=[-0.6, len(order) - 0.4], reverse=True, nice=False)}
    hue = alt.Color("component:N", legend=None, scale=named_colors(order, order))
    x_axis = alt.X("value:Q", title=title, scale=alt.Scale(zero=False))
    layers = []
    if shapes := [
        density(part["value"], order.index(name)).assign(component=name)
        for name, part in dots.groupby("component")
        if part["value"].nunique() > 1
    ]:
        area = alt.Chart(pd.concat(shapes).round(4)).mark_area(opacity=0.35, orient="vertical")
        layers.append(area.encode(x=x_axis, y=alt.Y("left:Q", **along), y2="right:Q", color=hue))
    tooltip = [alt.Tooltip("component:N"), *sae_tooltip(title)]
    base = alt.Chart(dots.round(4)).encode(y=alt.Y("place:Q", **along), color=hue, tooltip=tooltip)
    layers.append(with_interval(base, x_axis, rule={"opacity": 0.35}, size=45))
    return alt.layer(*layers).properties(width="container", height=70 * len(order) + 40)


def density(values: pd.Series, middle: int) -> pd.DataFrame:
    """The outline of a violin: `value`, and the two sides of the density there, `left` and `right` of a middle."""
    from scipy.stats import gaussian_kde

    at = np.linspace(values.min(), values.max(), 60)
    height = gaussian_kde(values)(at)
    half = 0.4 * height / height.max()
    return pd.DataFrame({"value": at, "left": middle - half, "right": middle + half})
