"""The ladder's rule at its thresholds, its intervals, and the table that ships."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pandas as pd
import pytest

from dm_utils.base.errors import LoadError
from dm_utils.book.paper import VALUES
from dm_utils.chapters.scoreboard.claims import CLAIMS
from dm_utils.engine import ladder
from dm_utils.engine.ladder import AWAY, NONE, QUESTIONS, TOWARDS, UNTOLD
from dm_utils.lab.ladder import L0_SHARES, RUNGS, SEEDS, WIDTHS
from dm_utils.maths.resampling import Estimate

HALF = 0.05


def word(*values: float, half: float = HALF) -> str:
    """What the rule says of distances with intervals of ± `half`."""
    return ladder.trend([Estimate(value, value - half, value + half) for value in values])


def rows(*values: float, half: float = 0.001, d: int = 32) -> pd.DataFrame:
    """One quantity of a rung, a row per seed, intervals over text of ± `half`."""
    table = pd.DataFrame({"value": values, "seed": range(len(values))}).assign(d=d, quantity="q", width_ratio=16.0)
    return table.assign(low=table["value"] - half, high=table["value"] + half, l0_ratio=1 / 16)


def test_towards_needs_a_fall_at_every_step_and_the_ends_apart() -> None:
    assert word(0.5, 0.45, 0.399) == TOWARDS
    assert word(0.5, 0.45, 0.401) != TOWARDS  # 0.45 and 0.451 touch
    assert word(0.5, 0.501, 0.3) == UNTOLD  # up, then down


def test_away_is_the_mirror_image() -> None:
    assert word(0.399, 0.45, 0.5) == AWAY
    assert word(0.401, 0.45, 0.5) != AWAY
    assert word(0.3, 0.29, 0.5) == UNTOLD


def test_what_touches_is_not_apart() -> None:
    """Exact numbers, intervals of ±1/16: ends that touch, and intervals as wide as half of the first distance."""
    assert word(0.5, 0.4375, 0.375, half=1 / 16) == NONE
    assert word(0.375, 0.4375, 0.5, half=1 / 16) == NONE
    assert word(0.25, 0.25, 0.25, half=1 / 16) == UNTOLD
    assert word(0.5, 0.5, 0.25, half=1 / 16) == UNTOLD  # one step does not fall
    assert word(0.25, 0.5, 0.5, half=1 / 16) == UNTOLD


def test_no_trend_needs_intervals_that_would_have_shown_one() -> None:
    assert word(0.21, 0.22, 0.20) == NONE  # intervals of 0.10, below half of 0.21
    assert word(0.20, 0.22, 0.21) == UNTOLD  # not below half of 0.20
    assert word(0.5, 0.61, 0.5) == UNTOLD  # the middle is apart from the ends


def test_a_claim_inside_the_paper_range_at_every_rung_has_no_trend() -> None:
    assert ladder.trend([Estimate(0, 0, 0)] * 3) == NONE
    assert ladder.trend([Estimate(0, 0, 0), Estimate(0, 0, 0), Estimate(0, 0, 0.01)]) == UNTOLD


def test_two_rungs_or_one_training_of_a_rung_cannot_tell() -> None:
    assert word(0.9, 0.1) == UNTOLD
    once = Estimate(0.5, 0.0, math.inf)
    assert ladder.trend([Estimate(0.9, 0.89, 0.91), once, Estimate(0.1, 0.09, 0.11)]) == UNTOLD


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Estimate(0.5, 0.4, 0.6), (0.2, 0.1, 0.3)),
        (Estimate(1.1, 1.0, 1.2), (0.15, 0.05, 0.25)),
        (Estimate(0.65, 0.5, 0.75), (0.05, 0.0, 0.2)),
        (Estimate(0.8, 0.75, 0.9), (0.0, 0.0, 0.0)),
        (Estimate(0.8, 0.6, 1.0), (0.0, 0.0, 0.1)),
        (Estimate(1.05, 0.95, 1.1), (0.1, 0.0, 0.15)),  # they touch: at no distance, at the least
        (Estimate(0.6, 0.55, 0.7), (0.1, 0.0, 0.15)),
    ],
)
def test_a_distance_is_to_the_nearer_end_of_the_range(found: Estimate, expected: tuple[float, ...]) -> None:
    got = ladder.distance(found, SimpleNamespace(low=0.7, high=0.95))
    assert (got.value, got.low, got.high) == pytest.approx(expected)


def test_the_interval_over_seeds_is_students() -> None:
    found = ladder.over_seeds(rows(0.4, 0.5, 0.6))
    half = 4.302653 * 0.1 / math.sqrt(3)  # t of two degrees of freedom
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-6)


def test_where_text_is_wider_than_training_its_interval_counts() -> None:
    found = ladder.over_seeds(rows(0.5, 0.5, 0.5, half=0.02))
    assert (found.low, found.high) == pytest.approx((0.48, 0.52))
    assert math.isinf(ladder.over_seeds(rows(0.5)).high), "one training says nothing of its scatter"


def test_rows_of_a_series_count_at_every_width() -> None:
    table = pd.concat([rows(0.1), rows(0.2).assign(width_ratio=4.0), rows(0.3).assign(width_ratio=math.nan)])
    assert ladder.at(table, "q", 1 / 16, 16.0)["value"].tolist() == [0.1, 0.3]
    assert ladder.at(table, "q", 1 / 8, 16.0).empty


def test_settings_are_those_with_enough_rungs() -> None:
    table = pd.concat(
        [rows(0.1, d=d) for d in (32, 64, 128)] + [rows(0.1, d=d).assign(l0_ratio=0.125) for d in (32, 64)]
    )
    assert ladder.settings(table, "q") == [(1 / 16, 16.0)]
    [(l0_ratio, width_ratio)] = ladder.settings(table.assign(width_ratio=math.nan), "q")
    assert l0_ratio == 1 / 16 and math.isnan(width_ratio), "a series of widths has one setting"


def test_a_table_survives_writing_and_a_broken_one_says_what_makes_it(tmp_path) -> None:
    table = rows(0.25, 0.5)[list(ladder.COLUMNS)]  # of one quantity, so without differences
    ladder.write(tmp_path / "t.csv", table, {32: {"command": "make lab SIZE=32"}})
    again, about = ladder.read(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(again, table, check_dtype=False)
    assert about == {32: {"command": "make lab SIZE=32"}}
    (tmp_path / "t.csv").write_text("nothing\n")
    with pytest.raises(LoadError, match=ladder.COMMAND):
        ladder.read(tmp_path / "t.csv")


def test_a_word_of_the_paper_accepts_the_range_of_the_scoreboard_test() -> None:
    found = ladder.Question("norm-l0", "q", "", "says", within=(0.9, 1.0)).accepted({})
    assert (found.low, found.high) == (0.9, 1.0)


def measured(**values: float) -> pd.DataFrame:
    """Quantities of one SAE at L0/d 1/16, and, of names that end in 2, of the one with twice its L0; intervals of ± 0.01."""
    found = [rows(value, half=0.01).assign(quantity=name.rstrip("2")) for name, value in values.items()]
    doubled = [name.endswith("2") for name in values]
    return pd.concat(
        [one.assign(l0_ratio=0.125 if twice else 0.0625) for one, twice in zip(found, doubled, strict=True)]
    )


def test_a_difference_is_above_zero_only_where_both_intervals_are_apart() -> None:
    for vector, low in ((0.479, 0.001), (0.481, -0.001)):
        table = ladder.with_differences(measured(r2_error_norm=0.5, r2_error_vector=vector))
        found = table[table["quantity"] == "norm_over_vector"].iloc[0]
        assert (found["value"], found["low"], found["high"]) == pytest.approx((0.5 - vector, low, low + 0.04))


def test_the_two_r2_move_oppositely_only_as_far_as_the_lesser_of_both_moves() -> None:
    table = ladder.with_differences(
        measured(r2_error_norm=0.5, r2_error_norm2=0.6, r2_error_vector=0.4, r2_error_vector2=0.37)
    ).set_index("quantity")
    assert table.loc["norm_rise", "value"] == pytest.approx(0.1)
    assert tuple(table.loc["opposite", ["value", "low", "high"]]) == pytest.approx((0.03, 0.01, 0.05))
    assert set(table.loc[["norm_rise", "opposite"], "l0_ratio"]) == {0.0625}


def test_every_question_is_a_claim_of_the_scoreboard_with_a_value_of_the_paper() -> None:
    assert {question.key for question in QUESTIONS} <= {claim.key for claim in CLAIMS}
    assert {question.paper for question in QUESTIONS} - {""} <= set(VALUES)
    assert len({question.key for question in QUESTIONS}) == len(QUESTIONS)


def test_differences_are_not_written(tmp_path) -> None:
    ladder.write(
        tmp_path / "t.csv", ladder.with_differences(measured(r2_error_norm=0.5, r2_error_vector=0.4)), {32: {}}
    )
    assert "norm_over_vector" not in (tmp_path / "t.csv").read_text()
    assert "norm_over_vector" in set(ladder.read(tmp_path / "t.csv")[0]["quantity"])


def test_the_shipped_table_has_every_question_of_every_rung_with_its_seeds() -> None:
    table, about = ladder.read()
    assert set(about) == set(table["d"]) <= set(RUNGS)
    for question in QUESTIONS:
        for d in about:
            found = ladder.at(table, question.quantity, L0_SHARES[0], WIDTHS[0])
            assert sorted(found.loc[found["d"] == d, "seed"]) == list(range(SEEDS)), (question.quantity, d)
            assert (found["low"] <= found["value"]).all() and (found["value"] <= found["high"]).all()


def test_the_shipped_rungs_are_matched_in_their_ratios() -> None:
    table, _ = ladder.read()
    l0 = table[table["quantity"] == "l0"]
    assert (l0["value"] / (l0["l0_ratio"] * l0["d"])).between(0.9, 1.1).all()
    main = l0[l0["l0_ratio"] == L0_SHARES[0]]
    for d, some in main.groupby("d"):
        assert set(some["width_ratio"]) == set(WIDTHS), d


def test_every_question_is_answered_by_its_own_quantity_and_range() -> None:
    """Three rungs that rise: towards a range above them, away from one below, and every question at the setting that is asked for."""
    names = {question.quantity for question in QUESTIONS}
    levels = {32: 0.2, 64: 0.3, 128: 0.4}
    table = pd.concat(
        [rows(level, level, level, d=d).assign(quantity=name) for d, level in levels.items() for name in names]
    )
    other = table.assign(l0_ratio=1 / 8, value=9.0, low=9.0, high=9.0)
    for low, high, said in ((0.7, 0.8, TOWARDS), (0.0, 0.05, AWAY)):  # further off than any claim's "about"
        paper = dict.fromkeys(VALUES, Estimate(low, low, high))
        found = ladder.trends(pd.concat([table, other]), paper)
        assert set(found) == {question.key for question in QUESTIONS}
        for question in QUESTIONS:
            answer, rungs = found[question.key]
            assert [one.value for one in rungs.values()] == pytest.approx(list(levels.values()))
            if question.paper:
                assert answer == said, question.key
