"""The ladder's measurements as this chapter shows them: every claim at every rung, and what a rung costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd

from dm_utils.base.errors import ParameterError, shown
from dm_utils.base.verdicts import Interval
from dm_utils.engine import ladder
from dm_utils.engine.ladder import QUESTIONS, Question
from dm_utils.lab.ladder import HEAD, NEXT, rung
from dm_utils.maths.resampling import Estimate
from dm_utils.world.shapes import Shape


@dataclass(frozen=True)
class Setting:
    """At which ratios the SAEs of the rungs are compared."""

    l0_ratio: float
    width_ratio: float

    def __str__(self) -> str:
        return f"L0/d {Fraction(self.l0_ratio).limit_denominator(1000)}, W/d {self.width_ratio:g}"


def setting(table: pd.DataFrame, l0_ratio: Any = None, width_ratio: Any = None) -> Setting:
    """The setting that a reader asks for; by default the one at which the most is measured on the most rungs.

    Raises
    ------
    ParameterError : a ratio that was not measured; says which were.
    """
    counted = table.dropna(subset="width_ratio").groupby(["l0_ratio", "width_ratio"])[["d", "quantity"]].nunique()
    rows = counted.sort_values(["d", "quantity"], ascending=False, kind="stable").reset_index()
    for name, wanted in (("l0_ratio", l0_ratio), ("width_ratio", width_ratio)):
        if wanted is None:
            continue
        there = sorted(rows[name].unique())
        if isinstance(wanted, bool) or not isinstance(wanted, (int, float)) or not np.isclose(there, wanted).any():
            raise ParameterError(f"{name} = {shown(wanted)}: the ladder was measured at {', '.join(map(str, there))}")
        rows = rows[np.isclose(rows[name], wanted)]
    if rows.empty:
        raise ParameterError(f"l0_ratio = {l0_ratio} and width_ratio = {width_ratio}: no SAE of the ladder has both")
    return Setting(float(rows["l0_ratio"].iloc[0]), float(rows["width_ratio"].iloc[0]))


def settings(table: pd.DataFrame) -> list[Setting]:
    """Every setting at which SAEs were measured, that with the most first."""
    first = setting(table)
    pairs = table[["l0_ratio", "width_ratio"]].dropna().drop_duplicates().itertuples(index=False)
    others = {Setting(*map(float, pair)) for pair in pairs} - {first}
    return [first, *sorted(others, key=lambda one: (one.l0_ratio, one.width_ratio))]


def points(table: pd.DataFrame, paper: Mapping[str, Interval]) -> pd.DataFrame:
    """Every question at every rung and setting, and the paper's value at the end, for the first figure.

    Returns
    -------
    DataFrame
        `says` (the question), `place` (d, or the paper's models), `setting`, `value, low, high, seeds`.
    """
    rows = []
    for question in QUESTIONS:
        for one in settings(table):
            some = ladder.at(table, question.quantity, one.l0_ratio, one.width_ratio)
            for d, found in ladder.by_rung(some).items():
                n = int((some["d"] == d).sum())
                rows.append({"says": question.says, "place": f"{d}", "setting": str(one), "seeds": n} | found.columns())
        about = {"says": question.says, "place": PAPER, "setting": PAPER, "seeds": 0}
        rows.append(about | question.accepted(paper).columns())
    return pd.DataFrame(rows)


PAPER = "paper"


@dataclass(frozen=True)
class Answer:
    """One question at one setting: the quantity at each rung, its distance from the paper's range, and the word of the rule."""

    question: Question
    rungs: dict[int, Estimate]
    distances: dict[int, Estimate]
    word: str
    elsewhere: tuple[str, ...]
    """The words at the other settings with enough rungs."""


def answers(table: pd.DataFrame, paper: Mapping[str, Interval], here: Setting) -> list[Answer]:
    """Every question at one setting, with the words that the rule gives elsewhere."""
    found, main = [], ladder.trends(table, paper, here.l0_ratio, here.width_ratio)
    for question in QUESTIONS:
        word, rungs = main[question.key]
        away = [
            ladder.trends(table, paper, l0, width)[question.key][0]
            for l0, width in ladder.settings(table, question.quantity)
            if not (np.isclose(l0, here.l0_ratio) and (np.isnan(width) or np.isclose(width, here.width_ratio)))
        ]
        distances = {d: ladder.distance(one, question.accepted(paper)) for d, one in rungs.items()}
        found.append(Answer(question, rungs, distances, word, tuple(away)))
    return found


# --- what a rung costs -------------------------------------------------------------------------------------


def shape_of(d: int) -> Shape:
    """The sizes of a rung's language model."""
    model = rung(d).model
    heads = model.n_heads, model.n_key_value_heads, model.d_head
    return Shape(model.n_layers, d, model.d_mlp, *heads, model.vocabulary_size, 2, needs_licence=False)


def costs(about: Mapping[int, Mapping[str, Any]], following: int = NEXT) -> pd.DataFrame:
    """What each rung took, and what the `following` one would: its arithmetic at the speed of the largest rung that ran.

    A model takes 6 operations per parameter and token; the SAEs of a rung d² times its tokens, which grow with d, so d³.

    Returns
    -------
    DataFrame
        `d, parameters, tokens, model_seconds, sae_seconds, model_nats, ran`; seconds are one thread's, beside other work.
    """
    if following < HEAD or following % HEAD:
        raise ParameterError(f"following = {following}: it must be a multiple of {HEAD}, the width of a head")
    rows = []
    for d, made in sorted(about.items()):
        names = ("model_seconds", "sae_seconds", "model_nats", "saes")
        row = {"d": d, "parameters": shape_of(d).parameters, "tokens": made["model_tokens"]}
        rows.append(row | {name: made[name] for name in names} | {"ran": True})
    last, p = rows[-1], shape_of(following).parameters
    speed = 6 * last["parameters"] * last["tokens"] / last["model_seconds"]
    tokens = rung(following).model.steps * rung(following).model.batch_contexts * rung(following).model.ctx_len
    guess = {"d": following, "parameters": p, "tokens": tokens, "model_seconds": 6 * p * tokens / speed}
    per_sae = last["sae_seconds"] / last["saes"] * (following / last["d"]) ** 3
    n = len(rung(following).suite)
    return pd.DataFrame([*rows, guess | {"sae_seconds": n * per_sae, "model_nats": np.nan, "saes": n, "ran": False}])
