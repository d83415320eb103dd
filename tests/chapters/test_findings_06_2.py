"""The rules of Section 6.2's verdicts, at their thresholds."""

import pandas as pd
import pytest
from figures import figures

from dm_utils.base.names import PART_NAMES
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


def told_apart() -> dict:
    """Every number its own: 0.5 measured, noise at 0.48 (0.96 of it), 0.3 by the formula, 0.2 turned."""
    found = built_in(0.5, Estimate(0.48, 0.47, 0.49))
    weighted, turned = Estimate(0.6, 0.55, 0.65), Estimate(0.2, 0.15, 0.25)
    return found | {"measured": (found["measured"][0], weighted), "rotated": (turned, turned), "arithmetic": (0.3, 0.7)}


def test_the_measured_score_stands_beside_noise_and_the_formula():
    assert figures(findings.arithmetic(told_apart())) == (
        "2 0.500 0.490 0.510 0.600 0.550 0.650 0.480 0.470 0.490 96 % 0.300 untestable here 0.200 0.150 0.250"
    )


def test_the_two_sides_of_eq_16_are_told_in_units_and_in_sizes():
    table = pd.DataFrame({"largest difference / rms": [32e-7, 1.25], "rounding_unit": [1e-7, 1e-7]})
    assert figures(findings.identity(table)) == "16 holds 32 differs 1.2"


def neighbours() -> pd.DataFrame:
    """Two sites of one layer before, one of the same layer, the previous residual stream, and the site itself."""
    parts = []
    for target, by in (("nonlinear", 1.0), ("error", 0.5)):
        for name, reading, r2 in (
            ("MLP before", "the layer before", 0.08),
            ("attention before", "the layer before", 0.12),
            ("MLP", "the same layer", 0.2),
            ("previous residual", "both", 0.1),
            ("same residual", "both", 0.9),
        ):
            about = {"kind": KINDS[0], "given": ALONE, "target": target, "reading": reading, "neighbour": name}
            parts.append({"r2": by * r2, "r2_low": by * r2 - 0.01, "r2_high": by * r2 + 0.01, **about})
    alone = pd.DataFrame(parts)
    return pd.concat([alone, alone.assign(given=WITH_X, r2=alone["r2"] / 4), alone.assign(kind=KINDS[1], r2=0.7)])


def test_each_claim_is_told_by_its_own_rows():
    found = findings.statements(neighbours(), told_apart())
    assert [figures(words) for words in found["This run"]] == [
        "0.500 0.490 0.510 0.45 0.55",
        "96 %",
        "8.0 12.0 %",
        "10.0 20.0 %",
        "4.0 6.0 %",
        "5.0 10.0 %",
    ]
    assert [figures(words) for words in found["The paper, on Gemma 2 9B"][2:]] == ["4 14 %"] * 2 + ["6 10 %"] * 2
    assert found["Verdict"].tolist() == ["holds", "untestable here", "holds", "partly", "differs", "untestable here"]


def test_the_best_neighbour_is_not_the_site_itself():
    said = findings.lessons(neighbours(), told_apart())
    assert [figures(words) for words in said] == [
        "10.0 % 20.0 %",
        "50 % 48 % untestable here",
        "2.0 5.0 %",
        "5.0 % 10.0 % 10.0 % 20.0 %",
    ]
    assert "best neighbour (MLP)" in said[0]


def test_a_readers_table_has_a_row_per_site_in_order_and_its_intervals():
    order = ["same residual", "previous residual", "MLP before", "attention before", "MLP"]
    found = findings.figure_in_numbers(neighbours(), order)
    assert found["site"].tolist() == order and found["reading of adjacent"][4] == "the same layer"
    assert len(found.columns) == 6 and found.iloc[4][f"{KINDS[0]}: {PART_NAMES['nonlinear']}"] == "0.200 [0.190, 0.210]"
    beyond = findings.beyond_x(with_every_kind(neighbours()))
    assert beyond["site"].tolist() == ["MLP before", "attention before", "MLP", "previous residual"]
    columns = [f"{kind}, {given}" for kind in KINDS for given in (ALONE, WITH_X)]
    assert list(beyond.columns) == ["site", "reading of adjacent", *columns]
    assert beyond.iloc[2][f"{KINDS[0]}, {WITH_X}"].startswith("0.050")


def with_every_kind(table: pd.DataFrame) -> pd.DataFrame:
    """The same rows for every kind of regressor, alone and with x."""
    own = table[table["kind"] == KINDS[0]]
    return pd.concat([own.assign(kind=kind) for kind in KINDS])
