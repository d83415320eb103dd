"""Text from the wild stays text: in HTML, in Markdown with formulas, as code, whatever characters it holds."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from dm_utils.base.words import as_html, code, escape, visible

PIECES = [
    "<b>",
    "</p>",
    "<!--",
    "&lt;",
    "&#60;",
    "`",
    "``",
    "$",
    "$$",
    "\\(",
    "*",
    "_",
    "[a](b)",
    "![",
    "|",
    "~~",
    "#",
    "\n",
    "  ",
    "\t",
]
PIECES += [
    "\u202e",
    "\x00",
    "<script>",
    "{math}`x`",
    "-->",
    "'",
    '"',
    ">",
    "    ",
    "é",
    "\U0001f600",
    "\ud800",
    "a",
    "1.",
]
wild = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))
markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"]).use(dollarmath_plugin)


class Page(HTMLParser):
    """What a browser would show of some HTML, and the elements in it."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.text, self.elements = "", list[tuple[str, dict[str, str | None]]]()
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Text between elements."""
        self.text += data

    def handle_comment(self, data: str) -> None:
        """A comment hides text."""
        self.elements.append(("comment", {}))


def shown(source: str, allowed: set[str]) -> str:
    """The text of a page that holds nothing but text, spans that keep formulas out, and the elements allowed."""
    page = Page(source)
    for tag, attributes in page.elements:
        assert tag in allowed or (tag == "span" and attributes == {"class": "mathjax_ignore"}), page.elements
    return page.text


@given(wild)
@example("</script><script>")
def test_as_html_shows_the_text_and_makes_no_element(text: str) -> None:
    assert shown(as_html(text), set()) == visible(text)


@given(wild)
@example("a_b_ *c* `d` $e$ \\(f\\)")
def test_escaped_text_is_itself_in_markdown(text: str) -> None:
    page = markdown.render(f"A sentence with {escape(text)} in it.")
    assert shown(page, {"p"}).strip() == f"A sentence with {visible(text)} in it."


@given(wild)
def test_escaped_text_is_itself_in_html_too(text: str) -> None:
    assert shown(escape(text), set()) == visible(text)


@given(wild)
@example("` `")
@example("`")
def test_code_is_one_span_that_holds_the_text(text: str) -> None:
    """Runs of white space become one space, as anywhere in Markdown; what is empty shows nothing."""
    inside = visible(" ".join(text.split()))
    page = Page(markdown.render(f"The id {code(text)} here."))
    if inside:
        assert [tag for tag, _ in page.elements] == ["p", "code"]
        assert re.sub(" +", " ", page.text.strip()) == re.sub(" +", " ", f"The id {inside} here.")


@given(wild)
def test_what_is_visible_has_nothing_unprintable(text: str) -> None:
    assert visible(text).isprintable()
    assert visible(visible(text)) == visible(text)
