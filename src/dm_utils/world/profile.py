"""A profile: what is studied (model, text, SAEs) and at what size, a frozen record that checks itself. No PyTorch here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from dm_utils.base.errors import ParameterError, require, shown

Component = Literal["resid", "mlp", "att"]
SIZE = 2**31 - 1  # what no count of anything here reaches
Count = Annotated[int, Field(ge=1, le=SIZE)]


def _as_tuple(given: Any) -> Any:
    """One name, or a list of them as a notebook's parameter holds it, as the tuple that a profile keeps."""
    return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given


def _all_different(names: tuple[str, ...]) -> tuple[str, ...]:
    """Each release once: an SAE that is listed twice would be measured, drawn and averaged twice."""
    if not names or len(set(names)) < len(names):
        raise ValueError("each release once, and at least one")
    return names


Releases = Annotated[tuple[str, ...], BeforeValidator(_as_tuple), AfterValidator(_all_different)]


class Profile(BaseModel):
    """One study: a model, its text, its SAEs and the sizes of the protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: str = Field(description="the profile's name")
    title: str = Field(description="the model's name as a reader sees it")
    model: str = Field(description="'lab', a Hugging Face model id, or a local model folder")
    model_revision: str | None = Field(default=None, description="a commit, tag or branch of the model")
    n_layers: Count = Field(description="a whole number, how many layers the model has")
    d_model: Count = Field(description="a whole number, the width of the residual stream")
    dataset: str = Field(description="'stdlib-docs', a Hugging Face dataset id, or a local file or folder")
    dataset_revision: str | None = Field(default=None, description="a commit, tag or branch of the dataset")
    releases: dict[Component, Releases] = Field(
        min_length=1,
        description="a mapping from resid, mlp or att to SAELens releases (name, or name@revision), local SAE folders or 'lab', "
        "each once",
    )
    layer: Annotated[int, Field(ge=0)] = Field(description="a whole number, the layer to study, 0 or more")
    near_l0: Annotated[float, Field(gt=0)] = Field(description="a number above 0, the L0 that SAEs are chosen near to")
    width: Count = Field(
        description="a whole number, the SAE width (number of latents) of single-SAE experiments, at least 1"
    )
    max_width: Count | None = Field(
        default=None, description="a whole number, the widest SAE to study: wider ones are left out, at least 1"
    )
    n_contexts: Annotated[int, Field(ge=2, le=SIZE)] = Field(
        description="a whole number of contexts of text, at least 2"
    )
    ctx_len: Annotated[int, Field(ge=8, le=SIZE)] = Field(
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
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(default=0, description="a whole number, 0 or more, below 2³²")
    n_bootstrap: Annotated[int, Field(ge=100, le=100_000)] = Field(
        default=1000, description="a whole number of resamples, from 100 to 100,000"
    )
    interval: Literal["held-out", "fit"] = Field(
        default="held-out",
        description="'held-out' or 'fit': whether intervals hold the fitted maps fixed, or cover them too",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="the model's: 'float32', 'bfloat16' or 'float16'"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="what SAEs encode in: 'float32', 'bfloat16' (screened and certified), or 'auto', the faster one",
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$")] = Field(
        default="auto", description="'auto', 'cpu', 'cuda', 'mps', or one of several GPUs, such as 'cuda:1'"
    )
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
                f"coefficients; give at least {2 * self.d_model // max(self.kept_per_context, 1) + 2} contexts, "
                f"a longer ctx_len than {self.ctx_len}, a smaller skip than {self.skip}, or a larger fit_fraction than "
                f"{self.fit_fraction}"
            )
        held_out = 1 - self.fit_fraction
        per_context = held_out * (self.kept_per_context if self.split_by == "token" else self.n_contexts / 2)
        if per_context < 1:
            whole = "a token of each context" if self.split_by == "token" else "two contexts"
            raise ParameterError(f"fit_fraction = {self.fit_fraction}: it must leave at least {whole} to evaluate on")
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
        # Strict, but an integer passes for a float: `-p near_l0 16`.
        try:
            return Profile(**{**dict(self), **changed})
        except ValidationError as error:
            raise ParameterError(_explain(error, changed, self)) from None


def _explain(error: ValidationError, given: dict[str, Any], base: Profile) -> str:
    """One sentence for the first thing that pydantic refused."""
    first = error.errors()[0]
    if not first["loc"]:
        return str(first["ctx"]["error"])
    name = str(first["loc"][0])
    allowed = Profile.model_fields[name].description
    own = shown(getattr(base, name))
    return f"{name} = {shown(given.get(name))}: it must be {allowed}; {base.name}'s own value is {own}"
