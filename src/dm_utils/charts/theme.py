"""The theme of every chart, its colours, and how a chart reaches a page.

Ink is ``currentColor``, so that one chart serves light and dark pages.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import altair as alt

from dm_utils.base.verdicts import DIFFERS, HOLDS, PARTLY, UNTESTABLE
from dm_utils.charts.bundle import notebook_html

COLORS = {
    "linear": "#2f7fc1",
    "nonlinear": "#d55e00",
    "absent": "#9b7fd1",
    "encoder": "#c2528b",
    "error": "#7d8590",
    "sae": "#1b9e77",
    "x": "#b58900",
}
VERDICT_COLORS = {HOLDS: "sae", PARTLY: "x", DIFFERS: "nonlinear", UNTESTABLE: "error"}
VEGALITE_MIME = "application/vnd.vegalite.v6+json"
INK = "currentColor"


def style(sheet: Path) -> str:
    """Return a style sheet of a widget or of the book after the palette as CSS variables: ``--dm-linear``, ``--dm-holds``, …

    The palette is legible on light and on dark pages; a shade of it is a `color-mix` with ``transparent``, which shows the page.
    """
    verdicts = {word.split()[0]: COLORS[color] for word, color in VERDICT_COLORS.items()}
    variables = "".join(f" --dm-{name}: {color};" for name, color in (COLORS | verdicts).items())
    return f":root {{{variables} }}\n{sheet.read_text(encoding='utf-8')}"


@alt.theme.register("dark-matter", enable=True)
def theme() -> alt.theme.ThemeConfig:
    """Return the book's chart theme; text and lines take the colour of the page's text."""
    axis: dict[str, Any] = {f"{part}Color": INK for part in ("label", "title", "domain", "tick", "grid")}
    axis |= {"gridOpacity": 0.13, "domainOpacity": 0.45, "tickOpacity": 0.45}
    axis |= {"labelSeparation": 4}  # px: the first label is moved inwards, and may not touch the second
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
    """Return the chart as HTML that needs no network, and for the book, which draws it by itself, as its JSON.

    A notebook holds no JSON: an editor that knows its type would draw it in its own way, which fits no narrow page.
    """
    shown: dict[str, Any] = {"text/html": notebook_html(spec), "text/plain": spec.get("description", "Altair chart")}
    return shown | ({VEGALITE_MIME: spec} if "DM_BOOK" in os.environ else {})


alt.renderers.register("dark-matter", render)


alt.renderers.enable("dark-matter")


alt.data_transformers.disable_max_rows()
