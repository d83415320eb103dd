"""Strings from outside (titles, ids, paths, data sets, captions, errors) are text on the page, whatever they hold."""

import ast
import html
import json
from types import SimpleNamespace

import pandas as pd
import pytest
from demo import ROOT
from IPython.display import HTML, Markdown
from markdown_it import MarkdownIt

from dm_utils.base.words import code, escape
from dm_utils.book.chapter import Chapter
from dm_utils.book.display import table_html

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</code><script>alert(1)</script>",
    "`<b>`",
    "``` ` ```",
    "a`b``c",
    "[x](javascript:alert(1))",
    "![x](http://elsewhere/x.png)",
    "<!-- -->",
    "\n\n```{raw} html\n<b>\n```\n",
    "\n# Title\n",
    "$x$ \\(y\\)",
    "&lt;b&gt; &#60;",
    "{ref}`x`",
    "| a | b |",
    "*a* _b_ ~~c~~",
    "http://elsewhere/",
    "<svg/onload=alert(1)>",
    "\u202eevil",
    "'\"><iframe src=//elsewhere>",
    "+++",
]
OUTSIDE = {"id", "sae_id", "title", "hook_name", "release", "model", "dataset", "architecture", "model_revision"}


def rendered(text):
    """HTML as a Markdown reader makes it that lets HTML pass, as Jupyter and MyST do."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text)


def harmless(page, name):
    """Whether a page shows the name as text: nothing but paragraphs, emphasis and code in it, and its characters there."""
    tags = {part.split(">")[0].split(" ")[0].strip("/") for part in page.split("<")[1:]}
    return tags <= {"p", "em", "strong", "code"} and "".join(name.split()) in "".join(html.unescape(page).split())


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
    monkeypatch.setattr("IPython.display.display", shown.append)
    chapter = Chapter("demo", {"profile": "lab"})
    chapter.profile = chapter.profile.with_overrides(title=name)
    chapter.figure(SimpleNamespace(), number=name, caption=name.replace("$", ""), alt=name)
    sae = SimpleNamespace(id=name, hook_name=name, d_sae=8, l0=2.0, commit=name)
    chapter.record("fvu", 0.5, figure=name, sae=sae, paper_value=0.4)
    chapter.compare()
    chapter.download()
    page = "".join(one.data for one in shown if isinstance(one, HTML | Markdown))
    page += table_html(pd.DataFrame({name: [name]}), name)
    tags = {part.split(">")[0].split(" ")[0].strip("/") for part in page.split("<")[1:]}
    known = {"p", "strong", "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "a", "details", "summary"}
    assert tags <= known


def unescaped(cell):
    """The strings from outside that a cell's f-strings put into Markdown as they are; captions are escaped by `figure`."""
    captions = [node for node in ast.walk(cell) if isinstance(node, ast.keyword) and node.arg == "caption"]
    inside = {id(node) for caption in captions for node in ast.walk(caption)}
    found = [node for node in ast.walk(cell) if isinstance(node, ast.FormattedValue) and id(node) not in inside]
    return [
        ast.unparse(one.value) for one in found if isinstance(one.value, ast.Attribute) and one.value.attr in OUTSIDE
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_put_strings_from_outside_through_the_door(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    for source in ("".join(cell["source"]) for cell in cells):
        if "markdown(" in source:
            assert unescaped(ast.parse(source)) == [], source
