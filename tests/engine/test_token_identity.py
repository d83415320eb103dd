"""Beyond token means: what a table leaves, what x adds to it, and that an error made of tokens alone leaves x nothing."""

import pytest
import torch

from dm_utils.engine.token_identity import (
    BEYOND,
    PREDICTORS,
    TOKEN,
    TOKENS,
    X,
    beyond_means,
    last_tokens,
    residuals,
    token_table,
)
from dm_utils.maths.group_means import group_means
from dm_utils.maths.resampling import Split

N, CONTEXTS, D = 8000, 40, 5


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def split():
    return Split.random(torch.arange(N) * CONTEXTS // N, seed=1)


@pytest.fixture
def tokens():
    return torch.randint(0, 20, (CONTEXTS, N // CONTEXTS + 2), generator=torch.Generator().manual_seed(7))


def tables(tokens):
    return last_tokens(tokens, torch.arange(2, tokens.shape[1]))


def left(found, split):
    """The held-out share of each predictor's target that it leaves: [predictor][norm, vector]."""
    return {name: values[~split.fit].sum(0) for name, values in found.items()}


def test_groups_are_the_token_then_pairs_then_triples(tokens):
    [[token], [same, pairs, triples]] = tables(tokens).values()
    assert torch.equal(token, same) and torch.equal(token, tokens[:, 2:].flatten())
    windows = torch.stack([tokens[:, 2 - back : tokens.shape[1] - back].flatten() for back in range(3)], 1)
    for groups, width in ((pairs, 2), (triples, 3)):
        _, expected = torch.unique(windows[:, :width], dim=0, return_inverse=True)
        assert (
            len(torch.unique(torch.stack([groups, expected], 1), dim=0))
            == len(groups.unique())
            == len(expected.unique())
        )


def test_the_first_token_of_a_context_stands_in_for_what_lies_before_it(tokens):
    [_, [_, pairs, _]] = last_tokens(tokens, torch.arange(2)).values()
    first = tokens[:, 0]
    assert torch.equal(pairs.view(CONTEXTS, 2)[:, 0], first + (int(tokens.max()) + 1) * first)


def test_a_held_out_token_loses_the_mean_of_the_fitting_tokens(split, tokens):
    y, [group] = normal(N, 2), tables(tokens)[TOKEN]
    expected = y - group_means(y, group, split).values
    torch.testing.assert_close(beyond_means(y, [group], split)[~split.fit], expected[~split.fit])


def test_a_fitting_token_loses_the_mean_of_the_others(split, tokens):
    y, [group] = normal(N, 1), tables(tokens)[TOKEN]
    found = beyond_means(y, [group], split)
    for one in split.fit.nonzero()[:20, 0]:
        others = split.fit & (group == group[one])
        others[one] = False
        overall = y[split.fit].mean()
        torch.testing.assert_close(found[one], y[one] - overall - (y[others] - overall).mean(0))


def test_an_error_that_is_a_function_of_the_token_is_taken_by_its_table_and_leaves_x_nothing(split, tokens):
    [group] = tables(tokens)[TOKEN]
    x = normal(20, D, seed=2)[group] + normal(N, D, seed=3)  # x knows the token, and more
    y = normal(20, 1 + D, seed=4)[group]
    found = left(residuals(x, y, tables(tokens), split), split)
    assert (found[TOKEN] < 1e-20 * found[X]).all() and (found[X] > 100).all()


@pytest.mark.parametrize("column", [0, 1, D])
def test_the_norm_and_every_dimension_of_the_error_are_counted_once(split, tokens, column):
    """Targets that are zero but for one column: its square is what is left, in the norm's place or in the vector's."""
    y = torch.zeros(N, 1 + D).double()
    y[:, column] = normal(N, 1, seed=7)[:, 0].double()
    found = residuals(normal(N, D, seed=3), y.float(), tables(tokens), split)
    for squares in found.values():
        assert squares[:, int(column > 0)].sum() > 100 and squares[:, int(column == 0)].sum() < 1e-6


def test_an_error_of_x_beyond_the_token_is_found_by_both_alone(split, tokens):
    """y = a function of the token + a map of what x has beyond it: neither part is enough, both are."""
    [group] = tables(tokens)[TOKEN]
    beyond = normal(N, D, seed=3)
    x, y = normal(20, D, seed=2)[group] + beyond, normal(20, 1 + D, seed=4)[group] + beyond @ normal(D, 1 + D, seed=5)
    found = left(residuals(x, y, tables(tokens), split), split)
    assert (found[BEYOND[TOKEN]] < 0.001 * found[TOKEN]).all() and (found[BEYOND[TOKEN]] < 0.001 * found[X]).all()


def test_a_function_of_two_tokens_needs_the_table_of_pairs(split, tokens):
    [_, pairs, _] = tables(tokens)[TOKENS]
    y = normal(400, 1 + D, seed=4)[pairs % 400] + 0.1 * normal(N, 1 + D, seed=6)
    found = left(residuals(normal(N, D, seed=3), y, tables(tokens), split), split)
    assert (found[TOKENS] < 0.3 * found[TOKEN]).all()


def test_held_out_targets_change_no_table(split, tokens):
    y = normal(N, 2)
    altered = torch.where(split.fit[:, None], y, 1e6)
    for groups in tables(tokens).values():
        first, second = (beyond_means(values, groups, split) for values in (y, altered))
        torch.testing.assert_close(first[split.fit], second[split.fit])


def test_a_study_is_measured_with_every_predictor(study):
    ref = study.sae()
    table = token_table(study, [ref]).set_index("predictor")
    assert tuple(table.index) == PREDICTORS
    measured = study.measure([ref]).iloc[0]
    assert table.loc[X, "fvu"] == pytest.approx(measured["fvu_nonlinear"], rel=1e-4)
    assert table.loc[X, "r2_norm"] == pytest.approx(measured["r2_error_norm"], abs=1e-4)
    assert table.loc[X, "r2_vector"] == pytest.approx(measured["r2_error_vector_weighted"], abs=1e-4)
    for name, both in BEYOND.items():
        alone, joint = table.loc[name], table.loc[both]
        assert joint["beyond_norm"] == pytest.approx((joint["r2_norm"] - alone["r2_norm"]) / (1 - alone["r2_norm"]))
        assert joint["of_nonlinear"] == pytest.approx(1 - joint["fvu"] / table.loc[X, "fvu"])
