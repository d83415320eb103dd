"""Randomly initialised language models of the architectures that the profiles use, booted through the bridge."""

import contextlib
import io

import torch
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

ARCHITECTURES = ["gemma2", "llama", "gpt2"]
VOCABULARY = 97


def random_model(architecture):
    """Four layers of width 32, with weights large enough that every layer matters."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    if architecture == "gemma2":
        config = Gemma2Config(**sizes, head_dim=8, sliding_window=8, query_pre_attn_scalar=8, initializer_range=0.2)
        return Gemma2ForCausalLM(config)
    if architecture == "gemma3":
        config = Gemma3TextConfig(**sizes, head_dim=8, sliding_window=8, query_pre_attn_scalar=8, initializer_range=0.2)
        return Gemma3ForCausalLM(config)
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=0.2))
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=4, n_head=4, n_positions=64, initializer_range=0.2)
    return GPT2LMHeadModel(config)


def boot(architecture, folder):
    """Write a model and a tokenizer to a folder, and load them as `dm_utils.models` does."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformer_lens.model_bridge import TransformerBridge

    random_model(architecture).save_pretrained(folder)
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w1", unk_token="w0")
    tokenizer.save_pretrained(folder)
    with contextlib.redirect_stdout(io.StringIO()):
        return TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32).eval()
