"""The rules of Appendix C's verdicts, at their thresholds."""

import pandas as pd
import pytest
from figures import figures

from dm_utils.chapters.C_synthetic import findings
from dm_utils.chapters.C_synthetic.experiment import NOISE_NAMES
from dm_utils.maths.resampling import Estimate

PAIRS = [(noise, name) for noise in NOISE_NAMES for name in ("dense", "introduced")]


def four(*values: float, half: float = 0.005) -> dict[tuple[str, str], Estimate]:
    """Estimates in Table 1's order: x′ noise with Dense and Introduced, then Sae(x′) noise with each."""
    return {pair: Estimate(v, v - half, v + half) for pair, v in zip(PAIRS, values, strict=True)}


@pytest.mark.parametrize(
    ("values", "diagonal", "others", "both"),
    [
        ((0.76, 0.24, -0.24, 0.76), "holds", "holds", "holds"),
        ((0.98, 0.59, -0.07, 0.81), "holds", "partly", "partly"),  # one off-diagonal entry is enough
        ((0.74, 0.24, 0.0, 0.9), "partly", "holds", "partly"),
        ((0.5, 0.6, 0.4, 0.5), "differs", "differs", "differs"),
        ((0.75, 0.25, -0.25, 0.75), "untestable here", "untestable here", "untestable here"),
    ],
)
def test_table_1_is_judged_on_and_off_its_diagonal(values, diagonal, others, both):
    found = four(*values)
    assert (findings.matching(found), findings.separate(found), findings.pattern(found)) == (diagonal, others, both)


def test_sizes_are_right_within_a_fifth_of_the_right_answer():
    assert findings.right_size(four(0.81, 0.19, -0.19, 1.19)) == "holds"
    assert findings.right_size(four(0.79, 0.21, -0.21, 1.21)) == "differs"


def grid(*nonlinear: tuple[float, float]) -> pd.DataFrame:
    """A table with nothing planted: the full SAE first, then more and more latents masked."""
    rows = [
        {"noise_x": 0.0, "noise_sae": 0.0, "masked": i / 4, "error": 0.1, "nonlinear": (low + high) / 2}
        | {"nonlinear_low": low, "nonlinear_high": high}
        for i, (low, high) in enumerate(nonlinear)
    ]
    return pd.DataFrame(rows)


def test_the_line_is_straight_unless_masking_raises_it_by_half():
    full = (0.018, 0.020)
    assert findings.stays_constant(grid(full, (0.030, 0.040))) == "holds"
    assert findings.stays_constant(grid(full, (0.031, 0.040))) == "differs"
    assert findings.stays_constant(grid(full, (0.02, 0.03), (0.07, 0.08))) == "partly"
    assert "2.0%, 3.0%" in findings.nothing_planted(grid(full, (0.02, 0.03)))


def test_dense_noise_ends_in_introduced_above_one_half():
    words = [findings.ends_in_introduced(four(0.2, share, 0.0, 1.0)) for share in (0.51, 0.5, 0.49)]
    assert ["overestimate" in words[0], "not settled" in words[1], "roughly right" in words[2]] == [True] * 3


def test_the_test_works_above_four_fifths_and_fails_below_one_half():
    rows = []
    for law, low, high in (("works", 0.81, 0.9), ("middle", 0.79, 0.9), ("low", 0.5, 0.6), ("fails", 0.4, 0.49)):
        about = {"law": law, "noise": NOISE_NAMES["noise_x"]}
        rows.append(about | {"estimate": "dense", "value": (low + high) / 2, "low": low, "high": high})
        rows.append(about | {"estimate": "introduced", "value": 0.95, "low": 0.9, "high": 1.0})  # not its own estimate
    works, fails = findings.by_law(pd.DataFrame(rows)).split("\n\n")
    assert "works (" in works.split(":", 1)[1] and "middle" not in works and "fails (" not in works
    assert "fails (" in fails and "low (" not in fails


PAPER = dict(zip(PAIRS, ("0.9", "0.8", "0.1", "0.7"), strict=True))
CORRELATIONS, SLOPES = four(0.98, 0.59, -0.07, 0.81), four(0.41, 0.55, 0.03, 0.99)


def test_table_1_has_a_row_per_noise_and_estimate():
    found = findings.table_1(CORRELATIONS, SLOPES, PAPER)
    assert found["Planted"].tolist() == [NOISE_NAMES["noise_x"]] * 2 + [NOISE_NAMES["noise_sae"]] * 2
    assert found["Estimated"].tolist() == ["Dense", "Introduced"] * 2
    assert found["Correlation, paper"].tolist() == ["0.9", "0.8", "0.1", "0.7"]
    assert found["Correlation, this run"].tolist() == [str(value) for value in CORRELATIONS.values()]
    assert found["Slope, this run"].tolist() == [str(value) for value in SLOPES.values()]
    assert found["Right answer"].tolist() == ["1", "0", "0", "1"]


def test_the_papers_values_are_found_by_noise_and_estimate():
    keys = ["dense_from_x", "introduced_from_x", "dense_from_sae", "introduced_from_sae"]
    assert [findings.paper_key(*pair) for pair in PAIRS] == [f"table1.{key}_noise" for key in keys]


def test_each_claim_says_what_was_found():
    table = grid((0.018, 0.020), (0.020, 0.030), (0.07, 0.08)).assign(nonlinear=[0.019, 0.025, 0.075])
    loud = table.assign(noise_x=0.1, nonlinear=50.0, nonlinear_low=40.0)
    found = findings.statements(CORRELATIONS, SLOPES, pd.concat([table, loud, loud.assign(noise_x=0.0, noise_sae=0.1)]))
    assert found["This run"].tolist() == [
        "0.98 and 0.81",
        "0.59 and -0.07",
        "the four values above",
        "slopes 0.41 and 0.99",
        "1.9 to 7.5 % of the variance",
    ]
    assert found["Verdict"].tolist() == ["holds", "partly", "partly", "partly", "partly"]


def test_what_the_method_reports_without_noise():
    table = grid((0.018, 0.020), (0.070, 0.080), (0.020, 0.030)).assign(error=[0.125, 0.3, 0.4])
    assert figures(findings.nothing_planted(table)) == "With no noise planted 12.5% 1.9% 7.5% 7.0% 8.0% 25% partly"


def test_what_was_learned_has_each_number_in_its_place():
    table = grid((0.018, 0.020), (0.07, 0.08))
    first, second, third, last = findings.lessons(CORRELATIONS, SLOPES, table, PAPER)
    assert figures(first) == "1 partly 0.98 0.81 0.59 -0.07 0.8 0.1"
    assert figures(second) == "41% 55% 99% partly"
    assert "an overestimate here" in third and "**differs**" in last
