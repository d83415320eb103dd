"""What a reader sees: numbers with their precision, and no markup from data."""

import html
import math

import IPython.display
import pandas as pd
import pytest

from dm_utils.base.words import escape, interval, label, number, visible
from dm_utils.book.display import show_table, table_html


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.40234, "0.402"),
        (12.345, "12.3"),
        (147_456.0, "147,456"),
        (0.0, "0"),
        (-0.05, "-0.0500"),
        (1.2e-9, "1.20e-09"),
        (math.nan, "–"),
        (math.inf, "inf"),
    ],
)
def test_numbers_keep_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_an_interval_is_written_unless_it_is_missing() -> None:
    assert interval(0.4, 0.38, 0.421) == "0.400 [0.380, 0.421]"
    assert interval(0.4, math.nan, math.nan) == "0.400"


def test_an_unnamed_metric_is_still_readable() -> None:
    assert label("some_new_metric") == "some new metric"


def test_tables_escape_cells_headings_and_captions() -> None:
    nasty = "</td><img src=x onerror=alert(1)>"
    text = table_html(pd.DataFrame({nasty: [nasty], "value": [0.5], "count": [1200]}), nasty)
    assert "<img" not in text
    assert text.count(html.escape(nasty)) == 4  # caption, region's name, heading, cell
    assert '<td class="dm-number">0.500</td><td class="dm-number">1,200</td>' in text


def test_escaped_text_holds_nothing_that_html_or_markdown_could_read() -> None:
    nasty = "```{raw} html\n<b>[x](javascript:1)$y$</b>*z*_w_\\(q\\)"
    text = escape(nasty).replace('<span class="mathjax_ignore">', "").replace("</span>", "")
    assert html.unescape(text) == visible(nasty) == nasty.replace("\n", "\\n")
    assert not set(text) & set("<>[]()`{}$*_\\|~!\"'")


def test_a_folded_table_stands_behind_its_escaped_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(IPython.display, "display", lambda found: shown.append(found.data))
    show_table(pd.DataFrame({"a": [1]}), "the <b> numbers", folded=True)
    assert shown[0].startswith("<details><summary>the &lt;b&gt; numbers</summary>") and shown[0].count("&lt;b&gt;") == 1
