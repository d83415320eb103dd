"""The small parts that charts are made of: axes, choosers, tooltips, colours by name, intervals as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from dm_utils.base.names import PART_NAMES
from dm_utils.base.words import interval, label
from dm_utils.charts.theme import COLORS

WIDE: dict[str, str] = {"width": "container"}
SHARE = alt.Axis(format="%")
PART_HUE = alt.Scale(domain=list(PART_NAMES.values()), range=[COLORS[part] for part in PART_NAMES])
SAE_COLUMNS = ["sae_id", "hook_name", "layer", "component", "architecture", "d_sae", "l0"]


def tidy(table: pd.DataFrame, metrics: Sequence[str], keep: Sequence[str] = ()) -> pd.DataFrame:
    """Return one row per SAE and metric: ``metric, value, low, high, text`` beside the SAE's own columns.

    Raises
    ------
    ValueError
        If the table lacks a metric.
    """
    missing = [name for name in metrics if name not in table]
    if missing:
        raise ValueError(f"the table has no {', '.join(missing)}; its columns are {', '.join(table.columns)}")
    base = table[[name for name in dict.fromkeys([*SAE_COLUMNS, *keep]) if name in table]]
    parts = []
    for name in metrics:
        low, high = table.get(f"{name}_low", table[name]), table.get(f"{name}_high", table[name])
        part = base.assign(metric=label(name), value=table[name], low=low, high=high)
        parts.append(part.assign(text=texts(part, "value", "low", "high")))
    return pd.concat(parts, ignore_index=True).round({"value": 5, "low": 5, "high": 5, "l0": 2})


def texts(frame: pd.DataFrame, value: str, low: str, high: str) -> list[str]:
    """Return each row's value with its interval as text, for tooltips."""
    return [interval(*row) for row in zip(frame[value], frame[low], frame[high], strict=True)]


def chooser(name: str, options: Sequence[Any], title: str, radio: bool = False) -> alt.Parameter:
    """Return a parameter bound to a drop-down list (or radio buttons) under the chart."""
    binding = alt.binding_radio if radio else alt.binding_select
    return alt.param(name=name, value=options[0], bind=binding(options=list(options), name=f"{title} "))


@dataclass(frozen=True)
class Slide:
    """A column of numbers that the reader moves through with a slider, whose text says the number and not its place.

    ``headlines`` says for each value what is seen there, as the chart's title; ``start`` is the value that is shown first.
    """

    column: str
    title: str
    headlines: Mapping[float, str]
    start: float
    format: str = "g"

    @property
    def values(self) -> list[float]:
        """The values in order."""
        return sorted(self.headlines)

    @property
    def parameter(self) -> alt.Parameter:
        """The slider: a place among the values."""
        bind = alt.binding_range(min=0, max=len(self.headlines) - 1, step=1, name=f"{self.title} ")
        return alt.param(name="place", value=self.values.index(self.start), bind=bind)

    @property
    def here(self) -> str:
        """The expression that keeps the rows of the value that is shown."""
        return f"datum[{json.dumps(self.column)}] == {json.dumps(self.values)}[place]"

    def told(self, chart: alt.LayerChart) -> alt.LayerChart:
        """The chart with the headline as its title, and what the slider says at each place."""
        headlines = alt.ExprRef(f"{json.dumps([self.headlines[value] for value in self.values])}[place]")
        says = {"place": [f"{value:{self.format}}" for value in self.values]}
        return chart.properties(title=alt.Title(headlines), usermeta={"sliders": says})


def sae_tooltip(title: str = "value") -> list[alt.Tooltip]:
    """Return the tooltip that every SAE's point carries: which SAE it is and the value with its interval."""
    fields = {"sae_id": "SAE", "d_sae": "width", "l0": "L0", "layer": "layer", "architecture": "architecture"}
    return [alt.Tooltip("text:N", title=title)] + [alt.Tooltip(name, title=text) for name, text in fields.items()]


def width_axis(title: str = "SAE width (latents)", field: str = "d_sae") -> alt.X:
    """Return a logarithmic axis of SAE widths, marked at powers of two."""
    axis = alt.Axis(labelExpr="datum.value >= 1024 ? datum.value / 1024 + 'k' : datum.value", tickCount=8)
    return alt.X(f"{field}:Q", title=title, scale=alt.Scale(type="log", base=2, nice=False, padding=14), axis=axis)


def named_colors(names: Sequence[str], colors: Sequence[str]) -> alt.Scale:
    """A colour for each name, in order."""
    return alt.Scale(domain=list(names), range=[COLORS[color] for color in colors])


def dashes(field: str, order: Sequence[str], patterns: Sequence[list[int]]) -> alt.StrokeDash:
    """Tell lines apart by their dashes, one pattern for each value of a field, with a legend in one column."""
    legend = alt.Legend(orient="bottom", columns=1, symbolType="stroke", symbolSize=600)
    scale = alt.Scale(domain=list(order), range=list(patterns))
    return alt.StrokeDash(f"{field}:N", title=None, sort=list(order), scale=scale, legend=legend)


def with_interval(
    base: alt.Chart,
    channel: alt.X | alt.Y,
    mark: str = "point",
    low: str = "low",
    high: str = "high",
    band: bool = False,
    rule: dict[str, Any] | None = None,
    **look: Any,
) -> alt.LayerChart:
    """Draw a value (`channel`) as a point, line or bar over its 95 % interval, a rule or, with ``band``, an area as well.

    ``base`` carries the data and every other channel; ``rule`` is the look of the interval, whose colour goes before that of
    ``base``; ``look`` is that of the mark.
    """
    axis = "x" if isinstance(channel, alt.X) else "y"
    shared = {name: channel[name] for name in ("axis", "scale", "title") if channel[name] is not alt.Undefined}
    ends = {axis: type(channel)(f"{low}:Q", **shared), f"{axis}2": f"{high}:Q"}
    layers = [base.mark_area(opacity=0.14).encode(**ends)] if band else []
    rule = {"strokeWidth": 1.5, **(rule or {})}
    ink = {"color": alt.value(rule["color"])} if "color" in rule else {}
    layers.append(base.mark_rule(**rule).encode(**ends, **ink))
    drawn = {"point": base.mark_point, "line": base.mark_line, "bar": base.mark_bar}[mark](**look)
    drawn = drawn.encode(**{axis: channel})
    return alt.layer(*([drawn, *layers] if mark == "bar" else [*layers, drawn]))


def near(field: str, parameter: alt.Parameter) -> str:
    """The expression that keeps the rows whose field equals a slider's number, whatever rounding did to it."""
    return f"abs(datum.{field} - {parameter.name}) < 0.000001"
