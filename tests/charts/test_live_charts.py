"""Controls under a chart, in Chromium with nothing but the page's own files: by keyboard, and they say what they show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import altair as alt
import pandas as pd
import pytest
from playwright.sync_api import Browser, Page
from site_browser import serve, visit

from dm_utils import charts
from dm_utils.charts.bundle import bundle, chart_html
from dm_utils.charts.widgets import STATIC, ClaimBoard

BOOK_STYLE = Path(__file__).resolve().parents[2] / "book/_static/book.css"

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,"><title>Chart</title></head>
<body>{}<script src="charts.js"></script></body></html>"""


def breakdown() -> alt.LayerChart:
    """One SAE width fitted at three L0s."""
    curve = pd.DataFrame({"d_sae": [512, 8192], "part": "absent", "bottom": 0.0, "extrapolated": False})
    heights = {4.0: 0.4, 8.0: 0.2, 16.0: 0.1}
    curves = pd.concat(
        [curve.assign(near_l0=near, top=top, top_low=top, top_high=top) for near, top in heights.items()]
    )
    points = curves.assign(value=curves["top"], low=curves["top"], high=curves["top"])
    said = {near: f"{top:.0%} left" for near, top in heights.items()}
    return charts.breakdown(points, curves, slide=charts.Slide("near_l0", "L0 near", said, 16.0))


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    (tmp_path / "charts.js").write_text(bundle(), encoding="utf-8")
    (tmp_path / "index.html").write_text(PAGE.format(chart_html(breakdown().to_dict())), encoding="utf-8")
    with serve(tmp_path) as address, visit(browser, address, "index.html") as seen:
        yield seen.page
        seen.assert_clean()


def test_a_slider_over_l0s_is_moved_by_keys_and_says_the_l0(page: Page) -> None:
    slider = page.locator("input[type=range]")
    said = page.locator("input[type=range] + span")
    assert (said.inner_text(), slider.get_attribute("aria-valuetext")) == ("16", "16")
    assert "10% left" in page.locator("svg .role-title-text").text_content()
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('svg .role-title-text').textContent.includes('20% left')")
    assert (said.inner_text(), slider.get_attribute("aria-valuetext")) == ("8", "8")
    page.keyboard.press("Home")
    page.wait_for_function("document.querySelector('svg .role-title-text').textContent.includes('40% left')")
    assert said.inner_text() == "4"


BOARD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,"><title>Board</title>
<link rel="stylesheet" href="book.css"><link rel="stylesheet" href="claim_board.css"></head><body style="max-width: 690px"><div></div>
<script type="module">import widget from "./claim_board.js";
const state = {};
widget.render({{ model: {{ get: (name) => state[name] }}, el: document.querySelector("div") }});</script></body></html>"""


@pytest.mark.parametrize("width", [390, 1280])
def test_the_claims_fit_their_column_and_are_cards_on_a_phone(browser: Browser, tmp_path: Path, width: int) -> None:
    words = "from end to end by −0.267 to −0.0957 (6 series)"
    claim = {"place": "abstract", "claim": f"<b>{words}</b>", "paper": words, "profile": "gemma-2-2b", "value": words}
    claim |= {"training": "at most 0.0123 between 3 trainings", "size": "with size: <i>towards the paper's value</i>"}
    claim |= {"verdict": "untestable here", "agree": 0, "of": 24, "test": words, "chapter": "04_1_error_norms"}
    board = ClaimBoard(pd.DataFrame([claim]), ["holds"])
    state = {name: getattr(board, name) for name in ("claims", "verdicts", "folder")}
    for source in (*(STATIC / name for name in ("claim_board.js", "claim_board.css")), BOOK_STYLE):
        (tmp_path / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "index.html").write_text(BOARD.format(json.dumps(state).replace("<", "\\u003c")), encoding="utf-8")
    with serve(tmp_path) as address, visit(browser, address, "index.html", width=width) as seen:
        seen.page.wait_for_selector(".dm-board tbody td")
        frame = seen.page.locator(".dm-table")
        assert frame.evaluate("frame => frame.scrollWidth - frame.clientWidth") <= 1
        assert frame.locator("tbody tr").evaluate("row => getComputedStyle(row).display") == (
            "block" if width == 390 else "table-row"
        )
        assert seen.page.locator(".dm-table tbody :is(b, i)").count() == 0 and "<b>" in frame.inner_text()
        assert "between 3 trainings" in frame.inner_text() and "<i>towards" in frame.inner_text()
        seen.assert_clean()


def panels() -> alt.FacetChart:
    """Two panels of fixed width whose rows have long names, with a legend above."""
    rows = [
        {"panel": panel, "sae": f"resid_4_topk_{width}_l0_4", "part": part, "value": width / 9000}
        for panel in ("of the first", "of the second")
        for width in (512, 2048, 8192)
        for part in ("the linear error", "the nonlinear error")
    ]
    points = (
        alt.Chart(pd.DataFrame(rows)).mark_point().encode(x="value:Q", y=alt.Y("sae:N", title=None), color="part:N")
    )
    return alt.layer(points).properties(width=250, height=100).facet("panel:N", columns=2)


@pytest.mark.parametrize(("width", "stacked"), [(390, True), (1280, False)])
def test_panels_stand_under_each_other_on_a_phone_and_fit_it(
    browser: Browser, tmp_path: Path, width: int, stacked: bool
) -> None:
    (tmp_path / "charts.js").write_text(bundle(), encoding="utf-8")
    (tmp_path / "index.html").write_text(PAGE.format(chart_html(panels().to_dict())), encoding="utf-8")
    with serve(tmp_path) as address, visit(browser, address, "index.html", width=width) as seen:
        boxes = [panel.bounding_box() for panel in seen.page.locator("svg g.cell > g > path.background").all()]
        first, second = boxes
        assert (first["x"] == second["x"], first["y"] == second["y"]) == (stacked, not stacked)
        assert seen.page.locator(".dm-chart").evaluate("chart => chart.scrollWidth - chart.clientWidth") <= 1
        seen.assert_clean()
