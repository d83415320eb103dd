"""The rules of Appendix C's verdicts, at their thresholds."""

import pandas as pd
import pytest

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
