"""Means of the fitting tokens of a group: what each token gets, and that no held-out target reaches one."""

import pytest
import torch
from tokens import N, generator, random_split

from dm_utils.maths.group_means import group_means


@pytest.fixture
def split():
    return random_split()


def test_group_means_are_those_of_the_fitting_tokens(split):
    group = torch.randint(0, 30, (N,), generator=generator()) * 7 + 3  # ids need not be consecutive
    y = torch.randn(N, 2, generator=generator(1), dtype=torch.float64)
    found = group_means(y, group, split).values
    for identity in group.unique():
        mine = group == identity
        torch.testing.assert_close(found[mine], y[mine & split.fit].mean(0).expand(int(mine.sum()), 2))


def test_held_out_targets_cannot_change_group_means(split):
    group, y = torch.arange(N) % 50, torch.randn(N, 1, generator=generator(), dtype=torch.float64)
    altered = torch.where(split.fit[:, None], y, 1e6)
    torch.testing.assert_close(group_means(altered, group, split).values, group_means(y, group, split).values)


def test_unseen_groups_get_the_mean_of_all_fitting_tokens(split):
    group = torch.zeros(N, dtype=torch.int64)
    rare = (~split.fit).nonzero()[:5, 0]
    group[rare] = torch.arange(1, 6)
    y = torch.randn(N, 1, generator=generator(), dtype=torch.float64)
    found = group_means(y, group, split)
    assert found.unseen.nonzero()[:, 0].tolist() == rare.tolist()
    torch.testing.assert_close(found.values[rare], y[split.fit].mean(0).expand(5, 1))


def test_there_is_a_mean_for_each_group_and_no_other(split):
    group = torch.arange(N) % 7 * 10
    found = group_means(torch.ones(N, 2), group, split)
    assert found.table.shape == (7, 2)
    assert found.seen.tolist() == [True] * 7
