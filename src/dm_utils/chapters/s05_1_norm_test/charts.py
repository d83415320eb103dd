"""Charts of this chapter: the norm prediction test as violins, and SAE by SAE."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.base.names import VECTOR_NAMES, VECTORS
from dm_utils.charts.marks import WIDE, chooser, sae_tooltip, texts, with_interval
from dm_utils.charts.theme import COLORS, INK
from dm_utils.charts.violins import violins


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
    fields = {"sae_id": "SAE", "SAE width": "width", "L0": "L0", "layer": "layer", "architecture": "architecture"}
    tooltip = ["name:N", alt.Tooltip("text:N", title="R²"), *[alt.Tooltip(f, title=t) for f, t in fields.items()]]
    points = with_interval(base.encode(tooltip=tooltip), y_axis, size=55)
    return points.add_params(along, which, site, pick).properties(**WIDE, height=340)
