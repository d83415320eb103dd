"""Automated interpretability: planted latents whose explanation is known, and ones that have none."""

import numpy as np
import pytest

from dm_utils.engine.autointerp import (
    Explanation,
    RuleExplainer,
    RuleScorer,
    Scores,
    accuracy,
    accuracy_difference,
    balanced,
    dealt_wrong,
    interpret,
    some_latents,
)
from dm_utils.engine.text_windows import Activity, Examples, WindowPlan, marked, window_rows
from dm_utils.engine.token_rules import Pattern, Rule, TokenSets, learn_rule

WORDS = [
    "walk",
    "talk",
    "look",
    "play",
    "jump",
    "turn",
    "call",
    "help",
    "work",
    "plan",
    "Rome",
    "Oslo",
    "7",
    "42",
    "(",
    ")",
]
VOCABULARY = [f" {w}" for w in WORDS] + [f" {w}ing" for w in WORDS[:8]] + ["\n", ".", "ed", "s"]
WALK, TALK, SEVEN, OPEN = (
    VOCABULARY.index(" walk"),
    VOCABULARY.index(" talk"),
    VOCABULARY.index(" 7"),
    VOCABULARY.index(" ("),
)
PLAN = WindowPlan(window=8, n_explain=20, n_contrast=50, per_decile=3, n_not=20, seed=1)


def text(n_contexts=240, length=64, seed=0):
    """Uniformly random tokens: ids, context, position, each [token]."""
    ids = np.random.default_rng(seed).integers(0, len(VOCABULARY), n_contexts * length)
    return ids, np.repeat(np.arange(n_contexts), length), np.tile(np.arange(length), n_contexts)


def activity_of(*masks, plan=PLAN, ids=None, seed=3):
    """Latent i is active where masks[i] holds, at a random strength."""
    default, context, position = text()
    ids = default if ids is None else ids
    latent, row = np.nonzero(np.stack(masks))
    value = np.random.default_rng(seed).uniform(0.5, 2.0, len(row))
    return Activity(row, latent, value, ids, context, position, plan)


def run(activity, **options):
    return interpret(activity, RuleExplainer(VOCABULARY), RuleScorer(), **options)


def test_windows_respect_contexts_gaps_and_remainders():
    context = np.array([0] * 7 + [1] * 6)
    position = np.array([5, 6, 7, 8, 9, 10, 11, 5, 6, 7, 9, 10, 11])
    assert window_rows(context, position, 3).tolist() == [[0, 1, 2], [3, 4, 5], [7, 8, 9], [10, 11, 12]]


def test_a_window_longer_than_every_run_is_refused_with_the_longest_run():
    with pytest.raises(ValueError, match=r"7 long.*longest is 4"):
        window_rows(np.zeros(4, int), np.arange(4), 7)


def test_a_latent_that_marks_one_token_is_explained_by_it_and_scores_one():
    ids = text()[0]
    scores = run(activity_of(ids == SEVEN, ids == WALK))
    assert scores.explanations == ["token ' 7'", "token ' walk'"]
    assert np.all(scores.right == 1.0)


def test_two_tokens_become_two_patterns():
    ids = text()[0]
    scores = run(activity_of((ids == WALK) | (ids == OPEN)))
    assert set(scores.explanations[0].split(" | ")) == {"token ' walk'", "token ' ('"}
    assert np.all(scores.right == 1.0)


def test_a_latent_that_needs_the_token_before_is_explained_with_it():
    ids = text(seed=5)[0]
    ids[1::8][ids[1::8] % 3 == 0] = WALK  # make the pair frequent enough to be tested
    ids[0::8][ids[0::8] % 2 == 0] = OPEN
    pair = (ids == WALK) & (np.roll(ids, 1) == OPEN) & (np.arange(len(ids)) % 8 != 0)
    scores = run(activity_of(pair, ids=ids))
    assert scores.explanations == ["token ' walk', after token ' ('"]
    assert np.all(scores.right == 1.0)


def test_an_ending_generalises_to_tokens_that_were_not_shown():
    sets = TokenSets(VOCABULARY)
    ing = [i for i, t in enumerate(VOCABULARY) if t.endswith("ing")]
    shown, unseen = ing[:4], ing[4:]
    quiet = [i for i in range(len(VOCABULARY)) if i not in ing]
    tokens = np.array([[quiet[i], shown[i % 4], quiet[-i - 1]] for i in range(12)])
    examples = Examples(tokens, np.tile([0.0, 1.0, 0.0], (12, 1)), np.array([quiet[i : i + 3] for i in range(12)]))
    rule = learn_rule(examples, sets)
    assert rule.text == "ends in 'ing'"
    assert rule.active(np.array([[quiet[0], token] for token in unseen])).all()


def test_rules_see_only_the_examples_and_ignore_matches_away_from_the_activation():
    sets = TokenSets(VOCABULARY)
    tokens = np.array([[OPEN, WALK], [OPEN, TALK]] * 5)
    examples = Examples(tokens, np.tile([0.0, 1.0], (10, 1)), np.array([[SEVEN, SEVEN]] * 10))
    assert all("' ('" not in str(p) or "after" in str(p) for p in learn_rule(examples, sets).patterns)


def test_a_latent_without_a_reason_earns_half():
    masks = np.random.default_rng(7).random((60, len(text()[0]))) < 0.03
    table = accuracy(run(activity_of(*masks))).set_index("group")
    assert abs(table.loc["balanced", "value"] - 0.5) < 0.03


def test_dealing_explanations_to_the_wrong_latents_destroys_the_score():
    ids = text()[0]
    tokens = [VOCABULARY.index(f" {w}") for w in WORDS[:8]]
    activity = activity_of(*(ids == t for t in tokens))
    scores = run(activity)
    wrong = dealt_wrong(activity, RuleScorer(), scores)
    assert balanced(scores).mean() == 1.0 and balanced(wrong).mean() < 0.6
    assert wrong.explanations == [*scores.explanations[1:], scores.explanations[0]]
    assert np.array_equal(wrong.latents, scores.latents)


def test_test_windows_are_disjoint_from_explanation_windows_and_balanced_by_decile():
    activity = activity_of(text()[0] % 5 == 0)
    examples, test, group = activity.sample(0)
    assert not activity.explains[test].any()
    assert len(set(test)) == PLAN.n_test
    assert np.bincount(group).tolist() == [20, *[3] * 10]
    peak = activity.peaks(0)[test]
    assert (peak[group == 0] == 0).all() and (peak[group > 0] > 0).all()
    assert all(peak[group == q].max() <= peak[group == q + 1].min() for q in range(1, 10))
    assert (np.diff(examples.activation.max(axis=1)) <= 0).all()
    assert examples.activation.max() == activity.peaks(0)[activity.explains].max()


def test_the_strongest_window_shown_is_the_first_that_the_explainer_sees():
    activity = activity_of(text()[0] % 5 == 0)
    tokens, activation = activity.strongest(0)
    examples = activity.sample(0)[0]
    assert np.array_equal(tokens, examples.tokens[0]) and np.array_equal(activation, examples.activation[0])
    assert activation.max() == activity.peaks(0)[activity.explains].max()
    assert marked(np.array([WALK, TALK, SEVEN]), np.array([True, True, False]), VOCABULARY) == "<< walk talk>> 7"


def test_order_of_test_windows_does_not_give_the_groups_away():
    group = activity_of(text()[0] % 5 == 0).sample(0)[2]
    assert (np.diff(group) < 0).any() and abs(np.corrcoef(group, np.arange(len(group)))[0, 1]) < 0.5


def test_latents_with_too_few_windows_are_counted_and_alone_are_an_error():
    ids = text()[0]
    rare = np.zeros(len(ids), bool)
    rare[:5] = True
    assert run(activity_of(ids == WALK, rare)).n_skipped == 1
    with pytest.raises(ValueError, match="none of 1 latents has 30 activating"):
        run(activity_of(rare))


class Half:
    """Explains nothing; says nothing about every second window and ``active`` about the others."""

    def explain(self, examples):
        return Explanation("whatever")

    def score(self, explanation, tokens):
        return [None if i % 2 else True for i in range(len(tokens))]


def test_decisions_without_an_answer_are_left_out_and_counted():
    scores = interpret(activity_of(text()[0] == WALK), Half(), Half())
    assert scores.n_unanswered == PLAN.n_test // 2
    known = scores.right[~np.isnan(scores.right)]
    assert set(known.tolist()) == {0.0, 1.0} and scores.right[0, 0] == 0.0


def test_a_scorer_that_skips_a_window_is_an_error():
    class Short(Half):
        def score(self, explanation, tokens):
            return [True]

    with pytest.raises(ValueError, match="1 decisions for 50 windows"):
        interpret(activity_of(text()[0] == WALK), Short(), Short())


def test_some_latents_are_drawn_from_the_alive_ones_by_the_seed():
    ids = text()[0]
    activity = activity_of(*(ids == t for t in range(12)), np.zeros(len(ids), bool), ids == 20)
    assert some_latents(activity, 100).tolist() == [*range(12), 13]
    drawn = some_latents(activity, 5, seed=1)
    assert len(set(drawn.tolist())) == 5 and (np.diff(drawn) > 0).all() and 12 not in drawn
    assert np.array_equal(drawn, some_latents(activity, 5, seed=1))
    assert not np.array_equal(drawn, some_latents(activity, 5, seed=2))


def test_workers_change_nothing():
    ids = text()[0]
    activity = activity_of(ids == WALK, ids == TALK, ids % 7 == 0)
    one, many = run(activity), run(activity, workers=4)
    assert one.explanations == many.explanations and np.array_equal(one.right, many.right)


def random_scores(p, n=300, seed=0):
    rng = np.random.default_rng(seed)
    right = np.column_stack([rng.binomial(50, p, n) / 50, *(rng.binomial(7, p, n) / 7 for _ in range(10))])
    return Scores(np.arange(n), right, [Explanation("x")] * n, WindowPlan().groups, 0, 0)


def test_intervals_cover_the_truth_about_95_percent_of_the_time():
    tables = [accuracy(random_scores(0.7, n=80, seed=s), n_bootstrap=400) for s in range(60)]
    inside = [((t.low <= 0.7) & (t.high >= 0.7)).mean() for t in tables]
    assert 0.90 < np.mean(inside) < 0.98


def test_the_difference_of_two_tests_has_the_planted_size_and_sign():
    table = accuracy_difference(random_scores(0.8), random_scores(0.7, seed=1)).set_index("group")
    low, high = table.loc["balanced", ["low", "high"]]
    assert low < 0.1 < high and low > 0.08 and high < 0.12


def test_patterns_read_well_and_match_only_inside_the_window():
    sets = TokenSets(VOCABULARY)
    pattern = Pattern(((0, sets.names_of(WALK)[0]), (1, sets.names_of(OPEN)[0])))
    assert str(pattern) == "token ' walk', after token ' ('"
    found = pattern.match(np.array([[WALK, OPEN, WALK], [OPEN, TALK, WALK]]), sets)
    assert found.tolist() == [[False, False, True], [False, False, False]]
    assert Rule((), sets).text == "no rule found" and not Rule((), sets).active(np.array([[1, 2]])).any()


@pytest.mark.parametrize("name", ["window", "n_explain", "per_decile", "n_not"])
def test_a_plan_without_windows_is_refused_by_name(name):
    with pytest.raises(ValueError, match=name):
        WindowPlan(**{name: 0})
