"""Language models through TransformerLens' bridge, and the activations of their sites."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.base.errors import ParameterError
from dm_utils.base.files import identity_of
from dm_utils.world import hub
from dm_utils.world.memory import available, describe, with_less
from dm_utils.world.profile import Component, Profile

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

log = logging.getLogger("dm_utils")
TOKENIZER_FILES = ("config.json", "*token*", "vocab*", "merges.txt", "*.model", "chat_template*")
MODEL_FILES = (*TOKENIZER_FILES, "generation_config.json", "*.safetensors", "*.safetensors.index.json")
READ_AS_TEXT = {".json", ".txt", ".model", ".jinja", ".tiktoken", ".bpe", ".spm", ".py"}  # of a local folder
WEIGHTS = {".safetensors", ".bin"}
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


def model_path(profile: Profile, files: Sequence[str] = MODEL_FILES) -> Path:
    """The local folder of the profile's model: the lab's, the one named, or a snapshot of the hub's repository."""
    if profile.model == "lab":
        from dm_utils.lab import weights_path

        return weights_path() / "model"
    folder = Path(profile.model).expanduser()
    if folder.is_dir():
        return folder
    if profile.model.startswith((".", "/", "~")) or profile.model.count("/") > 1:
        raise hub.LoadError(f"model = {profile.model!r}: there is no such folder, and it is not a hub id (owner/name)")
    return hub.fetch(profile.model, profile.model_revision, files)


def revision(profile: Profile) -> str:
    """The commit of the profile's model on the hub; empty for the lab's and for a local folder."""
    if profile.model == "lab" or Path(profile.model).expanduser().is_dir():
        return ""
    return hub.commit(profile.model, profile.model_revision)


def identity(profile: Profile) -> str:
    """What tells this model from every other in a result's key: hub id and commit, or the contents of a folder's files."""
    return _identity(profile, READ_AS_TEXT | WEIGHTS)


def tokenizer_identity(profile: Profile) -> str:
    """The same of the model's tokenizer: a folder's files but for the weights."""
    return _identity(profile, READ_AS_TEXT)


def _identity(profile: Profile, suffixes: set[str]) -> str:
    if sha := revision(profile):
        return f"{profile.model}@{sha}"
    folder = model_path(profile)
    files = [*folder.glob("*"), *folder.glob("additional_chat_templates/*")]
    return identity_of(path for path in files if path.is_file() and path.suffix in suffixes)


def load_tokenizer(profile: Profile) -> Any:
    """The model's tokenizer, without the model."""
    from transformers import AutoTokenizer

    with hub.explained(profile.model, profile.model_revision):
        return AutoTokenizer.from_pretrained(model_path(profile, TOKENIZER_FILES))


def hook_width(profile: Profile, hook: str) -> int:
    """Width of a site: d_model, or heads × d_head for attention outputs before their projection."""
    if not hook.endswith("hook_z"):
        return profile.d_model
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_path(profile, TOKENIZER_FILES))
    heads = config.num_attention_heads
    return heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)


def count_parameters(folder: Path) -> int:
    """How many numbers the safetensors files of a model folder hold, read from their headers."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def check_memory(profile: Profile, needed: int, device: torch.device) -> None:
    """Refuse a model that does not fit into memory before it is read. It passes through RAM on its way to a GPU."""
    for place in dict.fromkeys([torch.device("cpu"), device]):
        if needed > available(place):
            raise hub.LoadError(
                f"{profile.model} takes {needed / hub.GIB:.1f} GiB in {profile.dtype}; {describe(place)} has "
                f"{available(place) / hub.GIB:.1f} GiB free. Close other programs or notebooks, choose a smaller model "
                "(`dm profiles` lists what each needs), dtype = 'bfloat16', or device = 'cpu'"
            )


def load_model(profile: Profile) -> TransformerBridge:
    """Boot the profile's model in evaluation mode (hub id, local folder, or the lab's shipped weights).

    Raises
    ------
    LoadError : it cannot be fetched, or there is not enough memory for it.
    ValueError : its shape is not the one that the profile names.
    """
    from transformer_lens.model_bridge import TransformerBridge

    folder, device, dtype = model_path(profile), resolve_device(profile.device), getattr(torch, profile.dtype)
    check_memory(profile, count_parameters(folder) * dtype.itemsize, device)
    log.info("%s runs in %s on %s; `dtype` and `device` override this", profile.model, profile.dtype, describe(device))
    with hub.explained(profile.model, profile.model_revision), contextlib.redirect_stdout(io.StringIO()):
        model = TransformerBridge.boot_transformers(str(folder), device=device, dtype=dtype)
    model.eval()
    if (model.cfg.n_layers, model.cfg.d_model) != (profile.n_layers, profile.d_model):
        raise ValueError(
            f"{profile.model} has {model.cfg.n_layers} layers of width {model.cfg.d_model}; the profile "
            f"{profile.name!r} says {profile.n_layers} of width {profile.d_model}. For another model than the profile's "
            f"own, give n_layers = {model.cfg.n_layers} and d_model = {model.cfg.d_model} as well"
        )
    return model


def activations(
    model: TransformerBridge,
    contexts: Int[Tensor, "context ctx_len"],
    hook_names: Sequence[str],
    batch: int = 16,
) -> Iterator[dict[str, Float[Tensor, "context ctx_len d"]]]:
    """Run the model as far as the last hook needs, yielding each batch's activations, heads flattened.

    Where memory runs out the batch is halved, from there on.
    """
    start = 0
    while start < len(contexts):
        kept, batch = with_less(
            lambda size, start=start: _forward(model, contexts[start : start + size], hook_names),  # type: ignore[misc]
            batch,
            "contexts per forward pass",
        )
        yield kept
        start += batch


@torch.inference_mode()
def _forward(model: TransformerBridge, tokens: Tensor, hook_names: Sequence[str]) -> dict[str, Tensor]:
    last = max(int(name.split(".")[1]) for name in hook_names)
    stop = last + 1 if last + 1 < model.cfg.n_layers else None
    kept: dict[str, Tensor] = {}

    def keep(value: Tensor, *, hook: object, name: str) -> None:
        kept[name] = value.detach().flatten(2)

    hooks = [(name, partial(keep, name=name)) for name in hook_names]
    model.run_with_hooks(tokens.to(model.cfg.device), return_type=None, stop_at_layer=stop, fwd_hooks=hooks)
    if missing := set(hook_names) - kept.keys():
        raise ValueError(f"the model has no hook {', '.join(sorted(missing))}")
    return kept
