"""Charts that draw without a network: one bundle of scripts for a whole notebook or page, and data beside it."""

from __future__ import annotations

import base64
import gzip
import html
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

VEGALITE_VERSION = "6.4"
PROGRAM = Path(__file__).parent / "static/draw_charts.js"
ESCAPES = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"}
WAITING = "This chart is drawn by scripts in the first chart's output: run the notebook, or trust it."
LOADER = """<script>(async () => {{
  if (window.dmChartsLoading) return;
  window.dmChartsLoading = true;
  const bytes = Uint8Array.from(atob("{packed}"), (letter) => letter.charCodeAt(0));
  const script = document.createElement("script");
  script.textContent = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(script);
}})();</script><style>
.dm-chart-view.vega-embed {{ display: block; padding-right: 0 !important; }}
.dm-chart .vega-bindings {{ display: flex; flex-wrap: wrap; gap: 0.35rem 1.25rem; }}
</style>"""
_bearer: tuple[str, int] | None = None  # source and number of the run whose output holds the bundle


def escape_json(text: str) -> str:
    """Make JSON safe inside a ``<script>`` element: no spelling of ``</script>`` or ``<!--`` survives."""
    return text.translate(ESCAPES)


@cache
def bundle() -> str:
    """Return Vega, Vega-Lite and the program that draws every chart, as one script that leaks no name but ``dmCharts``."""
    import vl_convert

    return f"(function () {{{vl_convert.javascript_bundle(PROGRAM.read_text(), vl_version=VEGALITE_VERSION)}}})();\n"


@cache
def bundle_html() -> str:
    """Return the bundle as the part of an output that defines it for all outputs of the notebook."""
    packed = base64.b64encode(gzip.compress(bundle().encode(), 9, mtime=0)).decode()
    return LOADER.format(packed=packed)


def chart_html(spec: dict[str, Any], notebook: bool = False) -> str:
    """Return a chart as an element that holds its data; in a notebook it also asks the bundle to draw it."""
    label = html.escape(spec.get("description", "chart"), quote=True)
    payload = escape_json(json.dumps(spec, separators=(",", ":")))
    call = "<script>window.dmCharts?.();</script>"
    fallback = WAITING if notebook else f"<noscript>{label}</noscript>"
    return (
        f'<div class="dm-chart" role="figure" aria-label="{label}"><div class="dm-chart-view" style="width: 100%">'
        f'{fallback}</div><script type="application/json">{payload}</script>{call if notebook else ""}</div>'
    )


def bears_bundle() -> bool:
    """Whether the output that is being made must hold the bundle.

    It is the first chart of a kernel, and again whenever that chart's cell runs again, so that a saved notebook has one
    copy. Colab shows every output in a frame of its own, where nothing can be shared.
    """
    global _bearer
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None or os.environ.get("DM_BOOK"):
        return False
    run = (shell.user_ns.get("In", [""])[-1], shell.execution_count)
    if "google.colab" not in sys.modules and _bearer and (_bearer[0] != run[0] or _bearer == run):
        return False
    _bearer = run
    return True


def notebook_html(spec: dict[str, Any]) -> str:
    """Return what a notebook shows for a chart."""
    return (bundle_html() if bears_bundle() else "") + chart_html(spec, notebook=True)
