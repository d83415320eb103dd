"""Draw the house for CONTRIBUTING.md: floors as rows, files as rooms, as wide as they are long. `make house` runs it."""

from __future__ import annotations

from html import escape
from pathlib import Path

from demo import ROOT
from test_house import FLOORS, MODULES, PACKAGE

from dm_utils.engine.sources import imports

TARGET = ROOT / "book/_static/screens/house.svg"
WIDTH, LEFT, ROW, GAP, PER_LINE = 1180, 104, 26, 4, 0.32  # pixels; PER_LINE: of a room's width, per line of code
HUES = dict(
    zip(
        FLOORS,
        ("#8d99ae", "#4c78a8", "#1b9e77", "#b58900", "#2f7fc1", "#d55e00", "#9b7fd1", "#c2528b", "#7d8590"),
        strict=True,
    )
)


def rooms(floor: str) -> list[tuple[str, int]]:
    """The name and the lines of a floor's files; a chapter is one room, whatever it is divided into."""
    sizes: dict[str, int] = {}
    for name, path in MODULES.items():
        parts = name.split(".")[1:]
        if parts[:1] == [floor] and len(parts) > 1:
            sizes[parts[1]] = sizes.get(parts[1], 0) + path.read_text().count("\n")
    return sorted(sizes.items())


def uses(floor: str) -> list[str]:
    """The floors that a floor's files import from, in order, itself left out."""
    mine = [name for name in MODULES if name.split(".")[1:2] == [floor]]
    found = {other.split(".")[1] for name in mine for other in imports(name) if other != PACKAGE} - {floor}
    return [other for other in FLOORS if other in found]


def draw() -> str:
    """The picture as SVG."""
    pieces, top = [], 10
    for floor in FLOORS:
        start, x = top, LEFT
        for name, lines in rooms(floor):
            width = max(8 * len(name) + 10, PER_LINE * lines)
            if x + width > WIDTH:
                x, top = LEFT, top + ROW + GAP
            pieces.append(
                f'<rect x="{x:.0f}" y="{top}" width="{width:.0f}" height="{ROW}" rx="3" fill="{HUES[floor]}" opacity="0.25"/>'
            )
            pieces.append(f'<text x="{x + 5:.0f}" y="{top + 17}">{escape(name)}</text>')
            x += width + GAP
        pieces.append(f'<text x="8" y="{start + 17}" class="floor">{floor}</text>')
        below = f"imports {', '.join(uses(floor))}" if uses(floor) else "imports nothing of ours"
        top += ROW + GAP
        pieces.append(f'<text x="{LEFT}" y="{top + 9}" class="uses">{below}</text>')
        top += 24
    style = "text{font:12px monospace;fill:#24292f}.floor{font-weight:700}.uses{font-size:10px;opacity:.7}"
    style += "@media(prefers-color-scheme:dark){text{fill:#e6edf3}}"
    size = f'viewBox="0 0 {WIDTH} {top}" role="img" aria-label="Floors of the package and their files"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return f"{head}<style>{style}</style>{''.join(pieces)}</svg>\n"


if __name__ == "__main__":
    Path(TARGET).write_text(draw())
