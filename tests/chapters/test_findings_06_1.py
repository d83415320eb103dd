"""The rules of Section 6.1's verdicts, at their thresholds."""

import pandas as pd
import pytest
from figures import figures

from dm_utils.chapters.s06_1_pursuit import findings


def table(metric: str, *intervals: tuple[float, float]) -> pd.DataFrame:
    """One row per SAE whose metric has the given interval."""
    rows = [{metric: (low + high) / 2, f"{metric}_low": low, f"{metric}_high": high} for low, high in intervals]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("rule", "metric", "holds", "differs"),
    [
        (findings.lowers_fvu, "fvu_drop", (0.001, 0.01), (-0.01, -0.001)),
        (findings.keeps_nonlinear, "fvu_nonlinear_drop_relative", (0.01, 0.049), (0.051, 0.06)),
        (findings.keeps_nonlinear, "fvu_nonlinear_drop_relative", (-0.049, -0.01), (-0.06, -0.051)),
        (findings.removes_linear, "linear_drop_share", (0.501, 0.6), (0.4, 0.499)),
        (lambda t: findings.by_3_to_5_percent(t, "fvu_drop"), "fvu_drop", (0.03, 0.05), (0.051, 0.06)),
    ],
)
def test_a_claim_is_judged_by_the_whole_interval_of_every_sae(rule, metric, holds, differs):
    middle = ((holds[0] + differs[0]) / 2, (holds[1] + differs[1]) / 2)
    assert rule(table(metric, holds, holds)) == "holds"
    assert rule(table(metric, differs, differs)) == "differs"
    assert rule(table(metric, holds, differs)) == "partly"
    assert rule(table(metric, holds, middle)) == "partly"


def test_a_drop_is_written_as_a_fall_and_a_rise_as_a_rise():
    assert findings.change(pd.Series([0.02, 0.04])) == "-4 to -2 %"
    assert findings.change(pd.Series([-0.03, 0.02])) == "-2 to +3 %"
    one = table("fvu_drop_relative", (0.01, 0.03)).join(table("fvu_nonlinear_drop_relative", (-0.05, -0.03)))
    one = one.assign(sae_id="a", linear_drop_share=1.0)
    shown = findings.drops(one, one, pd.Series([0.5])).iloc[0]
    assert shown["FVU, pursuit"] == "-2.0 % [-3.0, -1.0]"
    assert shown["FVU nonlinear, pursuit"] == "+4.0 % [+3.0, +5.0]"


def shares(*reached: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    return pd.DataFrame({"fvu_drop": [1.0] * len(reached)}), pd.DataFrame({"fvu_drop": reached})


def test_best_weights_are_most_of_the_gain_above_one_half_at_every_width():
    assert findings.weights_alone(*shares(0.51, 0.9)) == "most"
    assert findings.weights_alone(*shares(0.49, 0.5)) == "the smaller part"
    assert findings.weights_alone(*shares(0.49, 0.51)) == "at some widths most"


def controls(random: tuple[float, float], trained: tuple[float, float]) -> pd.DataFrame:
    rows = []
    for case, (low, high) in {"random": random, "trained": trained}.items():
        rows.append({"case": case, "d_sae": 512, "fvu": (low + high) / 2, "fvu_low": low, "fvu_high": high})
    return pd.DataFrame(rows)


def test_learned_directions_are_needed_where_random_ones_leave_more_with_intervals_apart():
    assert findings.needs_learning(controls((0.21, 0.3), (0.1, 0.2))) == "holds"
    assert findings.needs_learning(controls((0.19, 0.3), (0.1, 0.2))) == "untestable here"
    assert findings.needs_learning(controls((0.05, 0.09), (0.1, 0.2))) == "differs"


def test_the_sentence_on_random_dictionaries_says_how_much_learning_takes_off():
    words = findings.learned(controls((0.29, 0.31), (0.09, 0.11)))
    assert "70 % of the variance" in words and "3.0 times the FVU" in words and "take off 67 %" in words


def measured(**metrics: list[float]) -> pd.DataFrame:
    """Two SAEs, each metric with an interval of ± 0.01."""
    found = pd.DataFrame(metrics).assign(sae_id=["a", "b"])
    ends = {f"{k}{end}": found[k] + sign * 0.01 for k in metrics for end, sign in (("_low", -1), ("_high", 1))}
    return found.assign(**ends)


CHANGED = measured(
    fvu_drop=[0.04, 0.02],
    fvu_drop_relative=[0.2, 0.1],
    fvu_nonlinear_drop_relative=[0.03, -0.02],
    linear_drop_share=[0.9, 0.7],
)
BEST = measured(fvu_drop=[0.03, 0.005], fvu_drop_relative=[0.15, 0.05], fvu_nonlinear_drop_relative=[0.01, 0.02])
OWN = pd.DataFrame({"norm_ratio": [0.9, 0.92]})
PURSUED = pd.DataFrame({"norm_ratio": [0.95, 0.97], "shared_support": [0.6, 0.8]})
BOTH = pd.concat([controls((0.29, 0.31), (0.09, 0.11)), controls((0.5, 0.7), (0.1, 0.14)).assign(d_sae=1024)])


def test_each_claim_says_what_was_found():
    found = findings.statements(CHANGED, BEST, OWN, PURSUED)
    assert [figures(words) for words in found["This run"]] == [
        "10 20 %",
        "2.0 4.0",
        "10 20 %",
        "-3 +2 %",
        "70 90 % 25 75 % 0.910 0.960",
    ]
    assert found["Verdict"].tolist() == ["holds", "partly", "differs", "holds", "holds"]


def test_the_readers_table_sets_best_weights_beside_pursuit():
    row = findings.drops(CHANGED, BEST, PURSUED["shared_support"]).iloc[0]
    assert [figures(words) for words in row[1:]] == [
        "-15.0 % -16.0 -14.0",
        "-1.0 % -2.0 -0.0",
        "-20.0 % -21.0 -19.0",
        "-3.0 % -4.0 -2.0",
        "90 %",
        "60 %",
    ]


def test_the_lessons_and_the_controls_have_their_figures():
    said = findings.lessons(CHANGED, BEST, PURSUED, BOTH)
    assert [figures(words) for words in said] == [
        "-20 -10 % -3 +2 % holds 2.0 4.0 3 5",
        "5 15 % 60 80 %",
        "holds 3.0 5.0",
    ]
    assert "at some widths most of what pursuit gains" in said[1]
    assert figures(findings.learned(BOTH)) == "40 70 % 3.0 5.0 88 90 % 67 80 % holds"
    assert figures(findings.atoms_per_dimension(0.125, 0.02)) == "0.125 0.020 6.2"
