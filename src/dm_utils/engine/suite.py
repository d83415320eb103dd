"""SAEs of several widths and L0s as a table (rows of `Study.measure`): which belong together, and how a metric falls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mode
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dm_utils.base.errors import ParameterError, require
from dm_utils.base.verdicts import verdict

if TYPE_CHECKING:
    from dm_utils.world.profile import Profile
    from dm_utils.world.sae_ref import SaeRef


def near_l0(l0: pd.Series) -> pd.Series:
    """The power of two nearest to each L0 (in its logarithm): what SAEs of one line share."""
    return pd.Series(2.0 ** np.log2(l0.to_numpy(float)).round(), index=l0.index).astype(int)


def main_suite(table: pd.DataFrame, architecture: str | None = None) -> pd.DataFrame:
    """The SAEs that lines join, with a column `near_l0`: those of one architecture, by default the most frequent one."""
    chosen = architecture or mode(table["architecture"])
    require(chosen, table["architecture"].unique(), "architecture")
    return table.assign(near_l0=near_l0(table["l0"]))[table["architecture"] == chosen]


def require_widths(refs: Sequence[SaeRef], profile: Profile) -> None:
    """Refuse SAEs that are all of one width, for what compares widths at one L0. Raises ParameterError."""
    if len({ref.d_sae for ref in refs}) < 2:
        there = ", ".join(f"{ref.id} with {ref.d_sae:,} latents" for ref in refs) or "none"
        raise ParameterError(
            f"layer = {profile.layer}, near_l0 = {profile.near_l0:g}: SAEs of one architecture and two or more widths are needed near "
            f"this L0, and here there is {there}; give releases that hold more widths, or another layer or near_l0"
        )


@dataclass(frozen=True)
class Steps:
    """How a metric changes from one SAE to its neighbour along one hyperparameter, the other held near its value.

    `cases` says of each step whether it falls (True) or rises (False) by more than its two intervals, None where they overlap.
    """

    falls: int
    total: int
    cases: tuple[bool | None, ...]

    def __str__(self) -> str:
        return f"falls in {self.falls} of {self.total} steps"

    @property
    def falling(self) -> str:
        """The verdict on "it falls at every step"."""
        return verdict(self.cases)

    @property
    def rising(self) -> str:
        """The verdict on "it rises at every step"."""
        return verdict(None if case is None else not case for case in self.cases)


def steps(table: pd.DataFrame, metric: str, along: str, fixed: str) -> Steps:
    """Compare neighbours in `along` (for instance `d_sae`) at equal `fixed`; intervals are the metric's own, if it has any."""
    ends = {"value": metric, "low": f"{metric}_low", "high": f"{metric}_high"}
    columns = {name: table.get(column, table[metric]) for name, column in ends.items()}
    ordered = table[[fixed, along]].assign(**columns).sort_values([fixed, along])
    before = ordered.groupby(fixed)[list(ends)].shift().add_suffix("_before")
    pairs = ordered.join(before).dropna()
    falls = pairs["value"] < pairs["value_before"]
    apart = (pairs["high"] < pairs["low_before"]) | (pairs["low"] > pairs["high_before"])
    cases = (bool(fell) if clear else None for fell, clear in zip(falls, apart, strict=True))
    return Steps(int(falls.sum()), len(pairs), tuple(cases))
