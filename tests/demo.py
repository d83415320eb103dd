"""A small checkout of the book for the tests: its configuration, extension and style, and one demonstration chapter."""

import shutil
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dm_utils.book.layout import Layout

ROOT = Path(__file__).resolve().parents[1]
TOC = """\
format: jb-book
root: intro
parts:
  - caption: Part
    chapters:
      - file: notebooks/demo
      - file: references
"""


def make_checkout(root: Path, notebook: Path = ROOT / "tests/demo.ipynb") -> Layout:
    """Lay out the checkout under ``root``, with ``notebook`` as its one chapter."""
    shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("*.md", "__pycache__"))
    (root / "book/intro.md").write_text("# A small book\n\nInline mathematics: $x$.\n")
    (root / "book/references.md").write_text("# References\n\n```{bibliography}\n:cited:\n```\n")
    (root / "book/_toc.yml").write_text(TOC)
    for name in ("_config.yml", "requirements.lock"):
        shutil.copy(ROOT / name, root / name)
    (root / "src").symlink_to(ROOT / "src")
    (root / "notebooks").mkdir()
    shutil.copy(notebook, root / "notebooks/demo.ipynb")
    return Layout(root)


def add_chapter(layout: Layout, name: str, *sources: str) -> None:
    """Write a chapter of these cells after one of parameters; the table of contents stays as it is."""
    cells = [new_markdown_cell(f"# {name}"), new_code_cell("size = 1", metadata={"tags": ["parameters"]})]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    book = new_notebook(cells=[*cells, *map(new_code_cell, sources)], metadata=kernel)
    nbformat.write(book, layout.root / f"notebooks/{name}.ipynb")
