"""Print what the tests ran of each package, by lines and by branches: `make coverage` calls it on what pytest measured."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import coverage

COUNTS = ("covered_lines", "num_statements", "covered_branches", "num_branches")


def package_of(file: str) -> str:
    """The floor of a module; of a chapter, its folder."""
    parts = file.split("dm_utils/")[-1].split("/")
    return "/".join(parts[: 2 if parts[0] == "chapters" else 1]) if len(parts) > 1 else "dm_utils"


def by_package(files: dict[str, dict[str, int]]) -> dict[str, Counter[str]]:
    """The counts of files (path → coverage's summary), added up over each package."""
    found: dict[str, Counter[str]] = {}
    for file, summary in sorted(files.items()):
        found.setdefault(package_of(file), Counter()).update({name: summary[name] for name in COUNTS})
    return found


def row(name: str, counts: Counter[str]) -> str:
    """A package with its shares in percent; what has no branches has none to miss."""
    lines, branches = (
        f"{100 * counts[a] / counts[b]:5.1f} %" if counts[b] else "      –" for a, b in (COUNTS[:2], COUNTS[2:])
    )
    return (
        f"{name:36}{lines} of {counts['num_statements']:6} lines{branches:>10} of {counts['num_branches']:5} branches"
    )


def main() -> None:
    """Read what was measured and print a line per package, then the files of which least was run."""
    measured = coverage.Coverage()
    measured.load()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        measured.json_report(outfile=str(report))
        files = {name: file["summary"] for name, file in json.loads(report.read_text())["files"].items()}
    packages = by_package(files)
    for name, counts in packages.items():
        print(row(name, counts))
    print(row("everything", sum(packages.values(), Counter())))
    print("\nfiles of which least was run:")
    for name, summary in sorted(files.items(), key=lambda item: item[1]["percent_covered"])[:15]:
        print(f"{summary['percent_covered']:7.1f} %  {name}")


if __name__ == "__main__":
    main()
