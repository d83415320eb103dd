"""The site: lay out pages and executed chapters for Sphinx, and let it turn them into HTML."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dm_utils.base.errors import BuildError
from dm_utils.book.build import digest, execute_chapters, for_reading
from dm_utils.book.layout import Layout, chapters


def marked(layout: Layout, name: str) -> Path:
    """A copy of a chapter that failed, for its page: as it ran last, or else without results, and a note that says so."""
    earlier = layout.executed / f"{name}.ipynb"
    path = earlier if earlier.exists() else layout.root / f"notebooks/{name}.ipynb"
    what = "What follows is from an earlier run." if earlier.exists() else "Its page has no results."
    note = f"```{{warning}}\nThis chapter did not run to its end when the book was built. {what}\n```"
    book = for_reading(json.loads(path.read_text()))
    book["cells"].insert(1, {"cell_type": "markdown", "id": "not-current", "metadata": {}, "source": note})
    target = layout.build / "marked" / f"{name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(book, indent=1, ensure_ascii=False))
    return target


def stage(layout: Layout, failed: Collection[str] = ()) -> None:
    """Lay out what Sphinx reads, touching only what changed so that Sphinx rereads only that."""
    wanted = {path.relative_to(layout.root / "book"): path for path in sorted((layout.root / "book").rglob("*"))}
    wanted = {name: path for name, path in wanted.items() if path.is_file() and name.parts[0] != "_ext"}
    pages = {name: layout.executed / f"{name}.ipynb" for name in chapters(layout)}
    pages |= {name: marked(layout, name) for name in failed}
    wanted |= {Path(f"notebooks/{name}.ipynb"): path for name, path in pages.items()}
    tables = [path for kind in ("*.csv", "*/*") for path in (layout.executed / "tables").glob(kind)]
    wanted |= {Path("_extra") / path.relative_to(layout.executed): path for path in tables}
    (layout.source / "_extra").mkdir(parents=True, exist_ok=True)
    for name, path in wanted.items():
        target = layout.source / name
        if not target.exists() or target.read_bytes() != path.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for path in [path for path in layout.source.rglob("*") if path.is_file()]:
        if path.relative_to(layout.source) not in wanted:
            path.unlink()


def build_site(layout: Layout, failed: Collection[str] = ()) -> None:
    """Turn the staged pages into ``_build/html``; any warning stops the build. The pages of failed chapters say so."""
    stage(layout, failed)
    config = [
        layout.root / "_config.yml",
        layout.root / "book/_toc.yml",
        layout.root / "src/dm_utils/charts/static/draw_charts.js",
        *sorted(path for name in ("_ext", "_templates") for path in (layout.root / "book" / name).rglob("*.*")),
    ]
    key, stamp = digest(*[path.read_bytes() for path in config]), layout.build / "site.key"
    if not stamp.exists() or stamp.read_text() != key:
        for folder in (layout.html, layout.build / ".doctrees"):
            shutil.rmtree(folder, ignore_errors=True)
    stamp.unlink(missing_ok=True)  # a build that fails leaves no stamp, so the next one starts afresh
    program = str(Path(sys.executable).with_name("jupyter-book"))
    command = [program, "build", str(layout.source), "--path-output", str(layout.root)]
    command += ["--config", str(layout.root / "_config.yml"), "--toc", str(layout.source / "_toc.yml")]
    command += ["-W", "--keep-going", "-n", "-q"]
    environment = {"DM_ASSETS": str(layout.build / "assets")} | os.environ
    if subprocess.run(command, cwd=layout.root, env=environment, check=False).returncode:
        raise BuildError("Sphinx reported warnings or errors, shown above; the book is built with warnings as errors")
    stamp.write_text(key)


def build_book(
    profile: str = "lab", given: Mapping[str, Any] | None = None, jobs: int = 1, timeout: int | None = None
) -> Path:
    """Execute what changed, build the site and return its folder.

    Raises
    ------
    BuildError : chapters failed, one line for each; the site is built all the same, and their pages say so.
    """
    layout = Layout.find(profile)
    injected = dict(given or {}) | ({} if profile == "lab" else {"profile": profile})
    failed = execute_chapters(layout, injected, jobs, timeout)
    build_site(layout, failed)
    if failed:
        lines = "\n".join(f"  {line}" for line in failed.values())
        raise BuildError(
            f"{len(failed)} of {len(chapters(layout))} chapters failed; the rest is in {layout.html}:\n{lines}"
        )
    return layout.html
