"""A small site, built just now, in a real browser: self-contained, live without a kernel, safe with hostile tokens."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import hostile
import pytest
from demo import ROOT, add_chapter, make_checkout
from playwright.sync_api import Browser, Page
from site_browser import Visit, channels, find_browser, painted, serve, visit

from dm_utils.base.errors import BuildError
from dm_utils.base.words import visible
from dm_utils.book.chapter import COLUMNS
from dm_utils.book.layout import Layout
from dm_utils.book.site import build_book
from dm_utils.charts.theme import COLORS

DEMO = "notebooks/demo.html"
MANAGED = "script[type*=widget-view]"
STRIP = {"span": "nonlinear", "i": "linear"}  # rows of the token strip: what each shows
CELLS = json.loads((ROOT / "tests/demo.ipynb").read_text())["cells"]


def hostile_tokens() -> list[str]:
    """The tokens that the demonstration feeds to every output."""
    values: dict[str, list[str]] = {}
    exec("".join(CELLS[1]["source"]), values)
    return values["hostile"]


RUNS = "import os, pathlib\nhere = pathlib.Path(os.environ['DM_TABLES'])\nhere.mkdir(parents=True, exist_ok=True)\n"
RUNS += "(here / 'runs.csv').write_text('chapter\\n')"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A small book, executed and built just now: the demonstration, names from outside, a chapter that fails and one that runs."""
    layout = make_checkout(tmp_path_factory.mktemp("demo") / "checkout")
    toc = layout.root / "book/_toc.yml"
    for name, source in {"names": hostile.CELL, "fails": "1 / 0", "runs": RUNS}.items():
        add_chapter(layout, name, source)
        toc.write_text(toc.read_text() + f"      - file: notebooks/{name}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DM_ASSETS", os.environ.get("DM_ASSETS", str(ROOT / "_build/assets")))
        patch.chdir(layout.root)
        with pytest.raises(
            BuildError, match=r"1 of 4 chapters failed[^\n]*\n  fails failed in cell 2: ZeroDivisionError"
        ):
            build_book(jobs=2)
    return layout


@pytest.fixture(scope="module")
def site(built: Layout) -> Iterator[str]:
    """The address of the small book."""
    find_browser()
    with serve(built.html) as address:
        yield address


@pytest.fixture(scope="module")
def demo(browser: Browser, site: str) -> Iterator[Visit]:
    """The demonstration, opened once; each test touches another part of it, and none may leave an error behind."""
    with visit(browser, site, DEMO) as seen:
        seen.page.wait_for_selector(".dm-strip-token")
        seen.page.evaluate(f"document.querySelector({MANAGED!r}).parentElement.scrollIntoView()")
        seen.page.wait_for_selector(".widget-slider")
        yield seen
        seen.assert_clean()


@pytest.fixture
def page(demo: Visit) -> Page:
    """The demonstration's page."""
    return demo.page


@pytest.fixture
def untouched(demo: Visit) -> Page:
    """The same, loaded again: as no other test has left it."""
    demo.page.reload()
    demo.page.wait_for_selector(".dm-strip-token")
    demo.page.evaluate(f"document.querySelector({MANAGED!r}).parentElement.scrollIntoView()")
    demo.page.wait_for_selector(".widget-slider")
    return demo.page


def chart(page: Page, number: str) -> str:
    """A selector for the chart with this figure number."""
    return f'.dm-chart[aria-label^="Figure {number}."]'


def test_the_site_is_built_around_a_chapter_that_failed(built: Layout) -> None:
    pages = {name: (built.html / f"notebooks/{name}.html").read_text() for name in ("fails", "runs")}
    assert "This chapter did not run to its end" in pages["fails"]
    assert "This chapter did not run to its end" not in pages["runs"]


def test_the_built_site_shows_every_name_as_text(built: Layout) -> None:
    page = (built.html / "notebooks/names.html").read_text()
    seen = hostile.Read(page)
    for tag, attributes in seen.elements:
        acts = [name for name in attributes if name.startswith("on") or name in ("href", "src")]
        assert not any("alert(" in str(attributes[name]) for name in acts), (tag, attributes)
        assert "elsewhere" not in str(attributes.get("src")) and tag != "iframe", (tag, attributes)
    assert page.count("<mjx-container") == 2 * len(hostile.HOSTILE), "one formula in each sentence and caption"
    missing = [name for name in hostile.HOSTILE if not seen.shows(name)]
    assert not missing


def test_a_page_asks_no_other_host_and_has_no_error(demo: Visit) -> None:
    demo.assert_clean()


def test_mathematics_is_typeset(demo: Visit) -> None:
    demo.page.wait_for_selector("mjx-container mjx-math")
    assert demo.page.locator("p.dm-caption mjx-container").count() == 1  # $R^2$ in a caption
    assert demo.page.locator("p:has-text('Computed:') mjx-container").count() == 1  # and in a computed sentence


def test_every_chart_has_a_name_a_number_and_a_caption(demo: Visit) -> None:
    charts = demo.page.locator(".dm-chart")
    captions = demo.page.locator("p.dm-caption strong").all_inner_texts()
    labels = [charts.nth(i).get_attribute("aria-label") or "" for i in range(charts.count())]
    assert len(labels) == len(captions) == 6
    assert all(
        name.startswith(number) and len(name) > len(number) for name, number in zip(labels, captions, strict=True)
    )
    assert demo.page.locator(".dm-chart svg.marks").count() == 6


def test_hostile_tokens_are_text_everywhere(untouched: Page) -> None:
    assert untouched.evaluate("window.HIT") is None
    assert untouched.locator("img[src=x], iframe[srcdoc]").count() == 0
    cells = untouched.locator(".dm-table td:first-child").all_text_contents()
    strip = untouched.locator(".dm-strip-token").all_text_contents()
    options = untouched.locator(".widget-dropdown option").all_text_contents()
    sentence = untouched.locator("p:has-text('Computed:')").text_content()
    for token in hostile_tokens():
        assert token in cells
        assert " ".join(visible(token).split()) in " ".join(sentence.split())
        assert token.replace("\t", "⇥") in strip
        assert token.replace(" ", "\xa0") in options  # ipywidgets shows spaces so
    assert hostile_tokens()[0] in untouched.locator("p.dm-caption").all_inner_texts()[-1]


def test_no_embedded_json_holds_an_angle_bracket(site: str, demo: Visit) -> None:
    scripts = demo.page.locator("script[type*=json]").all_text_contents()
    assert len(scripts) >= 8
    for text in scripts:
        assert "<" not in text and ">" not in text
        json.loads(text)


def test_a_drop_down_list_changes_the_picture(page: Page) -> None:
    marks = f"{chart(page, '2b')} svg .mark-line path"
    before = page.locator(marks).first.get_attribute("d")
    page.locator(f"{chart(page, '2b')} .vega-bind select").select_option(index=1)
    page.wait_for_function(
        f"before => document.querySelector({json.dumps(marks)}).getAttribute('d') !== before", arg=before
    )
    assert "error vector" in page.locator(f"{chart(page, '2b')} svg .role-title").first.text_content()


def test_hovering_shows_the_value_with_its_interval(page: Page) -> None:
    page.locator(f"{chart(page, '2')} svg .mark-symbol.role-mark path").first.hover()
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert "[" in page.locator("#vg-tooltip-element").inner_text()


def test_a_linked_slider_is_live_without_a_kernel(page: Page) -> None:
    handle = page.locator(".widget-slider .noUi-handle")
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.widget-text input[type=number]').value === '4'")


def test_the_token_strip_walks_with_the_keyboard(untouched: Page) -> None:
    untouched.locator(".dm-strip-tokens").focus()
    for _ in range(2):
        untouched.keyboard.press("ArrowRight")
    assert "token 3:" in untouched.locator(".dm-strip-detail").inner_text()
    assert untouched.locator(".dm-strip-token[aria-current]").count() == 1
    untouched.keyboard.press("End")
    assert f"token {len(hostile_tokens())}:" in untouched.locator(".dm-strip-detail").inner_text()


def test_the_token_strip_follows_its_lists(page: Page) -> None:
    page.wait_for_selector(".dm-strip-token")
    word = page.locator(".dm-strip-token span").first
    before = word.get_attribute("style")
    page.locator(".dm-strip select").nth(1).select_option(index=2)
    assert word.get_attribute("style") != before
    assert "behind the text: width 8192" in page.locator(".dm-strip-key").inner_text()
    page.locator(".dm-strip select").nth(0).select_option(index=1)
    assert page.locator(".dm-strip-token").count() == 120
    page.locator(".dm-strip-token").nth(1).hover()
    assert "token 2: “ words”" in page.locator(".dm-strip-detail").inner_text()


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_token_strip_has_the_colours_of_the_theme(demo: Visit, scheme: str) -> None:
    demo.switch(scheme)
    found = {name: painted(demo.page, f".dm-strip-token {row}") for row, name in STRIP.items()}
    demo.switch("light")
    for name, colors in found.items():
        assert {color[:3] for color in colors} == {channels(COLORS[name])}
        depths = {color[3] for color in colors}
        assert len(depths) > 5 and min(depths) >= 0.06 and max(depths) <= 0.9


def test_the_theme_switch_recolours_charts_at_once(demo: Visit, page: Page) -> None:
    color = f"getComputedStyle(document.querySelector({json.dumps(chart(page, '2') + ' .role-axis-label text')})).fill"
    light = page.evaluate(color)
    demo.switch("dark")
    dark = page.evaluate(color)
    demo.switch("light")
    assert light != dark
    assert min(map(int, dark.strip("rgb()").split(","))) > 150


@pytest.mark.parametrize("width", [320, 768, 1440])
def test_no_width_needs_a_sideways_scroll_in_either_theme(browser: Browser, site: str, width: int) -> None:
    with visit(browser, site, DEMO, width=width, scheme="dark") as seen:
        assert seen.page.evaluate("document.documentElement.dataset.theme") == "dark"
        seen.assert_clean()
        seen.switch("light")
        seen.assert_clean()


def test_on_a_phone_charts_fit_or_scroll_inside_themselves(browser: Browser, site: str) -> None:
    with visit(browser, site, DEMO, width=390) as seen:
        charts = "[...document.querySelectorAll('.dm-chart')]"
        assert seen.page.evaluate(f"Math.max(...{charts}.map(one => one.clientWidth))") <= 390
        wide = seen.page.evaluate(
            f"{charts}.filter(one => one.scrollWidth > one.clientWidth).map(one => one.ariaLabel)"
        )
        assert all(name.startswith(("Figure 4.", "Figure 5.")) for name in wide), (
            "only cells and tokens need more width"
        )


def test_code_is_folded_and_opens_with_the_keyboard(page: Page) -> None:
    folded = page.locator("details.hide summary").first
    assert not page.locator("details.hide").first.get_attribute("open")
    folded.focus()
    page.keyboard.press("Enter")
    assert page.locator("details.hide").first.get_attribute("open") is not None


def test_folded_code_that_shows_nothing_joins_the_next_toggle(page: Page) -> None:
    lone = "[...document.querySelectorAll('.cell:has(> details.hide)')].filter(cell => !cell.querySelector('.cell_output'))"
    assert (
        page.evaluate(f"{lone}.filter(cell => cell.nextElementSibling?.matches('.cell:has(> details.hide)')).length")
        == 0
    )
    assert (
        page.evaluate(
            "Math.max(...[...document.querySelectorAll('details.hide')].map(one => one.querySelectorAll('pre').length))"
        )
        > 1
    )


def test_every_icon_has_a_picture(page: Page) -> None:
    icons = page.locator("i[class*=fa-], span[class*=fa-]")
    masks = icons.evaluate_all("icons => icons.map(icon => getComputedStyle(icon).maskImage)")
    assert masks and all(mask.startswith("url(") for mask in masks)


def test_a_wide_table_takes_the_margin_and_becomes_cards_on_a_phone(page: Page) -> None:
    page.evaluate(
        """() => {
          const cells = Array.from({length: 12}, (_, index) => `<td>column ${index}</td>`).join("");
          document.querySelector(".dm-table tbody").innerHTML = `<tr>${cells}</tr>`;
        }"""
    )
    frame = page.locator(".dm-table").first
    try:
        page.set_viewport_size({"width": 1, "height": 1})  # from which the column comes back later than the window
        page.set_viewport_size({"width": 1300, "height": 900})
        page.wait_for_function("document.querySelector('.dm-table').classList.contains('full-width')")
        column = page.locator(".bd-article p").first.evaluate("text => text.clientWidth")
        assert frame.evaluate("frame => frame.clientWidth") > column + 100
        page.set_viewport_size({"width": 390, "height": 900})
        page.wait_for_function("document.querySelector('.dm-table').classList.contains('dm-cards')")
        assert frame.evaluate("frame => frame.scrollWidth - frame.clientWidth") <= 1
    finally:
        page.set_viewport_size({"width": 1280, "height": 900})


def test_search_finds_the_page(browser: Browser, site: str) -> None:
    with visit(browser, site, "search.html?q=demonstration") as seen:
        seen.page.wait_for_selector("#search-results a")
        assert DEMO in seen.page.locator("#search-results a").first.get_attribute("href")
        seen.assert_clean()


def test_the_table_can_be_downloaded(demo: Visit) -> None:
    address = demo.page.locator(".dm-download a").evaluate("link => link.href")
    reply = demo.page.request.get(address)
    assert reply.ok
    assert next(csv.reader(io.StringIO(reply.text()))) == COLUMNS


def test_the_launch_button_opens_the_notebook_in_colab(demo: Visit) -> None:
    links = demo.page.locator("a[href*='colab.research.google.com']").evaluate_all("links => links.map(a => a.href)")
    assert links and links[0].endswith("/blob/main/notebooks/demo.ipynb")


def test_the_skip_without_a_browser_is_visible(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.delenv("CI_REQUIRE_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        find_browser()
    monkeypatch.setenv("CI_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="no Chromium here"):
        find_browser()
