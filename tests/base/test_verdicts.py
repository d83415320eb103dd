"""The four words, at the borders between them."""

import math

import pytest

from dm_utils.base.verdicts import DIFFERS, HOLDS, PARTLY, UNTESTABLE, above, verdict, within


@pytest.mark.parametrize(
    ("cases", "word"),
    [
        ([True, True], HOLDS),
        ([True, None], PARTLY),
        ([True, False], PARTLY),
        ([False, None], DIFFERS),
        ([False, False], DIFFERS),
        ([None, None], UNTESTABLE),
        ([], UNTESTABLE),
    ],
)
def test_a_claim_holds_only_if_it_stands_in_every_case(cases, word):
    assert verdict(cases) == word


def test_an_interval_that_holds_the_threshold_cannot_tell():
    assert above(0.51, 0.6, 0.5) is True
    assert above(0.4, 0.49, 0.5) is False
    assert above(0.5, 0.6, 0.5) is None and above(0.4, 0.5, 0.5) is None
    assert above(math.nan, math.nan, 0.5) is None


def test_an_interval_that_crosses_an_end_of_the_range_cannot_tell():
    assert within(0.7, 0.95, 0.7, 0.95) is True
    assert within(0.5, 0.69, 0.7, 0.95) is False and within(0.96, 0.99, 0.7, 0.95) is False
    assert within(0.69, 0.75, 0.7, 0.95) is None and within(0.94, 0.96, 0.7, 0.95) is None
    assert within(math.nan, math.nan, 0.7, 0.95) is None
