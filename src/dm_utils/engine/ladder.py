"""What the ladder of labs measured, and the rule that says of a claim whether a larger lab is nearer to the paper.

Each claim is a quantity and the range that the paper reports for it. Its distance at a rung is how far the quantity lies outside that
range. A rung's interval is the wider of two: Student's over the training seeds of its SAEs, and the mean of theirs over text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from dm_utils.base.errors import LoadError
from dm_utils.base.verdicts import Interval
from dm_utils.lab import tables
from dm_utils.lab.ladder import L0_SHARES, WIDTHS
from dm_utils.maths.resampling import Estimate

SHIPPED = tables.shipped("ladder")
COMMAND = "python -m dm_utils.chapters.ladder.measure"
COLUMNS = ("d", "width_ratio", "l0_ratio", "seed", "quantity", "value", "low", "high")
FEWEST = 3
"""Rungs that a trend needs."""
TOWARDS, AWAY, NONE, UNTOLD = "towards the paper's value", "away from it", "no trend", "cannot say"


@dataclass(frozen=True)
class Question:
    """A claim of the scoreboard (`key`), the quantity that the ladder measures of it, and where the paper's value stands.

    `about` is how far from that value counts as the paper's "about" or "almost", as in the scoreboard's test of the claim.
    Where the paper gives a word and no number (`paper` empty), `within` is the range that the scoreboard's test accepts.
    """

    key: str
    quantity: str
    paper: str
    says: str
    about: float = 0.0
    within: tuple[float, float] = (0.0, 1.0)

    def accepted(self, paper: Mapping[str, Interval]) -> Estimate:
        """The paper's value, with the range that counts as it."""
        if not self.paper:
            return Estimate(sum(self.within) / 2, *self.within)
        said = paper[self.paper]
        return Estimate((said.low + said.high) / 2, said.low - self.about, said.high + self.about)


QUESTIONS = (
    Question("norm-range", "r2_error_norm", "s4.1.r2_error_norm", "R² of the error norm, every SAE (Eq. 10)"),
    Question("ninety", "r2_error_norm", "abstract.r2_error_norm", "R² of the error norm, the abstract's 90 %"),
    Question("x-norm", "r2_x_norm", "s5.1.r2_x_norm", "R² of ‖x‖² from x", 0.05),
    Question("vector-range", "r2_error_vector", "s4.2.r2_error_vector", "R² of the error vector, every SAE (Eq. 11)"),
    Question("half", "r2_error_vector", "abstract.r2_error_vector", "R² of the error vector, the abstract's half", 0.1),
    Question(
        "flat", "per_doubling", "s4.3.per_doubling", "Relative change of FVU nonlinear per doubling of the width", 0.05
    ),
    Question(
        "proportional-linear", "ce_excess_linear", "s5.3.excess", "Loss recovered beyond its share, LinearError", 0.1
    ),
    Question(
        "proportional-nonlinear",
        "ce_excess_nonlinear",
        "s5.3.excess",
        "Loss recovered beyond its share, NonlinearError",
        0.1,
    ),
    Question("pursuit-fvu", "fvu_drop", "s6.1.fvu_decrease", "Encoder error: decrease of FVU by gradient pursuit"),
    Question("norm-ratio", "norm_ratio", "a1.norm_ratio", "‖Sae(x)‖ / ‖x‖", 0.05),
    Question("not-shrinkage", "cos_linear_x", "a1.cos_linear_x", "Cosine of LinearError with x", 0.15),
    Question("own-output", "own_output", "s6.2.r2_nonlinear_from_sae", "R² of NonlinearError from Sae(x)", 0.1),
    Question(
        "second-regressor-by",
        "second_regressor",
        "e.fvu_decrease_max",
        "Largest decrease of FVU by a second regressor (Eq. 23)",
        0.02,
    ),
    Question("subspaces", "missed_share", "", "Share of the directions of b* that the SAE mostly misses", 0, (0.1, 1)),
    Question("side-channel", "rank_90_share", "", "Rank that holds 90 % of LinearError, over d", 0, (0, 0.25)),
    Question(
        "forecast", "forecast", "", "R² of a larger SAE's error norms (Eq. 13), worst pair of widths", 0, (0.9, 1)
    ),
    Question("vector-below", "norm_over_vector", "", "R² of the error norm less that of the vector"),
    Question("nonlinear-test", "linear_over_nonlinear", "", "Norm test, LinearError's R² less NonlinearError's"),
    Question("norm-l0", "norm_rise", "", "Rise of the norm's R² as L0 doubles"),
    Question("opposite", "opposite", "", "The lesser of the norm's rise and the vector's fall as L0 doubles"),
)
OF_ONE_SAE = {
    "norm_over_vector": ("r2_error_norm", "r2_error_vector"),
    "linear_over_nonlinear": ("r2_linear_norm", "r2_nonlinear_norm"),
}
"""Differences of two quantities of an SAE, with intervals as wide as both: above 0 where the two are apart."""
OF_TWO_L0S = ("norm_rise", "opposite")
"""Differences between an SAE and the one of the same width, seed and rung with twice its L0."""


# --- the table that ships ----------------------------------------------------------------------------------


def read(file: Path = SHIPPED) -> tuple[pd.DataFrame, dict[int, dict[str, Any]]]:
    """The measurements (columns `COLUMNS`, one row per SAE and quantity) and their differences, and how each rung was made.

    Raises
    ------
    LoadError : the file is missing or not such a table; says how to make it.
    """
    table, about = tables.read(file, COLUMNS, f"{COMMAND} WORK")
    try:
        return with_differences(table[list(COLUMNS)]), {
            int(name.removeprefix("d ")): made for name, made in about.items()
        }
    except ValueError as error:
        raise LoadError(f"{file} names a rung without its d ({error}); `{COMMAND} WORK` measures a rung") from error


def write(file: Path, table: pd.DataFrame, about: Mapping[int, Mapping[str, Any]]) -> None:
    """Write the measurements, without their differences, under one line per rung that says how it was made."""
    measured = table[~table["quantity"].isin([*OF_ONE_SAE, *OF_TWO_L0S])]
    rows: list[dict[Any, Any]] = measured[list(COLUMNS)].to_dict("records")
    tables.write(file, rows, {f"d {d}": about[d] for d in sorted(about)})


def with_differences(table: pd.DataFrame) -> pd.DataFrame:
    """The measurements with the differences of each SAE (`OF_ONE_SAE`), and of each and the one with twice its L0 (`OF_TWO_L0S`)."""

    def of(quantity: str, l0_factor: int = 1) -> pd.DataFrame:
        rows = table[table["quantity"] == quantity]
        return rows.assign(l0_ratio=rows["l0_ratio"] / l0_factor).set_index(list(COLUMNS[:4]))[["value", "low", "high"]]

    found = {name: _minus(of(first), of(second)) for name, (first, second) in OF_ONE_SAE.items()}
    found["norm_rise"] = _minus(of("r2_error_norm", 2), of("r2_error_norm"))
    fall = _minus(of("r2_error_vector"), of("r2_error_vector", 2))
    found["opposite"] = found["norm_rise"].clip(upper=fall)
    rows = [one.assign(quantity=name).reset_index() for name, one in found.items()]
    return pd.concat([table, *(one for one in rows if len(one))], ignore_index=True)


def _minus(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The difference of the rows that both have: from least less most to most less least."""
    both = first.merge(second, left_index=True, right_index=True, suffixes=("", "_other"))
    ends = {"low": both["low"] - both["high_other"], "high": both["high"] - both["low_other"]}
    return pd.DataFrame({"value": both["value"] - both["value_other"], **ends})


# --- rungs -------------------------------------------------------------------------------------------------


def at(table: pd.DataFrame, quantity: str, l0_ratio: float, width_ratio: float = math.nan) -> pd.DataFrame:
    """The rows of one quantity at one L0/d and, where it is of one SAE and not of a series of widths, at one W/d."""
    rows = table[(table["quantity"] == quantity) & np.isclose(table["l0_ratio"], l0_ratio)]
    return rows[rows["width_ratio"].isna() | np.isclose(rows["width_ratio"], width_ratio)]


def settings(table: pd.DataFrame, quantity: str) -> list[tuple[float, float]]:
    """The pairs (L0/d, W/d) at which a quantity was measured on enough rungs for a trend; W/d is NaN for a series."""
    rungs = table[table["quantity"] == quantity].groupby(["l0_ratio", "width_ratio"], dropna=False)["d"].nunique()
    enough = rungs[rungs >= FEWEST].reset_index()
    return list(zip(enough["l0_ratio"].astype(float), enough["width_ratio"].astype(float), strict=True))


def over_seeds(rows: pd.DataFrame) -> Estimate:
    """The mean over SAEs of several seeds, with the wider of the intervals over training (Student's) and over text (their mean)."""
    values, n = rows["value"].to_numpy(float), len(rows)
    half = float(student.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5) if n > 1 else math.inf
    mean = float(values.mean())
    return Estimate(mean, min(mean - half, float(rows["low"].mean())), max(mean + half, float(rows["high"].mean())))


def by_rung(rows: pd.DataFrame) -> dict[int, Estimate]:
    """The estimate of each rung, smallest first, from the rows of one quantity at one setting (`at`)."""
    return {d: over_seeds(rows[rows["d"] == d]) for d in sorted(map(int, rows["d"].unique()))}


# --- the rule ----------------------------------------------------------------------------------------------


def distance(found: Estimate, paper: Interval) -> Estimate:
    """How far a value lies outside the paper's range, 0 inside it, with the least and greatest distance over its interval."""
    ends = [max(paper.low - value, value - paper.high, 0.0) for value in (found.value, found.low, found.high)]
    touches = found.low <= paper.high and found.high >= paper.low
    return Estimate(ends[0], 0.0 if touches else min(ends), max(ends))


def trend(distances: Sequence[Estimate]) -> str:
    """Whether a claim comes nearer to the paper from rung to rung, smallest first.

    *Towards*: the distance falls at every step, and the intervals of the smallest and the largest rung are apart; *away*: it
    rises so. *No trend*: no two intervals are apart, and each is narrower than half the first distance, so that one could have
    been seen, or every rung lies in the paper's range. *Cannot say* otherwise: fewer than three rungs, one training of a rung,
    wide intervals, or steps both ways.
    """
    if len(distances) < FEWEST or not all(math.isfinite(one.low) and math.isfinite(one.high) for one in distances):
        return UNTOLD
    first, last = distances[0], distances[-1]
    steps = [after.value - before.value for before, after in pairwise(distances)]
    if last.high < first.low and all(step < 0 for step in steps):
        return TOWARDS
    if last.low > first.high and all(step > 0 for step in steps):
        return AWAY
    overlap = all(one.low <= other.high and other.low <= one.high for one, other in combinations(distances, 2))
    narrow = all(one.high - one.low < first.value / 2 for one in distances)
    inside = all(one.high == 0 for one in distances)
    return NONE if overlap and (narrow or inside) else UNTOLD


def trends(
    table: pd.DataFrame, paper: Mapping[str, Interval], l0_ratio: float = L0_SHARES[0], width_ratio: float = WIDTHS[0]
) -> dict[str, tuple[str, dict[int, Estimate]]]:
    """Of each question's key: the word of `trend`, and the quantity at each rung, at one setting (the ladder's first)."""
    found = {}
    for question in QUESTIONS:
        rungs = by_rung(at(table, question.quantity, l0_ratio, width_ratio))
        range_ = question.accepted(paper)
        found[question.key] = trend([distance(one, range_) for one in rungs.values()]), rungs
    return found
