"""The scoreboard's rules at their thresholds, and that every claim finds the rows that judge it."""

from __future__ import annotations

import math

import IPython.display
import pandas as pd
import pytest
from demo import ROOT
from figures import figures

from dm_utils.book.build import Layout, chapters
from dm_utils.book.published import gather
from dm_utils.chapters.scoreboard import charts, findings, rules, size
from dm_utils.chapters.scoreboard.claims import CLAIMS
from dm_utils.chapters.scoreboard.rules import DIFFERS, HOLDS, PARTLY, UNTESTABLE, Claim, Rows
from dm_utils.engine.ladder import AWAY, QUESTIONS, TOWARDS

TABLES = ROOT / "_build/executed/lab/tables"
M = Rows("c", "m")


def table(*cells: tuple[float, float, float], metric: str = "m", **columns: list[object]) -> pd.DataFrame:
    """Rows of a chapter `c`, each (value, low, high)."""
    found = pd.DataFrame(cells, columns=["value", "ci_low", "ci_high"])
    about = {"chapter": "c", "metric": metric, "figure": "1", "profile": "lab", "d_sae": 512.0, "l0": 16.0}
    sites = {"hook_name": "blocks.0.hook_resid_post", "sae_id": [f"topk_{i}" for i in range(len(found))]}
    return found.assign(**(about | sites | columns))


@pytest.mark.parametrize(
    ("agrees", "word"),
    [
        ([True, True], HOLDS),
        ([True, False], PARTLY),
        ([True, False, False], DIFFERS),
        ([False], DIFFERS),
        ([], UNTESTABLE),
    ],
)
def test_a_verdict_counts_the_results_that_agree(agrees: list[bool], word: str) -> None:
    assert rules.judged(agrees, "v").word == word


def test_an_interval_that_touches_a_range_is_inside_it() -> None:
    rule = rules.inside(M, 0.4, 0.6)
    assert rule(table((0.7, 0.6, 0.8))).word == HOLDS
    assert rule(table((0.7, 0.6001, 0.8))).word == DIFFERS
    assert rule(table((0.3, 0.2, 0.4))).word == HOLDS
    assert rule(table((0.3, 0.2, 0.3999))).word == DIFFERS


def test_wholly_asks_for_both_ends_of_the_interval() -> None:
    rule = rules.wholly(M, -0.05, 0.05)
    assert rule(table((0.0, -0.05, 0.05))).word == HOLDS
    assert rule(table((0.0, -0.0501, 0.05))).word == DIFFERS
    assert rule(table((0.0, -0.05, 0.0501))).word == DIFFERS


def test_above_and_below_ask_for_the_whole_interval() -> None:
    assert rules.above(M, 0.5)(table((0.6, 0.5001, 0.7))).word == HOLDS
    assert rules.above(M, 0.5)(table((0.6, 0.5, 0.7))).word == DIFFERS
    assert rules.below(M, 0.5)(table((0.4, 0.3, 0.4999))).word == HOLDS
    assert rules.below(M, 0.5)(table((0.4, 0.3, 0.5))).word == DIFFERS


def test_a_value_without_an_interval_counts_by_itself() -> None:
    assert rules.above(M, 0.5)(table((0.6, math.nan, math.nan))).word == HOLDS


def test_ahead_compares_the_same_sae_and_asks_for_intervals_apart() -> None:
    first, second = Rows("c", "a"), Rows("c", "b")
    low = table((0.4, 0.35, 0.45), metric="b")
    assert rules.ahead(first, second)(pd.concat([table((0.5, 0.46, 0.6), metric="a"), low])).word == HOLDS
    assert rules.ahead(first, second)(pd.concat([table((0.5, 0.45, 0.6), metric="a"), low])).word == DIFFERS
    other = table((0.5, 0.46, 0.6), metric="a", sae_id=["another"])
    assert rules.ahead(first, second)(pd.concat([other, low])).word == UNTESTABLE


def test_close_allows_the_tolerance_itself() -> None:
    first, second = Rows("c", "a"), Rows("c", "b")
    for value, word in ((0.5, HOLDS), (0.5001, DIFFERS)):
        both = pd.concat([table((value, 0, 1), metric="a"), table((0.25, 0, 1), metric="b")])
        assert rules.close(first, second, 0.25)(both).word == word


def test_a_trend_needs_its_ends_apart_in_every_series() -> None:
    falls = rules.trend(M, "d_sae", True, ["architecture", "l0_near"])
    ends = {"d_sae": [512.0, 1024.0]}
    assert falls(table((0.5, 0.46, 0.6), (0.4, 0.3, 0.45), **ends)).word == HOLDS
    assert falls(table((0.5, 0.45, 0.6), (0.4, 0.3, 0.45), **ends)).word == DIFFERS
    rising = table((0.4, 0.3, 0.45), (0.5, 0.46, 0.6), l0=[32.0, 32.0], **ends)
    assert falls(pd.concat([table((0.5, 0.46, 0.6), (0.4, 0.3, 0.45), **ends), rising])).word == PARTLY
    assert rules.trend(M, "d_sae", False, ["architecture", "l0_near"])(rising).word == HOLDS


def test_one_point_is_no_trend() -> None:
    assert rules.trend(M, "d_sae", True, ["architecture"])(table((0.5, 0.4, 0.6))).word == UNTESTABLE


def test_the_ends_of_the_layers_are_held_against_those_between() -> None:
    hooks = {"hook_name": [f"blocks.{i}.hook_resid_post" for i in range(4)]}
    rows = table((0.2, 0.1, 0.3), (0.5, 0.4, 0.6), (0.5, 0.4, 0.6), (0.5, 0.45, 0.55), **hooks)
    assert rules.at_ends(M, last=False)(rows).word == HOLDS
    assert rules.at_ends(M, last=True)(rows).word == DIFFERS
    assert rules.at_ends(M, last=True)(rows.iloc[:3]).word == UNTESTABLE


def test_both_holds_only_where_each_part_does() -> None:
    rows = table((0.6, 0.55, 0.65))
    high, low = rules.above(M, 0.5), rules.below(M, 0.5)
    assert rules.both(high, high)(rows).word == HOLDS
    assert rules.both(high, low)(rows).word == PARTLY
    assert rules.both(low, low)(rows).word == DIFFERS
    assert rules.both(high, rules.above(Rows("c", "absent"), 0))(rows).word == UNTESTABLE


def test_a_rule_belongs_to_the_last_chapter_whose_rows_it_reads() -> None:
    first, last = Rows("04_1", "m"), Rows("04_2", "m")
    assert rules.above(first, 0).chapter == "04_1"
    assert rules.ahead(last, first).chapter == rules.close(first, last, 0.1).chapter == "04_2"
    assert rules.both(rules.above(first, 0), rules.above(last, 0)).chapter == "04_2"


def test_every_claim_has_its_own_key_a_chapter_and_a_part_of_the_paper() -> None:
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS)
    assert {claim.rule.chapter for claim in CLAIMS} <= set(chapters(Layout(ROOT)))
    assert all(charts.part_of(claim.place) for claim in CLAIMS)
    assert all(claim.says and claim.paper and claim.test for claim in CLAIMS)


def board(*cells: tuple[str, str, str]) -> pd.DataFrame:
    """Judged claims, each (key, profile, verdict)."""
    return pd.DataFrame(cells, columns=["key", "profile", "verdict"])


def test_the_scatter_over_trainings_is_the_largest_of_any_sae() -> None:
    seeds = pd.concat(
        [
            table((0.50, 0.4, 0.6), metric="r2_error_norm, seed 0", d_sae=[512.0]),
            table((0.52, 0.4, 0.6), metric="r2_error_norm, seed 1", d_sae=[512.0]),
            table((0.90, 0.8, 1.0), metric="r2_error_norm, seed 1", d_sae=[1024.0]),
        ]
    ).assign(chapter="lab_model")
    rung = pd.DataFrame({"quantity": "fvu_drop", "value": [0.1, 0.4, 0.2], "width_ratio": math.nan, "l0_ratio": 0.0625})
    rung = pd.concat([rung, rung.assign(quantity="r2_x_norm", value=0.8)])  # the same for every SAE
    assert size.scatter(seeds, rung) == {"r2_error_norm": (pytest.approx(0.02), 2), "fvu_drop": (pytest.approx(0.3), 3)}


def test_training_and_size_stand_beside_claims_of_the_lab_that_do_not_hold() -> None:
    judged = board(
        ("ninety", "lab", DIFFERS), ("half", "lab", HOLDS), ("poisson", "lab", PARTLY), ("ninety", "x", DIFFERS)
    )
    found = size.beside(judged, {"r2_error_norm": (0.0123, 3)}, {"ninety": TOWARDS, "half": AWAY})
    assert found["training"].tolist() == ["at most 0.0123 between 3 trainings", "", "", ""]
    assert found["size"].tolist() == [f"with size: {TOWARDS}", "", f"with size: {size.SIMULATED}", ""]


@pytest.mark.parametrize(("key", "why"), [("plateau", size.OTHER_SITES), ("mean-activation", size.NOT_THERE)])
def test_a_claim_that_the_ladder_leaves_out_says_why(key: str, why: str) -> None:
    assert size.beside(board((key, "lab", DIFFERS)), {}, {})["size"].tolist() == [f"with size: {why}"]


def test_what_size_says_is_counted_over_claims_that_differ() -> None:
    keys = ("ninety", "x-norm", "plateau", "constant-c", "poisson")
    judged = board(*((key, "lab", DIFFERS) for key in keys), ("half", "lab", PARTLY))
    said = size.about_size(size.beside(judged, {}, {"ninety": TOWARDS}))
    assert "Of the 5 claims that differ on the lab, 1 come nearer" in said
    assert "3 were not measured" in said and "1 are of simulations" in said
    assert size.about_size(size.beside(judged.assign(verdict=HOLDS), {}, {})) == ""


def test_quantities_are_those_of_claims_of_the_board() -> None:
    assert {*size.QUANTITY, *size.WHY_NOT} <= {claim.key for claim in CLAIMS}
    assert not set(size.WHY_NOT) & {question.key for question in QUESTIONS}


@pytest.mark.skipif(not TABLES.exists(), reason="no built book: `make book` first")
def test_every_claim_finds_its_rows_in_the_built_book() -> None:
    board = findings.scoreboard(gather(TABLES))
    assert set(board.loc[board["verdict"] == UNTESTABLE, "key"]) == set()
    sentence = findings.summary(board, "lab")
    counts = board["verdict"].value_counts()
    assert f"{counts[HOLDS]} hold" in sentence and f"Of {len(CLAIMS)} claims" in sentence


def test_every_word_is_counted_on_the_profile_that_is_asked_for() -> None:
    words = [HOLDS] * 4 + [PARTLY] * 3 + [DIFFERS] * 2 + [UNTESTABLE]
    cells = [(f"{at}", "lab", word) for at, word in enumerate(words)] + [("other", "x", HOLDS)]
    assert findings.summary(board(*cells), "lab") == (
        "Of 10 claims, 4 hold, 3 hold partly, 2 differ and 1 cannot be tested here."
    )
    assert figures(findings.summary(board(*cells), "x")) == "1 1 0 0 0"


def test_a_claim_is_judged_on_each_profiles_own_rows_and_shown_with_all_that_it_says() -> None:
    claim = Claim("k", "§9", "says", "paper", "in words", rules.above(M, 0.5))
    rows = pd.concat([table((0.6, 0.55, 0.7), (0.4, 0.3, 0.45), profile="z"), table((0.2, 0.1, 0.3), profile="a")])
    found = findings.scoreboard(rows, [claim])
    assert found["profile"].tolist() == ["z", "a"] and found["verdict"].tolist() == [PARTLY, DIFFERS]
    assert list(zip(found["agree"], found["of"], strict=True)) == [(1, 2), (0, 1)]
    said = {"key": "k", "place": "§9", "claim": "says", "paper": "paper", "test": "in words", "chapter": "c"}
    assert found.iloc[0][list(said)].to_dict() == said and found["value"].iloc[0] == rules.above(M, 0.5)(rows[:2]).value


def test_the_series_of_a_metric_is_what_follows_its_last_comma() -> None:
    rows = pd.DataFrame({"metric": ["a, b, L0 4", "plain"]})
    assert findings.with_series(rows)["series"].tolist() == ["L0 4", "plain"]


def test_the_whole_board_is_written_as_it_is_and_linked(tmp_path, monkeypatch) -> None:
    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    judged = board(("ninety", "lab", DIFFERS), ("half", "x", HOLDS))
    findings.link_to_board(judged, tmp_path / "new")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new/scoreboard_claims.csv"), judged)
    assert 'href="../tables/scoreboard_claims.csv" download' in shown[0].data


def test_the_rows_of_a_rule_are_those_of_its_chapter_metric_and_figure() -> None:
    rows = pd.concat(
        [
            table((0.1, 0.0, 0.2)),
            table((0.2, 0.0, 0.4), chapter="other"),
            table((0.3, 0.2, 0.4), metric="m2"),
            table((0.4, math.nan, math.nan), figure="2b"),
            table((0.5, 0.4, 0.6), figure=None),
        ]
    )
    assert M.of(rows)["value"].tolist() == [0.1, 0.4, 0.5]
    assert Rows("c", "m.?", "2").of(rows)[["low", "high"]].to_numpy().tolist() == [[0.4, 0.4]]
    assert Rows("c", ".+", only=lambda some: some["value"] > 0.25).of(rows)["value"].tolist() == [0.3, 0.4, 0.5]


def test_a_rule_shows_one_value_with_its_interval_or_the_spread_of_several() -> None:
    rule = rules.above(M, 0.5)
    assert rule(table((0.6, 0.55, 0.65))).value == rules.interval(0.6, 0.55, 0.65)
    assert rule(table((0.6, 0.55, 0.65), (0.7, 0.6, 0.8), (0.4, 0.3, 0.5))).value == "0.400 to 0.700 (3 results)"
    assert rule(table((0.6, 0.55, 0.65), metric="other")).value == "–"


def test_pairs_and_series_are_shown_by_their_differences() -> None:
    first, second = Rows("c", "a"), Rows("c", "b")
    pairs = pd.concat(
        [table((0.5, 0.46, 0.6), (0.9, 0.8, 1), metric="a"), table((0.4, 0.3, 0.45), (0.3, 0.2, 0.4), metric="b")]
    )
    assert rules.ahead(first, second)(pairs).value == "by 0.100 to 0.600 (2 pairs)"
    assert rules.close(first, second, 0.2)(pairs) == rules.Verdict(PARTLY, "by 0.100 to 0.600 (2 pairs)", 1, 2)
    assert rules.close(first, second, 0.2)(table((0.5, 0.4, 0.6))).value == "–"
    ends = {"d_sae": [1024.0, 512.0, 2048.0]}
    one = table((0.45, 0.4, 0.5), (0.6, 0.55, 0.7), (0.4, 0.3, 0.5), l0=[16.0, 15.0, 17.0], **ends)
    other = table((0.9, 0.8, 1.0), (0.9, 0.85, 1.0), (0.9, 0.8, 1.0), l0=32.0, **ends)
    found = rules.trend(M, "d_sae", True, ["l0_near"])(pd.concat([one, other]))
    assert found == rules.Verdict(PARTLY, "from end to end by -0.200 to 0 (2 series)", 1, 2)


def test_a_trend_leaves_out_rows_without_its_columns_and_keeps_architectures_apart() -> None:
    rule = rules.trend(M, "d_sae", False, ["architecture"])
    sizes = {"d_sae": [512.0, 1024.0, math.nan, 4096.0], "l0": [16.0, 16.0, 16.0, math.nan]}
    rows = table((0.4, 0.3, 0.45), (0.5, 0.46, 0.6), (0.1, 0, 0.2), (0.1, 0, 0.2), **sizes)
    assert rule(rows).word == HOLDS
    assert rule(rows.assign(ci_low=[0.3, 0.45, 0, 0])).word == DIFFERS
    kinds = {"sae_id": ["resid_topk_1", "resid_jumprelu_2"]}
    assert rule(table((0.4, 0.3, 0.45), (0.5, 0.46, 0.6), d_sae=[512.0, 1024.0], **kinds)).word == UNTESTABLE


def test_an_l0_below_one_belongs_to_the_line_of_one() -> None:
    sizes = {"d_sae": [512.0, 1024.0], "l0": [0.3, 1.2]}
    assert rules.trend(M, "d_sae", True, ["l0_near"])(table((0.5, 0.46, 0.6), (0.4, 0.3, 0.45), **sizes)).word == HOLDS
    apart = sizes | {"l0": [1.2, 2.2]}
    assert (
        rules.trend(M, "d_sae", True, ["l0_near"])(table((0.5, 0.46, 0.6), (0.4, 0.3, 0.45), **apart)).word
        == UNTESTABLE
    )


def test_an_end_that_reaches_the_middle_is_not_below_it() -> None:
    hooks = {"hook_name": [f"blocks.{i}.hook_resid_post" for i in (11, 2, 0, 5)] + ["embed"]}
    rows = table((0.2, 0.1, 0.5), (0.4, 0.3, 0.5), (0.2, 0.1, 0.4999), (0.6, 0.5, 0.7), (0.0, 0.0, 0.0), **hooks)
    first, last = (rules.at_ends(M, last=last)(rows) for last in (False, True))
    assert (first.word, last.word) == (HOLDS, DIFFERS), "the median of 0.4 and 0.6 is 0.5"
    assert first.value == f"{rules.interval(0.2, 0.1, 0.4999)}, the middle 0.500"


def test_counts_and_values_of_both_parts_are_told() -> None:
    rows = table((0.6, 0.55, 0.65), (0.4, 0.3, 0.45))
    found = rules.both(rules.above(M, 0.5), rules.above(M, 0.2))(rows)
    assert (found.agree, found.of) == (3, 4)
    assert found.value == "0.400 to 0.600 (2 results); 0.400 to 0.600 (2 results)"


def test_every_word_of_the_ladder_is_counted() -> None:
    words = (
        [TOWARDS] * 2 + [AWAY] * 3 + [size.NONE] * 4 + [size.UNTOLD] * 5 + [size.NOT_THERE] * 6 + [size.SIMULATED] * 7
    )
    judged = board(*((f"{at}", "lab", DIFFERS) for at in range(len(words))), ("other", "x", DIFFERS))
    said = size.about_size(judged.assign(size=[f"with size: {word}" for word in words] + ["with size: x"]))
    assert said == (
        "Of the 27 claims that differ on the lab, 2 come nearer to the paper's value as the lab grows, 3 move away from it, "
        "4 show no trend, 5 cannot be told, 6 were not measured at other sizes, 7 are of simulations, without a model."
    )


def test_a_quantity_that_no_training_moves_has_no_scatter() -> None:
    rung = pd.DataFrame({"quantity": "fvu", "value": [0.3, 0.3], "width_ratio": 16.0, "l0_ratio": 0.0625})
    apart = pd.DataFrame({"quantity": "r2", "value": [0.3, 0.4], "width_ratio": [4.0, 16.0], "l0_ratio": 0.0625})
    alone = table((0.5, 0.4, 0.6), metric="fvu, seed 0").assign(chapter="lab_model")
    assert size.scatter(alone, pd.concat([rung, apart])) == {}
    near = apart.assign(width_ratio=4.0)
    assert size.scatter(alone[:0], near) == {"r2": (pytest.approx(0.1), 2)}, "a book without the lab's seeds"
    assert size.scatter(alone, near) == {"r2": (pytest.approx(0.1), 2)}


def test_the_last_layer_is_the_last_by_number() -> None:
    hooks = {"hook_name": [f"blocks.{i}.hook_resid_post" for i in (11, 2, 0, 5)]}
    rows = table((0.2, 0.1, 0.3), (0.4, 0.3, 0.5), (0.6, 0.5, 0.7), (0.6, 0.5, 0.7), **hooks)
    assert rules.layer_of(rows).tolist() == [11, 2, 0, 5]
    found = rules.at_ends(M, last=True)(rows)
    assert (found.word, found.value) == (HOLDS, f"{rules.interval(0.2, 0.1, 0.3)}, the middle 0.500")
