"""Rules about tokens: an explanation of a latent that needs no language model and that a reader can check by eye.

A *pattern* is a set of vocabulary entries at a fixed distance before the active token (or two such sets together).  A *rule* is
a short list of patterns, read as "one of these": it holds in a window of text when one of its patterns matches at some position.
Rules are learned greedily, from the explanation examples alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dm_utils.engine.text_windows import Examples

#: Classes of tokens by how they are written: name -> test on the token without its leading space.
WRITTEN_AS: dict[str, re.Pattern[str]] = {
    "a capitalised word": re.compile(r"[A-Z][a-z]+"),
    "all capitals": re.compile(r"[A-Z]{2,}"),
    "a digit or number": re.compile(r"[0-9]+"),
    "punctuation": re.compile(r"[^\w\s]+"),
    "an opening bracket or quote": re.compile(r"[\(\[\{<\"'`]+"),
    "a closing bracket or quote": re.compile(r"[\)\]\}>]+"),
    "a word with an underscore": re.compile(r"\w*_\w*"),
    "a single letter": re.compile(r"[A-Za-z]"),
    "white space": re.compile(r"\s*"),
}

Condition = tuple[int, str]  # how many tokens before the active one, and the name of a set of vocabulary entries


class TokenSets:
    """Named sets of vocabulary entries, each a boolean row over the vocabulary, built when first asked for.

    Parameters
    ----------
    vocabulary : sequence of str
        The text of every token id, leading space included.

    Notes
    -----
    Names are what the reader sees: `token ' the'`, `written as a digit or number`, `starts a word`, `continues a word`,
    `contains a line break`, `ends in 'ing'`, `begins with 'un'`.
    """

    def __init__(self, vocabulary: Sequence[str]):
        text = self.vocabulary = list(vocabulary)
        words = [t.strip(" ") for t in text]
        self._members: dict[str, list[int]] = defaultdict(list)  # set -> token ids, for sets of a few tokens
        for token, word in enumerate(words):
            self._members[f"token {text[token]!r}"].append(token)  # two ids may share one text: pieces of a character
            for name in _affixes(word):
                self._members[name].append(token)
        self._rows = {
            f"written as {name}": np.array([bool(pattern.fullmatch(word)) for word in words])
            for name, pattern in WRITTEN_AS.items()
        }
        self._rows["starts a word"] = np.array([bool(re.match(r" \w", t)) for t in text])
        self._rows["continues a word"] = np.array([bool(re.match(r"[a-z]", t)) for t in text])
        self._rows["contains a line break"] = np.array(["\n" in t for t in text])
        self._classes = tuple(self._rows)
        self._names: dict[int, tuple[str, ...]] = {}

    def row(self, name: str) -> np.ndarray:
        """The set `name` as booleans [vocabulary]; an unknown name raises `KeyError`."""
        if name not in self._rows:
            if name not in self._members:
                raise KeyError(f"no token set is called {name!r}; sets are named by TokenSets.names_of")
            self._rows[name] = np.zeros(len(self.vocabulary), dtype=bool)
            self._rows[name][self._members[name]] = True
        return self._rows[name]

    def names_of(self, token: int) -> tuple[str, ...]:
        """The sets that hold `token`: itself first, then its ending and beginning, then how it is written."""
        if token not in self._names:
            text = self.vocabulary[token]
            classes = (name for name in self._classes if self._rows[name][token])
            self._names[token] = (f"token {text!r}", *_affixes(text.strip(" ")), *classes)
        return self._names[token]


def _affixes(word: str) -> Iterator[str]:
    """The names of the ending and beginning sets of a word, the longest first."""
    for size in (4, 3, 2):
        if len(word) > size and word.isalpha():
            yield f"ends in {word[-size:]!r}"
            yield f"begins with {word[:size]!r}"


@dataclass(frozen=True)
class Pattern:
    """One or two conditions that hold together, each a named token set at a distance before the active token."""

    conditions: tuple[Condition, ...]

    def match(self, tokens: np.ndarray, sets: TokenSets) -> np.ndarray:
        """Where the pattern holds: booleans with the shape of `tokens` [window, position]; text before a window is unknown."""
        found = np.ones(tokens.shape, dtype=bool)
        for back, name in self.conditions:
            held = sets.row(name)[tokens]
            if back:
                held[:, back:], held[:, :back] = held[:, :-back].copy(), False
            found &= held
        return found

    def __str__(self) -> str:
        words = {0: "{}", 1: "after {}", 2: "two after {}"}
        return ", ".join(words[back].format(name) for back, name in self.conditions)


@dataclass(frozen=True)
class Rule:
    """A list of patterns, any of which is enough; `str(rule)` is the explanation that a reader sees."""

    patterns: tuple[Pattern, ...] = ()
    sets: TokenSets = field(repr=False, compare=False, default_factory=lambda: TokenSets([]))

    @property
    def text(self) -> str:
        """The rule in words."""
        return " | ".join(map(str, self.patterns)) or "no rule found"

    def active(self, tokens: np.ndarray) -> np.ndarray:
        """Whether the rule holds anywhere in each window: booleans [window] for token ids [window, position]."""
        hit = np.zeros(len(tokens), dtype=bool)
        for pattern in self.patterns:
            hit |= pattern.match(tokens, self.sets).any(axis=1)
        return hit


def candidate_patterns(tokens: np.ndarray, peak: np.ndarray, sets: TokenSets) -> list[Pattern]:
    """Every pattern that holds at the strongest position of at least one window, plainest first, each once.

    `tokens` are ids [window, position], `peak` the strongest position of each window.  Per window: every set of the peak
    token, the exact tokens one and two before it, how the token before is written, and the peak token with the one before it.
    """
    found: dict[Pattern, None] = {}
    rows = list(zip(tokens, peak, strict=True))
    for row, at in rows:
        found |= dict.fromkeys(Pattern(((0, name),)) for name in sets.names_of(row[at]))
    for row, at in rows:
        found |= dict.fromkeys(Pattern(((1, name),)) for name in (sets.names_of(row[at - 1]) if at else ()))
    for row, at in rows:
        if at:
            found[Pattern(((0, sets.names_of(row[at])[0]), (1, sets.names_of(row[at - 1])[0])))] = None
        if at > 1:
            found[Pattern(((2, sets.names_of(row[at - 2])[0]),))] = None
    return list(found)


def learn_rule(examples: Examples, sets: TokenSets, max_patterns: int = 8, least_gain: float = 0.02) -> Rule:
    """Choose patterns one at a time so that the rule tells the active from the inactive explanation windows.

    The score of a rule is its balanced accuracy on the examples, (share of active windows in which a pattern matches at an
    *active* position + share of inactive windows without any match) / 2.  The pattern with the largest gain is added until the
    gain falls below `least_gain` or `max_patterns` are in.  Ties go to the plainer pattern.  Test windows are never seen.
    """
    tokens, active = examples.tokens, examples.activation > 0
    peak = examples.activation.argmax(axis=1)
    patterns = candidate_patterns(tokens, peak, sets)
    if not patterns:
        return Rule((), sets)
    covers = np.stack([(p.match(tokens, sets) & active).any(axis=1) for p in patterns])  # [pattern, active window]
    alarms = np.stack(
        [p.match(examples.inactive_tokens, sets).any(axis=1) for p in patterns]
    )  # [pattern, inactive window]
    chosen: list[int] = []
    covered, alarmed = np.zeros(covers.shape[1], bool), np.zeros(alarms.shape[1], bool)
    while len(chosen) < max_patterns:
        gain = ((covers & ~covered).mean(axis=1) - _share(alarms & ~alarmed)) / 2
        best = int(gain.argmax())
        if gain[best] < least_gain:
            break
        chosen.append(best)
        covered, alarmed = covered | covers[best], alarmed | alarms[best]
    return Rule(tuple(patterns[i] for i in chosen), sets)


def _share(flags: np.ndarray) -> np.ndarray:
    return flags.mean(axis=1) if flags.shape[1] else np.zeros(len(flags))
