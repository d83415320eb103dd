"""Rules that turn a profile's results into a verdict on a claim of the paper. Each says in words what it does.

A rule takes the rows of one profile, in the columns of the book's tables, and returns a :class:`Verdict`. An interval counts, not
its middle: a value lies below a bound when its whole interval does. Rows without an interval count with their value alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from dm_utils.base.verdicts import DIFFERS, HOLDS, PARTLY, UNTESTABLE, verdict
from dm_utils.base.words import interval, number
from dm_utils.engine.suite import near_l0

WORDS = (HOLDS, PARTLY, DIFFERS, UNTESTABLE)
SITE = ["hook_name", "sae_id"]  # what says that two rows are of one SAE


@dataclass(frozen=True)
class Verdict:
    """A word of `WORDS`, this profile's value as text, and how many of how many results agree with the claim."""

    word: str
    value: str = "–"
    agree: int = 0
    of: int = 0


@dataclass(frozen=True)
class Rows:
    """Which rows a rule reads: a chapter, a metric (a regular expression that must match whole), and a figure's beginning."""

    chapter: str
    metric: str
    figure: str = ""
    only: Callable[[pd.DataFrame], pd.Series] | None = None

    def of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows that are meant, in order, with `low` and `high` (the value itself where there is no interval)."""
        chosen = (rows["chapter"] == self.chapter) & rows["metric"].str.fullmatch(self.metric)
        chosen &= rows["figure"].fillna("").astype(str).str.startswith(self.figure)
        found = rows[chosen]
        found = found[self.only(found)] if self.only is not None and len(found) else found
        return found.assign(low=found["ci_low"].fillna(found["value"]), high=found["ci_high"].fillna(found["value"]))


@dataclass(frozen=True)
class Rule:
    """Judges the rows of one profile; `chapter` is the last of those whose rows it reads: there all of it is measured."""

    chapter: str
    judge: Callable[[pd.DataFrame], Verdict]

    def __call__(self, table: pd.DataFrame) -> Verdict:
        """The verdict on these rows."""
        return self.judge(table)


@dataclass(frozen=True)
class Claim:
    """A claim: where the paper makes it, what it says and reports, and the test in words and as a rule.

    Both stand on the page, so that a reader can disagree with either.
    """

    key: str
    place: str
    says: str
    paper: str
    test: str
    rule: Rule


def judged(agrees: Sequence[bool], value: str) -> Verdict:
    """The verdict over results that agree or do not, with their counts."""
    return Verdict(verdict(agrees), value if len(agrees) else "–", sum(agrees), len(agrees))


def shown(found: pd.DataFrame) -> str:
    """One value with its interval, or the spread of several."""
    if len(found) == 1:
        row = found.iloc[0]
        return interval(row["value"], row["ci_low"], row["ci_high"])
    return (
        f"{number(found['value'].min())} to {number(found['value'].max())} ({len(found)} results)"
        if len(found)
        else "–"
    )


def inside(rows: Rows, low: float, high: float) -> Rule:
    """Every interval touches the range from `low` to `high`."""

    def rule(table: pd.DataFrame) -> Verdict:
        found = rows.of(table)
        return judged(((found["high"] >= low) & (found["low"] <= high)).tolist(), shown(found))

    return Rule(rows.chapter, rule)


def wholly(rows: Rows, low: float, high: float) -> Rule:
    """Every interval lies within the range from `low` to `high`, both ends of it."""

    def rule(table: pd.DataFrame) -> Verdict:
        found = rows.of(table)
        return judged(((found["low"] >= low) & (found["high"] <= high)).tolist(), shown(found))

    return Rule(rows.chapter, rule)


def above(rows: Rows, bound: float) -> Rule:
    """Every interval lies above a bound."""

    def rule(table: pd.DataFrame) -> Verdict:
        found = rows.of(table)
        return judged((found["low"] > bound).tolist(), shown(found))

    return Rule(rows.chapter, rule)


def below(rows: Rows, bound: float) -> Rule:
    """Every interval lies below a bound."""

    def rule(table: pd.DataFrame) -> Verdict:
        found = rows.of(table)
        return judged((found["high"] < bound).tolist(), shown(found))

    return Rule(rows.chapter, rule)


def ahead(first: Rows, second: Rows, on: Sequence[str] = SITE) -> Rule:
    """For every SAE, the first quantity's interval lies above the second's."""

    def rule(table: pd.DataFrame) -> Verdict:
        pairs = _pairs(first, second, on, table)
        return judged((pairs["low"] > pairs["high_other"]).tolist(), _difference(pairs))

    return Rule(max(first.chapter, second.chapter), rule)


def close(first: Rows, second: Rows, tolerance: float) -> Rule:
    """For every SAE, two quantities differ by at most `tolerance`."""

    def rule(table: pd.DataFrame) -> Verdict:
        pairs = _pairs(first, second, SITE, table)
        return judged(((pairs["value"] - pairs["value_other"]).abs() <= tolerance).tolist(), _difference(pairs))

    return Rule(max(first.chapter, second.chapter), rule)


def _pairs(first: Rows, second: Rows, on: Sequence[str], table: pd.DataFrame) -> pd.DataFrame:
    columns = [*on, "value", "low", "high"]
    return first.of(table)[columns].merge(second.of(table)[columns], on=list(on), suffixes=("", "_other"))


def _difference(pairs: pd.DataFrame) -> str:
    gap = pairs["value"] - pairs["value_other"]
    return f"by {number(gap.min())} to {number(gap.max())} ({len(pairs)} pairs)" if len(pairs) else "–"


def trend(rows: Rows, along: str, falls: bool, within: Sequence[str]) -> Rule:
    """In every series (equal `within`), the value at the largest `along` lies below (or above) that at the smallest, intervals apart."""

    def rule(table: pd.DataFrame) -> Verdict:
        found = _with_l0_label(rows.of(table).dropna(subset=[along, "l0"]))
        agrees, ends = [], []
        for _, series in found.groupby(list(within)):
            series = series.sort_values(along)
            if series[along].nunique() < 2:
                continue
            first, last = series.iloc[0], series.iloc[-1]
            agrees.append(bool(last["high"] < first["low"]) if falls else bool(last["low"] > first["high"]))
            ends.append(last["value"] - first["value"])
        value = f"from end to end by {number(min(ends))} to {number(max(ends))} ({len(ends)} series)" if ends else "–"
        return judged(agrees, value)

    return Rule(rows.chapter, rule)


def _with_l0_label(found: pd.DataFrame) -> pd.DataFrame:
    """Rows with `l0_near`, the power of two nearest to the measured L0, and the SAE's `architecture` as its id tells it."""
    kind = found["sae_id"].fillna("").astype(str).str.extract(r"(topk|jumprelu)", expand=False).fillna("")
    return found.assign(l0_near=near_l0(found["l0"].astype(float).clip(lower=1)), architecture=kind)


def layer_of(found: pd.DataFrame) -> pd.Series:
    """The layer that a row's hook names."""
    return found["hook_name"].astype(str).str.extract(r"blocks\.(\d+)\.", expand=False).astype(float)


def at_ends(rows: Rows, last: bool) -> Rule:
    """The first (or the last) layer's interval lies below the median of the layers between."""

    def rule(table: pd.DataFrame) -> Verdict:
        found = rows.of(table)
        found = found.assign(layer=layer_of(found)).dropna(subset=["layer"]).sort_values("layer")
        if found["layer"].nunique() < 4:
            return Verdict(UNTESTABLE)
        middle = found[(found["layer"] > found["layer"].min()) & (found["layer"] < found["layer"].max())][
            "value"
        ].median()
        end = found.iloc[[-1 if last else 0]]
        return judged((end["high"] < middle).tolist(), f"{shown(end)}, the middle {number(middle)}")

    return Rule(rows.chapter, rule)


def both(*rules: Rule) -> Rule:
    """Holds where every part holds; differs where every part differs; untestable where any part is; else partly."""

    def rule(table: pd.DataFrame) -> Verdict:
        parts = [part(table) for part in rules]
        words = {part.word for part in parts}
        word = UNTESTABLE if UNTESTABLE in words else words.pop() if len(words) == 1 else PARTLY
        agree, of = sum(part.agree for part in parts), sum(part.of for part in parts)
        return Verdict(word, "; ".join(part.value for part in parts), agree, of)

    return Rule(max(part.chapter for part in rules), rule)
