"""The rules of Appendix E's verdicts, at their thresholds."""

import pandas as pd
import pytest

from dm_utils.chapters.E_scaling import findings
from dm_utils.maths.resampling import Estimate


def gains(nonlinear: list[tuple[float, float]], other: list[tuple[float, float]] | None = None) -> pd.DataFrame:
    """Percent decreases (intervals) of each pair, for both powers; the other regressor is "linear"."""
    rows = []
    for second, intervals in (("nonlinear", nonlinear), ("linear", other or nonlinear)):
        for power in (2, 1):
            for i, (low, high) in enumerate(intervals):
                pair = {"small": 512, "large": 1024 * 2**i, "power": power, "second": second, "fvu_one": 0.3}
                rows.append(pair | Estimate((low + high) / 2, low, high).columns("decrease"))
    return pd.DataFrame(rows)


def test_it_helps_if_every_interval_lies_above_zero():
    assert findings.helps(gains([(0.01, 0.1), (0.001, 0.1)])) == "holds"
    assert findings.helps(gains([(0.01, 0.1), (-0.001, 0.1)])) == "partly"
    assert findings.helps(gains([(-0.2, -0.001)])) == "differs"


@pytest.mark.parametrize(
    ("low", "high", "word"), [(4.0, 6.0, "holds"), (6.1, 7.0, "differs"), (3.0, 5.0, "untestable here")]
)
def test_up_to_five_percent_is_asked_of_the_largest_gain(low, high, word):
    assert findings.up_to_5_percent(gains([(0.0, 0.1), (low, high)])) == word


def test_one_regressor_beats_another_where_intervals_are_apart():
    ahead, behind, level = (0.21, 0.3), (0.05, 0.09), (0.19, 0.3)
    other = (0.1, 0.2)
    assert findings.beats(gains([ahead], [other]), "linear") == "holds"
    assert findings.beats(gains([behind], [other]), "linear") == "differs"
    assert findings.beats(gains([level], [other]), "linear") == "untestable here"
    assert findings.beats(gains([ahead, behind], [other, other]), "linear") == "partly"


def kept(*rows: tuple[int, int, float, float]) -> pd.DataFrame:
    """Coefficients of the linear and the nonlinear part (smaller, larger SAE), each ± 0.01."""
    return pd.DataFrame(
        [
            {"small": small, "large": large}
            | Estimate(a, a - 0.01, a + 0.01).columns("linear")
            | Estimate(b, b - 0.01, b + 0.01).columns("nonlinear")
            for small, large, a, b in rows
        ]
    )


def test_scaling_keeps_more_of_the_nonlinear_part_pair_by_pair():
    assert findings.keeps_nonlinear_more(kept((512, 1024, 0.5, 0.53))) == "holds"
    assert findings.keeps_nonlinear_more(kept((512, 1024, 0.5, 0.51))) == "untestable here"
    assert findings.keeps_nonlinear_more(kept((512, 1024, 0.5, 0.8), (2048, 4096, 1.1, 0.8))) == "partly"


def test_the_nonlinear_part_is_kept_within_a_tenth_of_one():
    assert findings.keeps_all_nonlinear(kept((512, 1024, 0, 0.92), (512, 2048, 0, 1.08))) == "holds"
    assert findings.keeps_all_nonlinear(kept((512, 1024, 0, 0.88))) == "differs"


def test_the_linear_part_must_fall_for_every_smaller_sae_that_has_several_larger_ones():
    falls, rises = [(512, 1024, 0.6, 0), (512, 2048, 0.5, 0)], [(1024, 2048, 0.5, 0), (1024, 4096, 0.6, 0)]
    assert findings.loses_linear_with_width(kept(*falls, (2048, 4096, 9, 0))) == "holds"
    assert findings.loses_linear_with_width(kept(*falls, *rises)) == "partly"
    assert findings.loses_linear_with_width(kept(*rises)) == "differs"


def test_percentages_are_never_minus_zero():
    assert findings.percent(Estimate(-0.001, -0.004, 0.126)) == "0.00 [0.00, 0.13]"
