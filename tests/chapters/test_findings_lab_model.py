"""The lab's requirements, at their thresholds."""

import pandas as pd
import pytest
from figures import figures

from dm_utils.chapters.lab_model import findings
from dm_utils.maths.resampling import Estimate


def suite(fvu=(0.3, 0.2, 0.2, 0.1), l0=(8, 8, 16, 16), dead=0.1):
    table = pd.DataFrame(
        {"sae_id": list("abcd"), "d_sae": [512, 1024] * 2, "fvu": fvu, "l0": l0, "dead_fraction": dead}
    )
    return table.assign(l0_label=[8, 8, 16, 16], near_l0=[8, 8, 16, 16], layer=3)


def met(**changes):
    table = suite(**changes)
    return findings.health(table, table)["Met"].tolist()


@pytest.mark.parametrize(
    ("changes", "which", "word"),
    [
        ({}, 0, "yes"),
        ({"fvu": (0.3, 0.3, 0.2, 0.1)}, 0, "NO"),  # one step does not fall
        ({"fvu": (0.3, 0.2, 0.3, 0.1)}, 1, "NO"),
        ({"l0": (8.79, 8, 16, 16)}, 2, "yes"),
        ({"l0": (8.81, 8, 16, 16)}, 2, "NO"),
        ({"dead": 0.199}, 3, "yes"),
        ({"dead": 0.2}, 3, "NO"),
    ],
)
def test_each_requirement_at_its_threshold(changes, which, word):
    assert met(**changes)[which] == word


def test_what_is_not_met_is_named():
    then = {"model_nats": 3.5, "trigram_nats": 4.7, "unigram_nats": 6.8}
    table, original = suite(dead=0.3).assign(value=[3.8, 3.7, 3.6, 3.5]), Estimate(3.4, 3.3, 3.5)
    said = findings.learned(then, findings.health(table, table), table, original)
    assert "Not met: dead latents under 20 % of every SAE." in said
    assert "layer 3 cost 0.10 to 0.40 nats" in said
    assert "between 80.0 % (`a`) and 95.0 % (`d`)" in findings.recovered(table, original, Estimate(5.4, 5.3, 5.5), 48)


def test_the_recipe_is_read_from_the_manifest():
    recipe = {"steps": 1234, "batch_tokens": 2048, "k_start": 31}
    said = findings.training(suite().assign(component="resid", architecture="topk"), recipe)
    assert "4 SAEs" in said and "4 resid topk" in said
    assert "1,234 steps of 2,048 tokens" in said and "at least 31 active latents" in said


def test_what_was_measured_stands_beside_each_requirement():
    table = suite(l0=(8, 7.6, 16, 16.4), dead=[0.1, 0.05, 0.125, 0.02])
    found = findings.health(table, table)
    assert [figures(words) for words in found["Measured"][2:]] == ["5.0 %", "12.5 %"]


def test_what_is_recovered_is_a_share_of_the_way_from_the_mean():
    table, original = suite().assign(value=[3.9, 3.6, 3.7, 3.8]), Estimate(3.4, 3.3, 3.5)
    said = findings.recovered(table, original, Estimate(5.4, 5.25, 5.5), 48)
    assert figures(said) == "48 3.400 3.300 3.500 5.400 5.250 5.500 75.0 % a 90.0 % b"


def test_the_losses_stand_in_their_order():
    then = {"model_nats": 3.5, "trigram_nats": 4.7, "unigram_nats": 6.8}
    table = suite().assign(value=[3.8, 3.7, 3.6, 3.5])
    said = findings.learned(then, findings.health(table, table), table, Estimate(3.4, 3.3, 3.5))
    assert figures(said) == "3.50 4.70 6.80 3 0.10 0.40" and "All requirements on the SAEs are met." in said


def seeds(*widths):
    """Two seeds or more at each width, each an interval around its value; one width of one seed says nothing."""
    rows = [
        {"metric": "fvu", "d_sae": 2**at, "seed": seed, "value": value, "low": value - 1 / 64, "high": value + 1 / 32}
        for at, values in enumerate(widths)
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame([*rows, {**rows[0], "metric": "other", "value": 9.0, "high": 20.0}, {**rows[0], "d_sae": 99}])


@pytest.mark.parametrize(
    ("widths", "scatter", "apart", "steps"),
    [
        (((0.5, 0.52), (0.4, 0.4)), "0.0200", 1, 1),
        (((0.4, 0.4), (0.5, 0.55), (0.1, 0.1)), "0.0500", 2, 2),
        (((0.4, 0.4), (0.425, 0.5)), "0.0750", 0, 1),  # they overlap
        (((0.5, 0.5625), (0.453125, 0.453125)), "0.0625", 0, 1),  # they touch, exactly
        (((0.453125, 0.453125), (0.5, 0.5)), "0.0000", 0, 1),
    ],
)
def test_widths_are_apart_where_no_seed_and_no_interval_reaches_the_next(widths, scatter, apart, steps):
    assert figures(findings.over_seeds(seeds(*widths), "fvu")) == f"{scatter} 0.0469 {apart} {steps}"


def test_without_two_seeds_of_a_width_nothing_scatters():
    assert figures(findings.over_seeds(seeds((0.5,), (0.4,)), "fvu")) == "0.0000 0.0469 0 0"
