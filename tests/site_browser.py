"""Serve a built site under a sub-path and open its pages in a browser that can reach nothing else."""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.server
import os
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

PREFIX = "/some/where/"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DRAWN = "[...document.querySelectorAll('.dm-chart')].every(chart => chart.dataset.drawn)"
PATIENCE = 240_000  # milliseconds; generous, because continuous integration shares its processors


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serve a folder below :data:`PREFIX` only, quietly."""

    def translate_path(self, path: str) -> str:
        inside = path.removeprefix(PREFIX) if path.startswith(PREFIX) else "no-such-page"
        return super().translate_path("/" + inside)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve ``folder``; give its address."""
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}{PREFIX}"
        server.shutdown()


def find_browser() -> str:
    """Return Chromium's path; skip visibly without one, fail where one is required."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := os.environ.get("CHROMIUM") or shutil.which(name):
            return path
    message = "no Chromium here: `apt-get install chromium` (or set CHROMIUM) to run the browser tests"
    if os.environ.get("CI_REQUIRE_BROWSER"):
        pytest.fail(message)
    pytest.skip(message)


@contextlib.contextmanager
def launch() -> Iterator[Browser]:
    """Start a fresh headless Chromium."""
    path = find_browser()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=FLAGS, timeout=PATIENCE)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page that is open, and everything that went wrong on it."""

    page: Page
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def weight(self, base: str, folder: Path) -> int:
        """Return the bytes, as a server would compress them, of what the page has loaded from ``folder``."""
        names = {
            address.removeprefix(base).partition("?")[0].partition("#")[0]
            for address in self.loaded
            if address.startswith(base)
        }
        return sum(len(gzip.compress((folder / name).read_bytes())) for name in names)

    def switch(self, scheme: str) -> None:
        """Change to the light or the dark theme, as the page's button does."""
        self.page.evaluate("scheme => { document.documentElement.dataset.theme = scheme; }", scheme)

    def assert_clean(self) -> None:
        """Fail on a request to another host, a request that failed, a script's error, or a sideways scroll."""
        assert not self.outside
        assert not self.errors
        wide = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 1, f"the page scrolls sideways by {wide} px"


@contextlib.contextmanager
def watch(browser: Browser, base: str, width: int = 1280, scheme: str = "light") -> Iterator[Visit]:
    """Open a tab that can reach nothing but ``base``, and note everything that goes wrong in it."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    seen = Visit(page)

    def gate(route: Route) -> None:
        address = route.request.url
        if address.startswith((base, "data:", "blob:")):
            return route.continue_()
        seen.outside.append(address)
        return route.abort()

    page.route("**/*", gate)
    page.on("request", lambda request: seen.loaded.append(request.url))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
    page.on(
        "response", lambda reply: seen.errors.append(f"{reply.status} {reply.url}") if reply.status >= 400 else None
    )
    yield seen
    context.close()


@contextlib.contextmanager
def visit(browser: Browser, base: str, path: str, width: int = 1280, scheme: str = "light") -> Iterator[Visit]:
    """Open a page and wait until its charts are drawn."""
    with watch(browser, base, width, scheme) as seen:
        seen.page.add_init_script(
            f"localStorage.setItem('mode', '{scheme}'); localStorage.setItem('theme', '{scheme}')"
        )
        seen.page.goto(base + path, wait_until="load")
        seen.page.wait_for_function(DRAWN)
        yield seen


def channels(color: str) -> tuple[int, ...]:
    """Red, green and blue of a colour written ``#rrggbb``."""
    return tuple(bytes.fromhex(color[1:]))


def painted(page: Page, selector: str) -> list[tuple[float, ...]]:
    """The backgrounds of elements as a browser computes them: red, green and blue from 0 to 255, and opacity."""
    script = "nodes => nodes.map(node => getComputedStyle(node).backgroundColor)"
    found = []
    for text in page.eval_on_selector_all(selector, script):
        red, green, blue, opacity = (*map(float, re.findall(r"[\d.]+", text)), 1.0)[:4]
        scale = 255 if text.startswith("color(srgb") else 1  # `color-mix` computes to shares
        found.append((*(round(scale * part) for part in (red, green, blue)), round(opacity, 3)))
    return found
