"""Distributions of a value, one per component, every SAE a point over its density."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import pandas as pd

from dm_utils.charts.marks import sae_tooltip, texts, with_interval
from dm_utils.charts.theme import COLORS


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
    place = alt.Y("place:Q", title=None, axis=axis, scale=y_scale)
    base = alt.Chart(dots.round(4)).encode(
        y=place, color=hue, tooltip=[alt.Tooltip("component:N"), *sae_tooltip(title)]
    )
    saes = with_interval(base, x_axis, rule={"opacity": 0.35}, size=45)
    return alt.layer(*layers, saes).properties(width="container", height=70 * len(order) + 40)
