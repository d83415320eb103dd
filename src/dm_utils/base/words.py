"""Words and numbers as a reader sees them; text that comes from data is escaped."""

from __future__ import annotations

import html
import math
import re
import string
from collections.abc import Iterable

LABELS = {
    "fvu": "FVU",
    "fvu_nonlinear": "FVU nonlinear (Eq. 12)",
    "r2_error_norm": "R² of the error norm (Eq. 10)",
    "r2_token_identity": "R² of the error norm from token identity alone",
    "r2_norm": "R² of the squared error norm",
    "r2_vector": "R² of the error vector, variance-weighted",
    "fvu_left": "FVU of Sae(x) and the prediction",
    "r2_error_vector": "R² of the error vector (Eq. 11), mean over dimensions",
    "r2_error_vector_weighted": "R² of the error vector, variance-weighted",
    "r2_error_vector_rescaled": "R² of the error vector after rescaling Sae(x)",
    "r2_x_norm": "R² of ‖x‖²",
    "r2_sae_norm": "R² of ‖Sae(x)‖²",
    "r2_linear_norm": "R² of ‖LinearError(x)‖²",
    "r2_nonlinear_norm": "R² of ‖NonlinearError(x)‖²",
    "norm_ratio": "‖Sae(x)‖ / ‖x‖",
    "cos_linear_x": "cosine of LinearError(x) with x",
    "norm_ratio_total": "√(Σ‖Sae(x)‖² / Σ‖x‖²)",
    "norm_ratio_unshrunk": "the same ratio if nothing were shrunk",
    "best_scale": "best scale α of Sae(x)",
    "dead_fraction": "share of dead latents",
    "fvu_drop": "decrease of FVU",
    "fvu_drop_relative": "decrease of FVU, as a share of it",
    "fvu_nonlinear_drop": "decrease of FVU nonlinear",
    "fvu_nonlinear_drop_relative": "decrease of FVU nonlinear, as a share of it",
    "l0": "L0",
    "d_sae": "SAE width",
}
ENTITIES = {ord(mark): f"&#{ord(mark)};" for mark in string.punctuation}
NO_FORMULA = {ord(mark): f'<span class="mathjax_ignore">&#{ord(mark)};</span>' for mark in "$\\"}


def label(metric: str) -> str:
    """Return the name of a metric as charts and tables write it."""
    return LABELS.get(metric, metric.replace("_", " "))


def number(value: float, digits: int = 3) -> str:
    """Write a number with ``digits`` significant digits, thousands separated, and no needless exponent."""
    if value is None or math.isnan(value):
        return "–"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}" if decimals <= 6 else f"{value:.{digits - 1}e}"


def interval(value: float, low: float | None = None, high: float | None = None) -> str:
    """Write an estimate with its 95 % interval, for example ``0.402 [0.381, 0.424]``."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def visible(text: object) -> str:
    """Return text with its unprintable characters spelled out: controls, and marks that turn the direction of writing."""
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in str(text))


def escape(text: object) -> str:
    """Return text that stays text in HTML, in Markdown and in a caption, whatever tokens it holds.

    Punctuation becomes entities. What could begin a formula stands in an element of its own, too: notebooks look for formulas
    in what they have rendered, where an entity is the character again.
    """
    return visible(text).translate(ENTITIES | NO_FORMULA)


def as_html(text: object) -> str:
    """Return text as HTML that shows it, and in which a notebook finds no formula."""
    return html.escape(visible(text)).translate(NO_FORMULA)


def code(text: object) -> str:
    """Return text as code in Markdown; no back-tick or line break in it ends the span."""
    inside = visible(" ".join(str(text).split()))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", inside)), default=0))
    return f"{fence} {inside} {fence}" if inside.startswith("`") or inside.endswith("`") else f"{fence}{inside}{fence}"


def how_many(count: int, total: int) -> str:
    """Say how many of several: all, nearly all (9 of 10 or more), most (more than half), half, some, none."""
    if not 0 <= count <= total or total < 1:
        raise ValueError(f"{count} of {total} is not a count of several")
    if count in (0, total):
        return "all" if count else "none"
    if 10 * count >= 9 * total:
        return "nearly all"
    return "most" if 2 * count > total else "half" if 2 * count == total else "some"


def span(values: Iterable[float], spec: str = ".2f", unit: str = "") -> str:
    """Write the least and the greatest of several values, for example ``0.21 to 0.35``; one number where they read alike.

    A ``unit`` of " %" writes shares as percentages.
    """
    shown = [100 * value if unit == " %" else value for value in values]
    ends = [f"{end:z{spec}}" for end in (min(shown), max(shown))]  # z: never minus zero
    return (ends[0] if ends[0] == ends[1] else " to ".join(ends)) + unit
