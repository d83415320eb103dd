"""Charts of a chapter that ran, in pages that treat outputs as VS Code and Colab do; neither can be run here."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import papermill
import pytest
from demo import ROOT
from playwright.sync_api import Browser
from site_browser import Visit, serve, watch

from dm_utils.book import colab
from dm_utils.engine.study import Study

pytestmark = pytest.mark.slow
CHAPTER = "03_notation"
HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Outputs</title><link rel="icon" href="data:,">'
)
# VS Code puts all outputs into one page. It runs an output's scripts once more, at its end, and takes them away again.
VSCODE = """
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:">
</head><body><script>
function show(html) {
  const output = document.body.appendChild(document.createElement("div"));
  output.innerHTML = html;
  for (const { type, text } of [...output.querySelectorAll("script")]) {
    const script = Object.assign(document.createElement("script"), { type, text });
    output.append(script);
    script.remove();
  }
}
</script></body></html>"""
# Colab puts every output into a frame of its own, which has another origin than the notebook.
COLAB = """</head><body><script>
function show(html) {
  const frame = Object.assign(document.createElement("iframe"), { srcdoc: html, width: 800, height: 600 });
  frame.sandbox = "allow-scripts";
  document.body.append(frame);
}
</script></body></html>"""


def run(study: Study, folder: Path, first_cell: str) -> list[str]:
    """Return the HTML of every chart of the chapter, run by a kernel that begins with ``first_cell``."""
    source, ran = (ROOT / f"notebooks/{CHAPTER}.ipynb").read_text(), folder / "ran.ipynb"
    assert source.count(json.dumps(colab.CELL.splitlines(keepends=True)[0])) == 1
    notebook = json.loads(source)
    next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")["source"] = first_cell
    (folder / "chapter.ipynb").write_text(json.dumps(notebook))
    given = {"n_contexts": study.profile.n_contexts}
    papermill.execute_notebook(
        folder / "chapter.ipynb", ran, given, kernel_name="python3", cwd=folder, progress_bar=False
    )
    outputs = [output for cell in json.loads(ran.read_text())["cells"] for output in cell.get("outputs", [])]
    bundles = [output["data"] for output in outputs if "data" in output]
    assert not any("vnd.vega" in mime for data in bundles for mime in data), "an editor would draw it in its own way"
    pages = ["".join(data.get("text/html", "")) for data in bundles]
    return [page for page in pages if 'class="dm-chart"' in page]


@pytest.fixture
def kernel(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run the chapter in, as a reader does: not for the book, with the results that the tests share."""
    monkeypatch.delenv("DM_BOOK", raising=False)
    monkeypatch.setenv("DM_STORE", str(study.store.root))
    return tmp_path


@contextlib.contextmanager
def opened(browser: Browser, folder: Path, page: str) -> Iterator[Visit]:
    """Open a page of outputs that can reach no other host."""
    (folder / "index.html").write_text(HEAD + page)
    with serve(folder) as address, watch(browser, address) as seen:
        seen.page.goto(address)
        yield seen
        seen.assert_clean()


def test_every_chart_is_drawn_where_all_outputs_share_a_page_as_in_vs_code(
    browser: Browser, study: Study, kernel: Path
) -> None:
    charts = run(study, kernel, "")
    assert len(charts) > 2 and ["DecompressionStream" in chart for chart in charts].index(False) == 1
    with opened(browser, kernel, VSCODE) as visit:
        drawn = "count => document.querySelectorAll('.dm-chart[data-drawn] svg.marks').length === count"
        visit.page.evaluate("show", charts[-1])  # scrolled to first, before the output that holds the scripts
        for count, chart in enumerate(charts[:-1], start=2):
            visit.page.evaluate("show", chart)
            visit.page.wait_for_function(drawn, arg=count)


def test_every_chart_is_drawn_in_a_frame_of_its_own_as_in_colab(browser: Browser, study: Study, kernel: Path) -> None:
    (kernel / "google/colab").mkdir(parents=True)
    (kernel / "google/colab/__init__.py").touch()
    charts = run(study, kernel, "import google.colab")
    with opened(browser, kernel, COLAB) as visit:
        for chart in charts:
            visit.page.evaluate("show", chart)
        for frame in visit.page.frames[1:]:
            frame.wait_for_selector(".dm-chart[data-drawn] svg.marks", state="attached")
        assert len(visit.page.frames) == 1 + len(charts) > 3
