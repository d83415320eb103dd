"""The verdicts of "Beyond linear", at their thresholds."""

import pandas as pd
import pytest
from figures import figures

from dm_utils.base.verdicts import DIFFERS, HOLDS, PARTLY, UNTESTABLE
from dm_utils.chapters.beyond_linear import charts, findings
from dm_utils.chapters.beyond_linear.experiment import ERROR, TWIN
from dm_utils.maths.resampling import Estimate

D = 40


def row(target, hidden, seed, fvu, half=0.001, gain=None, epochs=2):
    gain = 0.8 - fvu if gain is None else gain
    columns = {"fvu_error": fvu, "fvu": 0.1 * fvu, "left": fvu / 0.8, "gain": gain}
    found = {"target": target, "hidden": hidden, "seed": seed, "n_parameters": 10 * hidden, "epochs": epochs}
    found |= {"left_of_validation": fvu / 0.8}
    return found | {
        f"{k}{end}": v + s * half for k, v in columns.items() for end, s in (("", 0), ("_low", -1), ("_high", 1))
    }


def table(small=(0.7, 0.71), large=(0.5, 0.52), twin=-0.01, half=0.001):
    rows = [row(ERROR, 0, 0, 0.8, 0, 0, 0), row(TWIN, 0, 0, 0.8, 0, 0, 0)]
    rows += [row(ERROR, 16, seed, value, half) for seed, value in enumerate(small)]
    rows += [row(ERROR, 64, seed, value, half) for seed, value in enumerate(large)]
    return pd.DataFrame([*rows, *(row(TWIN, units, 0, 0.8 - twin, half) for units in (16, 64))])


def ranks(nine=5.0, missed=10.0, half_width=0.0):
    exact = {
        "rank_for_50_percent": 2.0,
        "rank_for_90_percent": nine,
        "missed_directions": missed,
        "missed_variance": 0.3,
    }
    return {name: Estimate(value, value - half_width, value + half_width) for name, value in exact.items()}


def verdicts(found, by_rank=None):
    names = ["function", "control", "grows", "most left", "subspace", "low rank"]
    return dict(zip(names, findings.claims(found, by_rank or ranks(), D)["Verdict"], strict=True))


def test_where_everything_is_clear():
    expected = {name: HOLDS for name in ("function", "control", "grows", "most left", "subspace", "low rank")}
    assert verdicts(table()) == expected


def test_a_gain_counts_only_above_zero_and_above_that_on_the_twin():
    assert verdicts(table(large=(0.7989, 0.7989), small=(0.8, 0.8)))["function"] == HOLDS
    assert verdicts(table(large=(0.7991, 0.7991), small=(0.8, 0.8)))["function"] == UNTESTABLE
    twins = table(twin=0.28)
    assert verdicts(twins)["function"] == PARTLY  # one seed's gain is 0.30, the other's 0.28, the twin's too
    assert verdicts(twins)["control"] == DIFFERS
    assert verdicts(table(twin=0.0009))["control"] == HOLDS  # its interval holds zero


def test_a_step_in_size_counts_only_if_all_seeds_are_apart():
    assert verdicts(table(small=(0.7, 0.6), large=(0.59, 0.58)))["grows"] == HOLDS
    assert verdicts(table(small=(0.7, 0.6), large=(0.61, 0.58)))["grows"] == UNTESTABLE
    assert verdicts(table(small=(0.6, 0.6), large=(0.61, 0.62)))["grows"] == DIFFERS


def test_most_is_more_than_half_with_its_interval():
    assert verdicts(table(large=(0.4009, 0.45)))["most left"] == HOLDS
    assert verdicts(table(large=(0.4007, 0.45)))["most left"] == UNTESTABLE
    assert verdicts(table(large=(0.39, 0.45)))["most left"] == DIFFERS


def test_the_best_network_is_chosen_by_validation_and_not_by_the_held_out_contexts():
    found = table()
    found.loc[found["fvu_error"] == 0.52, "left_of_validation"] = 0.1
    assert findings.best(found)["fvu_error"] == 0.52


def test_a_rank_is_low_up_to_a_quarter_of_the_dimensions():
    assert verdicts(table(), ranks(nine=10, half_width=0.5))["low rank"] == UNTESTABLE
    assert verdicts(table(), ranks(nine=9, half_width=0.5))["low rank"] == HOLDS
    assert verdicts(table(), ranks(nine=11, half_width=0.5))["low rank"] == DIFFERS


def test_a_subspace_is_large_from_a_tenth_of_the_dimensions():
    assert verdicts(table(), ranks(missed=4))["subspace"] == HOLDS
    assert verdicts(table(), ranks(missed=3))["subspace"] == DIFFERS


def test_sentences_read_the_tables():
    said = findings.networks(table(), max_epochs=2)
    assert "leaves 0.800 [0.800, 0.800]" in said and "0.500 to 0.520 with 64 units" in said and "All of the 4" in said
    assert "None of the 4" in findings.networks(table(), max_epochs=3)
    assert "nine tenths rank 5 [5, 5], of 40" in findings.ranks(ranks(), D)
    assert "takes 38 % of NonlinearError off" in findings.learned(table(), ranks(), D, 2048)
    assert "No network tried here" in findings.learned(table(large=(0.8, 0.8), small=(0.8, 0.8)), ranks(), D, 2048)
    assert "is spread over many directions" in findings.learned(table(), ranks(nine=39), D, 2048)
    assert "there are no large" in findings.learned(table(), ranks(missed=0), D, 2048)


def test_charts_draw_their_tables():
    vl_convert = pytest.importorskip("vl_convert")
    curve = pd.DataFrame({"rank": [0, 1, 2], "fvu": [0.3, 0.2, 0.1], "recovered": [0.0, 0.5, 1.0]})
    curve = curve.assign(fvu_low=curve["fvu"] - 0.01, fvu_high=curve["fvu"] + 0.01)
    directions = pd.DataFrame({"direction": [1, 2], "share": [0.8, 0.2], "unexplained": [0.6, 0.1]})
    directions = directions.assign(unexplained_low=0.1, unexplained_high=0.7)
    drawn = {
        "affine map": charts.by_size(table()),
        "rank 0: FVU 0.300 [0.290, 0.310], 0% of the linear error": charts.by_rank(curve, 0.1),
        "direction, most linear error first": charts.spectrum(directions),
    }
    for text, chart in drawn.items():
        spec = chart.to_json().replace('"container"', "500")
        assert text in vl_convert.vegalite_to_svg(spec, vl_version="6.4")


def test_each_claim_says_what_it_judged():
    found = table(small=(0.7, 0.72), large=(0.5, 0.53), twin=-0.01)
    found.loc[(found["target"] == TWIN) & (found["hidden"] == 16), "gain_high"] = 0.004
    said = findings.claims(found, ranks(nine=7.0, missed=9.0), D)["This run"]
    assert [figures(words) for words in said] == [
        "0.270 0.300 2 64",
        "0.004",
        "0.710 0.515 16 64",
        "0.625 0.624 0.626",
        "9 40 50 %",
        "7 40",
    ]


def test_what_networks_leave_is_told_by_size():
    found = table(small=(0.7, 0.72), large=(0.5, 0.53))
    found.loc[found["fvu_error"].isin([0.7, 0.72, 0.53]), "epochs"] = 5
    said = findings.networks(found, max_epochs=5)
    assert figures(said) == "0.800 0.800 0.800 2 0.700 0.720 16 0.500 0.530 64 4 5" and "Most of the 4" in said


def test_the_ranks_stand_with_their_intervals():
    said = figures(findings.ranks(ranks(nine=7.0, missed=9.0, half_width=1.0), D))
    assert said == "2 1 3 7 6 8 40 9 40 50 % 30.0 %"


@pytest.mark.parametrize(
    ("small", "words"), [((0.7, 0.71), "each larger one found more"), ((0.51, 0.71), "did not always find more")]
)
def test_what_was_learned_says_whether_size_helped(small, words):
    said = findings.learned(table(small=small), ranks(), D, 2048)
    assert words in said and figures(said) == "64 38 % 0.625 0.624 0.626 2,048"
