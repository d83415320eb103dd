"""What the ladder says, as sentences and tables: which claims come nearer to the paper as the lab grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dm_utils.base.verdicts import Interval
from dm_utils.base.words import how_many, number
from dm_utils.chapters.ladder.experiment import Answer, Setting
from dm_utils.engine.ladder import AWAY, FEWEST, NONE, TOWARDS, UNTOLD, Question


def other_profile(name: str) -> str:
    """What the chapter says on a profile that is not the lab."""
    if name == "lab":
        return ""
    return "One recipe at several sizes exists for the lab only, so these results are the lab's, whatever this book's profile. "


def what_ran(table: pd.DataFrame, about: Mapping[int, Mapping[str, Any]], here: Setting) -> str:
    """Which rungs there are, with how many SAEs and seeds, and at which setting they are compared."""
    rungs = sorted(about)
    seeds = table.groupby("d")["seed"].nunique()
    enough = "" if len(rungs) >= FEWEST else f" A trend needs {FEWEST} rungs, so every verdict below is *{UNTOLD}*."
    return (
        f"The ladder has {len(rungs)} rung{'s' * (len(rungs) != 1)}: d {', '.join(map(str, rungs))}, with "
        f"{', '.join(str(about[d]['saes']) for d in rungs)} SAEs of {seeds.min()} seeds each. Verdicts are at {here}.{enough}"
    )


def range_words(question: Question, paper: Mapping[str, Interval]) -> str:
    """The paper's value, or its range, and how far from it counts as it; where it gives a word only, what the scoreboard accepts."""
    if not question.paper:
        low, high = question.within
        return f"above {number(low)}" if high == 1 else f"below {number(high)}"
    said = paper[question.paper]
    ends = number(said.low) if said.low == said.high else f"{number(said.low)} to {number(said.high)}"
    return f"{ends} ± {number(question.about)}" if question.about else ends


def table(answers: Sequence[Answer], paper: Mapping[str, Interval]) -> pd.DataFrame:
    """A row per claim: the paper's value, each rung's with its interval, and what the rule says of it."""
    rungs = sorted({d for one in answers for d in one.rungs})
    rows = []
    for one in answers:
        values = {f"d {d}": str(one.rungs[d]) if d in one.rungs else "–" for d in rungs}
        rows.append(
            {"Claim": one.question.says, "Paper": range_words(one.question, paper)}
            | values
            | {"As the lab grows": one.word, "At other ratios": elsewhere(one)}
        )
    return pd.DataFrame(rows)


def elsewhere(one: Answer) -> str:
    """Whether the rule says the same at the other ratios."""
    if not one.elsewhere:
        return "–"
    return f"{how_many(one.elsewhere.count(one.word), len(one.elsewhere))} of {len(one.elsewhere)} the same"


def inside(one: Answer) -> bool:
    """Whether every rung lies in the paper's range, intervals and all."""
    return bool(one.distances) and all(found.high == 0 for found in one.distances.values())


def verdict_sentences(answers: Sequence[Answer]) -> str:
    """The claims by the word of the rule, one sentence for each word that was given."""
    leads = {
        TOWARDS: "Nearer to the paper at every step up",
        AWAY: "Further from the paper at every step up",
        NONE: "No trend",
        UNTOLD: "Not to be told from these rungs",
    }
    lines = []
    for word, lead in leads.items():
        said = [
            f"{one.question.says}{' (in the range at every rung)' * inside(one)}" for one in answers if one.word == word
        ]
        if said:
            lines.append(f"- **{lead}** ({len(said)} of {len(answers)}): {'; '.join(said)}.")
    return "\n".join(lines)


def far(answers: Sequence[Answer]) -> str:
    """How far the claims that come nearer still are from the paper at the largest rung; nothing is extrapolated."""
    nearer = [one for one in answers if one.word == TOWARDS]
    if not nearer:
        return "No claim comes nearer to the paper's value at every step, so nothing here says that a larger lab would confirm more of it."
    parts = []
    for one in nearer:
        first, last = (list(one.distances.values())[place].value for place in (0, -1))
        parts.append(f"{one.question.says}: {number(first)} to {number(last)}")
    return f"Distance from the paper's range, from the smallest rung to the largest: {'; '.join(parts)}."


def cost_table(costs: pd.DataFrame) -> pd.DataFrame:
    """The costs as a reader sees them."""
    guess = costs["ran"].map({True: "", False: " (estimate)"})
    minutes, per_sae = costs["model_seconds"] / 60, costs["sae_seconds"] / costs["saes"]
    return pd.DataFrame(
        {
            "d": costs["d"],
            "parameters": costs["parameters"],
            "tokens": costs["tokens"],
            "minutes, model": minutes.map("{:.0f}".format) + guess,
            "SAEs": costs["saes"],
            "seconds per SAE": per_sae.map("{:.0f}".format) + guess,
            "nats per token": costs["model_nats"],
        }
    )


def missing(costs: pd.DataFrame) -> str:
    """That the rung after the last was not trained, and how long it would take."""
    rows = costs[~costs["ran"]]
    if rows.empty:
        return ""
    row, last = rows.iloc[0], costs[costs["ran"]].iloc[-1]
    model, saes = row["model_seconds"] / 3600, row["sae_seconds"] / 3600
    return (
        f"**d {row['d']} was not trained.** Its model needs {row['parameters'] / last['parameters']:.1f} times the arithmetic of "
        f"d {last['d']} per token: at the speed measured there {model:.1f} hours, and with its {row['saes']} SAEs {model + saes:.0f} "
        f"hours of one core. `make lab SIZE={row['d']}` trains it, and goes on where it was stopped."
    )


def learned(answers: Sequence[Answer]) -> str:
    """What a reader of the scoreboard can take from the ladder."""
    n = {word: sum(one.word == word for one in answers) for word in (TOWARDS, AWAY, NONE, UNTOLD)}
    known = len(answers) - n[UNTOLD]
    if not known:
        return "These rungs decide of none of the claims whether size is what separates the lab from the paper."
    still = "shows" if n[NONE] == 1 else "show"
    return (
        f"Of {len(answers)} claims, size moves {n[TOWARDS]} towards the paper's value and {n[AWAY]} away from it; {n[NONE]} {still} no "
        f"trend, and of {n[UNTOLD]} nothing can be said. Where the lab differs and size moves it towards the paper, the difference is at "
        "least partly one of size; where size moves it away or not at all, a larger lab of this kind is no explanation."
    )
