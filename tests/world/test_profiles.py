"""Profiles refuse bad parameters at once, and say what is allowed."""

import subprocess
import sys

import pytest

from dm_utils.base.errors import ParameterError
from dm_utils.world.profiles import load_profile, profile_names


def test_every_shipped_profile_is_valid():
    for name in profile_names():
        profile = load_profile(name)
        assert profile.name == name
        assert 0 <= profile.layer < profile.n_layers


def test_overrides_apply_and_none_keeps_the_default():
    profile = load_profile("lab", layer=2, near_l0=8, width=None)
    assert (profile.layer, profile.near_l0, profile.width) == (
        2,
        8.0,
        load_profile("lab").width,
    )


def test_releases_may_be_lists_or_one_name():
    given = {"resid": ["gpt2-small-resid-post-v5-32k"], "mlp": "gpt2-small-mlp-out-v5-32k"}
    found = load_profile("gpt2-small", releases=given).releases
    assert found == {"resid": ("gpt2-small-resid-post-v5-32k",), "mlp": ("gpt2-small-mlp-out-v5-32k",)}


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        (
            "gemma-9",
            {},
            ["unknown profile 'gemma-9'", "lab", "Did you mean 'gemma-2-9b'?"],
        ),
        (7, {}, ["profile = 7"]),
        ("lab", {"layer": 99}, ["layer = 99", "layers 0 to 5", "nearest is 5"]),
        ("lab", {"layer": -1}, ["layer = -1"]),
        ("lab", {"layer": "two"}, ["layer = 'two'"]),
        ("lab", {"near_l0": "x"}, ["near_l0 = 'x'", "a number above 0", "4.0"]),
        ("lab", {"lyaer": 2}, ["unknown parameter 'lyaer'", "Did you mean 'layer'?"]),
        ("lab", {"split_by": "word"}, ["split_by = 'word'", "'token' or 'context'"]),
        ("lab", {"skip": 255}, ["skip = 255", "at most 254"]),
        ("lab", {"n_contexts": 2, "skip": 200}, ["n_contexts = 2", "at least"]),
        ("lab", {"fit_fraction": 1.0}, ["fit_fraction = 1.0", "between 0 and 1"]),
        ("lab", {"n_contexts": True}, ["n_contexts = True"]),
    ],
)
def test_bad_parameters_are_refused_with_what_is_allowed(name, overrides, said):
    with pytest.raises(ParameterError) as refused:
        load_profile(name, **overrides)
    for words in said:
        assert words in str(refused.value)


def test_checking_a_profile_imports_no_heavy_library():
    code = (
        "import sys, dm_utils as dm; dm.load_profile('lab', layer=2);"
        "print([m for m in ('torch', 'sae_lens', 'transformers', 'pandas', 'altair') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
