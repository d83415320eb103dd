"""The errors that a user meets, and how a mistyped name is answered."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any

ROOM = 120  # characters of a value in a message


class ParameterError(ValueError):
    """A parameter that cannot be used: names it, what was given, what is allowed."""


def shown(value: object) -> str:
    """A value as a message shows it; a long one is cut."""
    text = repr(value)
    return text if len(text) <= ROOM else f"{text[: ROOM - 20]}… ({len(text):,} characters)"


def require(name: str, allowed: Iterable[str], what: str) -> None:
    """Refuse a name that is not among the allowed ones, offering the nearest."""
    names = list(allowed)
    if name in names:
        return
    raise ParameterError(f"unknown {what} {shown(name)}; allowed: {', '.join(names)}.{did_you_mean(name, names)}")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of a refusal: the nearest of the names, if one is near."""
    near = difflib.get_close_matches(str(name)[:ROOM], names, n=1, cutoff=0.4)
    return f" Did you mean {near[0]!r}?" if near else ""


def check_range(name: str, value: Any, low: float, high: float = math.inf, whole: bool = False) -> None:
    """Refuse a parameter that is not a (whole) number from `low` to `high`, both allowed."""
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        limits = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise ParameterError(f"{name} = {shown(value)}: it must be {kind} {limits}")


class LoadError(RuntimeError):
    """Something cannot be loaded; the message says what, why and what to do."""


class StoreError(LoadError):
    """The folder of results cannot be used as it is; the message says what to do."""


class BuildError(RuntimeError):
    """The book cannot be built; the message says why and what to do."""


class Stopped(BuildError):
    """A run was stopped from outside."""
