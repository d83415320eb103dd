"""SAELens' registry, read without a network."""

from dataclasses import replace

import pytest

from dm_utils.base.errors import ParameterError
from dm_utils.world.profiles import load_profile, profile_names
from dm_utils.world.releases import registry_catalog
from dm_utils.world.saes import catalog, release_catalog


@pytest.mark.parametrize(
    ("release", "sae_id", "expected"),
    [
        (
            "gemma-scope-2b-pt-res",
            "layer_12/width_65k/average_l0_72",
            ("resid", 12, "blocks.12.hook_resid_post", 65536, 72.0),
        ),
        (
            "gemma-scope-2b-pt-att",
            "layer_0/width_16k/average_l0_104",
            ("att", 0, "blocks.0.attn.hook_z", 16384, 104.0),
        ),
        (
            "gemma-scope-2b-pt-res-canonical",
            "layer_25/width_65k/canonical",
            ("resid", 25, "blocks.25.hook_resid_post", 65536, 93.0),
        ),
        ("llama_scope_lxm_8x", "l31m_8x", ("mlp", 31, "blocks.31.hook_mlp_out", 32768, 50.0)),
        (
            "gemma-scope-2-1b-pt-res",
            "layer_13_width_65k_l0_medium",
            ("resid", 13, "blocks.13.hook_resid_post", 65536, 60.0),
        ),
        (
            "gemma-scope-2-1b-pt-att-all",
            "layer_25_width_262k_l0_small",
            ("att", 25, "blocks.25.attn.hook_z", 262144, 20.0),
        ),
        (
            "gemma-scope-2-1b-pt-mlp",
            "layer_7_width_1m_l0_big",
            ("mlp", 7, "blocks.7.hook_mlp_out", 2**20, 132.0),
        ),
        (
            "gpt2-small-resid-post-v5-128k",
            "blocks.11.hook_resid_post",
            ("resid", 11, "blocks.11.hook_resid_post", 131072, 32.0),
        ),
    ],
)
def test_ids_are_read(release, sae_id, expected):
    (ref,) = [ref for ref in registry_catalog(release) if ref.id == sae_id]
    assert (ref.component, ref.layer, ref.hook_name, ref.d_sae, ref.l0) == expected


def test_a_layer_of_many_widths_is_read_whole():
    """However many there are: no id is lost, and none is read twice."""
    refs = [ref for ref in registry_catalog("gemma-scope-2b-pt-res") if ref.layer == 12]
    assert len({ref.id for ref in refs}) == len(refs) == len({(ref.d_sae, ref.l0) for ref in refs})
    assert {ref.d_sae for ref in refs} >= {2**14, 2**16, 2**20}


def test_every_profile_has_saes_at_its_layer():
    for name in profile_names():
        profile = load_profile(name)
        for component in profile.releases:
            assert any(ref.layer == profile.layer for ref in catalog(profile, component)), (name, component)


def test_an_unknown_release_is_refused_with_the_nearest():
    with pytest.raises(ParameterError, match=r"unknown SAE release 'gemma-scope-2b-res'.*gemma-scope-2b-pt-res"):
        registry_catalog("gemma-scope-2b-res")


def test_transcoders_are_no_saes_of_a_site():
    with pytest.raises(ParameterError, match="not in a convention known here"):
        registry_catalog("gemma-scope-2-1b-pt-transcoders")


def test_a_release_can_be_pinned():
    pinned = release_catalog("gemma-scope-2b-pt-res-canonical@0123abc")
    assert {ref.revision for ref in pinned} == {"0123abc"}
    assert {(ref.release, ref.repo) for ref in pinned} == {
        ("gemma-scope-2b-pt-res-canonical", "google/gemma-scope-2b-pt-res")
    }
    exact = replace(pinned[0], revision="f" * 40)
    assert exact.commit == exact.key()["revision"] == "f" * 40  # a commit needs no hub


def test_equal_ids_of_two_releases_are_told_apart():
    refs = [ref for ref in catalog(load_profile("gpt2-small")) if ref.layer == 6]
    assert [(ref.id, ref.name) for ref in refs] == [
        (f"gpt2-small-resid-post-v5-{width}/blocks.6.hook_resid_post", "blocks.6.hook_resid_post")
        for width in ("32k", "128k")
    ]


def test_the_widest_can_be_left_out():
    profile = load_profile("gemma-2-2b", max_width=40_000)
    assert {ref.d_sae for ref in catalog(profile) if ref.layer == 12} == {2**14, 2**15}
    with pytest.raises(
        ParameterError, match=r"max_width = 10: the narrowest resid SAE of 'gemma-2-2b' has 16384 latents"
    ):
        catalog(load_profile("gemma-2-2b", max_width=10))
