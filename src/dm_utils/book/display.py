"""Sentences and tables as a page shows them; every string that comes from data is escaped."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from dm_utils.base.words import LABELS, as_html, code, escape, interval, label, number

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LABELS", "code", "escape", "interval", "label", "markdown", "number", "show_table", "table_html"]
SHORT = 26  # characters: a cell up to this long, such as an estimate with its interval, is not broken over lines


def markdown(text: str) -> None:
    """Show a sentence that was computed from the results, as Markdown; text from data goes through :func:`escape`."""
    from IPython.display import Markdown, display

    display(Markdown(text))


def caption_html(caption: str) -> str:
    """Return a caption as HTML: `$…$` is mathematics, the rest is text; names from outside go through :func:`escape`."""
    for mark in "$\\":
        caption = caption.replace(escape(mark), f"&#{ord(mark)};")
    pieces = [html.unescape(piece) for piece in caption.split("$")]
    return "".join(f"\\({html.escape(piece)}\\)" if at % 2 else as_html(piece) for at, piece in enumerate(pieces))


def table_html(frame: pd.DataFrame, caption: str = "") -> str:
    """Return an HTML table: numbers right-aligned, every cell escaped, scrolling sideways on a phone."""
    numeric = [frame[name].dtype.kind in "if" for name in frame]

    def cell(value: Any, is_number: bool, tag: str = "td") -> str:
        text = number(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
        kind = "dm-number" if is_number else "dm-short" if len(text) <= SHORT else ""
        return f'<{tag} class="{kind}">{html.escape(text)}</{tag}>' if kind else f"<{tag}>{html.escape(text)}</{tag}>"

    head = "".join(cell(name, kind, "th") for name, kind in zip(frame.columns, numeric, strict=True))
    rows = (
        "<tr>" + "".join(cell(value, kind) for value, kind in zip(row, numeric, strict=True)) + "</tr>"
        for row in frame.astype(object).itertuples(index=False, name=None)
    )
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    name = html.escape(caption or "table")
    return (
        f'<div class="dm-table mathjax_ignore tex2jax_ignore" role="region" aria-label="{name}" tabindex="0"><table>{title}'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def show_table(frame: pd.DataFrame, caption: str = "", folded: bool = False) -> None:
    """Show a data frame as a plain, escaped table; folded, it stands behind its caption (for the numbers of a picture)."""
    from IPython.display import HTML, display

    table = table_html(frame, "" if folded else caption)
    display(HTML(f"<details><summary>{html.escape(caption)}</summary>{table}</details>" if folded else table))
