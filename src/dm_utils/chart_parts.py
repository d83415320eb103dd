"""What every chart shares: the theme, the colours, how it reaches a page, and the small parts that charts are made of.

Ink is ``currentColor``, so that one chart serves light and dark pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from .chart_bundle import notebook_html
from .display import interval, label

COLORS = {
    "linear": "#2f7fc1",
    "nonlinear": "#d55e00",
    "absent": "#9b7fd1",
    "encoder": "#c2528b",
    "error": "#7d8590",
    "sae": "#1b9e77",
    "x": "#b58900",
}
SAE_COLUMNS = ["sae_id", "hook_name", "layer", "component", "architecture", "d_sae", "l0"]
VEGALITE_MIME = "application/vnd.vegalite.v6+json"
INK = "currentColor"


@alt.theme.register("dark-matter", enable=True)
def theme() -> alt.theme.ThemeConfig:
    """Return the book's chart theme; text and lines take the colour of the page's text."""
    axis: dict[str, Any] = {f"{part}Color": INK for part in ("label", "title", "domain", "tick", "grid")}
    axis |= {"gridOpacity": 0.13, "domainOpacity": 0.45, "tickOpacity": 0.45}
    text = {"labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": 500}
    config = {
        "background": "transparent",
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "axis": axis | text,
        "legend": {"labelColor": INK, "titleColor": INK, "orient": "top", "labelLimit": 400, "symbolOpacity": 1} | text,
        "header": {"labelColor": INK, "titleColor": INK},
        "title": {"color": INK, "fontSize": 14, "fontWeight": 600, "anchor": "start"},
        "text": {"color": INK, "fontSize": 12},
        "rule": {"color": INK},
        "point": {"filled": True, "size": 70},
        "line": {"strokeWidth": 2},
        "range": {"category": list(COLORS.values()), "ramp": {"scheme": "viridis"}, "heatmap": {"scheme": "viridis"}},
    }
    return alt.theme.ThemeConfig(config=config)


def render(spec: dict[str, Any], **_options: Any) -> dict[str, Any]:
    """Return the chart for the book (its JSON) and for Jupyter and other front ends (HTML that needs no network)."""
    text = spec.get("description", "Altair chart")
    return {VEGALITE_MIME: spec, "text/html": notebook_html(spec), "text/plain": text}


alt.renderers.register("dark-matter", render)
alt.renderers.enable("dark-matter")
alt.data_transformers.disable_max_rows()


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


def sae_tooltip(title: str = "value") -> list[alt.Tooltip]:
    """Return the tooltip that every SAE's point carries: which SAE it is and the value with its interval."""
    fields = {"sae_id": "SAE", "d_sae": "width", "l0": "L0", "layer": "layer", "architecture": "architecture"}
    return [alt.Tooltip("text:N", title=title)] + [alt.Tooltip(name, title=text) for name, text in fields.items()]


def width_axis(title: str = "SAE width (latents)", field: str = "d_sae") -> alt.X:
    """Return a logarithmic axis of SAE widths, marked at powers of two."""
    axis = alt.Axis(labelExpr="datum.value >= 1024 ? datum.value / 1024 + 'k' : datum.value", tickCount=8)
    return alt.X(f"{field}:Q", title=title, scale=alt.Scale(type="log", base=2, nice=False, padding=14), axis=axis)
