"""One call for a notebook's explorer: live with a kernel, and live in the built book without one."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dm_utils.base.errors import require
from dm_utils.engine.explorer import Kernel
from dm_utils.engine.explorer_site import write_site

if TYPE_CHECKING:
    from dm_utils.engine.study import Study

FILES = "explorer"  # the folder of the page's data, beside the tables


def explore(
    study: Study,
    text: str | None = None,
    sae: str | None = None,
    position: int | None = None,
    parts: Sequence[str] = (),
    leads: str = "",
) -> Any:
    """The explorer of a study: a widget whose kernel computes; in the built book, a page that computes for itself.

    The page's own engine has the lab's model, so there the explorer is the lab's whatever the study.

    Parameters
    ----------
    text, sae, position : what it shows first; by default an example, the profile's own SAE, the token with the most dark matter.
    parts : what of it to show, of `explorer_widget.PARTS`, in a chapter that needs one part only; none means all. In the book
        such a part reads the data of the explorer's own page.
    leads : in the book, the page of the whole explorer, where a click on a token leads; with a kernel, what is behind the token is
        shown in place.

    Raises
    ------
    ParameterError : the profile has no such SAE.
    """
    kernel = Kernel(study)
    if sae is not None:
        require(sae, kernel.refs, "SAE")
    state = {
        name: value for name, value in {"text": text, "sae": sae, "position": position}.items() if value is not None
    }
    if "DM_BOOK" not in os.environ:
        from dm_utils.charts.explorer_widget import Explorer

        return Explorer(kernel.answer, state, [*parts, "look"] if leads else parts)
    return _place(state if parts else _write(study, state), parts, leads)


def _write(study: Study, state: dict[str, Any]) -> dict[str, Any]:
    """Write the page's data, the lab's whatever the study; give what is shown."""
    from dm_utils.engine.study import Study

    folder, refs = Path(os.environ.get("DM_TABLES", "tables")) / FILES, None
    if study.profile.name != "lab":
        study, state = Study("lab", study.store), {}
        refs = [study.sae()]
    write_site(study, folder, refs, state)
    return state


def _place(state: dict[str, Any], parts: Sequence[str], leads: str = "") -> Any:
    """The element that the page's script fills."""
    from IPython.display import HTML

    held = {"files": f"../tables/{FILES}/", "state": json.dumps(state), "parts": " ".join(parts)}
    held |= {"leads": leads} if leads else {}
    attributes = " ".join(f'data-{name}="{html.escape(value, quote=True)}"' for name, value in held.items())
    said = "The explorer computes in the page and needs JavaScript."
    return HTML(f'<div class="dm-explorer" {attributes}><noscript>{said}</noscript></div>')
