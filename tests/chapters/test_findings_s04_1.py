"""The verdicts of Section 4.1, at their thresholds."""

from types import SimpleNamespace

import pandas as pd
import pytest
from figures import figures

from dm_utils.base.verdicts import DIFFERS, HOLDS, PARTLY, UNTESTABLE
from dm_utils.chapters.s04_1_error_norms import findings
from dm_utils.engine.token_identity import BEYOND, TOKEN, TOKENS, X
from dm_utils.maths.resampling import Estimate

EVERY, PLATEAU = SimpleNamespace(low=0.7, high=0.95), SimpleNamespace(low=0.8, high=0.95)


def with_ends(table, metric, values, half_width=0.01):
    low, high = ([value + sign * half_width for value in values] for sign in (-1, 1))
    return table.assign(**{metric: values, f"{metric}_low": low, f"{metric}_high": high})


def suite(values, half_width=0.01):
    """Two widths at each of two L0s."""
    table = pd.DataFrame({"sae_id": list("abcd"), "architecture": "topk", "layer": 2, "d_sae": [512, 1024] * 2})
    table = table.assign(l0=[8.0, 8.0, 16.0, 16.0], near_l0=[8, 8, 16, 16])
    return with_ends(with_ends(table, "r2_error_norm", values, half_width), "r2_x_norm", [0.9] * 4)


def layers(values, identity):
    table = pd.DataFrame({"sae_id": [f"layer {i}" for i in range(len(values))], "layer": range(len(values))})
    return with_ends(with_ends(table, "r2_error_norm", values), "r2_token_identity", identity)


def verdicts(main, by_layer):
    table = findings.claims(main, main, by_layer, len(by_layer), EVERY, PLATEAU)
    names = ["range", "width", "l0", "first", "plateau", "last", "token"]
    return dict(zip(names, table["Verdict"], strict=True))


PAPERS = layers([0.72, 0.85, 0.9, 0.9, 0.85, 0.74], [0.3] * 6)
AS_PAPER = suite([0.82, 0.78, 0.86, 0.83])


def test_what_the_paper_says_holds_on_what_it_saw():
    assert set(verdicts(AS_PAPER, PAPERS).values()) == {HOLDS}


def test_the_range_counts_an_sae_only_with_its_whole_interval():
    assert verdicts(suite([0.711, 0.711, 0.8, 0.8]), PAPERS)["range"] == HOLDS
    assert verdicts(suite([0.709, 0.711, 0.8, 0.8]), PAPERS)["range"] == PARTLY  # one interval crosses 0.7
    low = layers([0.4] * 6, [0.3] * 6)
    assert verdicts(suite([0.4, 0.4, 0.4, 0.709]), low)["range"] == DIFFERS


def test_a_step_counts_only_if_its_intervals_are_apart():
    assert verdicts(suite([0.8, 0.779, 0.85, 0.829]), PAPERS)["width"] == HOLDS
    assert verdicts(suite([0.8, 0.781, 0.85, 0.831]), PAPERS)["width"] == UNTESTABLE
    assert verdicts(suite([0.8, 0.85, 0.7, 0.75]), PAPERS) | {"width": DIFFERS, "l0": DIFFERS} == verdicts(
        suite([0.8, 0.85, 0.7, 0.75]), PAPERS
    )


def test_figure_3_has_its_shape_only_if_every_middle_layer_stands_above_the_ends():
    assert verdicts(AS_PAPER, layers([0.829, 0.9, 0.85, 0.86, 0.9, 0.829], [0.3] * 6))["first"] == HOLDS
    assert verdicts(AS_PAPER, layers([0.831, 0.9, 0.85, 0.86, 0.9, 0.829], [0.3] * 6))["first"] == PARTLY
    high_ends = verdicts(AS_PAPER, layers([0.93, 0.9, 0.85, 0.86, 0.9, 0.93], [0.3] * 6))
    assert (high_ends["first"], high_ends["last"]) == (DIFFERS, DIFFERS)
    assert verdicts(AS_PAPER, layers([0.72, 0.5, 0.6, 0.6, 0.5, 0.4], [0.3] * 6))["plateau"] == DIFFERS


def test_token_identity_wins_where_its_interval_lies_above_the_probes():
    early = layers([0.7, 0.7, 0.7], [0.721, 0.7, 0.679])
    assert verdicts(AS_PAPER, early)["token"] == DIFFERS  # the activation is ahead at one layer of three
    assert verdicts(AS_PAPER, layers([0.7, 0.7], [0.721, 0.679]))["token"] == PARTLY
    assert "At layer 0 a table" in findings.identity_wins(early)
    assert "At no layer" in findings.identity_wins(layers([0.7, 0.7], [0.719, 0.5]))
    assert "At layers 0, 1 and 2 a table" in findings.identity_wins(layers([0.5] * 3, [0.6] * 3))


def test_sentences_count_saes_with_their_intervals():
    said = findings.learned(suite([0.709, 0.711, 0.93, 0.95]), EVERY)
    assert "2 of them lie, interval and all" in said
    assert "2 of the 4 error norms are more predictable" in said
    both = pd.concat([AS_PAPER.assign(split="token"), AS_PAPER.assign(split="context")])
    assert "+0.000 to +0.000" in findings.split_effect(both)
    assert "falls in 2 of 2 steps" in findings.over_the_suite(AS_PAPER)


def test_one_layer_alone_has_no_shape():
    alone = verdicts(AS_PAPER, layers([0.9], [0.3]))
    assert (alone["first"], alone["last"], alone["token"]) == (UNTESTABLE, UNTESTABLE, HOLDS)


def test_the_middle_half_of_the_layers():
    assert findings.middle(PAPERS, 6).tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize(("numbers", "words"), [([3], "layer 3"), ([0, 2], "layers 0 and 2")])
def test_layers_in_words(numbers, words):
    assert findings.layers_in_words(numbers) == words


def predicted(x, token, adds):
    """Two layers: R² from x, from the token (and three tokens, 0.1 more), and what x adds beyond either."""
    r2 = {X: x, TOKEN: token, TOKENS: [value + 0.1 for value in token], **{key: [0.9, 0.9] for key in BEYOND.values()}}
    parts = [
        with_ends(pd.DataFrame({"predictor": [name] * 2, "layer": [0, 1]}), "r2_norm", v) for name, v in r2.items()
    ]
    return with_ends(pd.concat(parts, ignore_index=True), "beyond_norm", [adds] * 10)


def test_beyond_tokens_counts_the_layers_where_each_wins_with_intervals_apart():
    said = findings.beyond_tokens(predicted([0.5, 0.8], [0.521, 0.7], adds=0.3))
    assert (
        "the mean of the token explains $R^2$ = 0.52 to 0.70 over 2 layers, at layer 0 more than the activation" in said
    )
    assert "explains 0.30, more than nothing at all of the layers" in said
    assert "the mean of the token explains $R^2$ = 0.52 to 0.70 over 2 layers, at no layer" in findings.beyond_tokens(
        predicted([0.502, 0.8], [0.521, 0.7], adds=0.3)
    )
    assert "more than nothing at none of the layers" in findings.beyond_tokens(
        predicted([0.5, 0.8], [0.5, 0.7], adds=0.009)
    )


def test_the_range_over_the_suite_names_its_two_saes():
    main = suite([0.82, 0.78, 0.861, 0.83]).assign(l0=[8.2, 7.9, 15.8, 16.1])
    said = figures(findings.over_the_suite(main)).split(" 2 2 ")[0]
    assert said == "4 2 0.78 1,024 0 8 0.86 512 0 16 0"
    assert figures(findings.over_the_suite(main)).endswith("2 0.900 0.890 0.910")


def test_a_split_by_token_is_held_against_one_by_context():
    token, context = suite([0.8, 0.7, 0.6, 0.5], 0.01), suite([0.79, 0.72, 0.55, 0.5], 0.03)
    both = pd.concat([token.assign(split="token"), context.assign(split="context")])
    assert figures(findings.split_effect(both)) == "2 -0.020 +0.050 0.020 0.060"


def test_what_the_probe_explains_is_told_in_percent():
    said = figures(findings.learned(suite([0.709, 0.711, 0.93, 0.95]), EVERY))
    assert said == "71 95 % 4 2 2 70 95 % 2 4 2 0.90 5.1"


def test_each_claim_says_what_it_judged():
    found = findings.claims(
        AS_PAPER, AS_PAPER, layers([0.72, 0.85, 0.9, 0.9, 0.85, 0.74], [0.8] * 6), 6, EVERY, PLATEAU
    )
    rows = dict(zip(("range", "wider", "denser", "first", "plateau", "last", "token"), found["This run"], strict=True))
    assert figures(rows["range"]) == "0.72 0.90 10" and figures(rows["plateau"]) == "0.90"
    assert figures(rows["first"]) == "0.720 0.710 0.730 0.90"
    assert figures(rows["last"]) == "0.740 0.730 0.750 0.90"
    assert figures(rows["token"]) == "4 6 2"
    assert figures(found.iloc[0, 0]) == "0.7 0.95 0" and figures(found.iloc[4, 0]).endswith("0.8 0.95")


def test_where_the_token_wins_most_is_named_with_both_scores():
    assert figures(findings.identity_wins(layers([0.5, 0.3, 0.9], [0.6, 0.7, 0.2]))) == (
        "0 1 1 2 0.700 0.690 0.710 0.300 0.290 0.310"
    )


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(1.001, 1.2, "harder"), (0.8, 0.999, "easier"), (0.9, 1.0, "not told apart"), (1.0, 1.1, "not told apart")],
)
def test_early_tokens_are_told_apart_by_an_interval_without_one(low, high, words):
    assert f"before position 7 are {words}" in findings.early_tokens(Estimate((low + high) / 2, low, high), 7)
