"""What SAEs leave unexplained, part by part, as areas over their width (Fig. 1)."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from dm_utils.charts.marks import chooser, texts, width_axis, with_interval
from dm_utils.charts.theme import COLORS, INK

SHARE_NAMES = {
    "absent": "absent features",
    "linear": "linear error",
    "encoder": "encoder error",
    "nonlinear": "nonlinear error",
}
LABEL_AT = {"absent": 0.16, "linear": 0.42, "encoder": 0.7, "nonlinear": 0.5}  # where on the fitted range a name stands
VISIBLE = 0.004  # of the chart's height: a thinner area is said to be none


def breakdown(points: pd.DataFrame, curve: pd.DataFrame, choose: str | None = None) -> alt.LayerChart:
    """Draw what SAEs leave unexplained against width (Fig. 1): stacked, named areas, dotted where extrapolated.

    A box under the chart shows the 95 % bands of the areas' upper edges.

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
    points = points.assign(name=points["part"].map(SHARE_NAMES), text=texts(points, "value", "low", "high")).round(5)
    curve = curve.assign(name=curve["part"].map(SHARE_NAMES), text=texts(curve, "top", "top_low", "top_high")).round(5)
    pictures = [curve] if choose is None else [picture for _, picture in curve.groupby(choose, sort=False)]
    named = pd.concat(map(area_names, pictures))
    bases = [alt.Chart(table).encode(x=width_axis()) for table in (curve, points, named)]
    bands = alt.param(name="bands", value=False, bind=alt.binding_checkbox(name="Show the fits' 95 % bands "))
    shown = [bands]
    if choose is not None:  # on each layer: layers with data of their own ignore the filter of the whole
        shown.append(chooser("choice", points[choose].unique().tolist(), choose.replace("_", " ")))
        bases = [base.transform_filter(alt.datum[choose] == shown[1]) for base in bases]
    fitted, measured, names = bases
    chart = alt.layer(*layers(fitted, measured, names, part_scale(curve), bands)).add_params(*shown)
    return chart.properties(width="container", height=380)


def part_scale(curve: pd.DataFrame) -> alt.Scale:
    """The colour of each part that there is."""
    parts = [part for part in SHARE_NAMES if part in set(curve["part"])]
    return alt.Scale(domain=[SHARE_NAMES[part] for part in parts], range=[COLORS[part] for part in parts])


def layers(
    fitted: alt.Chart, measured: alt.Chart, named: alt.Chart, scale: alt.Scale, bands: alt.Parameter
) -> list[alt.Chart | alt.LayerChart]:
    """Tinted areas with firm upper edges, the ends of their bands where asked for, the SAEs, and the areas' names."""
    tooltip = [alt.Tooltip(f, title=t) for f, t in (("name:N", "part"), ("d_sae:Q", "width"), ("text:N", "up to"))]
    hue = alt.Color("name:N", legend=None, scale=scale)
    top = alt.Y("top:Q", title="fraction of variance unexplained", scale=alt.Scale(zero=True))
    fitted = fitted.encode(color=hue, tooltip=tooltip)
    measured = measured.encode(color=hue, tooltip=tooltip)
    edge = fitted.mark_line(strokeWidth=1, strokeDash=[1, 2]).transform_filter(bands)
    return [
        fitted.mark_area(opacity=0.3).encode(y=top, y2="bottom:Q"),
        edge.encode(y="top_low:Q"),
        edge.encode(y="top_high:Q"),
        fitted.mark_line(strokeDash=[2, 4]).encode(y=top),
        fitted.mark_line().encode(y=top).transform_filter("!datum.extrapolated"),
        with_interval(measured, alt.Y("value:Q"), rule={"strokeWidth": 2}, stroke=INK, strokeWidth=1),
        named.mark_text(fontSize=13, fontWeight=600).encode(y="middle:Q", text="says:N"),
    ]


def area_names(curve: pd.DataFrame) -> pd.DataFrame:
    """Where the name of each area stands: `d_sae, middle, says`, and the other columns of the row there."""
    fitted, rows = curve[~curve["extrapolated"]].reset_index(drop=True), []
    thin = VISIBLE * curve["top"].max()
    for part, area in fitted.groupby("part", sort=False):
        octaves = np.log2(area["d_sae"])
        wanted = octaves.min() + LABEL_AT[str(part)] * (octaves.max() - octaves.min())
        row = area.loc[(octaves - wanted).abs().idxmin()]
        middle, there = (row["top"] + row["bottom"]) / 2, row["top"] - row["bottom"] > thin
        name = (row["name"], middle) if there else (f"{row['name']}: none", middle + 6 * thin)
        rows.append(row.to_dict() | dict(zip(("says", "middle"), name, strict=True)))
    return pd.DataFrame(rows)


def measured_heights(table: pd.DataFrame) -> pd.DataFrame:
    """The points of `breakdown` from rows of `Study.measure`: FVU tops the absent features, FVU_nonlinear the nonlinear error."""
    parts = []
    for part, name in (("absent", "fvu"), ("nonlinear", "fvu_nonlinear")):
        heights = table[[name, f"{name}_low", f"{name}_high"]].set_axis(["value", "low", "high"], axis=1)
        parts.append(heights.assign(d_sae=table["d_sae"], part=part))
    return pd.concat(parts)
