"""The rules of Appendix E's verdicts, at their thresholds."""

import pandas as pd
import pytest
from figures import figures

from dm_utils.chapters.E_scaling import findings
from dm_utils.chapters.E_scaling.experiment import BEYOND, SECOND
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


def whole() -> pd.DataFrame:
    """Three pairs, every second regressor, both powers: medians 1 to 7, and half of each for norms."""
    rows = []
    for n, second in enumerate(SECOND, 1):
        for power, factor in ((2, 1.0), (1, 0.5)):
            for (small, large), step in zip(((512, 1024), (512, 2048), (1024, 2048)), (-0.5, 0.0, 1.0), strict=True):
                value = factor * (n + step)
                pair = {"small": small, "large": large, "power": power, "second": second, "fvu_one": 0.3 + step / 10}
                rows.append(pair | Estimate(value, value - 0.1, value + 0.1).columns("decrease"))
    return pd.DataFrame(rows)


def test_the_gain_is_told_for_squares_and_for_norms():
    assert figures(findings.gain(whole())) == (
        "0.500 % 2.00 % 1,024 2,048 0 3 3 holds 0.250 % 1.00 % 3 3 holds 0.250 0.400"
    )


def test_every_second_regressor_has_its_least_median_and_greatest_gain():
    found = findings.over_all_pairs(whole()).set_index("second regressor")
    assert list(found.index) == list(SECOND.values())
    ends = [f"{words}: {how}" for words in ("squared norms", "norms") for how in ("min", "median", "max")]
    assert found.loc[SECOND["linear"], ends].tolist() == ["1.50", "2.00", "3.00", "0.750", "1.00", "1.50"]


def test_what_a_part_adds_is_shown_by_pair():
    ends = {
        f"{name}{end}": n + step for n, name in enumerate(BEYOND) for end, step in (("", 0), ("_low", -1), ("_high", 1))
    }
    found = findings.beyond(pd.DataFrame([{"small": 512, "large": 1024} | ends]))
    assert found.iloc[0].tolist() == [512, 1024, *(f"{n}.00 [{n - 1}.00, {n + 1}.00]" for n in range(4))]
    assert list(found.columns)[:4] == [
        "smaller SAE",
        "larger SAE",
        "nonlinear, given linear error",
        "linear, given nonlinear error",
    ]


def test_the_controls_tell_the_median_of_each_regressor():
    redundant = pd.DataFrame({"power": [2, 2, 1], "r2": [0.7, 0.9, 0.1]})
    said = findings.controls(whole(), redundant)
    assert "R² 0.70 to 0.90" in said and "**differs**" in said
    assert all(f"{n}.00 % with {title}" in said for n, title in enumerate(SECOND.values(), 1))


def test_what_larger_saes_keep_is_told_from_the_smallest_and_to_the_largest():
    table = kept((512, 2048, 0.5, 0.85), (512, 1024, 0.62, 0.91), (1024, 2048, 0.8, 0.7), (256, 2048, 0.1, 0.2))
    table = table[table["small"] > 256]
    without = kept((512, 1024, 0.3, 0.4), (512, 2048, 0.1, 0.95))
    assert figures(findings.survival(table, without)) == (
        "0.50 0.80 0.70 0.91 2 3 1 partly 0.62 1,024 0.50 2,048 0.91 0.85 0.80 0.70 0.10 0.30 0.40 0.95"
    )


def test_each_claim_says_what_it_judged():
    table = kept((512, 1024, 0.62, 0.91), (512, 2048, 0.5, 0.95))
    found = findings.statements(whole(), table)
    assert [figures(words) for words in found["This run"]] == [
        "2.00 % 1.00 %",
        "0.50 2.00 %",
        "1.00 % 2.00 %",
        "1.00 % 5.00 %",
        "0.91 0.95 0.50 0.62",
        "0.91 0.95",
        "0.50 0.62",
    ]
    assert found["Verdict"].tolist() == ["differs", "holds", "differs", "differs", "holds", "holds", "holds"]


def test_what_was_learned_has_the_gains_and_the_verdicts():
    first, second, third = findings.lessons(whole(), kept((512, 1024, 0.62, 0.5), (512, 2048, 0.5, 0.4)))
    assert figures(first) == "2.00 % 0.25 0.40 holds differs"
    assert figures(second) == "4.50 6.00 % 13 differs"
    assert figures(third) == "differs holds"
