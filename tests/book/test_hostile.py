"""Strings from outside (titles, ids, paths, data sets, captions, errors) are text on the page, whatever they hold."""

import ast
import json
from types import SimpleNamespace

import IPython.display
import pandas as pd
import pytest
from demo import ROOT
from hostile import HOSTILE, MATHS, Read
from IPython.display import HTML, Markdown
from markdown_it import MarkdownIt

from dm_utils.base.words import code, escape, visible
from dm_utils.book.chapter import Chapter
from dm_utils.book.display import table_html

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OUTSIDE = {
    "id",
    "name",
    "sae_id",
    "title",
    "hook_name",
    "release",
    "model",
    "dataset",
    "architecture",
    "model_revision",
}


def rendered(text):
    """HTML as a Markdown reader makes it that lets HTML pass, as Jupyter and MyST do."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text)


def harmless(page, name):
    """Whether a page shows the name as text: nothing but paragraphs, emphasis and code in it, and its characters there."""
    seen = Read(page)
    return seen.tags <= {"p", "em", "strong", "code", "span"} and seen.shows(name) and not seen.formulas


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text_in_a_sentence_and_as_code(name):
    assert harmless(rendered(f"Before {code(name)} after."), name)
    assert harmless(rendered(f"*Before {escape(' '.join(name.split()))} after.*"), name)


@pytest.mark.parametrize("name", HOSTILE)
def test_the_line_this_run_shows_a_model_of_any_name(name):
    chapter = Chapter("demo", {"profile": "lab"})
    title = " ".join(name.split())  # a folder's name; Markdown has no line breaks in a line
    chapter.profile = chapter.profile.with_overrides(title=title, name=title)
    assert harmless(rendered(chapter._repr_markdown_()), title)


@pytest.mark.parametrize("name", HOSTILE)
def test_tables_captions_and_provenance_show_it_as_text(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DM_TABLES", str(tmp_path))
    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    chapter = Chapter("demo", {"profile": "lab"})
    chapter.profile = chapter.profile.with_overrides(title=name)
    chapter.figure(SimpleNamespace(), number=visible(name), caption=f"Of ${MATHS}$ and {escape(name)}.", alt=name)
    sae = SimpleNamespace(id=name, hook_name=name, d_sae=8, l0=2.0, commit=name)
    chapter.record("fvu", 0.5, figure=name, sae=sae, paper_value=0.4)
    chapter.compare()
    chapter.download()
    page = "".join(one.data for one in shown if isinstance(one, HTML | Markdown))
    page += table_html(pd.DataFrame({name: [name]}), name)
    seen = Read(page)
    known = {"p", "strong", "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "a", "details", "summary"}
    assert seen.tags <= {*known, "span"}
    assert seen.formulas == [f"\\({MATHS}\\)"]
    assert all("javascript" not in str(attributes.get("href")) for _, attributes in seen.elements)


@pytest.mark.parametrize("name", HOSTILE)
def test_where_model_and_text_come_from_is_shown_as_text(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DM_TABLES", str(tmp_path))
    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    chapter = Chapter("demo", {"profile": "lab"})
    monkeypatch.setattr(chapter, "revisions", lambda: {"model_revision": name, "dataset_revision": None})
    chapter.profile = chapter.profile.with_overrides(model=name, dataset=name)
    chapter.record("fvu", 0.5, sae=SimpleNamespace(id=name, hook_name="h", d_sae=8, l0=2.0, commit=name))
    chapter.download()
    seen = Read("".join(one.data for one in shown))
    assert seen.tags <= {"p", "div", "a", "details", "summary", "span"}
    assert seen.shows(name) and not seen.formulas


def unescaped(cell):
    """The strings from outside that a cell's f-strings put into Markdown or a figure's caption as they are."""
    calls = [node for node in ast.walk(cell) if isinstance(node, ast.Call)]
    doors = [node for node in calls if getattr(node.func, "attr", "") == "markdown"]
    figures = [node for node in calls if getattr(node.func, "attr", "") == "figure"]
    doors += [keyword for node in figures for keyword in node.keywords if keyword.arg == "caption"]
    found = [node for door in doors for node in ast.walk(door) if isinstance(node, ast.FormattedValue)]
    return [
        ast.unparse(one.value) for one in found if isinstance(one.value, ast.Attribute) and one.value.attr in OUTSIDE
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_put_strings_from_outside_through_the_door(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    for source in ("".join(cell["source"]) for cell in cells):
        if "markdown(" in source or "figure(" in source:
            assert unescaped(ast.parse(source)) == [], source
