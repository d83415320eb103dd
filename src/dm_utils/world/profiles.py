"""The profiles that ship with the book, and how one is loaded with parameters of your own, checked before anything loads.

`load_profile("lab", layer=2)` returns one, or raises `ParameterError`, which says what was given, what is allowed and the
nearest valid value. Nothing here imports PyTorch.
"""

from __future__ import annotations

from typing import Any

from dm_utils.base.errors import ParameterError, require, shown
from dm_utils.world.profile import Profile
from dm_utils.world.shapes import Shape

_GEMMA = {
    "n_contexts": 300,
    "ctx_len": 1024,
    "skip": 200,
    "dataset": "monology/pile-uncopyrighted",
    "batch": 2,
}


_PROFILES: dict[str, dict[str, Any]] = {
    "lab": {
        "title": "the lab model",
        "model": "lab",
        "dataset": "stdlib-docs",
        "releases": {"resid": ("lab",), "mlp": ("lab",), "att": ("lab",)},
        "layer": 4,
        "near_l0": 4.0,
        "width": 2048,
        "n_contexts": 768,
        "ctx_len": 256,
        "skip": 64,
        "batch": 64,
        "precision": "float32",  # nothing is timed, so the lab's book is the same on every run to the last digit
    },
    "gpt2-small": {
        **_GEMMA,
        "title": "GPT-2 small",
        "model": "openai-community/gpt2",
        "releases": {
            "resid": ("gpt2-small-resid-post-v5-32k", "gpt2-small-resid-post-v5-128k"),
            "mlp": ("gpt2-small-mlp-out-v5-32k",),
            "att": ("gpt2-small-attn-out-v5-32k",),
        },
        "layer": 6,
        "near_l0": 32.0,
        "width": 32768,
        "batch": 8,
    },
    "gemma-2-2b": {
        **_GEMMA,
        "title": "Gemma 2 2B",
        "model": "google/gemma-2-2b",
        "releases": {
            "resid": ("gemma-scope-2b-pt-res",),
            "mlp": ("gemma-scope-2b-pt-mlp",),
            "att": ("gemma-scope-2b-pt-att",),
        },
        "layer": 12,
        "near_l0": 60.0,
        "width": 16384,
        "max_width": 131072,  # what fits into 16 GB, Section 5.3 included: `chapters.profiles.experiment.free_tier`
        "dtype": "bfloat16",
        "batch": 1,
    },
    "gemma-2-9b": {
        **_GEMMA,
        "title": "Gemma 2 9B",
        "model": "google/gemma-2-9b",
        "releases": {
            "resid": ("gemma-scope-9b-pt-res",),
            "mlp": ("gemma-scope-9b-pt-mlp",),
            "att": ("gemma-scope-9b-pt-att",),
        },
        "layer": 20,
        "near_l0": 60.0,
        "width": 16384,
        "dtype": "bfloat16",
    },
    "gemma-3-1b": {
        **_GEMMA,
        "title": "Gemma 3 1B",
        "model": "google/gemma-3-1b-pt",
        "releases": {
            "resid": ("gemma-scope-2-1b-pt-res", "gemma-scope-2-1b-pt-res-all"),
            "mlp": ("gemma-scope-2-1b-pt-mlp", "gemma-scope-2-1b-pt-mlp-all"),
            "att": ("gemma-scope-2-1b-pt-att", "gemma-scope-2-1b-pt-att-all"),
        },
        "layer": 13,
        "near_l0": 60.0,
        "width": 16384,
        "max_width": 262144,  # what fits into 16 GB
        "dtype": "bfloat16",
    },
    "llama-3.1-8b": {
        **_GEMMA,
        "title": "Llama 3.1 8B",
        "model": "meta-llama/Llama-3.1-8B",
        "releases": {
            "resid": ("llama_scope_lxr_8x", "llama_scope_lxr_32x"),
            "mlp": ("llama_scope_lxm_8x", "llama_scope_lxm_32x"),
            "att": ("llama_scope_lxa_8x", "llama_scope_lxa_32x"),
        },
        "layer": 16,
        "near_l0": 50.0,
        "width": 32768,
        "dtype": "bfloat16",
    },
}

SHAPES = {  # the models' sizes, as their published config.json has them
    "lab": Shape(6, 128, 512, 4, 2, 32, 4096, 2, needs_licence=False),
    "openai-community/gpt2": Shape(
        12, 768, 3072, 12, 12, 64, 50257, 4, 1024, gated=False, biases=True, needs_licence=False
    ),
    "google/gemma-2-2b": Shape(26, 2304, 9216, 8, 4, 256, 256000, 4),
    "google/gemma-2-9b": Shape(42, 3584, 14336, 16, 8, 256, 256000, 4),
    "google/gemma-3-1b-pt": Shape(26, 1152, 6912, 4, 1, 256, 262144, 2, head_norms=2),
    "meta-llama/Llama-3.1-8B": Shape(32, 4096, 14336, 32, 8, 128, 128256, 2, tied=False, norms=2),
}


def profile_names() -> list[str]:
    """The profiles that ship with the book."""
    return list(_PROFILES)


def load_profile(name: str = "lab", **overrides: Any) -> Profile:
    """A shipped profile, with any of its fields replaced; an override of None keeps the profile's own value.

    Raises
    ------
    ParameterError : unknown profile or field, wrong type, or a value outside what the model allows.
    """
    if not isinstance(name, str):
        raise ParameterError(f"profile = {shown(name)}: it must be one of {', '.join(_PROFILES)}")
    require(name, _PROFILES, "profile")
    shape = SHAPES[_PROFILES[name]["model"]]
    shipped = Profile(name=name, n_layers=shape.n_layers, d_model=shape.d_model, **_PROFILES[name])
    given = {field: value for field, value in overrides.items() if value is not None}
    _keep_sizes(shipped, given)
    if given.keys() & {"model", "releases"}:
        from dm_utils.world.own_profile import complete

        given = complete(shipped, given)
    return shipped.with_overrides(**given)


def _keep_sizes(shipped: Profile, given: dict[str, Any]) -> None:
    """Refuse sizes that contradict the model whose weights are here; another model brings its own."""
    for name in ("n_layers", "d_model"):
        own = getattr(shipped, name)
        if given.get("model", shipped.model) == "lab" and name in given and given[name] != own:
            raise ParameterError(f"{name} = {shown(given[name])}: it must be {own}, as {shipped.title} has it")
