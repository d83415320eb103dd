"""Automated interpretability (Section 5.2): explain a latent from its top contexts, then test the explanation on others.

The test is detection: an explainer sees the windows of text that activate a latent most; a scorer, given only the explanation,
says of each test window whether the latent is active in it.  Explainer and scorer are interfaces with two implementations:
token rules (here and in ``token_rules``: no language model) and a chat endpoint (``lm_interp``).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dm_utils.engine.text_windows import Activity, Examples
from dm_utils.engine.token_rules import Rule, TokenSets, learn_rule


@dataclass(frozen=True)
class Explanation:
    """An explanation in words, with the rule behind it where there is one; ``text`` None: no valid answer was given."""

    text: str | None
    rule: Rule | None = None


class Explainer(Protocol):
    """Turns examples of one latent into an explanation."""

    def explain(self, examples: Examples) -> Explanation:
        """Say when the latent is active, as far as its examples show it."""


class Scorer(Protocol):
    """Says for each window whether the explained latent is active in it; None where no valid answer could be had."""

    def score(self, explanation: Explanation, tokens: np.ndarray) -> list[bool | None]:
        """Read the windows of ``tokens`` [window, position], whose codes it does not see."""


class RuleExplainer:
    """The embedded explainer: a rule about tokens, learned from the examples (``token_rules.learn_rule``)."""

    def __init__(self, vocabulary: Sequence[str]):
        self.sets = TokenSets(vocabulary)

    def explain(self, examples: Examples) -> Explanation:
        """The best short rule for these examples, and its words."""
        rule = learn_rule(examples, self.sets)
        return Explanation(rule.text, rule)


class RuleScorer:
    """The embedded scorer: a window is active when the rule holds somewhere in it."""

    def score(self, explanation: Explanation, tokens: np.ndarray) -> list[bool | None]:
        """One decision per window [window, position]; raises ``ValueError`` for an explanation without a rule."""
        if explanation.rule is None:
            raise ValueError("this explanation has no rule; score it with the scorer that belongs to its explainer")
        return explanation.rule.active(tokens).tolist()


def some_latents(activity: Activity, n: int, seed: int = 0) -> np.ndarray:
    """`n` alive latents drawn at random, in order; all of them if there are no more."""
    alive = activity.alive
    chosen = np.random.default_rng(seed).permutation(len(alive))[:n]
    return alive[np.sort(chosen)]


@dataclass(frozen=True)
class Scores:
    """The outcome for one SAE: per latent and group the share of right decisions (NaN where no valid answer was given)."""

    latents: np.ndarray  # [latent]
    right: np.ndarray  # [latent, group] share of right decisions
    given: list[Explanation]  # [latent]
    groups: tuple[str, ...]
    n_skipped: int  # alive latents with too few windows to be tested
    n_unanswered: int  # decisions without a valid answer

    @property
    def explanations(self) -> list[str | None]:
        """The explanation of each latent in words [latent]."""
        return [explanation.text for explanation in self.given]


def interpret(activity: Activity, explainer: Explainer, scorer: Scorer, latents=None, workers: int = 1) -> Scores:
    """Explain and test latents (Figure 7).

    Parameters
    ----------
    activity : Activity
    explainer, scorer
        Implementations that belong together.
    latents : sequence of int, optional
        Which latents; all alive ones by default.
    workers : int
        Latents handled at once (for an endpoint; rules gain nothing from it).

    Raises
    ------
    ValueError
        When no latent has enough windows to be tested.
    """
    latents = activity.alive if latents is None else np.asarray(latents)
    samples = {int(i): s for i in latents if (s := activity.sample(int(i))) is not None}
    if not samples:
        raise ValueError(
            f"none of {len(latents)} latents has {activity.plan.n_deciles * activity.plan.per_decile} activating and "
            f"{activity.plan.n_not} silent test windows; use more contexts, or ask for fewer windows per decile"
        )
    given = _each(explainer.explain, [examples for examples, _, _ in samples.values()], workers, "explain")
    return _scored(activity, scorer, samples, given, len(latents) - len(samples), workers)


def dealt_wrong(activity: Activity, scorer: Scorer, scores: Scores, workers: int = 1) -> Scores:
    """The control: each latent judged by the explanation of the next one, which shows what the test gives for nothing."""
    samples = {int(i): s for i in scores.latents if (s := activity.sample(int(i))) is not None}
    return _scored(activity, scorer, samples, scores.given[1:] + scores.given[:1], scores.n_skipped, workers)


def _scored(
    activity: Activity, scorer: Scorer, samples: dict[int, Any], given: list[Explanation], n_skipped: int, workers: int
) -> Scores:
    """Judge every latent's test windows by the explanation that it was given."""
    asked = [(e, activity.tokens[test]) for e, (_, test, _) in zip(given, samples.values(), strict=True)]
    answers = _each(lambda pair: _decide(scorer, *pair), asked, workers, "score")
    groups = activity.plan.groups
    right = [_right(a, group, len(groups)) for a, (_, _, group) in zip(answers, samples.values(), strict=True)]
    unanswered = sum(int(np.isnan(a).sum()) for a in answers)
    return Scores(np.array(list(samples)), np.stack(right), given, groups, n_skipped, unanswered)


def _decide(scorer: Scorer, explanation: Explanation, tokens: np.ndarray) -> np.ndarray:
    if explanation.text is None:
        return np.full(len(tokens), np.nan)
    answers = scorer.score(explanation, tokens)
    if len(answers) != len(tokens):
        raise ValueError(
            f"the scorer gave {len(answers)} decisions for {len(tokens)} windows; it must give one for each"
        )
    return np.array([np.nan if a is None else float(a) for a in answers])


def _right(answer: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    right = np.where(np.isnan(answer), np.nan, answer == (group > 0))
    known = np.bincount(group, ~np.isnan(right), n_groups)
    with np.errstate(invalid="ignore"):
        return np.bincount(group, np.nan_to_num(right), n_groups) / known  # 0 / 0: no valid answer in this group


def _each(fn, items: list, workers: int, name: str) -> list:
    """``fn`` over ``items`` in order; the first failure cancels what has not started and is raised."""
    if workers <= 1:
        return [fn(item) for item in tqdm(items, desc=name, leave=False)]
    pool = ThreadPoolExecutor(workers)
    try:
        return list(tqdm(pool.map(fn, items), total=len(items), desc=name, leave=False))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def accuracy(scores: Scores, n_bootstrap: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Mean accuracy per group, and balanced over ``not`` and the deciles, with 95 % intervals over latents.

    Returns columns ``group, value, low, high, n_latents``; the last row, ``balanced``, is the mean over latents of
    (accuracy on ``not`` + mean accuracy over deciles) / 2, for which 0.5 is what an explanation that says nothing earns.
    """
    right = np.column_stack([scores.right, balanced(scores)])
    draws = _bootstrap_means(right, n_bootstrap, seed)
    low, high = np.nanquantile(draws, [0.025, 0.975], axis=0)
    return pd.DataFrame(
        {
            "group": [*scores.groups, "balanced"],
            "value": np.nanmean(right, axis=0),
            "low": low,
            "high": high,
            "n_latents": (~np.isnan(right)).sum(axis=0),
        }
    )


def balanced(scores: Scores) -> np.ndarray:
    """Balanced accuracy of each latent [latent]; NaN where a group has no valid answer."""
    return (scores.right[:, 0] + scores.right[:, 1:].mean(axis=1)) / 2


def accuracy_difference(a: Scores, b: Scores, n_bootstrap: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Accuracy of ``a`` minus accuracy of ``b`` per group, latents drawn anew on both sides: ``group, value, low, high``."""
    if a.groups != b.groups:
        raise ValueError(f"the two tests have different groups, {a.groups} and {b.groups}; use one WindowPlan for both")
    left, right = (np.column_stack([s.right, balanced(s)]) for s in (a, b))
    draws = _bootstrap_means(left, n_bootstrap, seed) - _bootstrap_means(right, n_bootstrap, seed + 1)
    low, high = np.nanquantile(draws, [0.025, 0.975], axis=0)
    value = np.nanmean(left, axis=0) - np.nanmean(right, axis=0)
    return pd.DataFrame({"group": [*a.groups, "balanced"], "value": value, "low": low, "high": high})


def _bootstrap_means(right: np.ndarray, n_bootstrap: int, seed: int) -> np.ndarray:
    """Means over latents drawn with replacement, [draw, group]; latents without a valid answer in a group do not count there."""
    n = len(right)
    weight = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_bootstrap).astype(float)
    known = ~np.isnan(right)
    with np.errstate(invalid="ignore"):
        return (weight @ np.nan_to_num(right)) / (weight @ known)
