"""Compare every table of two builds of the book: `python tests/compare_tables.py BEFORE AFTER`, two folders `_build/executed/lab`.

A table is a CSV file that a chapter wrote, or one that a page shows. Numbers must be equal to the last digit that is written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def tables(folder: Path) -> dict[str, str]:
    """The text of every table: `NAME.csv`, and `NAME, table i` for each one on a page."""
    found = {path.name: path.read_text() for path in sorted((folder / "tables").glob("*.csv"))}
    for path in sorted(folder.glob("*.ipynb")):
        outputs = [output for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", [])]
        pages = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
        shown = [page for page in pages if "<table" in page]
        found |= {f"{path.stem}, table {i}": page for i, page in enumerate(shown)}
    return found


def main(before: Path, after: Path) -> int:
    """Print what differs; the exit status is the number of tables that do."""
    old, new = tables(before), tables(after)
    missing, added = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    changed = sorted(name for name in old.keys() & new.keys() if old[name] != new[name])
    for title, names in (("only before", missing), ("only after", added), ("different", changed)):
        print(f"{title}: {', '.join(names) or 'none'}")
    print(f"{len(old.keys() & new.keys()) - len(changed)} of {len(old)} tables are identical")
    return len(missing) + len(changed)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:3])))
