"""What cannot be used is refused by name, with what is allowed; a long value is cut."""

from __future__ import annotations

import math

import pytest

from dm_utils.base.errors import ROOM, ParameterError, check_range, require, shown


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


@pytest.mark.parametrize("value", [2, 2.5, 1e9])
def test_a_number_need_not_be_whole_where_nothing_says_so(value: float) -> None:
    check_range("x", value, 2)


def test_a_long_value_is_cut_and_its_length_told() -> None:
    assert shown("x" * (ROOM - 2)) == repr("x" * (ROOM - 2))  # with its quotes, just as long as may be
    assert shown("x" * ROOM) == "'" + "x" * (ROOM - 21) + f"… ({ROOM + 2} characters)"


def test_an_unknown_name_is_answered_with_all_and_with_the_nearest() -> None:
    require("resid", ["resid", "mlp"], "component")
    with pytest.raises(ParameterError) as caught:
        require("reside", iter(["mlp", "resid", "attn"]), "component")
    assert str(caught.value) == "unknown component 'reside'; allowed: mlp, resid, attn. Did you mean 'resid'?"
    with pytest.raises(ParameterError, match=r"allowed: mlp\.$"):
        require("zzz", ["mlp"], "component")
