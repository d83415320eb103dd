"""The rules of Section 6.2's verdicts, at their thresholds."""

import pandas as pd
import pytest

from dm_utils.chapters.s06_2_between_saes import findings
from dm_utils.chapters.s06_2_between_saes.experiment import ALONE, KINDS, WITH_X
from dm_utils.maths.resampling import Estimate


def test_eq_16_holds_within_64_rounding_units():
    table = pd.DataFrame({"largest difference / rms": [64e-7, 65e-7], "rounding_unit": 1e-7})
    assert findings.identity_holds(table) == ["holds", "differs"]
    assert "*same* layer: **holds** (to 64 rounding units" in findings.identity(table)


def built_in(measured: float, control: Estimate) -> dict:
    own = Estimate(measured, measured - 0.01, measured + 0.01)
    return {
        "measured": (own, own),
        "shuffled": (control, control),
        "rotated": (own, own),
        "arithmetic": (measured, measured),
    }


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.191, 0.2, "holds"), (0.17, 0.189, "differs"), (0.18, 0.195, "untestable here")]
)
def test_a_prediction_is_arithmetic_if_noise_reaches_95_percent_of_it(low, high, word):
    assert findings.is_arithmetic(built_in(0.2, Estimate((low + high) / 2, low, high))) == word


def rows(*intervals: tuple[float, float], reading: str = "the layer before") -> pd.DataFrame:
    about = {"kind": KINDS[0], "given": ALONE, "target": "nonlinear", "reading": reading}
    return pd.DataFrame(
        [
            {"neighbour": f"site {i}", "r2": (low + high) / 2, "r2_low": low, "r2_high": high, **about}
            for i, (low, high) in enumerate(intervals)
        ]
    )


def test_previous_components_agree_with_the_paper_if_every_interval_lies_in_its_range():
    assert findings.in_the_papers_range(rows((0.04, 0.14)), "nonlinear", "the layer before") == "holds"
    assert findings.in_the_papers_range(rows((0.04, 0.14), (0.01, 0.03)), "nonlinear", "the layer before") == "partly"
    assert findings.in_the_papers_range(rows((0.15, 0.2)), "nonlinear", "the layer before") == "differs"
    assert findings.in_the_papers_range(rows((0.03, 0.05)), "nonlinear", "the layer before") == "untestable here"


def test_the_papers_range_is_asked_of_one_reading_of_adjacent_and_of_other_sites_only():
    table = pd.concat([rows((0.05, 0.06)), rows((0.5, 0.6), reading="the same layer")])
    same = rows((0.9, 0.95), reading="both").assign(neighbour="same residual")
    table = pd.concat([table, same])
    assert findings.in_the_papers_range(table, "nonlinear", "the layer before") == "holds"
    assert findings.in_the_papers_range(table, "nonlinear", "the same layer") == "differs"


def test_what_neighbours_know_beyond_x_is_the_range_with_x_given():
    found = rows((0.03, 0.05), (0.1, 0.2))
    error = found.assign(target="error")
    beyond = found.assign(given=WITH_X, r2=[0.02, 0.16])
    table = pd.concat([found, error, beyond])
    lines = findings.lessons(table, built_in(0.2, Estimate(0.2, 0.19, 0.2)))
    assert any("predict 2.0 to 16.0 % of NonlinearError" in line for line in lines)
