"""Profiles: what is studied (model, text, SAEs) and at what size, checked before anything loads.

A profile is a frozen record. `load_profile("lab", layer=2)` returns one, or raises `ParameterError`, which says
what was given, what is allowed and the nearest valid value. Nothing here imports PyTorch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

Component = Literal["resid", "mlp", "att"]
COMPONENTS: tuple[Component, ...] = ("resid", "mlp", "att")
Count = Annotated[int, Field(ge=1)]


def _as_tuple(given: Any) -> Any:
    """One name, or a list of them as a notebook's parameter holds it, as the tuple that a profile keeps."""
    return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given


class ParameterError(ValueError):
    """A parameter that cannot be used: names it, what was given, what is allowed."""


class Profile(BaseModel):
    """One study: a model, its text, its SAEs and the sizes of the protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(description="the profile's name")
    title: str = Field(description="the model's name as a reader sees it")
    model: str = Field(description="'lab', a Hugging Face model id, or a local model folder")
    model_revision: str | None = Field(default=None, description="a commit, tag or branch of the model")
    n_layers: Count = Field(description="a whole number, how many layers the model has")
    d_model: Count = Field(description="a whole number, the width of the residual stream")
    dataset: str = Field(description="'stdlib-docs', a Hugging Face dataset id, or a local file or folder")
    dataset_revision: str | None = Field(default=None, description="a commit, tag or branch of the dataset")
    releases: dict[Component, Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]] = Field(
        description="a mapping from resid, mlp or att to SAELens releases (name, or name@revision), local SAE folders or 'lab'"
    )
    layer: Annotated[int, Field(ge=0)] = Field(description="a whole number, the layer to study, 0 or more")
    near_l0: Annotated[float, Field(gt=0)] = Field(description="a number above 0, the L0 that SAEs are chosen near to")
    width: Count = Field(
        description="a whole number, the SAE width (number of latents) of single-SAE experiments, at least 1"
    )
    max_width: Count | None = Field(
        default=None, description="a whole number, the widest SAE to study: wider ones are left out, at least 1"
    )
    n_contexts: Annotated[int, Field(ge=2)] = Field(description="a whole number of contexts of text, at least 2")
    ctx_len: Annotated[int, Field(ge=8)] = Field(
        description="a whole number of tokens in a context, BOS included, at least 8"
    )
    skip: Annotated[int, Field(ge=0)] = Field(
        description="a whole number of leading positions left out of each context, 0 or more"
    )
    fit_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.6075,
        description="a number strictly between 0 and 1, the share of tokens that fits",
    )
    split_by: Literal["token", "context"] = Field(default="token", description="'token' or 'context'")
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="a whole number, 0 or more")
    n_bootstrap: Annotated[int, Field(ge=100)] = Field(
        default=1000, description="a whole number of resamples, at least 100"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="the model's: 'float32', 'bfloat16' or 'float16'"
    )
    device: str = Field(default="auto", description="'auto', 'cpu', 'cuda', 'cuda:1', 'mps'")
    batch: Count = Field(default=16, description="a whole number of contexts per forward pass, at least 1")
    block: Count = Field(default=8192, description="a whole number of tokens per block of the engine, at least 1")

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        if self.layer >= self.n_layers:
            raise ParameterError(
                f"layer = {self.layer}: {self.title} has layers 0 to {self.n_layers - 1}; "
                f"the nearest is {self.n_layers - 1}"
            )
        if self.skip > self.ctx_len - 2:
            raise ParameterError(
                f"skip = {self.skip}: contexts have {self.ctx_len} tokens, so skip must be at most {self.ctx_len - 2}"
            )
        fitting = int(self.n_contexts * self.kept_per_context * self.fit_fraction)
        if fitting <= self.d_model + 1:
            raise ParameterError(
                f"n_contexts = {self.n_contexts}: {fitting} fitting tokens cannot determine {self.d_model} "
                f"coefficients; give at least {2 * self.d_model // max(self.kept_per_context, 1) + 2} contexts"
            )
        return self

    @property
    def kept_per_context(self) -> int:
        """How many positions of a context are kept: skip ≤ t < ctx_len − 1."""
        return self.ctx_len - 1 - self.skip

    def with_overrides(self, **overrides: Any) -> Profile:
        """The same profile with some fields replaced, checked again."""
        changed = {name: value for name, value in overrides.items() if value is not None}
        for name in changed:
            require(name, type(self).model_fields, "parameter")
        if changed.keys() & {"model", "releases"}:
            from dm_utils.own_profile import complete

            changed = complete(self, changed)
        # Strict, but an integer passes for a float: `-p near_l0 16`.
        try:
            return Profile(**{**dict(self), **changed})
        except ValidationError as error:
            raise ParameterError(_explain(error, changed, self)) from None


def require(name: str, allowed: Iterable[str], what: str) -> None:
    """Refuse a name that is not among the allowed ones, offering the nearest."""
    names = list(allowed)
    if name in names:
        return
    raise ParameterError(f"unknown {what} {name!r}; allowed: {', '.join(names)}.{did_you_mean(name, names)}")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of a refusal: the nearest of the names, if one is near."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f" Did you mean {near[0]!r}?" if near else ""


def _explain(error: ValidationError, given: dict[str, Any], base: Profile) -> str:
    """One sentence for the first thing that pydantic refused."""
    first = error.errors()[0]
    if not first["loc"]:
        return str(first["ctx"]["error"])
    name = str(first["loc"][0])
    allowed = Profile.model_fields[name].description
    return f"{name} = {given.get(name)!r}: it must be {allowed}; {base.name}'s own value is {getattr(base, name)!r}"


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
        "n_layers": 6,
        "d_model": 128,
        "dataset": "stdlib-docs",
        "releases": {"resid": ("lab",), "mlp": ("lab",), "att": ("lab",)},
        "layer": 3,
        "near_l0": 16.0,
        "width": 2048,
        "n_contexts": 768,
        "ctx_len": 256,
        "skip": 64,
        "batch": 64,
    },
    "gpt2-small": {
        **_GEMMA,
        "title": "GPT-2 small",
        "model": "openai-community/gpt2",
        "n_layers": 12,
        "d_model": 768,
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
        "n_layers": 26,
        "d_model": 2304,
        "releases": {
            "resid": ("gemma-scope-2b-pt-res",),
            "mlp": ("gemma-scope-2b-pt-mlp",),
            "att": ("gemma-scope-2b-pt-att",),
        },
        "layer": 12,
        "near_l0": 60.0,
        "width": 16384,
        "max_width": 131072,  # what fits into 16 GB, Section 5.3 included: `needs.free_tier`
        "dtype": "bfloat16",
        "batch": 1,
    },
    "gemma-2-9b": {
        **_GEMMA,
        "title": "Gemma 2 9B",
        "model": "google/gemma-2-9b",
        "n_layers": 42,
        "d_model": 3584,
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
        "n_layers": 26,
        "d_model": 1152,
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
        "n_layers": 32,
        "d_model": 4096,
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
        raise ParameterError(f"profile = {name!r}: it must be one of {', '.join(_PROFILES)}")
    require(name, _PROFILES, "profile")
    return Profile(name=name, **_PROFILES[name]).with_overrides(**overrides)
