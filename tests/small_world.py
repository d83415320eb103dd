"""A model, SAEs and a text of one's own, in folders: a small Llama with random weights, and TopK SAEs of its directions."""

import torch
from tiny_models import VOCABULARY, random_model
from transformers import PreTrainedTokenizerFast

D, HOOK = 32, "blocks.2.hook_resid_post"


def write_model(folder, safe=True):
    """A Llama of four layers and a tokenizer of words w0 … w96, as Hugging Face writes them; `safe` False: pytorch_model.bin."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    model = random_model("llama")
    model.save_pretrained(folder)
    if not safe:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w1", unk_token="w0").save_pretrained(
        folder
    )
    return folder


def write_sae(folder, k=4, d_sae=64, hook=HOOK, seed=0):
    """A TopK SAE whose latents are random directions; it reconstructs badly, which is no matter here."""
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

    torch.manual_seed(seed)
    common = {"d_in": D, "d_sae": d_sae, "dtype": "float32", "device": "cpu"}
    sae = TopKSAE(TopKSAEConfig(k=k, metadata=SAEMetadata(hook_name=hook, model_name="my-llama"), **common))
    directions = torch.nn.functional.normalize(torch.randn(d_sae, D), dim=1)
    sae.W_dec.data, sae.W_enc.data = directions, directions.T.contiguous()
    sae.save_model(folder)
    return folder


def write_text(path, n_documents=400, seed=0):
    """Documents of random words, each word likely to come again soon, so that contexts differ."""
    generator = torch.Generator().manual_seed(seed)
    lines = []
    for _ in range(n_documents):
        few = torch.randint(2, VOCABULARY, (8,), generator=generator)
        chosen = few[torch.randint(8, (60,), generator=generator)]
        lines.append(" ".join(f"w{int(word)}" for word in chosen))
    path.write_text("\n\n".join(lines))
    return path


def parameters(root, **sizes):
    """The parameters that name this world, for a profile or for a chapter."""
    named = {"model": str(root / "model"), "releases": str(root / "saes"), "dataset": str(root / "mine.txt")}
    return named | {"n_contexts": 60, "ctx_len": 32, "skip": 6, "n_bootstrap": 100} | sizes


def write_world(root, ks=(4,), widths=(64,)):
    """All of it below `root`: model/, saes/topk_K/ for each k (topk_K_WIDTH beyond the first width), mine.txt."""
    write_model(root / "model")
    for k in ks:
        for width in widths:
            write_sae(root / "saes" / (f"topk_{k}" if width == widths[0] else f"topk_{k}_{width}"), k, width)
    write_text(root / "mine.txt")
    return root
