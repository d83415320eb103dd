"""One file holds the colours: what a page shows follows `charts.theme.COLORS`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dm_utils.charts.theme import COLORS, style

ROOT = Path(__file__).parents[2]
OURS = [
    *(ROOT / "src/dm_utils/charts").glob("*/*.*s"),
    *(ROOT / "book/_ext").glob("*.js"),
    *(ROOT / "book/_static").glob("*.css"),
]
LITERAL = re.compile(r"#[0-9a-f]{3,8}\b|\b(?:rgb|hsl|lab|lch|oklab|oklch)a?\(", re.I)
CHANGED = """
import json, sys
sys.path.insert(0, "book/_ext")
from dm_utils.charts.theme import COLORS
COLORS.update(json.loads(sys.argv[1]))
from dm_utils.charts.explorer_widget import Explorer
from dm_utils.charts.widgets import ClaimBoard, TokenStrip
from offline_book import explorer_files
sheets = {widget.__name__: widget._css for widget in (Explorer, ClaimBoard, TokenStrip)}
print(json.dumps(sheets | {"book": explorer_files()["explorer.css"]}))
"""


def test_colours_that_change_in_the_theme_change_in_every_widget_and_in_the_book() -> None:
    changed = {name: f"#12345{digit}" for digit, name in enumerate(COLORS)}
    command = [sys.executable, "-c", CHANGED, json.dumps(changed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for where, sheet in json.loads(done.stdout).items():
        assert all(f"--dm-{name}: {color};" in sheet for name, color in changed.items()), where
        assert not [color for color in COLORS.values() if color in sheet], where


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_scripts_and_styles_hold_no_colour_of_the_palette(path: Path) -> None:
    text = path.read_text(encoding="utf-8").lower()
    numbers = [", ".join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5)) for color in COLORS.values()]
    spelled = [*COLORS.values(), *numbers, *(one.replace(",", "") for one in numbers)]
    assert not [color for color in spelled if color in text]


@pytest.mark.parametrize("path", [path for path in OURS if "charts" in path.parts], ids=lambda path: path.name)
def test_a_widgets_scripts_and_styles_hold_no_colour_at_all(path: Path) -> None:
    assert not LITERAL.findall(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_every_variable_of_the_palette_that_is_used_exists(path: Path) -> None:
    used = set(re.findall(r"var\((--dm-[\w]+)\)", path.read_text(encoding="utf-8")))
    assert used <= set(re.findall(r"(--dm-\w+):", style(path)))
