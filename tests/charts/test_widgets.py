"""The token strip receives data, not markup, and refuses what it cannot show."""

import numpy as np
import pytest

from dm_utils.charts.widgets import TokenStrip

CONTEXTS = [["a", " b"], [" c"]]


def test_values_travel_as_float32_by_sae_quantity_and_token() -> None:
    strip = TokenStrip(
        CONTEXTS,
        {"small": {"error": [1, 2, 3], "linear": [4, 5, 6]}, "large": {"error": [7, 8, 9], "linear": [10, 11, 12]}},
    )
    values = np.frombuffer(strip.values, dtype=np.float32).reshape(2, 2, 3)
    assert values[1, 0].tolist() == [7, 8, 9]
    assert strip.tokens == ["a", " b", " c"] and strip.starts == [0, 2, 3]
    assert (strip.first, strip.second) == (0, 1)


def test_token_text_is_never_turned_into_markup() -> None:
    script = TokenStrip._esm
    assert "innerHTML" not in script and "insertAdjacentHTML" not in script and "document.write" not in script


@pytest.mark.parametrize(
    ("contexts", "values", "message"),
    [
        ([], {"a": {"error": []}}, "at least one token"),
        (CONTEXTS, {}, "at least one token, one SAE"),
        (CONTEXTS, {"a": {"error": [1, 2]}}, r"3 tokens, arrays of shape \(1, 1, 2\)"),
        (CONTEXTS, {"a": {"error": [1, 2, np.nan]}}, "not finite"),
        (CONTEXTS, {"a": {"error": [1, 2, 3]}, "b": {"norm": [1, 2, 3]}}, r"b has others"),
    ],
)
def test_what_cannot_be_shown_is_refused(contexts: list[list[str]], values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenStrip(contexts, values)
