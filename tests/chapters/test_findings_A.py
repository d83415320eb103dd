"""The rules of Appendix A's verdicts, at their thresholds."""

from types import SimpleNamespace

import pandas as pd
import pytest

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
