"""The explorer in Jupyter and Colab: the page's own front end, with answers from the kernel."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets as t

from dm_utils.charts.theme import style

MODULES = Path(__file__).parent / "explorer"
PARTS = ("text", "sae", "tokens", "look", "intervene", "take")
FRONT = ("dom", "state", "choose", "tokens", "vectors", "panel", "intervene", "explorer", "widget")


def bundle(names: Iterable[str] = FRONT, folder: Path = MODULES) -> str:
    """Join modules, each after those that it imports, into the one that a widget may have: their imports and exports go.

    Their top-level names must differ, or the browser refuses the whole.
    """
    sources = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in names]
    bare = [re.sub(r"^import .*;\n", "", source, flags=re.M) for source in sources]
    return "\n".join(re.sub(r"^export (?!default)", "", source, flags=re.M) for source in bare)


class Explorer(anywidget.AnyWidget):
    """Type a text and see each token's error split; change, compare, intervene. The kernel computes.

    Parameters
    ----------
    answer : callable
        Takes a request and gives its answer, as `engine.explorer_contract` says: `engine.explorer.Kernel(study).answer`.
    state : mapping, optional
        What to show first: `text`, `sae`, `pin` (a second SAE), `position`, `shade`, `linear`, `nonlinear`, `everywhere`.
    parts : sequence of str
        What of it to show, of `PARTS`; none means all.
    """

    _esm = bundle()
    _css = style(MODULES / "explorer.css")
    state = t.Dict().tag(sync=True)
    parts = t.List(t.Enum(PARTS)).tag(sync=True)

    def __init__(
        self,
        answer: Callable[[Mapping[str, Any]], dict[str, Any]],
        state: Mapping[str, Any] | None = None,
        parts: Iterable[str] = (),
    ):
        self._answer = answer
        super().__init__(state=dict(state or {}), parts=list(parts))
        self.on_msg(self._hear)

    def _hear(self, _: Any, content: Mapping[str, Any], __: Any) -> None:
        """Answer one message; an error is an answer too, so that the front end can say it."""
        try:
            self.send({"id": content["id"], "answer": self._answer(content["request"])})
        except Exception as error:
            self.send({"id": content.get("id"), "error": f"{error}"})
