"""The verdict on a claim: one of four words, by one rule."""

from __future__ import annotations

from collections.abc import Iterable

HOLDS, PARTLY, DIFFERS, UNTESTABLE = "holds", "partly", "differs", "untestable here"


def verdict(cases: Iterable[bool | None]) -> str:
    """Judge a claim by the cases that it speaks of: True, the claim stands there; False, it fails; None, it cannot be told.

    It *holds* if it stands in every case, *differs* if it fails somewhere and stands nowhere, is *untestable here* if no case
    can tell (or there is none), and holds *partly* otherwise.
    """
    found = list(cases)
    if found and all(found):
        return HOLDS
    if True in found:
        return PARTLY
    return DIFFERS if False in found else UNTESTABLE


def above(low: float, high: float, threshold: float) -> bool | None:
    """Whether an interval lies above a threshold: None where it holds the threshold (or is undefined)."""
    return True if low > threshold else False if high < threshold else None


def within(low: float, high: float, least: float, most: float) -> bool | None:
    """Whether an interval lies in a range: None where it crosses one of the range's ends (or is undefined)."""
    if least <= low and high <= most:
        return True
    return False if high < least or low > most else None
