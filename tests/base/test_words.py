"""Words for counts change at their thresholds, and nowhere else."""

from __future__ import annotations

import pytest

from dm_utils.base.words import how_many, span


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
