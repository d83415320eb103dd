"""Names that want to be more than text, a reader of pages that sees what became of them, and a chapter that shows them all."""

import re
from html.parser import HTMLParser

from dm_utils.base.words import visible

MATHS = r"\mathbf{x} < 1"
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


CELL = f"""import altair as alt
import pandas as pd
import dm_utils as dm
from dm_utils.base.words import as_html, code, escape

chapter, maths = dm.Chapter("names", globals()), {MATHS!r}
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
