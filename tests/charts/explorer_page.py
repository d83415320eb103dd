"""What the explorer's tests are about: which SAEs, and a small page with the explorer in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dm_utils.charts.theme import style

SAES = ("resid_4_topk_2048_l0_4", "resid_4_jumprelu_512_l0_16", "resid_1_topk_2048_l0_4")
Ask = Callable[[list[dict[str, Any]]], list[Any]]  # the page's engine: requests in, answers out
MODULES = Path(__file__).resolve().parents[2] / "src/dm_utils/charts/explorer"
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
