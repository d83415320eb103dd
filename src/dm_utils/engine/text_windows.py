"""Windows of text and what each latent does in them: the material of automated interpretability.

A window is a run of consecutive kept tokens of one context.  Half of the contexts provide the windows that explain a latent, the
other half those that test the explanation, so no context is on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dm_utils.base.errors import ParameterError, check_range
from dm_utils.world.profile import Profile


@dataclass(frozen=True)
class WindowPlan:
    """What each latent is shown and asked (defaults: the paper's test, on windows of 32 tokens).

    Attributes
    ----------
    window : length of a window, in tokens.
    n_explain : top activating windows that the explainer sees.
    n_contrast : non-activating windows that the explainer sees.
    n_deciles, per_decile : test windows, drawn from each tenth of the activating windows ranked by peak activation.
    n_not : non-activating test windows.
    seed : decides which contexts explain and which test, and every draw.
    """

    window: int = 32
    n_explain: int = 20
    n_contrast: int = 50
    n_deciles: int = 10
    per_decile: int = 7
    n_not: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("window", "n_explain", "n_deciles", "per_decile", "n_not"):
            check_range(name, getattr(self, name), 1, whole=True)

    @classmethod
    def of(cls, profile: Profile, window: int) -> WindowPlan:
        """The plan for a profile's contexts, its seed included; refuses a window that no context can hold."""
        if window > profile.kept_per_context:
            raise ParameterError(
                f"window = {window}: a context of {profile.name} has {profile.kept_per_context} kept tokens; choose at most that"
            )
        return cls(window=window, seed=profile.seed)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of test windows, as in Figure 7: ``not``, ``Q1`` (weakest) ... ``Q10`` (strongest)."""
        return ("not", *(f"Q{i + 1}" for i in range(self.n_deciles)))

    @property
    def n_test(self) -> int:
        """Test windows per latent."""
        return self.n_not + self.n_deciles * self.per_decile


@dataclass(frozen=True)
class Examples:
    """What an explainer sees of one latent: active windows, strongest first, and windows in which it is silent."""

    tokens: np.ndarray  # ids [window, position]
    activation: np.ndarray  # [window, position], the latent's activation at each token
    inactive_tokens: np.ndarray  # ids [window, position]


class Activity:
    """Which latents are active where, cut into windows of text.

    Parameters
    ----------
    row, latent, value : arrays [entry]
        The positive activations of the SAE's codes: row of the token, latent, activation.
    token_id, context, position : arrays [token]
        The kept tokens in reading order.  Windows never cross a context or a gap; a remainder shorter than a window is dropped.
    plan : WindowPlan
    """

    def __init__(self, row, latent, value, token_id, context, position, plan: WindowPlan):
        self.plan = plan
        rows = window_rows(
            np.asarray(context), np.asarray(position), plan.window
        )  # [window, position] row of the token
        self.tokens = np.asarray(token_id)[rows]
        place = np.full(len(token_id), -1, dtype=np.int64)
        place[rows.ravel()] = np.arange(rows.size)
        keep = (np.asarray(value) > 0) & (place[np.asarray(row)] >= 0)
        place, latent, value = place[np.asarray(row)[keep]], np.asarray(latent)[keep], np.asarray(value)[keep]
        order = np.lexsort((place, latent))
        self._place, self._latent, self._value = place[order], latent[order], value[order]
        owner = np.asarray(context)[rows[:, 0]]
        names = np.random.default_rng(plan.seed).permutation(np.unique(owner))
        self.explains = np.isin(owner, names[: len(names) // 2])  # [window] else it tests

    @property
    def alive(self) -> np.ndarray:
        """The latents that are active in at least one window, in order."""
        return np.unique(self._latent)

    def entries(self, latent: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Window, position and activation of every token at which ``latent`` is active."""
        span = slice(*np.searchsorted(self._latent, [latent, latent + 1]))
        window, position = np.divmod(self._place[span], self.plan.window)
        return window, position, self._value[span]

    def peaks(self, latent: int) -> np.ndarray:
        """The largest activation of ``latent`` in each window [window]; 0 where it is silent."""
        window, _, value = self.entries(latent)
        peak = np.zeros(len(self.tokens), dtype=np.float32)
        np.maximum.at(peak, window, value)
        return peak

    def strongest(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and activations [position] of the explanation window in which `latent` is strongest."""
        window, position, value = self.entries(latent)
        shown = self.explains[window]
        best = window[shown][value[shown].argmax()]
        activation = np.zeros(self.plan.window, dtype=np.float32)
        activation[position[window == best]] = value[window == best]
        return self.tokens[best], activation

    def sample(self, latent: int) -> tuple[Examples, np.ndarray, np.ndarray] | None:
        """Explanation examples, test windows [test] and their groups [test] (0 ``not``, 1 weakest decile ...), in random order.

        None when the latent has fewer than ``n_deciles * per_decile`` activating or ``n_not`` silent test windows, or no
        explanation window: the caller counts it as skipped.
        """
        plan, peak = self.plan, self.peaks(latent)
        rng = np.random.default_rng([plan.seed, int(latent)])
        shown = np.flatnonzero(self.explains & (peak > 0))
        ranked = np.flatnonzero(~self.explains & (peak > 0))
        silent = np.flatnonzero(~self.explains & (peak == 0))
        if len(ranked) < plan.n_deciles * plan.per_decile or len(silent) < plan.n_not or not len(shown):
            return None
        tenths = np.array_split(ranked[np.argsort(peak[ranked], kind="stable")], plan.n_deciles)
        test = [
            rng.choice(silent, plan.n_not, replace=False),
            *(rng.choice(tenth, plan.per_decile, replace=False) for tenth in tenths),
        ]
        group = np.repeat(np.arange(len(test)), [len(part) for part in test])
        order = rng.permutation(len(group))
        return self._examples(latent, peak, shown, rng), np.concatenate(test)[order], group[order]

    def _examples(self, latent, peak, shown, rng) -> Examples:
        top = shown[np.argsort(-peak[shown], kind="stable")[: self.plan.n_explain]]
        quiet = np.flatnonzero(self.explains & (peak == 0))
        contrast = rng.choice(quiet, min(self.plan.n_contrast, len(quiet)), replace=False)
        window, position, value = self.entries(latent)
        slot = np.full(len(self.tokens), -1)
        slot[top] = np.arange(len(top))
        seen = slot[window] >= 0
        activation = np.zeros((len(top), self.plan.window), dtype=np.float32)
        activation[slot[window[seen]], position[seen]] = value[seen]
        return Examples(self.tokens[top], activation, self.tokens[contrast])


def marked(tokens: np.ndarray, active: np.ndarray, vocabulary: Sequence[str]) -> str:
    """The text of a window with its active tokens between << and >>, neighbours together."""
    words = (vocabulary[t] for t in tokens)
    return "".join(f"<<{word}>>" if on else word for word, on in zip(words, active, strict=True)).replace(">><<", "")


def window_rows(context: np.ndarray, position: np.ndarray, length: int) -> np.ndarray:
    """Rows of the tokens of every window [window, length]: consecutive positions of one context, no overlap, no remainder."""
    breaks = np.flatnonzero((np.diff(context) != 0) | (np.diff(position) != 1)) + 1
    runs = np.split(np.arange(len(context)), breaks)
    cut = [run[: len(run) // length * length].reshape(-1, length) for run in runs]
    rows = np.concatenate(cut) if cut else np.empty((0, length), dtype=int)
    if not len(rows):
        longest = max((len(run) for run in runs), default=0)
        raise ValueError(
            f"no run of consecutive kept tokens is {length} long (the longest is {longest}); choose a shorter window"
        )
    return rows
