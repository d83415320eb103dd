"""The rules of Appendix A's verdicts, at their thresholds."""

from types import SimpleNamespace

import pandas as pd
import pytest
from figures import figures

from dm_utils.chapters.A_more_predictions import findings
from dm_utils.chapters.A_more_predictions.baselines import ACTIVATION, EASY, TOKEN
from dm_utils.maths.resampling import Estimate


def contest(*leads: tuple[float, float]) -> pd.DataFrame:
    """The activation's lead over token identity, as an interval, layer by layer; everything easy is as good as the token."""
    rows = []
    for layer, (low, high) in enumerate(leads):
        lead = {"lead_norm": (low + high) / 2, "lead_norm_low": low, "lead_norm_high": high}
        gap = {"gap_norm": (low + high) / 2, "gap_norm_low": low, "gap_norm_high": high}
        counts = {"n_unseen": 1, "n_held_out": 100, "layer": layer, "r2_norm": 0.5}
        rows += [{"predictor": name, **lead, **gap, **counts} for name in (ACTIVATION, TOKEN, EASY)]
    return pd.DataFrame(rows)


TRAILS, LEADS, EVEN = (-0.2, -0.001), (0.001, 0.2), (-0.1, 0.1)


@pytest.mark.parametrize(
    ("leads", "word"),
    [
        ((LEADS, LEADS), "holds"),
        ((TRAILS, LEADS), "partly"),
        ((TRAILS, EVEN), "differs"),
        ((EVEN, EVEN), "untestable here"),
    ],
)
def test_the_activation_must_lead_with_its_whole_interval_at_every_layer(leads, word):
    assert findings.beats_each_easy_one(contest(*leads)) == word
    assert findings.beats_all_easy_ones(contest(*leads)) == word


@pytest.mark.parametrize(
    ("leads", "word"),
    [
        ((TRAILS, EVEN, LEADS), "holds"),
        ((TRAILS, TRAILS), "holds"),
        ((TRAILS, LEADS, TRAILS), "differs"),  # it wins late, too
        ((LEADS, TRAILS), "differs"),
        ((EVEN, LEADS), "differs"),  # it wins nowhere
    ],
)
def test_token_identity_wins_early_if_all_its_layers_come_first(leads, word):
    assert findings.token_wins_early(contest(*leads)) == word


def test_the_sentence_names_the_layers():
    words = findings.easy_predictors(contest(TRAILS, TRAILS, LEADS))
    assert "at layer 2, and worse than the best of them at layers 0, 1" in words


def curve(*token: float) -> pd.DataFrame:
    rows = []
    for i, r2 in enumerate(token):
        about = {"n_fit": 1000 * 2**i, "per_identity": 2.0**i}
        rows += [{**about, "predictor": TOKEN, "r2": r2}, {**about, "predictor": ACTIVATION, "r2": 0.6}]
    return pd.DataFrame(rows)


def test_the_table_overtakes_where_it_stays_ahead():
    assert findings.overtakes(curve(0.5, 0.61, 0.7)) == "token identity wins from 2,000 fitting tokens on"
    assert findings.overtakes(curve(0.7, 0.5, 0.7)) == "token identity wins from 4,000 fitting tokens on"
    assert findings.overtakes(curve(0.5, 0.6)) == "token identity never wins"


@pytest.mark.parametrize(("after", "word"), [(0.91, "holds"), (0.89, "differs"), (1.02, "holds")])
def test_more_than_shrinkage_if_rescaling_takes_less_than_a_tenth(after, word):
    table = pd.DataFrame({"r2_error_vector": [1.0], "r2_error_vector_rescaled": [after]})
    assert findings.only_shrinkage_refuted(table) == word


def trend(falls: float, steady: float, mean: float):
    return SimpleNamespace(**{k: Estimate(v, v - 0.01, v + 0.01) for k, v in vars().items()})


def test_mostly_means_more_than_half_of_the_tokens():
    assert [findings.mostly_falls(trend(share, 0, 0)) for share in (0.52, 0.5, 0.48)] == [
        "holds",
        "untestable here",
        "differs",
    ]
    assert [findings.mostly_steady(trend(0, share, 0)) for share in (0.52, 0.5, 0.48)] == [
        "holds",
        "untestable here",
        "differs",
    ]


def test_a_trend_is_a_mean_change_whose_interval_excludes_zero():
    assert [findings.no_trend(trend(0, 0, mean)) for mean in (-0.02, 0.005, 0.02)] == ["differs", "holds", "differs"]


def grid(narrow: float, wide: float) -> pd.DataFrame:
    rows = [(512, 16.0, narrow), (8192, 16.5, wide), (512, 60.0, wide), (8192, 200.0, narrow)]
    return pd.DataFrame(
        [
            {
                "d_sae": d,
                "l0": l0,
                "fvu_nonlinear": value,
                "fvu_nonlinear_low": value - 0.01,
                "fvu_nonlinear_high": value + 0.01,
            }
            for d, l0, value in rows
        ]
    )


def test_falling_with_width_is_judged_at_the_nearest_l0_and_only_where_there_are_saes():
    assert findings.falls_with_width({}) == "untestable here"
    assert findings.falls_with_width({5: grid(0.15, 0.12)}) == "holds"
    assert findings.falls_with_width({5: grid(0.12, 0.15)}) == "differs"
    assert findings.falls_with_width({5: grid(0.13, 0.12)}) == "untestable here"
    assert "untestable here" in findings.grids(3, []) and "5, 19" in findings.grids(12, [19, 5])


def with_ends(half: float, **values: list[float]) -> pd.DataFrame:
    """A table of estimates, each with an interval of `half` on both sides."""
    table = pd.DataFrame(values)
    return table.assign(
        **{f"{k}_low": table[k] - half for k in values}, **{f"{k}_high": table[k] + half for k in values}
    )


def by_layers() -> pd.DataFrame:
    """Three layers; where the norm is predicted worst and best is not where the nonlinear share is least and largest."""
    found = with_ends(
        0.01,
        r2_error_norm=[0.5, 0.3, 0.9],
        r2_error_vector=[0.4, 0.5, 0.2],
        norm_ratio=[0.86, 0.9, 0.94],
        cos_linear_x=[0.42, 0.5, 0.58],
    )
    about = {
        "layer": [2, 4, 6],
        "fvu": [0.2, 0.4, 0.5],
        "fvu_nonlinear": [0.05, 0.2, 0.15],
        "best_scale": [1.1, 1.25, 1.2],
    }
    norms = {"norm_ratio_total": [0.85, 0.88, 0.91], "norm_ratio_unshrunk": [0.87, 0.93, 0.96]}
    return found.assign(**about, **norms, r2_error_vector_rescaled=[0.39, 0.48, 0.199])


def predictors() -> pd.DataFrame:
    """Three layers: the token is ahead in the first, the activation in the last; each number is its own."""
    rows = []
    for layer, x, token, easy, lead in (
        (2, 0.5, 0.73, 0.6, -0.15),
        (4, 0.55, 0.64, 0.61, 0.005),
        (6, 0.8, 0.42, 0.7, 0.12),
    ):
        for name, r2 in ((ACTIVATION, x), (TOKEN, token), (EASY, easy)):
            gap = {"gap_norm": x - r2, "gap_norm_low": x - r2 - 0.01, "gap_norm_high": x - r2 + 0.01}
            ends = {"lead_norm": lead, "lead_norm_low": lead - 0.01, "lead_norm_high": lead + 0.01}
            counts = {"n_unseen": 30, "n_held_out": 400}
            rows.append({"layer": layer, "predictor": name, "r2_norm": r2, **gap, **ends, **counts})
    return pd.DataFrame(rows).sample(frac=1, random_state=1)


TRENDS = {
    "linear": SimpleNamespace(
        mean=Estimate(-2.5, -2.75, -2.25),
        falls=Estimate(0.71, 0.7, 0.72),
        steady=Estimate(0.2, 0.19, 0.21),
        within=0.125,
    ),
    "nonlinear": SimpleNamespace(
        mean=Estimate(0.25, 0.125, 0.375),
        falls=Estimate(0.44, 0.43, 0.45),
        steady=Estimate(0.63, 0.62, 0.64),
        within=0.375,
    ),
}


def test_each_layer_is_named_with_its_own_figures():
    assert figures(findings.by_layer(by_layers())) == "4 0.300 0.290 0.310 6 0.900 0.890 0.910 25% 2 50% 4"
    assert figures(findings.grids(3, [9, 5])) == "3 5 9"


def test_how_short_reconstructions_are_is_what_the_ratios_lack():
    assert figures(findings.shrinkage(by_layers())) == "9.0 15.0 % 4.0 13.0 % 1.100 1.250 0.0010 0.0200 holds"


def test_who_predicts_the_norm_best_is_said_layer_by_layer():
    """Ahead at 6, behind at 2; the lead's two ends; the token's two ends; everything easy, and where it is beaten."""
    layers = figures(findings.easy_predictors(predictors())).removeprefix("0 ")  # of "SAE L0"
    assert layers == "6 2 0 -0.150 2 0.120 6 0.73 2 0.42 6 0.60 0.70 6 7.5%"


def test_the_contest_over_the_size_of_the_text_names_its_two_ends():
    assert figures(findings.by_text(curve(0.5, 0.61, 0.7))) == (
        "0.50 1,000 1 0.70 4,000 4 0.60 0.60 2,000 150,000 256,000 13"
    )


def test_single_tokens_are_told_by_their_trends():
    assert figures(findings.single_tokens(TRENDS, 5)) == (
        "-2.50 % -2.75 -2.25 71% +0.25 % +0.12 +0.38 44% 5 % 63% 20% 37.5% 12.5%"
    )


def test_every_claim_has_what_was_found_and_its_verdict():
    found = findings.statements(by_layers(), predictors(), TRENDS, {5: grid(0.15, 0.12), 7: grid(0.12, 0.15)})
    assert found["Verdict"].tolist() == [
        *("partly", "holds", "holds", "holds", "differs", "differs", "holds", "holds", "holds", "differs")
    ]
    assert [figures(words) for words in found["This run"]] == [
        *("5 7", "0.86 0.94", "0.42 0.58", "", "6 2", "", "6", "71%", "63%", "+0.2 %")
    ]


def test_the_lessons_name_the_same_layers_and_verdicts():
    said = findings.lessons(by_layers(), predictors(), curve(0.5, 0.61, 0.7), TRENDS, 5)
    assert [figures(words) for words in said] == [
        "Which token it is says more than the activation 2 0.73 0.50 6 holds differs",
        "2,000",
        "0.30 0.90 0.20 0.50",
        "holds",
        "5 % 63% holds 44% differs",
    ]


@pytest.mark.parametrize(("after", "word"), [(0.46, "holds"), (0.44, "differs")])
def test_what_rescaling_takes_is_a_share_of_the_r2(after, word):
    table = pd.DataFrame({"r2_error_vector": [0.5], "r2_error_vector_rescaled": [after]})
    assert findings.only_shrinkage_refuted(table) == word
