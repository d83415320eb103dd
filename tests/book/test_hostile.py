"""Strings from outside (titles, ids, paths, data sets, captions, errors) are text on the page, whatever they hold."""

import ast
import json
import os
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from demo import ROOT, make_checkout
from IPython.display import HTML, Markdown
from markdown_it import MarkdownIt
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dm_utils.base.words import code, escape, visible
from dm_utils.book import site
from dm_utils.book.chapter import Chapter
from dm_utils.book.display import table_html

MATHS = r"\mathbf{x} < 1"
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
    "\\[x\\] $$x$$ \\href{javascript:alert(1)}{x}",
    "{{ title }} {% raw %} {title}",
    "\u200f\u2067fvu 0.001\u2069\u0000\x1b[31m",
]
FORMULA = re.compile(r"\$.+\$|\\\(.+?\\\)|\\\[.+?\\\]", re.S)
VOID = {"meta", "link", "img", "br", "hr", "input"}
UNREAD = {"script", "style", "textarea", "pre", "code"}  # elements in which MathJax seeks no formula
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


class Read(HTMLParser):
    """What a browser makes of a page: its elements, its text, and the pieces of text in which a notebook seeks formulas."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self.pieces, self.inside = [], "", [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.inside.append((tag, tag in UNREAD or "mathjax_ignore" in (dict(attributes).get("class") or "")))

    def handle_endtag(self, tag):
        if tag in dict(self.inside):
            while self.inside.pop()[0] != tag:
                pass

    def handle_data(self, data):
        self.text += data
        if not any(unread for _, unread in self.inside):
            self.pieces.append(data)

    @property
    def tags(self):
        return {tag for tag, _ in self.elements}

    @property
    def formulas(self):
        """What MathJax would typeset: it seeks from one tag to the next."""
        return [found for piece in self.pieces for found in FORMULA.findall(piece)]

    def shows(self, name):
        """Whether the name's characters are there, what is unprintable spelled out; spaces aside."""
        whole = "".join(self.text.split())
        return any("".join(form.split()) in whole for form in (visible(name), visible(" ".join(name.split()))))


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
    monkeypatch.setattr("IPython.display.display", shown.append)
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
    monkeypatch.setattr("IPython.display.display", shown.append)
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


CELL = f"""import altair as alt
import pandas as pd
import dm_utils as dm
from dm_utils.base.words import as_html, code, escape

chapter, maths = dm.Chapter("demo", globals()), {MATHS!r}
for number, name in enumerate({HOSTILE!r}):
    chapter.profile = chapter.profile.with_overrides(title=name)
    display(chapter)
    dm.display.markdown(f"A sentence of ${{maths}}$, {{escape(name)}} and {{code(name)}}.")
    dm.display.show_table(pd.DataFrame({{name: [name]}}), name)
    chart = alt.Chart(pd.DataFrame({{"x": [1], "name": [name]}})).mark_point().encode(x="x:Q", tooltip="name:N")
    chapter.figure(chart, number=name, caption=f"Of ${{maths}}$ and {{escape(name)}}.", alt=name)
    chapter.record("fvu", 0.5, figure=name)
print(name)
chapter.download()"""


def test_the_built_site_shows_every_name_as_text(tmp_path, monkeypatch):
    monkeypatch.setenv("DM_ASSETS", os.environ.get("DM_ASSETS", str(ROOT / "_build/assets")))
    layout = make_checkout(tmp_path)
    cells = [new_code_cell("layer = None", metadata={"tags": ["parameters"]}), new_code_cell(CELL)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    book = new_notebook(cells=[new_markdown_cell("# Names"), *cells], metadata=kernel)
    nbformat.write(book, layout.root / "notebooks/demo.ipynb")
    monkeypatch.chdir(layout.root)
    page = (site.build_book() / "notebooks/demo.html").read_text()
    seen = Read(page)
    for tag, attributes in seen.elements:
        acts = [name for name in attributes if name.startswith("on") or name in ("href", "src")]
        assert not any("alert(" in str(attributes[name]) for name in acts), (tag, attributes)
        assert "elsewhere" not in str(attributes.get("src")) and tag != "iframe", (tag, attributes)
    assert page.count("<mjx-container") == 2 * len(HOSTILE), "one formula in each sentence and caption, and no other"
    missing = [name for name in HOSTILE if not seen.shows(name)]
    assert not missing
