"""Words for counts change at their thresholds, and nowhere else; numbers keep three digits that mean something."""

from __future__ import annotations

import math

import pytest

from dm_utils.base.words import code, how_many, interval, label, number, span


@pytest.mark.parametrize(
    ("value", "digits", "words"),
    [
        (0.40236, 3, "0.402"),
        (1234.5, 3, "1,234"),  # no fewer digits than the whole number has
        (12.34, 3, "12.3"),
        (9.994, 2, "10.0"),  # its digits are counted before it is rounded
        (-0.0123, 2, "-0.012"),
        (0.00001234, 2, "0.000012"),  # six decimals
        (0.00001234, 3, "1.23e-05"),  # seven would be needed
        (0, 3, "0"),
        (math.inf, 3, "inf"),
        (math.nan, 3, "–"),
        (None, 3, "–"),
    ],
)
def test_a_number_keeps_its_digits_without_a_needless_exponent(value, digits, words) -> None:
    assert number(value, digits) == words


def test_an_interval_is_written_where_both_its_ends_are_known() -> None:
    assert interval(0.4021, 0.381, 0.424) == "0.402 [0.381, 0.424]"
    for low, high in ((None, 0.4), (0.4, None), (math.nan, 0.4), (0.4, math.nan)):
        assert interval(0.4021, low, high) == "0.402"


def test_a_metric_without_a_label_is_named_by_its_words() -> None:
    assert (label("fvu"), label("my_own_metric")) == ("FVU", "my own metric")


def test_a_fence_is_one_longer_than_the_longest_run_of_back_ticks() -> None:
    assert [code(text) for text in ("a", "a`b", "a``b`c", "`a", "a`")] == [
        "`a`",
        "``a`b``",
        "```a``b`c```",
        "`` `a ``",
        "`` a` ``",
    ]


@pytest.mark.parametrize(
    ("count", "total", "words"),
    [
        (0, 5, "none"),
        (5, 5, "all"),
        (9, 10, "nearly all"),
        (89, 100, "most"),
        (51, 100, "most"),
        (50, 100, "half"),
        (49, 100, "some"),
        (1, 100, "some"),
    ],
)
def test_how_many_in_words(count: int, total: int, words: str) -> None:
    assert how_many(count, total) == words


@pytest.mark.parametrize(("count", "total"), [(-1, 3), (4, 3), (0, 0)])
def test_a_count_that_cannot_be_is_refused(count: int, total: int) -> None:
    with pytest.raises(ValueError, match="is not a count of several"):
        how_many(count, total)


@pytest.mark.parametrize(
    ("values", "spec", "unit", "words"),
    [
        ([0.354, 0.2, 0.31], ".2f", "", "0.20 to 0.35"),
        ([0.12, 0.316], ".0f", " %", "12 to 32 %"),
        ([0.501, 0.504], ".0f", " %", "50 %"),
        ([-0.001, 0.1], ".2f", "", "0.00 to 0.10"),
    ],
)
def test_a_span_goes_from_the_least_to_the_greatest(values, spec, unit, words) -> None:
    assert span(values, spec, unit) == words
