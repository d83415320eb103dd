"""The SAEs that Section 4.3 fits: for each L0, those that share it and differ in width."""

from __future__ import annotations

import math
from statistics import mode
from typing import TYPE_CHECKING

import pandas as pd

from dm_utils.base.errors import ParameterError
from dm_utils.engine.suite import near_l0

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef


def suites(study: Study, architecture: str | None = None) -> dict[float, list[SaeRef]]:
    """SAEs of one architecture (by default the most frequent) by the L0 on their labels, at most half an octave away.

    Read from labels alone, so that a profile that cannot be fitted is refused before anything is measured.

    Raises
    ------
    ParameterError : no L0 has SAEs of two widths.
    """
    p = study.profile
    kind = architecture or mode(ref.architecture for ref in study.saes())
    labelled = pd.Series([ref.l0 for ref in study.saes(architecture=kind) if ref.l0 > 0], dtype=float)
    found = {}
    for near in sorted({p.near_l0, *near_l0(labelled).astype(float)}):
        nearest = study.saes(near_l0=near, architecture=kind)  # one of each width
        close = [ref for ref in nearest if ref.l0 > 0 and abs(math.log2(ref.l0 / near)) < 0.5]
        if len(close) >= 2:
            found[near] = close
    if not found:
        raise ParameterError(
            f"layer = {p.layer}: {kind} SAEs of two or more widths near one L0 (on their labels) are needed, and {p.title} has "
            "none at this layer; give releases that hold more widths, or another layer"
        )
    return found
