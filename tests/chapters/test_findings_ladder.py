"""What the ladder's chapter says, at the thresholds of its words, and its costs by arithmetic."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from dm_utils.base.errors import ParameterError
from dm_utils.chapters.ladder import charts, experiment, findings
from dm_utils.engine import ladder
from dm_utils.engine.ladder import AWAY, NONE, QUESTIONS, TOWARDS, UNTOLD

NUMBERED = [question for question in QUESTIONS if question.paper]
PAPER = {question.paper: SimpleNamespace(low=1.0, high=1.0) for question in NUMBERED}
MAIN = experiment.Setting(1 / 16, 16.0)


def rung(d: int, value: float, width: float = 16.0, l0: float = 1 / 16, half: float = 0.01) -> pd.DataFrame:
    """Every quantity at one rung and setting, three equal seeds, intervals over text of ± `half`."""
    names = {question.quantity for question in QUESTIONS}
    rows = [(d, width, l0, seed, name, value, value - half, value + half) for name in names for seed in range(3)]
    return pd.DataFrame(rows, columns=list(ladder.COLUMNS))


def table(*values: float, **where: float) -> pd.DataFrame:
    return pd.concat([rung(32 * 2**i, value, **where) for i, value in enumerate(values)], ignore_index=True)


def answers_of(*args: object) -> list[experiment.Answer]:
    """The answers to the questions for which the paper has a number; here it is 1."""
    return [one for one in experiment.answers(*args) if one.question.paper]  # type: ignore[arg-type]


def made(**changed: float) -> dict[str, float]:
    return {"model_tokens": 10**6, "model_seconds": 60, "model_nats": 4.0, "saes": 10, "sae_seconds": 100} | changed


@pytest.mark.parametrize(
    ("values", "word"),
    [((0.5, 0.6, 0.7), TOWARDS), ((0.7, 0.6, 0.5), AWAY), ((0.5, 0.501, 0.5), NONE), ((0.5, 0.7, 0.6), UNTOLD)],
)
def test_each_word_is_given_to_every_claim_that_earns_it(values: tuple[float, ...], word: str) -> None:
    answers = answers_of(table(*values), PAPER, MAIN)
    assert {one.word for one in answers} == {word}
    assert f"({len(NUMBERED)} of {len(NUMBERED)})" in findings.verdict_sentences(answers)
    shown = findings.table(answers, PAPER)
    assert set(shown["As the lab grows"]) == {word} and "d 128" in shown
    learned = findings.learned(answers)
    assert ("decide of none" in learned) == (word == UNTOLD)
    assert (f"moves {len(NUMBERED)} towards" in learned) == (word == TOWARDS)


def test_the_distances_left_are_said_of_what_comes_nearer_and_of_nothing_else() -> None:
    assert "0.500 to 0.300" in findings.far(answers_of(table(0.5, 0.6, 0.7), PAPER, MAIN))
    assert "No claim comes nearer" in findings.far(answers_of(table(0.7, 0.6, 0.5), PAPER, MAIN))


def test_other_ratios_are_counted_by_the_same_word() -> None:
    both = pd.concat([table(0.5, 0.6, 0.7), table(0.5, 0.6, 0.7, l0=1 / 8), table(0.7, 0.6, 0.5, width=8.0)])
    assert findings.elsewhere(answers_of(both, PAPER, MAIN)[0]) == "half of 2 the same"
    assert findings.elsewhere(answers_of(table(0.5, 0.6, 0.7), PAPER, MAIN)[0]) == "–"


def test_too_few_rungs_are_said() -> None:
    few = table(0.5, 0.6)
    assert "every verdict below" in findings.what_ran(few, {32: made(), 64: made()}, MAIN)
    assert {one.word for one in answers_of(few, PAPER, MAIN)} == {UNTOLD}


def test_a_range_that_every_rung_lies_in_is_said() -> None:
    wide = {key: SimpleNamespace(low=0.0, high=1.0) for key in PAPER}
    answers = answers_of(table(0.5, 0.6, 0.7), wide, MAIN)
    assert {one.word for one in answers} == {NONE}
    assert "in the range at every rung" in findings.verdict_sentences(answers)


def test_another_profile_is_told_whose_results_these_are() -> None:
    assert findings.other_profile("lab") == ""
    assert "the lab's, whatever this book's profile" in findings.other_profile("gemma-2-2b")


def test_the_setting_with_the_most_is_the_default_and_others_are_refused_by_name() -> None:
    both = pd.concat([table(0.5, 0.6, 0.7), table(0.5, 0.6, l0=1 / 8)])
    assert experiment.setting(both) == MAIN
    assert experiment.setting(both, l0_ratio=0.125) == experiment.Setting(0.125, 16.0)
    assert str(MAIN) == "L0/d 1/16, W/d 16"
    with pytest.raises(ParameterError, match=r"l0_ratio = 0\.3: the ladder was measured at 0\.0625, 0\.125"):
        experiment.setting(both, l0_ratio=0.3)
    with pytest.raises(ParameterError, match="width_ratio = 'x'"):
        experiment.setting(both, width_ratio="x")


def test_the_next_rung_takes_its_arithmetic_at_the_speed_of_the_largest() -> None:
    found = experiment.costs({64: made(), 128: made(model_seconds=100)}, 256)
    last, guess = found.iloc[-2], found.iloc[-1]
    flop = [6 * experiment.shape_of(d).parameters for d in (128, 256)]
    tokens = float(guess["tokens"])
    assert guess["model_seconds"] == pytest.approx(flop[1] * tokens / (flop[0] * 10**6 / 100))
    assert guess["sae_seconds"] / guess["saes"] == pytest.approx(8 * last["sae_seconds"] / last["saes"])
    assert "**d 256 was not trained.**" in findings.missing(found)
    assert findings.cost_table(found)["minutes, model"].tolist()[:2] == ["1", "2"]
    with pytest.raises(ParameterError, match="following = 100"):
        experiment.costs({128: made()}, 100)


def test_the_lab_has_as_many_parameters_as_its_shape_says() -> None:
    from dm_utils.world.profiles import SHAPES

    assert experiment.shape_of(128) == SHAPES["lab"]


def test_a_claim_is_drawn_with_the_paper_at_its_right_edge() -> None:
    found = table(0.5, 0.6, 0.7)
    points = experiment.points(found, PAPER)
    assert (points.groupby("says")["place"].nunique() == 4).all()
    spec = charts.by_size(points).to_dict()
    order = next(layer["encoding"]["x"]["sort"] for layer in spec["layer"] if "encoding" in layer)
    assert order == ["32", "64", "128", experiment.PAPER]
    assert charts.distances(answers_of(found, PAPER, MAIN)).to_dict()


def test_a_claim_in_the_range_at_the_smallest_rung_has_no_line() -> None:
    answers = answers_of(table(1.0, 0.6, 0.5), PAPER, MAIN)
    data = charts.distances(answers).to_dict()["datasets"]
    assert all(len(rows) <= 1 for rows in data.values())


def test_rungs_stand_in_their_order_though_a_claim_lacks_the_first() -> None:
    first, *_, last = answers_of(table(0.5, 0.6, 0.7), PAPER, MAIN)
    first = replace(first, rungs={d: one for d, one in first.rungs.items() if d > 32})
    shown = findings.table([first, last], PAPER)
    assert [name for name in shown.columns if name.startswith("d ")] == ["d 32", "d 64", "d 128"]
    assert shown["d 32"].iloc[0] == "–" and shown["d 64"].iloc[0] == str(first.rungs[64])


def test_a_papers_range_is_written_with_what_counts_as_it() -> None:
    question = QUESTIONS[0]
    words = {key: SimpleNamespace(low=0.2, high=0.5) for key in PAPER}
    assert findings.range_words(replace(question, about=0.0), words) == "0.200 to 0.500"
    assert findings.range_words(replace(question, about=0.1), words) == "0.200 to 0.500 ± 0.100"
    assert findings.range_words(question, {key: SimpleNamespace(low=0.5, high=0.5) for key in PAPER}) == "0.500"
    for within, said in (((0.4, 1.0), "above 0.400"), ((0.0, 0.1), "below 0.100")):
        assert findings.range_words(replace(question, paper="", within=within), words) == said


def test_costs_are_shown_per_rung_in_minutes_and_seconds() -> None:
    shown = findings.cost_table(experiment.costs({64: made(), 128: made(model_seconds=130)}, 256)).iloc[1]
    shape = experiment.shape_of(128)
    assert shown.to_dict() == {
        "d": 128,
        "parameters": shape.parameters,
        "tokens": 10**6,
        "minutes, model": "2",
        "SAEs": 10,
        "seconds per SAE": "10",
        "nats per token": 4.0,
    }
