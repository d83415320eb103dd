"""Tiny random checkpoints in the exact formats of the releases that the profiles name, as a hub's repositories."""

import functools
import io
import json
import math
import tempfile
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from hub import Repository
from miniature import shrunk
from safetensors.torch import save
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

D, VOCABULARY = 32, 600
SIZES = {"vocab_size": VOCABULARY, "hidden_size": D, "intermediate_size": 64, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "initializer_range": 0.2}
SIZES |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
GEMMA = {"query_pre_attn_scalar": 8, "sliding_window": 16}
MODELS = {
    "google/gemma-2-2b": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, **GEMMA, num_hidden_layers=26)),
    "google/gemma-3-1b-pt": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, **GEMMA, num_hidden_layers=26)),
    "meta-llama/Llama-3.1-8B": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_hidden_layers=32)),
    "openai-community/gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=256, n_embd=D, n_layer=12, n_head=4, bos_token_id=0, eos_token_id=0
        )
    ),
}


def texts():
    """Documents of plain English: Python's own documentation."""
    from dm_utils.lab.text import evaluation_text

    return evaluation_text()


@functools.cache
def tokenizer():
    """A byte-level BPE as large as the models' vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<bos>", "<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts()[:200], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<bos>", eos_token="<eos>")


def model_repository(name):
    """A model's folder: config.json, model.safetensors and the tokenizer's files."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        MODELS[name]().save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return Repository(files | {"README.md": b"A tiny random checkpoint."})


def pile_repository(documents=None):
    """The Pile's layout: compressed JSON lines under train/."""
    import zstandard

    pack = zstandard.ZstdCompressor().compress
    rows = [json.dumps({"text": text, "meta": {"pile_set_name": "Docs"}}) + "\n" for text in documents or texts()]
    parts = {f"train/{i:02}.jsonl.zst": pack("".join(rows[i::2]).encode()) for i in range(2)}
    return Repository(
        parts
        | {"README.md": b"---\nlicense: other\n---\n# A small pile", "val.jsonl.zst": pack("".join(rows[:3]).encode())}
    )


KNOWN_SCALES = {}  # by profile, once its world is built


def scales(name, repository):
    """The root mean square of a model's activations at every site, for thresholds that give SAEs their L0."""
    from dm_utils.world import models
    from dm_utils.world.profile import Profile
    from dm_utils.world.profiles import load_profile, profile_names

    profile = next(p for p in map(load_profile, profile_names()) if p.model == name)
    with tempfile.TemporaryDirectory() as folder:
        for path, content in repository.files.items():
            (Path(folder) / path).write_bytes(content)
        small = Profile(**dict(profile) | {"model": folder, "d_model": D, "device": "cpu", "dtype": "float32"})
        model = models.load_model(small)
    sites = ("hook_resid_post", "hook_mlp_out", "hook_attn_out", "attn.hook_z")
    hooks = [f"blocks.{layer}.{site}" for layer in range(profile.n_layers) for site in sites]
    tokens = torch.randint(2, VOCABULARY, (4, 64), generator=torch.Generator().manual_seed(0))
    (found,) = models.activations(model, tokens, hooks, 4)
    return {hook: float(x.float().square().mean().sqrt()) for hook, x in found.items()}


def random_sae(ref, scale):
    """Encoder and decoder along the same random directions, with a threshold that gives about the SAE's L0."""
    generator = torch.Generator().manual_seed(hash_of(ref.id.removeprefix(f"{ref.release}/")))
    directions = torch.randn(ref.d_sae, D, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    share = min(max(ref.l0, 4) / ref.d_sae, 0.4)
    threshold = NormalDist().inv_cdf(1 - share)
    gain = 1 / max(1.0, ref.d_sae * share * (1 + threshold**2) / D)
    return {
        "W_enc": directions.T.contiguous(),
        "W_dec": directions * gain,
        "b_enc": torch.zeros(ref.d_sae),
        "b_dec": torch.zeros(D),
        "threshold": torch.full((ref.d_sae,), threshold * scale),
    }


def hash_of(text):
    """A number that is the same in every process."""
    return sum(ord(letter) * 31**i for i, letter in enumerate(text)) % 2**31


def gemma_scope(path, sae, _):
    """Gemma Scope: params.npz."""
    buffer = io.BytesIO()
    names = {"W_enc": "W_enc", "W_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"}
    np.savez(buffer, **{names[name]: value.numpy() for name, value in sae.items()})
    return {f"{path}/params.npz": buffer.getvalue()}


def gemma_scope_2(path, sae, ref):
    """Gemma Scope 2: params.safetensors with lower-case names, and config.json."""
    config = {"architecture": "jump_relu", "model_name": "google/gemma-3-1b-pt", "width": ref.d_sae}
    config |= {"hf_hook_point_in": f"model.layers.{ref.layer}.output"}
    blob = save({name.lower(): value for name, value in sae.items()})
    return {f"{path}/params.safetensors": blob, f"{path}/config.json": json.dumps(config).encode()}


def llama_scope(path, sae, ref):
    """Llama Scope: hyperparams.json, and weights that expect activations scaled to norm √d; one threshold for all."""
    from sae_lens.loading.pretrained_saes_directory import get_norm_scaling_factor

    scaling = get_norm_scaling_factor(ref.release, ref.id)
    config = {"d_model": D, "d_sae": ref.d_sae, "hook_point_in": ref.hook_name, "hook_point_out": ref.hook_name}
    config |= {"jump_relu_threshold": float(sae["threshold"][0]), "use_decoder_bias": True}
    config |= {"dataset_average_activation_norm": {"in": math.sqrt(D) / scaling, "out": math.sqrt(D) / scaling}}
    weights = {"encoder.weight": sae["W_enc"].T, "decoder.weight": sae["W_dec"].T}
    weights |= {"encoder.bias": sae["b_enc"], "decoder.bias": sae["b_dec"]}
    blob = save({name: value.contiguous().bfloat16() for name, value in weights.items()})
    return {f"{path}/hyperparams.json": json.dumps(config).encode(), f"{path}/checkpoints/final.safetensors": blob}


def openai_gpt2(path, sae, ref):
    """OpenAI's v5 SAEs as SAELens keeps them: cfg.json from before SAELens 6, TopK, layer norm outside."""
    config = {"model_name": "gpt2-small", "hook_point": ref.hook_name, "hook_point_layer": ref.layer, "d_in": D}
    config |= {"d_sae": ref.d_sae, "dtype": "torch.float32", "activation_fn_str": "topk", "prepend_bos": True}
    config |= {"activation_fn_kwargs": {"k": 32}, "normalize_activations": "layer_norm", "context_size": 64}
    blob = save({name: value for name, value in sae.items() if name != "threshold"})
    return {f"{path}/cfg.json": json.dumps(config).encode(), f"{path}/sae_weights.safetensors": blob}


FORMATS = {"gemma_2": gemma_scope, "gemma_3": gemma_scope_2, "llama_scope": llama_scope, None: openai_gpt2}


def sae_repository(release, scale_of, layers):
    """A release of SAELens' registry, every SAE of the layers, in the format of its family."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    from dm_utils.world.releases import registry_catalog

    entry, files = get_pretrained_saes_directory()[release], {}
    for ref in registry_catalog(release):
        if ref.layer not in layers:
            continue
        sae = random_sae(ref, scale_of[ref.hook_name])
        files |= FORMATS[entry.conversion_func](entry.saes_map[ref.id], sae, ref)
    return entry.repo_id, files


def world(profiles, near=False):
    """All that some profiles need: their models, their SAEs (`near`: of their own layer only), and the Pile."""
    from dm_utils.world.profiles import load_profile

    found = {("datasets", "monology/pile-uncopyrighted"): pile_repository()}
    for profile in map(load_profile, profiles):
        found["models", profile.model] = model_repository(profile.model)
        scale_of = KNOWN_SCALES[profile.name] = scales(profile.model, found["models", profile.model])
        saes, layers = {}, [profile.layer] if near else range(profile.n_layers)
        for release in {release for releases in profile.releases.values() for release in releases}:
            with shrunk():  # SAEs' sizes follow from their names, scaled
                repo, files = sae_repository(release, scale_of, layers)
            saes[repo] = saes.get(repo, {}) | files
        found |= {("models", repo): Repository(files) for repo, files in saes.items()}
    return found


def serve(profiles, near=False):
    """A hub that serves the world of some profiles."""
    from hub import Hub

    return Hub(world(profiles, near))
