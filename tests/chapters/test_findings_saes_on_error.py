"""The sentences of Section 5.2: each rule at its threshold, from both sides."""

from types import SimpleNamespace

import pandas as pd
import pytest

from dm_utils.chapters.s05_2_saes_on_error import findings
from dm_utils.chapters.s05_2_saes_on_error.choice import linear_shares, most_equal
from dm_utils.maths.resampling import Estimate

UP, DOWN, OPEN = Estimate(0.2, 0.1, 0.3), Estimate(-0.2, -0.3, -0.1), Estimate(0.0, -0.1, 0.1)


def gaps(**given):
    return dict.fromkeys(("parts", "twins", "linear", "nonlinear", "beyond"), UP) | given


@pytest.mark.parametrize("found, expected", [(UP, "holds"), (DOWN, "differs"), (OPEN, "untestable here")])
def test_each_difference_is_judged_by_its_whole_interval(found, expected):
    assert findings.claims(gaps(parts=found), UP, "rules", 0.5)["Verdict"][1] == expected
    assert findings.claims(gaps(beyond=found), UP, "rules", 0.5)["Verdict"][2] == expected
    assert findings.claims(gaps(), found, "rules", 0.5)["Verdict"][3] == expected


@pytest.mark.parametrize(
    "share, expected", [(0.39, "differs"), (0.4, "holds"), (0.6, "holds"), (0.61, "differs"), (0.21, "differs")]
)
def test_the_paper_chose_parts_of_about_one_size(share, expected):
    assert findings.claims(gaps(), UP, "rules", share)["Verdict"][0] == expected
    said = findings.sizes(pd.Series({"mine": share, "other": 0.47}), "mine")
    assert ("not about equal" in said) is (expected == "differs")
    assert ("other, with 47 % linear" in said) is (expected == "differs")


def test_the_linear_share_is_what_the_linear_map_takes_from_the_fvu():
    measured = pd.DataFrame({"sae_id": ["a", "b"], "fvu": [0.4, 0.2], "fvu_nonlinear": [0.1, 0.2]})
    assert linear_shares(measured).to_dict() == {"a": pytest.approx(0.75), "b": 0.0}


def test_the_error_with_the_most_equal_parts_is_taken_apart():
    table = pd.DataFrame({"sae_id": list("abc"), "fvu": [0.4, 0.4, 0.4], "fvu_nonlinear": [0.1, 0.23, 0.3]})
    suite = {"topk": ["first", "second", "third"]}
    study = SimpleNamespace(
        sae=lambda: SimpleNamespace(architecture="topk"),
        saes=lambda architecture: suite[architecture],
        measure=lambda refs: table,
    )
    assert most_equal(study) == "second"
    assert "No SAE of this layer comes nearer" in findings.sizes(pd.Series({"mine": 0.2, "other": 0.9}), "mine")


def test_names_from_outside_stay_text():
    said = findings.sizes(pd.Series({"mine": 0.2, "<b>x</b>": 0.5}), "mine")
    assert "<b>" not in said
    assert "<i>" not in findings.learned(findings.claims(gaps(), UP, "<i>", 0.5), UP, "<i>")


def test_the_twins_gap_is_a_share_of_the_parts_gap_only_where_there_is_one():
    fvu = dict.fromkeys(("linear", "nonlinear", "linear_gaussian", "nonlinear_gaussian"), UP)
    assert "50 % of it" in findings.reconstruction(fvu, gaps(parts=Estimate(0.4, 0.3, 0.5)))
    for found in (OPEN, DOWN):
        assert "although the parts do not differ that way" in findings.reconstruction(fvu, gaps(parts=found))


def test_what_is_left_to_inherit_is_one_minus_the_fvu():
    said = findings.inherited(Estimate(0.285, 0.28, 0.29), 15.9, 2048, UP, 512, 16)
    assert "2,048 latents, about 16 active" in said and "So 72 % of the linear part" in said
    assert "72 % of the linear part needs no new latent" in findings.learned(
        findings.claims(gaps(), UP, "rules", 0.2), Estimate(0.285, 0.28, 0.29), "rules"
    )


def test_explanations_are_told_per_kind_and_over_the_tenths():
    rows = [
        {"group": "balanced", "kind": kind, "part": part, "value": 0.6, "low": 0.5, "high": 0.7}
        for kind in ("own", "a control")
        for part in ("linear", "nonlinear")
    ]
    difference = pd.DataFrame(
        {"value": [0.1, -0.1, 0.0, 0.05], "low": [0.01, -0.2, -0.1, 0.0], "high": [0.2, -0.01, 0.1, 0.1]},
        index=["Q1", "Q2", "Q3", "balanced"],
    )
    said = findings.explained(pd.DataFrame(rows), difference, "own")
    assert "runs from -0.100 to +0.100; its interval lies above 0 in 1 of 3 and below 0 in 1" in said
    assert "Control (a control): linear 0.600 [0.500, 0.700]" in said and "Control (own)" not in said


def test_overfitting_is_told_by_target():
    assert "LinearError +0.004" in findings.overfit(pd.Series({"LinearError": 0.004}))
