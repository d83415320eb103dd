"""The verdict on a claim: one of four words, by one rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

HOLDS, PARTLY, DIFFERS, UNTESTABLE = "holds", "partly", "differs", "untestable here"


def verdict(cases: Iterable[bool | None]) -> str:
    """Judge a claim by the cases that it speaks of: True, the claim stands there; False, it fails; None, it cannot be told.

    It *holds* if it stands in every case, holds *partly* if it stands in at least half of them, is *untestable here* if no case can
    tell (or there is none), and *differs* otherwise.
    """
    found = list(cases)
    stands = found.count(True)
    if stands and 2 * stands >= len(found):
        return HOLDS if stands == len(found) else PARTLY
    return DIFFERS if stands or False in found else UNTESTABLE


class Interval(Protocol):
    """What has two ends, as an estimate does."""

    @property
    def low(self) -> float:
        """The lower end."""

    @property
    def high(self) -> float:
        """The upper end."""


def above(found: Interval, threshold: float) -> bool | None:
    """Whether an interval lies above a threshold: None where it holds the threshold (or is undefined)."""
    return True if found.low > threshold else False if found.high < threshold else None


def within(found: Interval, least: float, most: float) -> bool | None:
    """Whether an interval lies in a range: None where it crosses one of the range's ends (or is undefined)."""
    if least <= found.low and found.high <= most:
        return True
    return False if found.high < least or found.low > most else None


def higher(found: Interval, other: Interval) -> bool | None:
    """Whether an interval lies above another: None where they overlap (or one is undefined)."""
    return True if found.low > other.high else False if found.high < other.low else None
