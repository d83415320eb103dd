"""Language models through TransformerLens' bridge, and the activations of their sites."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.profiles import Component, ParameterError, Profile
from dm_utils.store import file_sha256

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SITES: dict[Component, tuple[str, ...]] = {
    "resid": ("hook_resid_post",),
    "mlp": ("hook_mlp_out",),
    "att": ("attn.hook_z", "hook_attn_out"),
}


def hook_name(component: Component, layer: int) -> str:
    """The usual site of a component, in TransformerLens' names."""
    return f"blocks.{layer}.{SITES[component][0]}"


def parse_hook(hook: str) -> tuple[Component, int]:
    """The component and layer of a site. Raises ParameterError for a site that is not studied here."""
    block, layer, site = [*hook.split(".", 2), "", ""][:3]
    for component, names in SITES.items():
        if block == "blocks" and layer.isdigit() and site in names:
            return component, int(layer)
    studied = ", ".join(f"blocks.L.{name}" for names in SITES.values() for name in names)
    raise ParameterError(f"{hook or 'no named hook'!r} is not a site studied here; those are {studied}")


def resolve_device(device: str) -> torch.device:
    """CUDA where there is one, else Apple's MPS, else the CPU; or what was named."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def model_path(profile: Profile) -> str:
    """The hub id or local folder that the profile's model loads from."""
    if profile.model == "lab":
        from dm_utils.lab import weights_path

        return str(weights_path() / "model")
    return str(Path(profile.model).expanduser()) if Path(profile.model).expanduser().is_dir() else profile.model


def identity(profile: Profile) -> str:
    """What tells this model from every other in a result's key: file digests, or hub id and revision."""
    folder = Path(model_path(profile))
    if folder.is_dir():
        files = [*sorted(folder.glob("*.safetensors")), folder / "config.json"]
        return " ".join(f"{path.name}:{file_sha256(path)}" for path in files)
    return f"{profile.model}@{profile.model_revision or 'main'}"


def load_tokenizer(profile: Profile) -> Any:
    """The model's tokenizer, without the model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path(profile), revision=profile.model_revision)


def hook_width(profile: Profile, hook: str) -> int:
    """Width of a site: d_model, or heads × d_head for attention outputs before their projection."""
    if not hook.endswith("hook_z"):
        return profile.d_model
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_path(profile), revision=profile.model_revision)
    heads = config.num_attention_heads
    return heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)


def load_model(profile: Profile) -> TransformerBridge:
    """Boot the profile's model in evaluation mode (hub id, local folder, or the lab's shipped weights)."""
    from transformer_lens.model_bridge import TransformerBridge

    with contextlib.redirect_stdout(io.StringIO()):  # the bridge announces itself on stdout
        model = TransformerBridge.boot_transformers(
            model_path(profile),
            device=resolve_device(profile.device),
            dtype=getattr(torch, profile.dtype),
            revision=profile.model_revision,
        )
    model.eval()
    if (model.cfg.n_layers, model.cfg.d_model) != (profile.n_layers, profile.d_model):
        raise ValueError(
            f"{profile.model} has {model.cfg.n_layers} layers of width {model.cfg.d_model}; "
            f"the profile says {profile.n_layers} of width {profile.d_model}"
        )
    return model


@torch.inference_mode()
def activations(
    model: TransformerBridge,
    contexts: Int[Tensor, "context ctx_len"],
    hook_names: Sequence[str],
    batch: int = 16,
) -> Iterator[dict[str, Float[Tensor, "context ctx_len d"]]]:
    """Run the model as far as the last hook needs, yielding each batch's activations, heads flattened."""
    last = max(int(name.split(".")[1]) for name in hook_names)
    stop = last + 1 if last + 1 < model.cfg.n_layers else None
    for start in range(0, len(contexts), batch):
        kept: dict[str, Tensor] = {}

        def keep(value: Tensor, *, hook: object, name: str, kept: dict[str, Tensor] = kept) -> None:
            kept[name] = value.detach().flatten(2)

        tokens = contexts[start : start + batch].to(model.cfg.device)
        hooks = [(name, partial(keep, name=name)) for name in hook_names]
        model.run_with_hooks(tokens, return_type=None, stop_at_layer=stop, fwd_hooks=hooks)
        missing = set(hook_names) - kept.keys()
        if missing:
            raise ValueError(f"the model has no hook {', '.join(sorted(missing))}")
        yield kept
