"""The lab's requirements, at their thresholds."""

import pandas as pd
import pytest

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
