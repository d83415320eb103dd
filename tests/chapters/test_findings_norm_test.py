"""The sentences of Section 5.1: each rule at its threshold, from both sides."""

import numpy as np
import pandas as pd
import pytest
from figures import figures

from dm_utils.base.names import VECTORS
from dm_utils.chapters.s05_1_norm_test import findings


def table_of(*saes, x=(0.8, 0.79, 0.81)):
    """A table as `norm_tests` gives it; each SAE is (linear, nonlinear), each (value, low, high) from x; the rest is constant."""
    rows = [
        {"vector": "x", "regressor": regressor, "sae_id": "(any)", "r": x} for regressor in ("from x", "from itself")
    ]
    for index, (linear, nonlinear) in enumerate(saes):
        for vector in VECTORS[1:]:
            r2 = {"linear": linear, "nonlinear": nonlinear}.get(vector, (0.6, 0.5, 0.7))
            rows += [
                {"vector": vector, "regressor": name, "sae_id": f"sae {index}", "r": r2}
                for name in ("from x", "from itself")
            ]
    table = pd.DataFrame(rows)
    table[["value", "low", "high"]] = np.array(table.pop("r").tolist())
    table["gaussian"] = np.where(table["regressor"] == "from itself", 0.5, np.nan)
    table["rank"] = np.where(table["regressor"] == "from itself", 8, np.nan)
    return table.assign(hook_name="hook", layer=3)


LOW, HIGH = (0.5, 0.49, 0.51), (0.61, 0.6, 0.62)


@pytest.mark.parametrize(
    "linear, nonlinear, lower",
    [
        ((0.60, 0.55, 0.65), (0.50, 0.46, 0.549), True),
        ((0.60, 0.55, 0.65), (0.50, 0.46, 0.55), None),
        ((0.50, 0.46, 0.549), (0.60, 0.55, 0.65), False),
    ],
)
def test_a_part_is_lower_only_where_the_intervals_are_apart_and_reversed_ones_are_told(linear, nonlinear, lower):
    assert findings.parts(table_of((linear, nonlinear)))["lower"].tolist() == [lower]


def test_every_reversed_sae_is_in_the_sentence():
    said = findings.figure_6(table_of((HIGH, LOW), (HIGH, LOW), (LOW, HIGH)))
    assert "**2 of 3** SAEs, with intervals apart in 2; the order is reversed, with intervals apart, in 1" in said


@pytest.mark.parametrize(
    "saes, lower, notably",
    [
        ([(HIGH, LOW)] * 3, "holds", "holds"),
        ([(HIGH, LOW), (LOW, HIGH)], "partly", "partly"),
        ([(LOW, HIGH)] * 2, "differs", "differs"),
        ([((0.599, 0.59, 0.60), LOW)], "holds", "differs"),  # apart, but by less than a tenth
        ([((0.601, 0.59, 0.61), LOW)], "holds", "holds"),
        ([((0.7, 0.5, 0.9), (0.5, 0.3, 0.6))], "untestable here", "untestable here"),
    ],
)
def test_the_claims_on_the_parts_use_every_sae(saes, lower, notably):
    assert findings.claims(table_of(*saes))["Verdict"].tolist()[1:] == [lower, notably]


@pytest.mark.parametrize(
    "x, said",
    [
        ((0.95, 0.90, 0.97), "holds"),
        ((0.91, 0.89, 0.93), "untestable here"),
        ((0.85, 0.80, 0.90), "untestable here"),
        ((0.85, 0.80, 0.899), "differs"),
    ],
)
def test_almost_perfect_is_nine_tenths_with_the_whole_interval(x, said):
    assert findings.claims(table_of((HIGH, LOW), x=x))["Verdict"][0] == said


def test_a_vector_beats_its_twin_only_with_its_whole_interval():
    found = findings.twins(table_of((HIGH, (0.52, 0.501, 0.6)), (HIGH, (0.52, 0.50, 0.6)))).set_index("vector")
    assert found.loc["nonlinear", "SAEs above their twin"] == 1 and found.loc["nonlinear", "SAEs"] == 2
    assert found.loc["linear", "above the twin, median"] == pytest.approx(0.11)


def test_outliers_say_whether_few_tokens_or_a_rank_decide_them():
    table = table_of((HIGH, LOW), (HIGH, LOW))
    table.loc[(table["vector"] == "linear") & (table["sae_id"] == "sae 1"), "rank"] = 7
    explained = pd.DataFrame({"value": [0.1, 0.1], "layer": [2, 3]})
    explained = explained.assign(share_of_variance=[0.25, 0.26], r2_without=[0.15, 0.16])
    said = findings.outliers(table, explained, explained)
    assert "1 SAEs have a vector of lower rank" in said and "In 1 of the 2 outliers" in said
    assert "more than 0.05 in 1" in said and "2: 1, 3: 1" in said
    assert "In 0" not in findings.outliers(table, explained.head(0), explained.head(0))


def test_planted_scores_are_those_of_the_nonlinear_part():
    truth = pd.DataFrame({"Vector": ["x", "NonlinearError", "NonlinearError"], "from x": [1, 0.1, 0.2]})
    said = findings.planted(truth.assign(**{"from itself": [1, 0.3, 0.4]}))
    assert "scores 0.10 to 0.20 from" in said and "0.30 to 0.40 from itself" in said


def apart():
    """Three SAEs at one site whose numbers differ, and their scores from themselves and from a Gaussian."""
    table = table_of(
        ((0.8, 0.79, 0.81), (0.5, 0.49, 0.51)),
        ((0.7, 0.69, 0.71), (0.65, 0.6, 0.7)),
        ((0.4, 0.39, 0.41), (0.6, 0.59, 0.61)),
        x=(0.95, 0.94, 0.96),
    )
    itself, index = table["regressor"] == "from itself", table["sae_id"].str[-1]
    for vector, shift in (("nonlinear", 0.1), ("error", -0.2), ("linear", 0.001)):
        chosen = itself & (table["vector"] == vector)
        for sae, times in (("0", 1), ("1", 2), ("2", 1)):
            table.loc[chosen & (index == sae), ["value", "low", "high"]] += shift * times
    return table


def test_the_medians_and_the_counts_of_figure_6():
    """Sae(x), SaeError, LinearError and NonlinearError; in two of three lower, in one apart, in one reversed; x at one site."""
    assert figures(findings.figure_6(apart())) == "3 0.60 0.60 0.70 0.60 2 of 3 1 1 2 2 0.95 0.95 1"


def test_each_claim_says_what_it_judged():
    found = findings.claims(apart())
    assert [figures(words) for words in found["This run"]] == ["0.9 1 1 0.95", "1 3 1 1", "1 3 0.60 0.70"]
    assert found["Verdict"].tolist() == ["holds", "differs", "differs"]


def test_a_vector_is_held_against_itself_and_against_its_twin():
    assert figures(findings.itself_instead(apart())) == "2 +0.10 +0.20 -0.40 -0.20 2.0 -03"
    found = findings.twins(apart()).set_index("vector")
    assert found.loc["nonlinear"].tolist() == [3, 0.7, 0.5, 0.2, 3]
    assert found.loc["error"].tolist() == [3, 0.4, 0.5, -0.1, 0]
    assert found.index.tolist() == list(VECTORS)


def test_what_was_learned_names_medians_verdicts_and_gains():
    assert figures(findings.learned(apart())) == (
        "0.60 0.70 differs differs 2 holds 0.95 +0.45 +0.10 -0.10 +0.20 +0.20"
    )


def test_the_lowest_point_is_named_with_its_site():
    table = apart()
    table.loc[0, "value"] = float("nan")
    explained = pd.DataFrame({"value": [0.1], "layer": [2], "share_of_variance": [0.3], "r2_without": [0.2]})
    said = findings.outliers(table, pd.concat([explained] * 3), explained)
    assert figures(said).startswith("1 13 6 2 1 0.20") and "error, from itself, sae 1 at hook" in said


def test_lower_and_notably_lower_are_told_each_with_its_own_verdict():
    said = findings.learned(table_of(((0.599, 0.59, 0.60), LOW)))
    assert "scores lower: **holds**; notably lower: **differs**" in said
