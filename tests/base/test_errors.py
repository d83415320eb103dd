"""A number out of range is refused by name, with what is allowed."""

from __future__ import annotations

import math

import pytest

from dm_utils.base.errors import ParameterError, check_range


@pytest.mark.parametrize("value", [2, 5, 10])
def test_both_ends_of_a_range_are_allowed(value: int) -> None:
    check_range("k", value, 2, 10, whole=True)


@pytest.mark.parametrize("value", [1, 11, 2.5, True, "3", math.nan])
def test_what_lies_outside_is_refused_by_name(value: object) -> None:
    with pytest.raises(ParameterError, match=r"k = .*: it must be a whole number from 2 to 10"):
        check_range("k", value, 2, 10, whole=True)  # type: ignore[arg-type]


def test_a_range_without_an_upper_end_names_the_lower() -> None:
    with pytest.raises(ParameterError, match=r"x = -0.5: it must be a number of at least 0"):
        check_range("x", -0.5, 0)
