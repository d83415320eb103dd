"""The verdicts of Section 4.4, at their thresholds."""

import pandas as pd
import pytest
from figures import figures

from dm_utils.base.verdicts import DIFFERS, HOLDS, PARTLY, UNTESTABLE
from dm_utils.chapters.s04_4_per_token import findings
from dm_utils.maths.resampling import Estimate


def around(value, half_width=0.01):
    return Estimate(value, value - half_width, value + half_width)


def pairs(near=0.8, far=0.6):
    """Three widths: two pairs of neighbours, and the ends."""
    table = pd.DataFrame({"small": [512, 512, 1024], "large": [1024, 2048, 2048], "r2": [near, far, near]})
    return table.assign(r2_low=table["r2"] - 0.01, r2_high=table["r2"] + 0.01, slope=0.9)


def verdicts(table, worst=0.8, contexts=0.9):
    found = findings.claims(table, around(worst), around(contexts), "widths 512 and 2,048")
    return dict(zip(["high", "falls", "tokens", "contexts"], found["Verdict"], strict=True))


def test_what_the_paper_says_holds_on_what_it_saw():
    assert set(verdicts(pairs()).values()) == {HOLDS}


def test_r2_is_high_where_every_interval_lies_above_one_half():
    assert verdicts(pairs(far=0.511))["high"] == HOLDS
    assert verdicts(pairs(far=0.509))["high"] == PARTLY
    assert verdicts(pairs(0.4, 0.3))["high"] == DIFFERS


def test_r2_falls_with_distance_only_if_intervals_are_apart():
    assert verdicts(pairs(0.8, 0.779))["falls"] == HOLDS
    assert verdicts(pairs(0.8, 0.781))["falls"] == UNTESTABLE
    assert verdicts(pairs(0.7, 0.8))["falls"] == DIFFERS


@pytest.mark.parametrize(
    ("value", "word"), [(0.511, HOLDS), (0.509, PARTLY), (0.111, PARTLY), (0.109, UNTESTABLE), (0.089, DIFFERS)]
)
def test_agreement_is_judged_against_one_half_and_chance(value, word):
    assert findings.agreement(around(value), chance=0.1) == word


def test_sentences_read_the_pairs():
    said = findings.by_distance(pairs(), pairs(0.75, 0.5))
    assert "1: 0.80, 2: 0.60 (intervals of ±0.010 or less)" in said
    assert "costs 0.050 to 0.100" in said
    assert "from width 1,024" in findings.learned(pairs(), around(0.5))


def uneven():
    """Three pairs whose numbers, intervals and slopes all differ."""
    table = pd.DataFrame({"small": [512, 512, 1024], "large": [1024, 2048, 2048], "r2": [0.82, 0.61, 0.74]})
    return table.assign(r2_low=[0.8, 0.6, 0.73], r2_high=[0.85, 0.65, 0.75], slope=[0.91, 0.83, 0.88], site="resid")


def test_each_sentence_has_its_own_figures():
    scalar = uneven().assign(r2=[0.8, 0.6, 0.69], slope=[0.95, 0.85, 0.9])
    assert figures(findings.by_distance(uneven(), scalar)) == "2 1 0.74 0.82 2 0.61 0.040 0.010 0.050 13 0.85 0.95"
    assert (
        figures(findings.learned(uneven(), around(0.5)))
        == ("512 2,048 2 0.61 0.82 2 0.740 0.730 0.750 1,024 0.500 0.490 0.510 ").strip()
    )


def test_each_claim_says_what_it_judged():
    found = findings.claims(uneven(), around(0.8), around(0.9), "the ends")["This run"]
    assert [figures(words) for words in found] == [
        "0.610 0.820 0.040",
        "1 1",
        "0.800 0.790 0.810",
        "0.900 0.890 0.910",
    ]


@pytest.mark.parametrize(("value", "word"), [(0.011, PARTLY), (0.009, UNTESTABLE), (-0.011, DIFFERS), (0.511, HOLDS)])
def test_contexts_agree_by_chance_with_a_correlation_of_zero(value, word):
    assert verdicts(pairs(), contexts=value)["contexts"] == word
