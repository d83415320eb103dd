"""Chapters in a real JupyterLab and Notebook 7 that reach no other host: every chart drawn, widgets live, nothing lost on reopening."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from demo import ROOT
from playwright.sync_api import Browser, Page, TimeoutError
from site_browser import find_browser, watch

pytestmark = pytest.mark.slow
CHAPTER, EXPLORER = "04_4_per_token.ipynb", "explorer.ipynb"
CHARTS = {CHAPTER: 2, EXPLORER: 1}
APPS = {"JupyterLab": ("lab", "lab/tree/{}?reset"), "Notebook 7": ("notebook7", "notebooks/{}")}  # fixture, address
IDLE = ".jp-Notebook-ExecutionIndicator[data-status=idle]"
OWN = "Cannot read properties of undefined (reading 'schema')"  # Notebook 7.6 says so of an empty notebook, too
BEGUN = r"[...document.querySelectorAll('.jp-InputPrompt')].some(one => /\[(\*|\d+)\]/.test(one.textContent))"
CONNECTED = "fetch('/api/kernels').then(answer => answer.json()).then(all => Array.isArray(all) && all.some(one => one.connections))"
FINISHED = r"/\[\d+\]/.test([...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].at(-1)?.textContent)"
DRAWN = "count => document.querySelectorAll('.dm-chart[data-drawn] svg.marks').length === count"


def free_port() -> int:
    """Return a port that nothing listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(folder: Path, port: int) -> list[str]:
    """Return what `make jupyter` runs, for the chapters of ``folder``, without a browser or a password."""
    options = f"--no-browser --allow-root --port={port} --IdentityProvider.token="
    make = ["make", "--no-print-directory", "--dry-run", "jupyter", f"CHAPTERS={folder}", f"ARGS={options}"]
    printed = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    words = shlex.split(printed.replace("\\\n", " ").splitlines()[-1])
    return words[next(index for index, word in enumerate(words) if word.endswith("/jupyter")) :]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the chapters for JupyterLab."""
    with served(tmp_path_factory.mktemp("jupyter")) as address:
        yield address


@pytest.fixture(scope="module")
def notebook7(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One for Notebook 7: a server that served a file of JupyterLab refuses the one of the same name of Notebook 7."""
    pytest.importorskip("notebook", reason="no Notebook 7 here: `make test` installs it")
    with served(tmp_path_factory.mktemp("notebook7")) as address:
        yield address


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server, with settings of its own, that holds the chapters at a size that runs in seconds."""
    find_browser()
    pytest.importorskip("jupyterlab", reason="no JupyterLab here: `make test` installs it")
    chapters = folder / "chapters"
    chapters.mkdir()
    for name in CHARTS:
        source = (ROOT / "notebooks" / name).read_text()
        assert source.count("n_contexts = None") == 1
        (chapters / name).write_text(source.replace("n_contexts = None", "n_contexts = 24"))
    places = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "DM_STORE", "DM_TABLES")}
    port = free_port()
    address = f"http://127.0.0.1:{port}/"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command(chapters, port), cwd=ROOT, env=os.environ | places, stdout=log, stderr=log)
        try:
            client = httpx.Client(transport=httpx.HTTPTransport(retries=12))  # waits longer each time, a minute in all
            client.get(f"{address}api", timeout=60).raise_for_status()
            yield address
        finally:
            server.terminate()
            server.wait()
    shutil.rmtree(chapters)


def open_chapter(page: Page, address: str, name: str = CHAPTER, app: str = "JupyterLab") -> None:
    """Open a chapter and wait until its first cells are there."""
    page.goto(address + APPS[app][1].format(name))
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")


def run_all(page: Page) -> None:
    """Run every cell, as a reader does, and wait for the last."""
    page.wait_for_function(CONNECTED)  # before that a page says "idle" too, and what is run is lost
    for _ in range(4):
        page.wait_for_selector(IDLE)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        with contextlib.suppress(TimeoutError):  # the page was not yet listening: a reader would choose it again
            page.wait_for_function(BEGUN, timeout=15_000)
            break
    page.wait_for_function(FINISHED)


def walk(page: Page) -> None:
    """Scroll through the chapter once: JupyterLab renders what comes into view."""
    page.mouse.move(0, 0)  # what passes under the mouse would be chosen
    cells = page.locator(".jp-Cell")
    for index in range(cells.count()):
        cells.nth(index).evaluate("cell => cell.scrollIntoView()")
        page.wait_for_timeout(50)


def outputs(address: str) -> list[dict]:
    """Return the outputs of the saved chapter."""
    cells = httpx.get(f"{address}api/contents/{CHAPTER}").json()["content"]["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


@pytest.mark.parametrize("app", APPS)
def test_a_chapter_is_drawn_and_live_without_a_network(
    browser: Browser, request: pytest.FixtureRequest, app: str
) -> None:
    server = request.getfixturevalue(APPS[app][0])
    with watch(browser, server) as seen:
        page = seen.page
        open_chapter(page, server, app=app)
        run_all(page)
        walk(page)
        page.wait_for_function(DRAWN, arg=CHARTS[CHAPTER])
        page.locator(".dm-strip-tokens").focus()
        page.keyboard.press("ArrowRight")
        assert "token 2:" in page.locator(".dm-strip-detail").inner_text()
        page.keyboard.press("ArrowDown")
        assert "token 12:" in page.locator(".dm-strip-detail").inner_text(), f"{app} leaves the key to the widget"
        ink = page.locator(".dm-chart svg .role-axis-label text").first
        light = ink.evaluate("text => getComputedStyle(text).fill")
        page.evaluate(
            "document.body.style.setProperty('--jp-content-font-color1', 'rgb(250, 250, 250)')"
        )  # as dark themes do
        assert light != "rgb(250, 250, 250)" == ink.evaluate("text => getComputedStyle(text).fill")
        page.evaluate("document.activeElement.blur()")  # keys are the application's again
        with page.expect_response(lambda reply: reply.request.method == "PUT" and CHAPTER in reply.url):
            page.keyboard.press("Control+s")
        assert not seen.outside
        assert set(seen.errors) <= {OWN}
    bundles = [output for output in outputs(server) if "DecompressionStream" in json.dumps(output)]
    assert len(bundles) == 1, "one bundle for the notebook, however many charts it has"
    assert len(json.dumps(bundles)) < 700_000


def test_a_saved_chapter_shows_its_charts_when_it_is_opened_again(browser: Browser, lab: str) -> None:
    with watch(browser, lab) as seen:
        open_chapter(seen.page, lab)
        walk(seen.page)
        seen.page.wait_for_function(DRAWN, arg=CHARTS[CHAPTER])
        assert not seen.outside


def test_the_explorer_is_answered_by_the_kernel_in_jupyterlab_without_a_network(browser: Browser, lab: str) -> None:
    with watch(browser, lab) as seen:
        page = seen.page
        open_chapter(page, lab, EXPLORER)
        run_all(page)
        walk(page)
        page.wait_for_function(DRAWN, arg=CHARTS[EXPLORER])
        page.locator(".dmx textarea").click()
        page.keyboard.press("Control+a")
        page.keyboard.type("a bad day")  # letters that are shortcuts of JupyterLab
        tokens = "[...document.querySelectorAll('.dmx-token .dmx-word')].slice(1).map(word => word.textContent.trim()).join('')"
        page.wait_for_function(f"{tokens} === 'abadday' && !document.querySelector('.dmx[aria-busy]')")
        assert "stays nonlinear: dark matter" in page.inner_text(".dmx-message")
        page.locator(".dmx-tokens").focus()
        for key in ("Home", "ArrowRight", "ArrowRight"):
            page.keyboard.press(key)
        page.wait_for_function("document.querySelector('.dmx-panel h4').textContent.startsWith('Token 2 ')")
        page.get_by_role("button", name="x itself").click()
        page.wait_for_function("document.querySelector('.dmx-panel .dmx-said').textContent.includes('100 % nonlinear')")
        assert not seen.outside
        assert not seen.errors
