"""Which SAEs belong together, and how often a metric falls between neighbours."""

from types import SimpleNamespace

import pandas as pd
import pytest

from dm_utils.base.errors import ParameterError
from dm_utils.base.verdicts import DIFFERS, HOLDS, PARTLY, UNTESTABLE
from dm_utils.engine.suite import Steps, main_suite, require_widths, steps


def line(values, half_width):
    table = pd.DataFrame({"d_sae": [512, 1024, 2048][: len(values)], "near_l0": 8, "r2": values})
    return table.assign(r2_low=table["r2"] - half_width, r2_high=table["r2"] + half_width)


def test_steps_count_neighbours_only():
    table = pd.DataFrame(
        [(512, 8, 0.9), (1024, 8, 0.8), (4096, 8, 0.85), (512, 16, 0.7), (1024, 16, 0.6)], columns=["d_sae", "l0", "r2"]
    )
    found = steps(table, "r2", along="d_sae", fixed="l0")
    assert (found.falls, found.total) == (2, 3)
    assert str(steps(table, "r2", along="l0", fixed="d_sae")) == "falls in 2 of 2 steps"


def test_a_step_counts_for_a_verdict_only_if_its_intervals_are_apart():
    assert steps(line([0.9, 0.8, 0.7], 0.049), "r2", "d_sae", "near_l0") == Steps(2, 2, (True, True))
    assert steps(line([0.9, 0.8, 0.7], 0.051), "r2", "d_sae", "near_l0") == Steps(2, 2, (None, None))
    assert steps(line([0.9, 0.8, 0.9], 0.049), "r2", "d_sae", "near_l0") == Steps(1, 2, (True, False))


def test_verdicts_on_falling_and_rising_mirror_each_other():
    assert [Steps(2, 2, (True, True)).falling, Steps(2, 2, (True, True)).rising] == [HOLDS, DIFFERS]
    assert [Steps(1, 2, (True, None)).falling, Steps(1, 2, (True, None)).rising] == [PARTLY, DIFFERS]
    assert [Steps(1, 2, (None, None)).falling, Steps(0, 0, ()).rising] == [UNTESTABLE, UNTESTABLE]


def test_the_main_suite_is_the_most_frequent_architecture_near_powers_of_two():
    table = pd.DataFrame({"architecture": ["topk", "topk", "jumprelu"], "l0": [15.2, 31.0, 7.8]})
    assert main_suite(table)["near_l0"].tolist() == [16, 32]
    assert main_suite(table, "jumprelu")["near_l0"].tolist() == [8]


def test_an_architecture_that_no_sae_has_is_named():
    with pytest.raises(ParameterError, match=r"unknown architecture 'topq'.*Did you mean 'topk'"):
        main_suite(pd.DataFrame({"architecture": ["topk"], "l0": [8.0]}), "topq")


def test_two_widths_can_be_compared_and_one_or_none_is_refused_by_name():
    lab = SimpleNamespace(layer=4, near_l0=4.0)
    one, same, other = (SimpleNamespace(id=name, d_sae=width) for name, width in (("a", 512), ("b", 512), ("c", 1024)))
    require_widths([one, same, other], lab)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=r"layer = 4, near_l0 = 4: .* a with 512 latents, b with 512 latents;"):
        require_widths([one, same], lab)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="here there is none"):
        require_widths([], lab)  # type: ignore[arg-type]
