"""What profiles need: the formulae against the real architectures' parameter counts and against bytes that exist."""

import pytest
import torch

from dm_utils.engine.study import Study
from dm_utils.world import needs, saes
from dm_utils.world.profiles import load_profile, profile_names


def config_of(model):
    """The Hugging Face configuration of a shape."""
    from transformers import Gemma2Config, Gemma3TextConfig, GPT2Config, LlamaConfig

    s = needs.SHAPES[model]
    if "gpt2" in model:
        return GPT2Config(
            vocab_size=s.vocabulary, n_positions=s.positions, n_embd=s.d_model, n_layer=s.n_layers, n_head=s.heads
        )
    kind = Gemma2Config if "gemma-2" in model else Gemma3TextConfig if "gemma-3" in model else LlamaConfig
    sizes = {"vocab_size": s.vocabulary, "hidden_size": s.d_model, "intermediate_size": s.d_mlp, "head_dim": s.d_head}
    sizes |= {"num_hidden_layers": s.n_layers, "num_attention_heads": s.heads, "num_key_value_heads": s.key_heads}
    return kind(**sizes, tie_word_embeddings=s.tied)


@pytest.mark.parametrize("model", [model for model in needs.SHAPES if model != "lab"])
def test_the_parameter_count_is_that_of_the_architecture(model):
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config_of(model))
    assert sum(p.numel() for p in built.parameters()) == needs.SHAPES[model].parameters


@pytest.mark.parametrize("model", [model for model in needs.SHAPES if "/" in model and "gpt2" not in model])
def test_the_sizes_are_those_that_transformer_lens_knows(model):
    from transformer_lens.loading_from_pretrained import convert_hf_model_config

    theirs, ours = convert_hf_model_config(model), needs.SHAPES[model]
    names = {"n_layers": "n_layers", "d_model": "d_model", "d_mlp": "d_mlp", "n_heads": "heads", "d_head": "d_head"}
    names |= {"n_key_value_heads": "key_heads", "d_vocab": "vocabulary"}
    assert {name: theirs[name] for name in names} == {name: getattr(ours, mine) for name, mine in names.items()}


def test_the_lab_counts_its_own_files():
    """The formula against the weights that the repository ships."""
    from dm_utils.world.models import count_parameters, model_path

    profile = load_profile("lab")
    assert needs.shape_of(profile).parameters == count_parameters(model_path(profile))
    ref = next(ref for ref in saes.catalog(profile) if ref.architecture == "jumprelu")
    loaded = saes.load_sae(ref)
    assert needs.sae_bytes(ref, needs.shape_of(profile)) == sum(p.numel() * 4 for p in loaded.parameters())


def test_the_free_tier_holds_gpt2_and_gemma_2_2b_with_every_sae_of_their_layer():
    for name in ("gpt2-small", "gemma-2-2b"):
        need = needs.needs(load_profile(name), "every SAE of the layer")
        assert need.machine == needs.FREE_TIER, name
        assert max(need.gpu, need.gpu_downstream) + needs.CONTEXT < 16e9 and need.ram < 12e9
    wider = needs.needs(load_profile("gemma-2-2b", max_width=2**18), "every SAE of the layer")
    assert wider.gpu_downstream > 16e9  # which is why the profile leaves the widest ones out


def test_the_selections_are_the_papers():
    profile = load_profile("gemma-2-2b")
    chosen = {selection: needs.select(profile, selection) for selection in needs.SELECTIONS}
    (one,) = chosen["one SAE"]
    assert (one.id, one.layer) == ("layer_12/width_16k/average_l0_41", 12)
    assert [ref.d_sae for ref in chosen["nearest L0 per width"]] == [2**14, 2**15, 2**16, 2**17]
    assert {ref.layer for ref in chosen["every SAE of the layer"]} == {12}
    assert [ref.layer for ref in chosen["one SAE per layer"]] == list(range(26))


def test_the_table_has_a_row_for_every_profile():
    table = needs.table()
    assert table["profile"].tolist() == profile_names()
    assert not table.isna().any(axis=None)


@pytest.mark.parametrize("name", ["lab", "gpt2-small", "gemma-2-2b"])
def test_one_sae_is_the_one_that_chapters_use(name):
    profile = load_profile(name)
    assert needs.select(profile, "one SAE") == [Study(profile).sae()]
    every = {ref.layer: ref for ref in needs.select(profile, "one SAE per layer")}
    assert every[profile.layer] == Study(profile).sae()
