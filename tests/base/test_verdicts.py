"""The four words, at the borders between them."""

import math
from types import SimpleNamespace

import pytest

from dm_utils.base.verdicts import DIFFERS, HOLDS, PARTLY, UNTESTABLE, above, higher, verdict, within


@pytest.mark.parametrize(
    ("cases", "word"),
    [
        ([True, True], HOLDS),
        ([True, None], PARTLY),
        ([True, False], PARTLY),
        ([True, False, False], DIFFERS),
        ([True, None, None], DIFFERS),
        ([False, None], DIFFERS),
        ([False, False], DIFFERS),
        ([None, None], UNTESTABLE),
        ([], UNTESTABLE),
    ],
)
def test_a_claim_holds_only_if_it_stands_in_every_case(cases, word):
    assert verdict(cases) == word


def between(low, high):
    return SimpleNamespace(low=low, high=high)


UNDEFINED = between(math.nan, math.nan)


def test_an_interval_that_holds_the_threshold_cannot_tell():
    assert above(between(0.51, 0.6), 0.5) is True
    assert above(between(0.4, 0.49), 0.5) is False
    assert above(between(0.5, 0.6), 0.5) is None and above(between(0.4, 0.5), 0.5) is None
    assert above(UNDEFINED, 0.5) is None


def test_an_interval_that_crosses_an_end_of_the_range_cannot_tell():
    assert within(between(0.7, 0.95), 0.7, 0.95) is True
    assert within(between(0.5, 0.69), 0.7, 0.95) is False and within(between(0.96, 0.99), 0.7, 0.95) is False
    assert within(between(0.69, 0.75), 0.7, 0.95) is None and within(between(0.94, 0.96), 0.7, 0.95) is None
    assert within(UNDEFINED, 0.7, 0.95) is None


def test_intervals_that_overlap_cannot_be_ordered():
    assert higher(between(0.6, 0.7), between(0.4, 0.59)) is True
    assert higher(between(0.4, 0.59), between(0.6, 0.7)) is False
    assert higher(between(0.5, 0.6), between(0.6, 0.7)) is None
    assert higher(UNDEFINED, between(0.6, 0.7)) is None


def test_an_interval_that_touches_an_end_of_the_range_or_another_cannot_tell():
    """What touches is neither inside nor outside, neither above nor below."""
    assert within(between(0.5, 0.7), 0.7, 0.95) is None and within(between(0.95, 0.99), 0.7, 0.95) is None
    assert higher(between(0.6, 0.7), between(0.5, 0.6)) is None
    assert above(between(0.5, 0.5), 0.5) is None
