"""What SAEs leave unexplained, part by part, as areas over their width (Fig. 1)."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from dm_utils.charts.marks import Slide, chooser, texts, width_axis, with_interval
from dm_utils.charts.theme import COLORS, INK

SHARE_NAMES = {
    "absent": "absent features",
    "linear": "linear error",
    "encoder": "encoder error",
    "nonlinear": "nonlinear error",
}
LABEL_AT = {"absent": 0.25, "linear": 0.42, "encoder": 0.7, "nonlinear": 0.5}  # where on the fitted range a name stands
NONE_AT = 0.8  # of the whole range
NAME: dict[str, Any] = {"fontSize": 13, "fontWeight": 600}
PLACES: dict[str, dict[str, Any]] = {"inside": {}, "above": {"align": "left", "dx": 6, "dy": -9}, "below": {"dy": 13}}
VISIBLE = 0.004  # of the chart's height: a thinner area is said to be none


def breakdown(
    points: pd.DataFrame, curve: pd.DataFrame, choose: str | None = None, slide: Slide | None = None
) -> alt.LayerChart:
    """Draw what SAEs leave unexplained against width (Fig. 1): stacked, named areas, dotted where extrapolated.

    A box under the chart shows the 95 % bands of the areas' upper edges. The heights keep their scale whatever is chosen.

    Parameters
    ----------
    points : DataFrame
        What was measured: ``d_sae, part, value, low, high``, where ``value`` is the height of the part's upper edge (FVU for
        ``absent``, FVU_nonlinear for ``nonlinear``), plus ``choose`` if given.
    curve : DataFrame
        The fit: ``d_sae, part`` (``absent``, ``linear``, ``encoder``, ``nonlinear``), ``bottom, top`` (heights of the part's
        edges), ``top_low, top_high`` (95 % band of the upper edge), ``extrapolated`` (bool), plus ``choose`` if given.
    choose : str, optional
        A column, for example ``encoder``, whose value the reader chooses under the chart, in order of appearance.
    slide : Slide, optional
        A column of numbers, for example ``near_l0``, that the reader moves through.
    """
    points = points.assign(name=points["part"].map(SHARE_NAMES), text=texts(points, "value", "low", "high")).round(5)
    curve = curve.assign(name=curve["part"].map(SHARE_NAMES), text=texts(curve, "top", "top_low", "top_high")).round(5)
    by = [column for column in (choose, slide and slide.column) if column]
    pictures = [picture for _, picture in curve.groupby(by, sort=False)] if by else [curve]
    named = pd.concat(map(area_names, pictures))
    bases = [alt.Chart(table).encode(x=width_axis()) for table in (curve, points, named)]
    bands = alt.param(name="bands", value=False, bind=alt.binding_checkbox(name="Show the fits' 95 % bands "))
    shown = [bands]
    if choose is not None:  # on each layer: layers with data of their own ignore the filter of the whole
        shown.append(chooser("choice", points[choose].unique().tolist(), choose.replace("_", " ")))
        bases = [base.transform_filter(alt.datum[choose] == shown[-1]) for base in bases]
    if slide is not None:
        shown.append(slide.parameter)
        bases = [base.transform_filter(slide.here) for base in bases]
    highest = float(max(curve["top"].max(), points["high"].max())), float(curve["top_high"].max())
    height = alt.Scale(domainMin=0, domainMax=alt.ExprRef(f"bands ? {max(highest)} : {highest[0]}"))
    fitted, measured, names = bases
    chart = alt.layer(*layers(fitted, measured, names, part_scale(curve), height)).add_params(*shown)
    return (slide.told(chart) if slide else chart).properties(width="container", height=380)


def part_scale(curve: pd.DataFrame) -> alt.Scale:
    """The colour of each part that there is."""
    parts = [part for part in SHARE_NAMES if part in set(curve["part"])]
    return alt.Scale(domain=[SHARE_NAMES[part] for part in parts], range=[COLORS[part] for part in parts])


def layers(
    fitted: alt.Chart, measured: alt.Chart, named: alt.Chart, scale: alt.Scale, height: alt.Scale
) -> list[alt.Chart | alt.LayerChart]:
    """Tinted areas with firm upper edges, the ends of their bands where asked for, the SAEs, and the areas' names."""
    tooltip = [alt.Tooltip(f, title=t) for f, t in (("name:N", "part"), ("d_sae:Q", "width"), ("text:N", "up to"))]
    hue = alt.Color("name:N", legend=None, scale=scale)
    top = alt.Y("top:Q", title="fraction of variance unexplained", scale=height)
    fitted = fitted.encode(color=hue, tooltip=tooltip)
    measured = measured.encode(color=hue, tooltip=tooltip)
    edge = fitted.mark_line(strokeWidth=1, strokeDash=[1, 2]).transform_filter("bands")
    names = named.encode(text="says:N", y="at:Q")
    return [
        fitted.mark_area(opacity=0.3).encode(y=top, y2="bottom:Q"),
        edge.encode(y="top_low:Q"),
        edge.encode(y="top_high:Q"),
        fitted.mark_line(strokeDash=[2, 4]).encode(y=top),
        fitted.mark_line().encode(y=top).transform_filter("!datum.extrapolated"),
        with_interval(measured, alt.Y("value:Q"), rule={"strokeWidth": 2}, stroke=INK, strokeWidth=1),
        *(
            names.transform_filter(alt.datum.place == place).mark_text(**NAME, **shift)
            for place, shift in PLACES.items()
        ),
    ]


def area_names(curve: pd.DataFrame) -> pd.DataFrame:
    """Where the name of each area stands: `d_sae, at` (a height), `place` (of `PLACES`), `says`, and the row's other columns.

    Absent features end in a point, which no name fits into: theirs stands above their edge. That there is none of a part is said
    to the right of the SAEs, below the line that the part has become.
    """
    rows, thin = [], VISIBLE * curve["top"].max()
    for part, area in curve.groupby("part", sort=False):
        row = nearest(area[~area["extrapolated"]], LABEL_AT[str(part)])
        said: dict[str, Any] = {"says": row["name"], "place": "inside", "at": (row["top"] + row["bottom"]) / 2}
        if row["top"] - row["bottom"] <= thin:
            row = nearest(area, NONE_AT)
            said = {"says": f"{row['name']}: none", "place": "below", "at": row["bottom"]}
        elif part == "absent":
            said = {"says": f"↙ {row['name']}", "place": "above", "at": row["top"]}
        rows.append(row.to_dict() | said)
    return pd.DataFrame(rows)


def nearest(area: pd.DataFrame, share: float) -> pd.Series:
    """The row at a share of the way from the narrowest SAE to the widest, in octaves."""
    octaves = np.log2(area["d_sae"])
    return area.iloc[(octaves - octaves.min() - share * (octaves.max() - octaves.min())).abs().argmin()]


def measured_heights(table: pd.DataFrame) -> pd.DataFrame:
    """The points of `breakdown` from rows of `Study.measure`: FVU tops the absent features, FVU_nonlinear the nonlinear error."""
    parts = []
    for part, name in (("absent", "fvu"), ("nonlinear", "fvu_nonlinear")):
        heights = table[[name, f"{name}_low", f"{name}_high"]].set_axis(["value", "low", "high"], axis=1)
        parts.append(heights.assign(d_sae=table["d_sae"], part=part))
    return pd.concat(parts)
