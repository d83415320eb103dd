"""The book that `make book` built, every page of it: clean and light in a real browser, and no link leads nowhere."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo import ROOT
from playwright.sync_api import Browser
from site_browser import serve, visit

BOOK = ROOT / "_build/html"
FIRST_VIEW = 700 * 1024  # bytes over the wire
PAGES = sorted(str(path.relative_to(BOOK)) for path in BOOK.rglob("*.html") if "_static" not in path.parts)
PAGES = [path for path in PAGES if path != "index.html"]  # which only leads to the first page


@pytest.fixture(scope="session")
def book() -> Iterator[str]:
    """The address of the book that `make book` built."""
    with serve(BOOK) as address:
        yield address


@pytest.mark.skipif(not PAGES, reason="no built book: run `make book` first to test its pages too")
@pytest.mark.parametrize("path", PAGES or [""])
def test_every_page_of_the_book_is_clean(browser: Browser, book: str, path: str) -> None:
    with visit(browser, book, path) as seen:
        seen.page.wait_for_load_state("networkidle")
        seen.assert_clean()
        assert seen.weight(book, BOOK) <= FIRST_VIEW
        for link in seen.page.locator(".dm-download a").evaluate_all("links => links.map(a => a.href)"):
            assert seen.page.request.get(link).ok, link


@pytest.mark.skipif(not PAGES, reason="no built book: run `make book` first to test its explorer")
def test_the_explorer_of_the_book_computes_what_is_typed(browser: Browser, book: str) -> None:
    with visit(browser, book, "notebooks/explorer.html") as seen:
        page = seen.page
        page.locator(".dmx textarea").click()
        page.keyboard.press("Control+a")
        page.keyboard.type("<b>nobody</b>")
        tokens = (
            "[...document.querySelectorAll('.dmx-token .dmx-word')].slice(1).map(word => word.textContent).join('')"
        )
        page.wait_for_function(f"{tokens} === '<b>nobody</b>' && !document.querySelector('.dmx[aria-busy]')")
        assert page.locator(".dmx b b, .dmx-tokens b").count() == 0
        seen.assert_clean()


@pytest.mark.skipif(not PAGES, reason="no built book: run `make book` first to test its pictures on every width")
@pytest.mark.parametrize("name", ["intro", "explorer", "scoreboard", "04_3_dark_matter", "06_1_pursuit", "B_modelling"])
def test_the_books_pages_fit_every_width_in_both_themes(browser: Browser, book: str, name: str) -> None:
    """Opened on a phone, and then as wide as a tablet and a screen; every page is opened on a screen above."""
    with visit(browser, book, f"notebooks/{name}.html", width=320, scheme="dark") as seen:
        for width in (320, 768, 1440):
            seen.page.set_viewport_size({"width": width, "height": 900})
            seen.page.wait_for_function(f"innerWidth === {width}")
            seen.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            for scheme in ("dark", "light"):
                seen.switch(scheme)
                seen.assert_clean()


@pytest.mark.skipif(not PAGES, reason="no built book: run `make book` first to test where its first picture leads")
def test_a_token_of_the_first_page_leads_to_the_explorer_of_the_book(browser: Browser, book: str) -> None:
    with visit(browser, book, "notebooks/intro.html") as seen:
        seen.page.locator(".dmx-token").nth(3).click()
        seen.page.wait_for_url("**/notebooks/explorer.html#explore&*position=3*")
        seen.page.wait_for_function("document.querySelector('.dmx-panel h4')?.textContent.startsWith('Token 3 ')")
        seen.assert_clean()


CODE_OF = {  # a mark in a page: the script that it needs
    'class="dm-chart"': "dm/charts.js",
    'class="dm-explorer"': "dm/explorer/page.js",
    "widget-view+json": "dm/widgets/widgets.js",
    'class="dm-widget': "dm/widgets/widgets.js",
}


@pytest.mark.skipif(not PAGES, reason="no built book: run `make book` first to test what its pages load")
@pytest.mark.parametrize("path", PAGES or [""])
def test_a_page_loads_the_code_of_what_it_shows_and_no_other(path: str) -> None:
    text = (BOOK / path).read_text()
    wanted = {script for mark, script in CODE_OF.items() if mark in text}
    assert {script for script in CODE_OF.values() if script in text} == wanted


@pytest.mark.skipif(not PAGES, reason="no built book: run `make book` first to test its entrance")
def test_the_address_of_the_book_leads_to_its_first_page(browser: Browser, book: str) -> None:
    page = browser.new_page()
    page.goto(book)
    page.wait_for_url("**/notebooks/intro.html", timeout=240_000)
    page.close()


@functools.cache
def markup(path: Path) -> str:
    """A page without its scripts, which hold data and no links."""
    return re.sub(r"<script\b.*?</script>", "", path.read_text(), flags=re.S)


@functools.cache
def anchors(path: Path) -> set[str]:
    """The places in a page that a link can lead to."""
    return set(re.findall(r'\bid="([^"]+)"', markup(path)))


@pytest.mark.skipif(not PAGES, reason="no built book: run `make book` first to test its links too")
@pytest.mark.parametrize("path", PAGES or [""])
def test_every_link_inside_the_book_leads_somewhere(path: str) -> None:
    from bs4 import BeautifulSoup

    here = BOOK / path
    soup = BeautifulSoup(markup(here), "html.parser")
    for link in soup.select("article a[href], nav a[href]"):
        target, _, anchor = str(link["href"]).partition("#")
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        file = (here.parent / target.partition("?")[0]).resolve() if target else here
        assert file.exists(), f"{path} links to {link['href']}"
        if anchor and file.suffix == ".html":
            assert anchor in anchors(file), f"{path} links to {link['href']}"
