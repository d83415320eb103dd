"""Charts of this chapter: the norm prediction test as violins, and SAE by SAE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import pandas as pd

from dm_utils.base.names import VECTOR_NAMES, VECTORS
from dm_utils.charts.marks import WIDE, chooser, sae_tooltip, texts
from dm_utils.charts.theme import COLORS, INK


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


def norm_violins(table: pd.DataFrame, regressor: str) -> alt.LayerChart:
    """Figure 6 for one regressor: a violin per vector, every SAE a point; open diamonds are the Gaussian twins.

    `table` is what `norm_test.norm_tests` returns; undefined values cannot be drawn and are left to the table of outliers.
    """
    rows = table[(table["regressor"] == regressor) & table["value"].notna()].drop(columns="component", errors="ignore")
    title = f"R² of the squared norm, {regressor}"
    chart = violins(rows.rename(columns={"vector": "component"}), order=VECTORS, title=title, names=VECTOR_NAMES)
    twins = rows.dropna(subset="gaussian")
    if twins.empty:
        return chart
    twins = twins.assign(place=twins["vector"].map({name: i + 0.28 for i, name in enumerate(VECTORS)}).astype(float))
    tooltip = [alt.Tooltip("gaussian:Q", title="Gaussian twin", format=".3f"), "vector:N", *sae_tooltip("this vector")]
    twins = twins.assign(text=texts(twins, "value", "low", "high"))
    marks = (
        alt.Chart(twins.round(4))
        .mark_point(shape="diamond", filled=False, size=26, color=INK, opacity=0.55)
        .encode(x="gaussian:Q", y="place:Q", tooltip=tooltip)
    )
    return (chart + marks).properties(**WIDE, height=70 * len(VECTORS) + 60)


def norm_explorer(table: pd.DataFrame) -> alt.LayerChart:
    """R² of the test against a property of the SAE that the reader chooses; click the legend to single out a vector."""
    properties = {
        "layer": "layer",
        "SAE width": "d_sae",
        "L0": "l0",
        "FVU of the SAE": "fvu",
        "dead latents": "dead_fraction",
    }
    rows = table[table["vector"] != "x"].dropna(subset=["value"]).copy()
    rows["name"], rows["text"] = rows["vector"].map(VECTOR_NAMES), texts(rows, "value", "low", "high")
    rows = rows.rename(columns={column: title for title, column in properties.items() if title != column})
    along = chooser("along", list(properties), "Along")
    which = chooser("which", sorted(rows["regressor"].unique(), reverse=True), "Regressor", radio=True)
    site = chooser("at", ["all sites", *sorted(rows["site"].unique())], "Site")
    pick = alt.selection_point(fields=["name"], bind="legend")
    names = [VECTOR_NAMES[name] for name in VECTORS[1:]]
    scale = alt.Scale(domain=names, range=[COLORS[name] for name in VECTORS[1:]])
    base = (
        alt.Chart(rows.round(5))
        .transform_filter(alt.datum.regressor == which)
        .transform_filter("at == 'all sites' || datum.site == at")
        .transform_calculate(property="datum[along]")
        .encode(
            x=alt.X("property:Q", title="the chosen property of the SAE", scale=alt.Scale(zero=False)),
            color=alt.Color("name:N", title="squared norm of", scale=scale),
            opacity=alt.condition(pick, alt.value(0.9), alt.value(0.06)),
        )
    )
    y_axis = alt.Y("value:Q", title="R²", scale=alt.Scale(zero=False))
    bars = base.mark_rule().encode(y=alt.Y("low:Q", title="R²", scale=alt.Scale(zero=False)), y2="high:Q")
    fields = {"sae_id": "SAE", "SAE width": "width", "L0": "L0", "layer": "layer", "architecture": "architecture"}
    tooltip = ["name:N", alt.Tooltip("text:N", title="R²"), *[alt.Tooltip(f, title=t) for f, t in fields.items()]]
    points = base.mark_point(size=55).encode(y=y_axis, tooltip=tooltip)
    return alt.layer(bars, points).add_params(along, which, site, pick).properties(**WIDE, height=340)
