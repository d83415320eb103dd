"""Windows of text: the names of their groups, and which entries count as activity."""

from __future__ import annotations

import numpy as np
import pytest

from dm_utils.base.errors import ParameterError
from dm_utils.engine.text_windows import Activity, WindowPlan
from dm_utils.world.profiles import load_profile


def test_groups_go_from_the_silent_windows_to_the_strongest_tenth() -> None:
    plan = WindowPlan(n_deciles=3, per_decile=2, n_not=5)
    assert plan.groups == ("not", "Q1", "Q2", "Q3") and plan.n_test == 5 + 3 * 2


def test_only_positive_entries_in_whole_windows_are_activity() -> None:
    """Two contexts of five tokens in windows of two: the fifth token of each is in no window."""
    context, position = np.repeat([0, 1], 5), np.tile(np.arange(5), 2)
    row, latent = np.array([0, 1, 4, 6, 7]), np.array([1, 2, 3, 4, 5])
    value = np.array([1.0, 0.0, 1.0, -1.0, 0.5])
    found = Activity(row, latent, value, np.arange(10), context, position, WindowPlan(2))
    assert found.alive.tolist() == [1, 5]
    assert found.tokens.tolist() == [[0, 1], [2, 3], [5, 6], [7, 8]]
    window, at, values = found.entries(5)
    assert (window.tolist(), at.tolist(), values.tolist()) == ([3], [0], [0.5])
    assert found.explains.tolist() in ([True, True, False, False], [False, False, True, True]), (
        "whole contexts, half of them"
    )


def test_sizes_of_a_plan_are_one_or_more_and_a_window_fits_a_context() -> None:
    profile = load_profile("lab")
    for name in ("window", "n_explain", "n_deciles", "per_decile", "n_not"):
        assert getattr(WindowPlan(**{name: 1}), name) == 1
        with pytest.raises(ParameterError, match=f"{name} = 0"):
            WindowPlan(**{name: 0})
    kept = profile.kept_per_context
    assert WindowPlan.of(profile.with_overrides(seed=3), kept) == WindowPlan(window=kept, seed=3)
    with pytest.raises(ParameterError, match=f"window = {kept + 1}: a context of lab has {kept} kept tokens"):
        WindowPlan.of(profile, kept + 1)
