"""The verdicts of Section 4.2, at their thresholds."""

from types import SimpleNamespace

import pandas as pd
from figures import figures

from dm_utils.base.verdicts import DIFFERS, HOLDS, PARTLY, UNTESTABLE
from dm_utils.chapters.s04_2_error_vectors import findings
from dm_utils.engine.token_identity import BEYOND, PREDICTORS, TOKEN, TOKENS, X

EVERY = SimpleNamespace(low=0.15, high=0.72)


def suite(vector, norm=(0.6, 0.5, 0.8, 0.7), left=1.0, half_width=0.01):
    """Two widths at each of two L0s."""
    table = pd.DataFrame({"sae_id": list("abcd"), "architecture": "topk", "d_sae": [512, 1024] * 2})
    table = table.assign(near_l0=[8, 8, 16, 16], norm_ratio=0.9, shrinkage=1.0, cos_linear_x=0.6)
    columns = {"r2_error_vector": vector, "r2_error_vector_weighted": vector, "r2_error_norm": norm}
    columns["r2_error_vector_rescaled"] = [left * value for value in vector]
    for name, values in columns.items():
        ends = {f"{name}_low": [v - half_width for v in values], f"{name}_high": [v + half_width for v in values]}
        table = table.assign(**{name: values, **ends})
    return table


FALLING = (0.7, 0.5, 0.4, 0.2)


def verdicts(table):
    names = ["range", "width", "l0", "opposite", "shrinkage"]
    return dict(zip(names, findings.claims(table, table, EVERY)["Verdict"], strict=True))


def test_what_the_paper_says_holds_on_what_it_saw():
    assert set(verdicts(suite(FALLING)).values()) == {HOLDS}


def test_the_range_counts_an_sae_only_with_its_whole_interval():
    assert verdicts(suite((0.7, 0.5, 0.4, 0.161)))["range"] == HOLDS
    assert verdicts(suite((0.7, 0.5, 0.4, 0.159)))["range"] == PARTLY
    assert verdicts(suite((0.1, 0.05, 0.04, 0.139)))["range"] == DIFFERS


def test_a_step_counts_only_if_its_intervals_are_apart():
    assert verdicts(suite((0.5, 0.479, 0.4, 0.379)))["width"] == HOLDS
    assert verdicts(suite((0.5, 0.481, 0.4, 0.381)))["width"] == UNTESTABLE
    assert verdicts(suite((0.2, 0.3, 0.4, 0.5)))["l0"] == DIFFERS


def test_norm_and_vector_go_opposite_ways_only_if_each_does():
    assert verdicts(suite(FALLING, norm=(0.6, 0.5, 0.8, 0.4)))["opposite"] == PARTLY  # the norm's R² falls at one width
    assert verdicts(suite((0.2, 0.3, 0.4, 0.5)))["opposite"] == DIFFERS  # the vector's R² rises


def test_shrinkage_is_ruled_out_where_nine_tenths_of_r2_are_left():
    assert verdicts(suite(FALLING, left=0.92, half_width=0.001))["shrinkage"] == HOLDS
    assert verdicts(suite(FALLING, left=0.88, half_width=0.001))["shrinkage"] == DIFFERS
    assert verdicts(suite(FALLING, left=0.905))["shrinkage"] == UNTESTABLE  # every interval holds nine tenths
    said = [findings.what_is_left(suite(FALLING, left=left)) for left in (0.901, 0.899, 0.501, 0.499)]
    assert said == ["nearly all", "most", "most", "only a part"]


def test_sentences_read_the_table():
    assert "falls in 2 of 2 steps" in findings.over_the_suite(suite(FALLING))
    assert "$R^2$ changes by at most 0.070" in findings.learned(suite(FALLING, left=0.9), 0.92)
    dimensions = pd.DataFrame({"dimension": [0, 1], "share": [0.75, 0.25], "r2": [0.2, 0.4]})
    said = findings.by_dimension(dimensions, "one")
    assert "dimensions is 0.300 and the weighted value 0.250" in said
    assert "(number 0) holds 75.0 % of it, 1.5 times" in said


def predicted(adds, half_width=0.01):
    """One SAE whose error vector x predicts with R² 0.1, and beyond each table `adds` of what it leaves."""
    table = pd.DataFrame({"predictor": PREDICTORS, "sae_id": "one", "r2_vector": [0.1, 0.2, 0.3, 0.4, 0.5]})
    table["beyond_vector"] = [adds if name in BEYOND.values() else float("nan") for name in PREDICTORS]
    for name in ("r2_vector", "beyond_vector"):
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - half_width, table[name] + half_width
    return table


def test_the_map_is_more_than_tokens_where_x_explains_what_three_tokens_leave():
    said = findings.beyond_tokens(predicted(0.011))
    assert f"the two before it {0.4:.3f}" in said and "is more than which tokens these are" in said
    assert "which may be nothing" in findings.beyond_tokens(predicted(0.009))
    assert BEYOND[TOKENS] in PREDICTORS


def test_what_was_learned_reads_each_column():
    table = suite((0.71, 0.52, 0.43, 0.24)).assign(
        r2_error_vector_rescaled=[0.7, 0.46, 0.4, 0.22],
        norm_ratio=[0.88, 0.91, 0.93, 0.96],
        shrinkage=[1.01, 1.02, 1.03, 1.04],
        cos_linear_x=[0.61, 0.62, 0.63, 0.64],
    )
    assert figures(findings.learned(table, 0.92)) == "24 71 % 88 96 % 1.010 1.040 2 0.060 0.22 0.70 0.61 0.64 0.92 1"
    found = findings.claims(table, table, EVERY)
    assert figures(found.iloc[0, 0]) == "0.15 0.72" and figures(found.iloc[0, 1]) == "0.24 0.71 4"
    assert figures(found.iloc[4, 1]) == "88 99 %"


def test_both_kinds_of_r2_run_over_the_suite_in_their_own_way():
    table = suite(FALLING).assign(r2_error_vector_weighted=[0.1, 0.3, 0.25, 0.35])
    table = table.assign(
        **{f"r2_error_vector_weighted_{end}": table["r2_error_vector_weighted"] for end in ("low", "high")}
    )
    said = findings.over_the_suite(table)
    assert figures(said).startswith("4 2 0.20 0.70 0.10 0.35 0")
    wider, denser = said.split("From one width")[1].split("from one $L_0$")
    assert "the mean falls in 2 of 2" in wider and "the weighted one falls in 0 of 2" in wider
    assert "the mean falls in 2 of 2" in denser and "the weighted one falls in 0 of 2" in denser


def test_the_dimension_with_the_most_error_is_described():
    dimensions = pd.DataFrame({"dimension": [7, 8, 9], "share": [0.2, 0.5, 0.3], "r2": [0.1, 0.4, 0.7]})
    assert figures(findings.by_dimension(dimensions, "one")) == "one 3 0.400 0.430 8 50.0 % 1.5 2 0.400"


def test_each_predictor_stands_in_its_place():
    table = predicted(0.011)
    table.loc[table["predictor"] == BEYOND[TOKENS], "beyond_vector"] = 0.02
    said = figures(findings.beyond_tokens(table)).split()
    scores = table.set_index("predictor")["r2_vector"]
    order = [X, TOKEN, TOKENS, None, None, BEYOND[TOKEN], BEYOND[TOKENS]]
    expected = [
        f"{scores[name]:.3f}" if name else text
        for name, text in zip(order, [None] * 3 + ["0.011", "0.020"] + [None] * 2, strict=True)
    ]
    assert said[0] == "one" and said[1::3][:7] == expected
