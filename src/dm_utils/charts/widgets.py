"""Widgets that stay live in a page without a kernel, and in Jupyter and Colab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import anywidget
import numpy as np
import pandas as pd
import traitlets as t

from dm_utils.charts.theme import style

STATIC = Path(__file__).parent / "static"


class TokenStrip(anywidget.AnyWidget):
    """Show every token of a context on two rows, coloured by its error norm under two SAEs (Fig. 5, 12).

    Choose the context, the two SAEs and the quantity in the lists above the strip; hover over a token, or walk with the
    arrow keys, to read its numbers. Token text reaches the page as text nodes only, so it cannot act as markup.

    Parameters
    ----------
    contexts : sequence of sequence of str
        The text of each token of each context.
    values : mapping
        SAE name → quantity name → array [token] over all contexts in order; every SAE has the same quantities.

    Raises
    ------
    ValueError
        If an array's length is not the number of tokens, if a value is not finite, or if the SAEs' quantities differ.

    Examples
    --------
    >>> TokenStrip([["a", " b"]], {"small": {"error norm": [1.0, 2.0]}, "large": {"error norm": [0.5, 1.0]}})
    """

    _esm = (STATIC / "token_strip.js").read_text(encoding="utf-8")
    _css = style(STATIC / "token_strip.css")
    tokens = t.List(t.Unicode()).tag(sync=True)
    starts = t.List(t.Int()).tag(sync=True)
    names = t.List(t.Unicode()).tag(sync=True)
    quantities = t.List(t.Unicode()).tag(sync=True)
    values = t.Bytes().tag(sync=True)  # float32 [sae, quantity, token]
    context = t.Int(0).tag(sync=True)
    first = t.Int(0).tag(sync=True)
    second = t.Int(0).tag(sync=True)
    quantity = t.Int(0).tag(sync=True)
    focus = t.Int(0).tag(sync=True)

    def __init__(self, contexts: Sequence[Sequence[str]], values: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
        tokens = [token for context in contexts for token in context]
        names = list(values)
        quantities = list(values[names[0]]) if names else []
        if not tokens or not quantities:
            raise ValueError("TokenStrip needs at least one token, one SAE and one quantity")
        different = [name for name in names if list(values[name]) != quantities]
        if different:
            raise ValueError(f"every SAE needs the quantities {quantities}; {', '.join(different)} has others")
        array = np.array([[np.asarray(values[name][q], dtype=np.float32) for q in quantities] for name in names])
        if array.shape[-1:] != (len(tokens),):
            raise ValueError(
                f"each array needs one value per token: {len(tokens)} tokens, arrays of shape {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ValueError("TokenStrip cannot colour values that are not finite; find where they come from")
        starts = np.cumsum([0, *map(len, contexts)]).tolist()
        super().__init__(
            tokens=tokens,
            starts=starts,
            names=names,
            quantities=quantities,
            values=array.tobytes(),
            second=len(names) - 1,
        )


class ClaimBoard(anywidget.AnyWidget):
    """Show claims with their verdicts as a table that a reader filters by verdict, profile and words.

    Parameters
    ----------
    board : DataFrame
        ``place, claim, paper, profile, value, verdict, agree, of, test, chapter``, one row per claim and profile; and, where
        known, ``training`` and ``size``, words under the value and under the verdict.
    verdicts : sequence of str
        The verdict words, in order.
    folder : str
        Where a claim's chapter is, with ``*`` for its name.
    """

    _esm = (STATIC / "claim_board.js").read_text(encoding="utf-8")
    _css = style(STATIC / "claim_board.css")
    claims = t.List(t.Dict()).tag(sync=True)
    verdicts = t.List(t.Unicode()).tag(sync=True)
    folder = t.Unicode().tag(sync=True)

    def __init__(self, board: pd.DataFrame, verdicts: Sequence[str], folder: str = "*.ipynb") -> None:
        if board.empty:
            raise ValueError("there are no claims to show: judge the results of a profile first")
        super().__init__(claims=board.to_dict("records"), verdicts=list(verdicts), folder=folder)
