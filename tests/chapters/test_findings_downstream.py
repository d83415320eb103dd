"""The sentences and pictures of Section 5.3: each rule at its threshold, from both sides."""

import json
import re

import pandas as pd
import pytest
from figures import figures

from dm_utils.chapters.s05_3_downstream import charts, findings
from dm_utils.maths.resampling import Estimate


def table_of(**metrics):
    """One SAE whose metrics are (value, low, high); what is not given is 0.5 with an interval of ±0.05."""
    names = [f"{loss}_recovered_{part}" for loss in ("ce", "kl") for part in ("linear", "nonlinear", "random_linear")]
    names += [f"ce_excess_{name}" for name in ("linear", "nonlinear", "difference")]
    names += [f"{share}_{part}" for share in findings.SHARES for part in ("linear", "nonlinear")]
    names += ["ce_increase", "loss_recovered_over_mean", "kl_over_random_error", "kl_over_difference_error"]
    row = {"sae_id": "a", "d_sae": 512, "l0": 16.0, "layer": 3, "architecture": "topk"}
    for name in names:
        row |= Estimate(*metrics.get(name, (0.5, 0.45, 0.55))).columns(name)
    return pd.DataFrame([row])


@pytest.mark.parametrize(
    "found, expected",
    [
        ((0.55, 0.50, 0.60), True),
        ((0.55, 0.50, 0.61), None),
        ((0.45, 0.39, 0.5), None),
        ((0.65, 0.601, 0.7), False),
        ((0.35, 0.3, 0.399), False),
    ],
)
def test_a_prediction_is_reasonable_within_a_tenth_with_the_whole_interval(found, expected):
    assert findings.reasonable(table_of(ce_recovered_linear=found), "share_norm") == [expected, True]


@pytest.mark.parametrize(
    "found, verdict",
    [((0.02, 0.001, 0.04), "holds"), ((0.02, 0.0, 0.04), "untestable here"), ((-0.02, -0.04, -0.001), "differs")],
)
def test_an_excess_counts_with_its_whole_interval_and_is_asked_of_both_parts(found, verdict):
    claims = findings.claims(table_of(ce_excess_linear=found))["Verdict"].tolist()
    assert claims[2] == verdict and claims[3] == claims[4] == "holds"
    assert findings.claims(table_of(ce_excess_nonlinear=found))["Verdict"][3] == verdict
    assert findings.claims(table_of(ce_excess_difference=found))["Verdict"][4] == verdict


@pytest.mark.parametrize("linear, words", [(0.52, "hardly interact"), (0.5201, "makes up for")])
def test_parts_interact_where_what_they_recover_adds_up_to_more_than_all(linear, words):
    said = findings.interaction(table_of(kl_recovered_linear=(linear, linear, linear)))
    assert words in said


def test_the_predictions_count_the_intervals_that_hold_them():
    found = findings.predictions(table_of(share_norm_linear=(0.55, 0, 0), share_variance_linear=(0.551, 0, 0)))
    row = found[(found["part"] == "LinearError") & (found["loss"] == "KL")].iloc[0]
    assert row["share of norm inside the interval"] == "1 of 1" and row["recovered − share of norm, mean"] == "-0.050"
    assert row["share of variance inside the interval"] == "0 of 1"


def test_both_excesses_are_in_what_was_learned_and_a_quadratic_loss_promises_no_shares():
    said = findings.learned(table_of(ce_excess_linear=(0.057, 0, 1), ce_excess_nonlinear=(0.087, 0, 1)))
    assert "LinearError recovers +0.057 on average and NonlinearError +0.087" in said
    assert "power 1.96" in findings.diagonal(1.96) and "need not be exact" in findings.diagonal(1.96)


def drawn(chart):
    vl_convert = pytest.importorskip("vl_convert")
    svg = vl_convert.vegalite_to_svg(
        json.loads(json.dumps(chart.to_dict()).replace('"container"', "500")), vl_version="6.4"
    )
    return svg, re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_a_panel_has_a_point_for_every_part_and_sae_over_its_interval():
    metrics = {f"ce_excess_{part}": {"panel": "of the KL", "part": part_name} for part, part_name in NAMES.items()}
    svg, texts = drawn(charts.by_sae(charts.estimates(table_of(), metrics), "excess", reference=0.0))
    assert {"a", "of the KL", "LinearError", "NonlinearError"} <= set(texts)
    assert len(re.findall('aria-roledescription="point"', svg)) == 2


NAMES = {"linear": "LinearError", "nonlinear": "NonlinearError"}


def test_recovery_is_drawn_for_the_chosen_loss():
    table = pd.concat([table_of(), table_of().assign(d_sae=1024, sae_id="b")], ignore_index=True)
    svg, texts = drawn(charts.recovery(table, "d_sae", "SAE width"))
    assert len(re.findall('aria-roledescription="line mark"', svg)) == 6 and "recovered" in texts


def test_damage_draws_a_bar_for_each_change_of_the_chosen_sae():
    table = pd.concat([table_of(), table_of().assign(sae_id="b")], ignore_index=True)
    for part in ("error", "linear", "nonlinear"):
        for kind in ("without", "random", "difference"):
            table = table.assign(**Estimate(0.3, 0.2, 0.4).columns(f"kl_{kind}_{part}"))
    svg, texts = drawn(charts.damage(table))
    assert len(re.findall('aria-roledescription="bar"', svg)) == 9 and {"SaeError", "LinearError"} <= set(texts)


def two():
    """Two SAEs, every number its own."""
    first = table_of(
        ce_recovered_linear=(0.2, 0.15, 0.25),
        ce_recovered_nonlinear=(0.6, 0.55, 0.65),
        share_norm_linear=(0.45, 0, 1),
        share_norm_nonlinear=(0.85, 0, 1),
        share_variance_linear=(0.25, 0, 1),
        share_variance_nonlinear=(0.75, 0, 1),
        ce_excess_linear=(0.03, 0.01, 0.05),
        ce_excess_nonlinear=(-0.02, -0.03, 0.01),
        ce_increase=(0.11, 0, 1),
        loss_recovered_over_mean=(0.97, 0, 1),
        kl_over_random_error=(2.5, 0, 9),
        kl_over_difference_error=(0.75, 0, 9),
        kl_recovered_linear=(0.4, 0.3, 0.5),
    )
    second = table_of(
        ce_recovered_linear=(0.3, 0.25, 0.35),
        ce_recovered_nonlinear=(0.45, 0.4, 0.5),
        share_variance_linear=(0.43, 0, 1),
        share_variance_nonlinear=(0.8, 0, 1),
        ce_increase=(0.31, 0, 1),
        loss_recovered_over_mean=(0.94, 0, 1),
        kl_over_random_error=(3.5, 0, 9),
        kl_over_difference_error=(0.5, 0, 9),
        kl_recovered_nonlinear=(0.7, 0.6, 0.8),
        ce_excess_nonlinear=(0.04, 0.02, 0.06),
    )
    return pd.concat([first, second.assign(sae_id="b")], ignore_index=True)


def test_each_claim_says_how_far_and_how_often():
    found = findings.claims(two())["This run"]
    assert [figures(words) for words in found] == [
        "0.188 1 4 3",
        "0.170 1 4 1",
        "+0.265 2 2 0",
        "+0.010 1 2 0",
        "+0.500 2 2 0",
    ]


def test_what_was_learned_has_the_ratios_of_the_parts_and_the_cost():
    said = findings.learned(two()).splitlines()
    assert [figures(line) for line in said] == [
        "- 0.110 0.310 94.0 97.0 %"[2:],
        "1.5 3.0 1.9 3.0 +0.265 +0.010",
        "0.90 1.20",
        "2.50 3.50 0.50 0.75",
    ]
    assert all(line.startswith("- ") for line in said)


def test_predictions_have_a_row_for_each_part_and_loss():
    found = findings.predictions(two())
    assert found[["part", "loss"]].to_numpy().tolist() == [
        [part, loss] for part in ("LinearError", "NonlinearError") for loss in ("cross-entropy", "KL")
    ]
    assert found.iloc[0].tolist()[2:] == [
        "0.20 to 0.30",
        "0.45 to 0.50",
        "-0.225",
        "0 of 2",
        "0.25 to 0.43",
        "-0.090",
        "1 of 2",
    ]
