"""Loading SAEs, and the sparse encode and decode against SAELens' own dense ones."""

import json
from dataclasses import replace

import pytest
import torch
from sae_lens.registry import SAE_CLASS_REGISTRY
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

import dm_utils.dictionaries.sparse_topk  # noqa: F401  (registers its architecture)
from dm_utils.base.errors import ParameterError
from dm_utils.maths import codes
from dm_utils.maths.encoding import encode
from dm_utils.world import saes
from dm_utils.world.profiles import load_profile
from dm_utils.world.sae_ref import SaeRef

CASES = {
    "topk": lambda common: TopKSAE(TopKSAEConfig(k=6, **common)),
    "topk, decoder norm": lambda common: TopKSAE(TopKSAEConfig(k=6, rescale_acts_by_decoder_norm=True, **common)),
    "jumprelu": lambda common: JumpReLUSAE(JumpReLUSAEConfig(**common)),
    "standard": lambda common: StandardSAE(StandardSAEConfig(**common)),
    "layer norm": lambda common: StandardSAE(StandardSAEConfig(normalize_activations="layer_norm", **common)),
}


def make(kind, hook="blocks.3.hook_resid_post", d=16, d_sae=64):
    generator = torch.Generator().manual_seed(0)
    common = {
        "d_in": d,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "metadata": SAEMetadata(hook_name=hook),
    }
    sae = CASES[kind](common)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1 if "W" in name else 0.3))
        if hasattr(sae, "threshold"):
            sae.threshold.copy_(torch.randn(d_sae, generator=generator))  # some negative: ReLU still applies
    return sae.eval().requires_grad_(False)


@pytest.fixture(params=CASES)
def sae(request):
    return make(request.param)


X = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))


def test_reconstruct_equals_saelens(sae):
    torch.testing.assert_close(saes.reconstruct(sae, X), sae(X), rtol=1e-5, atol=2e-5)


def test_codes_are_the_active_latents(sae):
    dense = sae.encode(X)
    code = encode(sae, X)
    rebuilt = torch.zeros_like(dense)
    token = torch.repeat_interleave(torch.arange(len(X)), code.l0)
    rebuilt[token, code.indices] = code.values
    torch.testing.assert_close(rebuilt, dense, rtol=1e-5, atol=1e-5)
    assert torch.equal(code.l0, (dense != 0).sum(1))


def test_a_small_budget_of_pre_activations_changes_nothing(sae, monkeypatch):
    whole = encode(sae, X)
    monkeypatch.setattr(codes, "PRE_ACTIVATIONS", 64 * 7)
    pieces = encode(sae, X)
    assert torch.equal(whole.indices, pieces.indices)
    assert torch.equal(whole.offsets, pieces.offsets)
    torch.testing.assert_close(whole.values, pieces.values)


def test_a_token_with_no_active_latent_reconstructs_to_the_bias():
    sae = make("jumprelu")
    sae.threshold.fill_(1e9)
    torch.testing.assert_close(saes.reconstruct(sae, X), sae.b_dec.expand(50, 16))


def test_folder_catalog_and_load(tmp_path):
    sae = make("topk", hook="blocks.2.attn.hook_z")
    sae.save_model(tmp_path / "mine")
    (ref,) = saes.folder_catalog(tmp_path, str(tmp_path))
    assert (ref.component, ref.layer, ref.architecture, ref.d_sae, ref.l0) == (
        "att",
        2,
        "topk",
        64,
        6.0,
    )
    loaded = saes.load_sae(ref)
    torch.testing.assert_close(saes.reconstruct(loaded, X), saes.reconstruct(sae, X))


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"d_sae": 32}, "has W_dec of shape"), ({"hook_name": "blocks.1.hook_resid_post"}, r"was trained at blocks\.2")],
)
def test_what_is_loaded_is_compared_with_its_catalog(tmp_path, changed, said):
    make("topk", hook="blocks.2.hook_resid_post").save_model(tmp_path / "mine")
    (ref,) = saes.folder_catalog(tmp_path, str(tmp_path))
    with pytest.raises(ParameterError, match=said):
        saes.load_sae(replace(ref, **changed))


def test_a_changed_weight_is_another_sae(tmp_path):
    sae = make("topk")
    sae.save_model(tmp_path / "mine")
    before = saes.folder_catalog(tmp_path, "x")[0].revision
    sae.W_dec[0, 0] += 1
    sae.save_model(tmp_path / "mine")
    assert saes.folder_catalog(tmp_path, "x")[0].revision != before


def test_an_sae_at_another_site_is_refused(tmp_path):
    make("topk", hook="blocks.3.hook_resid_pre").save_model(tmp_path / "mine")
    with pytest.raises(ParameterError, match=r"hook_resid_pre.*blocks\.L\.hook_resid_post"):
        saes.folder_catalog(tmp_path, "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ParameterError, match="holds no SAE"):
        saes.folder_catalog(tmp_path / "empty", "x")


def test_nearest_l0_picks_one_per_width():
    def ref(width, l0):
        return SaeRef("r", f"{width}-{l0}", "resid", 3, "blocks.3.hook_resid_post", "topk", width, l0)

    found = saes.nearest_l0([ref(512, 8), ref(512, 20), ref(1024, 60), ref(1024, 8)], near_l0=16)
    assert [r.id for r in found] == ["512-20", "1024-8"]


def test_a_component_without_saes_is_refused(tmp_path):
    make("topk").save_model(tmp_path / "mine")
    profile = load_profile("lab", releases={"resid": (str(tmp_path),)})
    assert json.loads((tmp_path / "mine" / "cfg.json").read_text())["d_sae"] == 64
    assert [r.id for r in saes.catalog(profile)] == ["mine"]
    with pytest.raises(ParameterError, match="no SAEs for component 'mlp'"):
        saes.catalog(profile, "mlp")


OTHERS = [kind for kind in SAE_CLASS_REGISTRY if "transcoder" in kind]
KINDS = sorted(SAE_CLASS_REGISTRY.keys() - {*OTHERS, "temporal"})


def saved(kind, folder, spoil=lambda parts: None, **more):
    """The catalog entry of a small SAE of any architecture that is registered, its parts spoiled before it is saved."""
    cls, config = SAE_CLASS_REGISTRY[kind]
    common = {"d_in": 16, "d_sae": 64, "dtype": "float32", "device": "cpu"}
    sae = cls(config(metadata=SAEMetadata(hook_name="blocks.1.hook_mlp_out"), **common | more))
    with torch.no_grad():
        spoil(sae.state_dict())
    sae.save_model(folder / kind)
    (ref,) = saes.folder_catalog(folder, str(folder))
    return ref


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_not_numbers_are_refused_by_name(tmp_path, kind, bad):
    """One NaN in W_enc only turns its latent off: the numbers would be those of another SAE. Every part of every architecture."""
    parts = []
    saved(kind, tmp_path, lambda found: parts.extend(found))
    assert {"W_dec", "b_dec"} <= set(parts)
    for part in parts:

        def spoil(found, part=part):
            found[part].view(-1)[-1] = bad

        ref = saved(kind, tmp_path, spoil)
        with pytest.raises(ParameterError, match=rf"{part} of the SAE '{kind}': 1 of \d+ values are NaN or Inf"):
            saes.load_sae(ref)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_transcoder_is_refused_since_its_output_is_of_another_site(tmp_path, kind):
    ref = saved(kind, tmp_path, d_out=16, apply_b_dec_to_input=False)
    with pytest.raises(ParameterError, match=rf"is a {kind}, which reconstructs another site than it reads"):
        saes.load_sae(ref)


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_pre_activations_that_overflow_are_refused(kind):
    sae = make(kind)
    sae.W_enc[:2, 0] = 3e38
    sae.W_enc[0, 0] *= -1
    with pytest.raises(ValueError, match=r"pre-activations of .*NaN or Inf"):
        encode(sae, torch.cat([X, torch.full((1, 16), 1e3)]))
