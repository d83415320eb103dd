"""The schema of a profile over its whole space: what it takes, it keeps; what it refuses, it names."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dm_utils.base.errors import ParameterError
from dm_utils.world.profiles import load_profile

LAB = load_profile("lab")
LIMITS: dict[str, tuple[float, float]] = {
    "layer": (0, LAB.n_layers - 1),
    "width": (1, 2**31 - 1),
    "max_width": (1, 2**31 - 1),
    "n_contexts": (2, 2**31 - 1),
    "ctx_len": (8, 2**31 - 1),
    "seed": (0, 2**32 - 1),
    "n_bootstrap": (100, 100_000),
    "batch": (1, 2**31 - 1),
    "block": (1, 2**31 - 1),
}  # the smallest and the largest that are allowed, whatever the other parameters say


def sizes_agree(contexts: int, ctx_len: int, skip: int, fraction: float, by: str) -> bool:
    """Whether the fitting tokens determine the coefficients and something is left to evaluate on, from the protocol."""
    kept = ctx_len - 1 - skip
    if kept < 1 or int(contexts * kept * fraction) <= LAB.d_model + 1:
        return False
    return (1 - fraction) * (kept if by == "token" else contexts / 2) >= 1


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("end", [0, 1])
def test_a_limit_itself_is_taken_and_the_next_number_is_refused(name: str, end: int) -> None:
    limit = int(LIMITS[name][end])
    others: dict[str, Any] = {"n_contexts": 500, "ctx_len": 256, "skip": 0} | {name: limit}
    if name == "n_contexts" and end == 0:
        others["ctx_len"] = 2000
    assert getattr(load_profile("lab", **others), name) == limit
    with pytest.raises(ParameterError, match=rf"^{name} = "):
        load_profile("lab", **others | {name: limit + (1 if end else -1)})


@given(
    contexts=st.integers(2, 40),
    ctx_len=st.integers(8, 80),
    skip=st.integers(0, 90),
    fraction=st.floats(0.001, 0.999),
    by=st.sampled_from(["token", "context"]),
)
def test_sizes_are_taken_exactly_where_they_leave_enough_to_fit_and_to_evaluate(
    contexts: int, ctx_len: int, skip: int, fraction: float, by: str
) -> None:
    given_sizes = {"n_contexts": contexts, "ctx_len": ctx_len, "skip": skip, "fit_fraction": fraction, "split_by": by}
    try:
        profile = load_profile("lab", **given_sizes)
    except ParameterError as error:
        assert not sizes_agree(contexts, ctx_len, skip, fraction, by)
        assert str(error).split(" = ")[0] in given_sizes
    else:
        assert sizes_agree(contexts, ctx_len, skip, fraction, by)
        assert {name: getattr(profile, name) for name in given_sizes} == given_sizes
        assert profile.kept_per_context == ctx_len - 1 - skip


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=2)
)


@given(name=st.sampled_from(sorted(type(LAB).model_fields)), value=anything)
def test_whatever_is_given_is_kept_or_refused_by_its_name(name: str, value: Any) -> None:
    try:
        profile = load_profile("lab", **{name: value})
    except ParameterError as error:
        assert name in str(error)
    else:
        kept = getattr(profile, name)
        assert kept == (getattr(LAB, name) if value is None else value)
        assert type(kept) is type(value) or value is None or isinstance(kept, float)
