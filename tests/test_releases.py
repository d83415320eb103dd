"""SAELens' registry, read without a network."""

import pytest

from dm_utils.profiles import ParameterError, load_profile, profile_names
from dm_utils.releases import registry_catalog
from dm_utils.saes import catalog


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
            "gpt2-small-resid-post-v5-128k",
            "blocks.11.hook_resid_post",
            ("resid", 11, "blocks.11.hook_resid_post", 131072, 32.0),
        ),
    ],
)
def test_ids_are_read(release, sae_id, expected):
    (ref,) = [ref for ref in registry_catalog(release) if ref.id == sae_id]
    assert (ref.component, ref.layer, ref.hook_name, ref.d_sae, ref.l0) == expected


def test_gemma_2_2b_layer_12_has_forty_residual_saes():
    assert len([ref for ref in registry_catalog("gemma-scope-2b-pt-res") if ref.layer == 12]) == 40


def test_every_profile_has_saes_at_its_layer():
    for name in profile_names():
        profile = load_profile(name)
        for component in profile.releases:
            assert any(ref.layer == profile.layer for ref in catalog(profile, component)), (name, component)


def test_an_unknown_release_is_refused_with_the_nearest():
    with pytest.raises(ParameterError, match=r"unknown SAE release 'gemma-scope-2b-res'.*gemma-scope-2b-pt-res"):
        registry_catalog("gemma-scope-2b-res")
