"""Your own model, SAE and text: `decompose_sae`, a study of a profile without a name.

An SAE says where it belongs (SAELens' metadata: hook, width, model). Here that is checked against the model before
anything is measured, because a wrong pairing gives numbers, too.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import io
import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dm_utils.base.errors import ParameterError, require
from dm_utils.engine.store import Store
from dm_utils.engine.study import Study
from dm_utils.lab import weights_path
from dm_utils.maths.decomposition import ErrorReport, Interval
from dm_utils.maths.encoding import prefer
from dm_utils.world import corpus, models
from dm_utils.world.profile import Component
from dm_utils.world.profiles import load_profile
from dm_utils.world.releases import load_registered
from dm_utils.world.sae_ref import SaeRef
from dm_utils.world.saes import check_kind, check_weights

if TYPE_CHECKING:
    from sae_lens import SAE
    from transformer_lens.model_bridge import TransformerBridge

log = logging.getLogger("dm_utils")
SNAPSHOT = re.compile(r".*/models--(.+?)--(.+?)/snapshots/.*")  # a model of the hub in its local cache
PROCESSING = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
COMMON_SITES = (
    "mlp.hook_post",
    "hook_resid_post",
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_mlp_out",
    "hook_attn_out",
    "attn.hook_z",
)


def decompose_sae(
    model: str | Path | Any,
    sae: str | Path | tuple[str, str] | Any,
    texts: str | Path | Sequence[str] | Tensor,
    *,
    hook_name: str | None = None,
    anyway: bool = False,
    ctx_len: int | None = None,
    skip: int | None = None,
    batch: int = 16,
    dtype: str = "float32",
    device: str = "auto",
    precision: str = "float32",
    seed: int = 0,
    n_bootstrap: int = 1000,
    interval: Interval = "held-out",
) -> ErrorReport:
    """Decompose the error of your own SAE (Eqs. 10–15), from the model and the text up.

    Four vectors per token stay in memory, about 20 bytes × tokens × d; the activations are in a temporary file meanwhile.

    Parameters
    ----------
    model : a TransformerBridge or HookedTransformer, a hub id, a local Hugging Face folder, or "lab".
    sae : a SAELens SAE, (release, id) of SAELens' registry or of a folder of SAEs, or the folder of one SAE.
    texts : strings, a local text file, or int tokens [context, ctx_len] that start with BOS.
    hook_name : the site, where the SAE's metadata name none.
    anyway : accept an SAE that was trained on another model, or at another hook, of the same width.
    ctx_len, skip : tokens in a context, and how many leading ones are left out. Default: the SAE's training length
        (at most 1024, and what the model takes), and a fifth of it (the paper: 200 of 1024).
    batch, dtype, device : how the model runs; dtype and device hold for a model that is loaded here.
    precision : what the SAE encodes in, as a profile's: "float32", "bfloat16" (certified), or "auto", the faster of both.
    seed, n_bootstrap, interval : as for `decompose`. Intervals resample contexts.

    Raises
    ------
    ParameterError : the SAE's hook, width or model does not fit, or there is too little text; says what would fit.
    LoadError : something cannot be loaded.
    """
    if not isinstance(model, str | Path) and not hasattr(model, "run_with_hooks"):
        raise ParameterError(
            f"model = {type(model).__name__}: give a TransformerBridge or HookedTransformer, a hub id, or a local folder"
        )
    require(precision, ("auto", "float32", "bfloat16"), "precision")
    sae = load_own_sae(sae)
    for check in (check_kind, check_weights):
        check(sae, sae.cfg.metadata.hook_name or "of yours")
    name = str(model) if isinstance(model, str | Path) else str(model.cfg.model_name)
    model = load_own_model(model, sae, dtype, device)
    hook = fitting_hook(model, sae, hook_name, anyway, name)
    contexts = own_contexts(model, texts, ctx_len or min(sae.cfg.metadata.context_size or 1024, 1024, model.cfg.n_ctx))
    skip = contexts.shape[1] // 5 if skip is None else skip
    protocol = {"precision": precision, "seed": seed, "n_bootstrap": n_bootstrap, "interval": interval}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        study = OwnStudy(model, sae, hook, contexts, skip, Store(folder), title=name, batch=batch, **protocol)
        report = study.report()
    if (fvu := report.fvu.value) > 1:
        log.warning("FVU %.2f: the SAE is worse than the mean. Does it belong to this model and hook?", fvu)
    return report


class OwnStudy(Study):
    """A study whose model, contexts and one SAE are given, at any hook inside a block."""

    def __init__(self, model: Any, sae: SAE[Any], hook: str, contexts: Tensor, skip: int, store: Store, **others: Any):
        base, (n_contexts, ctx_len) = load_profile("lab"), contexts.shape
        kept, d = max(ctx_len - 1 - skip, 0), sae.cfg.d_in
        fitting = int(base.fit_fraction * n_contexts * kept)
        if fitting <= d + 1:
            raise ParameterError(
                f"{n_contexts} contexts keep {kept} tokens each, so {fitting} tokens would fit "
                f"{d} coefficients per dimension; give at least {d + 2}, better ten times as many"
            )
        layer, device = int(hook.split(".")[1]), str(sae.W_dec.device).replace("mps:0", "mps")
        others |= {"n_layers": model.cfg.n_layers, "layer": layer, "d_model": d, "device": device}
        others |= {"n_contexts": n_contexts, "ctx_len": ctx_len, "skip": skip}
        super().__init__(base.with_overrides(name="own", **others), store)
        self.model, self.contexts = model, contexts
        self._model_identity = "given"  # its store lasts as long as the study
        self._given, self.ref = sae, SaeRef("own", hook, "resid", layer, hook, sae.cfg.architecture(), sae.cfg.d_sae, 0)

    def load_sae(self, ref: SaeRef) -> SAE[Any]:
        """The SAE that was given, on flat activations: a copy that shares its weights, so that the given one stays as it is."""
        sae = copy.copy(self._given)
        if sae.hook_z_reshaping_mode:
            sae.turn_off_forward_pass_hook_z_reshaping()
        prefer(sae, self.profile.precision)
        return sae

    def hook_name(self, layer: int, component: Component = "resid") -> str:
        """The one site."""
        return self.ref.hook_name

    def _shape(self, layer: int, component: Component) -> tuple[int, int]:
        return self.profile.n_contexts * self.profile.kept_per_context, self._given.cfg.d_in

    def report(self) -> ErrorReport:
        """The estimates and every vector of the SAE; each token is encoded once."""
        site = self.site()
        sae_out = torch.cat([out.float().cpu() for _, _, out in self.reconstructions(self.ref)])
        result = site.decomposer.run(lambda rows, x: sae_out[rows].to(x.device), name="sae_out")
        error, linear = site.x - sae_out, result.error_map(site.x)
        found = result.metrics
        values: dict[str, Any] = {field.name: found[field.name] for field in fields(ErrorReport) if field.name in found}
        values |= {"sae_error": error, "linear_error": linear, "nonlinear_error": error - linear}
        return ErrorReport(**values, rank=site.design.rank, decomposition=result)


def load_own_sae(sae: Any) -> SAE[Any]:
    """An SAE as it is, or the one that a folder, or a release and an id, name."""
    from sae_lens import SAE
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    if isinstance(sae, SAE):
        return sae
    if isinstance(sae, str | Path):
        folder = Path(sae).expanduser()
        if not (folder / "cfg.json").exists():
            raise ParameterError(f"sae = {str(sae)!r}: no cfg.json there; give the folder of an SAE, or (release, id)")
        return SAE.load_from_disk(folder, device="cpu", dtype="float32").eval().requires_grad_(False)
    if not (isinstance(sae, Sequence) and len(sae) == 2 and all(isinstance(part, str) for part in sae)):
        raise ParameterError(f"sae = {sae!r}: give a SAELens SAE, (release, id) or the folder of an SAE")
    release, name = sae
    if release == "lab" or Path(release).expanduser().is_dir():
        folder = weights_path() / "saes" if release == "lab" else Path(release).expanduser()
        require_near(name, {path.parent.name: path for path in folder.glob("*/cfg.json")}, f"SAE of {release}:")
        return load_own_sae(folder / name)
    directory, (known, _, revision) = get_pretrained_saes_directory(), release.partition("@")
    require_near(known, directory, "SAE release")
    require_near(name, directory[known].saes_map, f"SAE of {known}:")
    ref = SaeRef(known, name, "resid", 0, "", "", 0, 0.0, revision, directory[known].repo_id)
    return load_registered(ref, "cpu").eval().requires_grad_(False)


def require_near(name: str, allowed: Mapping[str, Any], what: str) -> None:
    """Refuse a name of a long list, offering the three nearest instead of the list."""
    if name not in allowed:
        near = ", ".join(map(repr, difflib.get_close_matches(name, allowed, n=3, cutoff=0.3))) or "none is near"
        raise ParameterError(f"unknown {what} {name!r}, one of {len(allowed)}; the nearest: {near}")


def load_own_model(model: Any, sae: SAE[Any], dtype: str, device: str) -> TransformerBridge:
    """A model as it is, or the named one, its weights processed as the SAE's metadata ask (`center_writing_weights`)."""
    if hasattr(model, "run_with_hooks"):
        return model
    name = "lab" if str(model) == "lab" else official_name(str(model))
    loaded = models.load_model(load_profile("lab", model=name, dtype=dtype, device=device))
    wanted = sae.cfg.metadata.model_from_pretrained_kwargs or {}
    if any(wanted.get(step) for step in PROCESSING):
        with contextlib.redirect_stdout(io.StringIO()):
            loaded.enable_compatibility_mode(**{step: bool(wanted.get(step, False)) for step in PROCESSING})
    return loaded


def official_name(name: str) -> str:
    """The hub id behind TransformerLens' short name (`gpt2-small` is `gpt2`); any other name as it is."""
    from transformer_lens.loading_from_pretrained import get_official_model_name

    if Path(name).expanduser().is_dir():
        return name
    with contextlib.suppress(ValueError):
        return str(get_official_model_name(name))
    return name


def fitting_hook(model: TransformerBridge, sae: SAE[Any], given: str | None, anyway: bool, mine: str) -> str:
    """The SAE's hook, if the model (named `mine`) has it at the SAE's width and is the one that the SAE was trained on.

    Raises
    ------
    ParameterError : it does not fit; names the nearest hook, or the hooks of the SAE's width.
    """
    metadata, hooks = sae.cfg.metadata, model.hook_dict
    hook, theirs = given or metadata.hook_name, metadata.model_name
    if not hook:
        raise ParameterError("the SAE's metadata name no hook: give hook_name, for example 'blocks.4.hook_resid_post'")
    if metadata.hook_name and hook != metadata.hook_name and not anyway:
        raise ParameterError(
            f"hook_name = {hook!r}: the SAE was trained at {metadata.hook_name!r}; leave hook_name out, "
            "or give anyway = True if you mean to apply it elsewhere"
        )
    block, layer, site = [*hook.split(".", 2), "", ""][:3]
    if hook not in hooks or block != "blocks":
        nearest = f"blocks.{min(int(layer), model.cfg.n_layers - 1)}.{site}" if layer.isdigit() else ""
        near = nearest if nearest in hooks else next(iter(difflib.get_close_matches(hook, hooks, cutoff=0.3)), "none")
        raise ParameterError(
            f"the SAE sits at {hook!r}, which {mine} with its {model.cfg.n_layers} layers does not have; "
            f"the nearest hook is {near!r}"
        )
    widths = site_widths(model, hook)
    if widths[hook] != sae.cfg.d_in:
        fitting = [name for name, width in widths.items() if width == sae.cfg.d_in]
        hint = f"it fits at {', '.join(fitting)}: give hook_name" if fitting else "no common hook of that layer fits"
        trained = f" (its metadata name the model {theirs!r})" if theirs else ""
        raise ParameterError(
            f"the SAE reads vectors of {sae.cfg.d_in} numbers{trained}; {hook!r} of {mine} gives {widths[hook]}; {hint}"
        )
    if theirs and not anyway and not same_model(mine, theirs):
        raise ParameterError(
            f"the SAE was trained on {theirs!r}, and the model is {mine!r}: give model = {theirs!r}, "
            "or anyway = True if you mean to apply it to another model"
        )
    return str(hook)


def site_widths(model: TransformerBridge, hook: str) -> dict[str, int]:
    """The width of a hook and of its layer's common sites, seen on a few tokens."""
    layer = hook.split(".")[1]
    names = [hook, *(f"blocks.{layer}.{site}" for site in COMMON_SITES)]
    names = [name for name in dict.fromkeys(names) if name in model.hook_dict]
    seen = next(models.activations(model, torch.zeros(1, 4, dtype=torch.long), names))
    return {name: seen[name].shape[-1] for name in names}


def same_model(mine: str, theirs: str) -> bool:
    """Whether two names mean one model, as far as names tell; the name of a local folder tells nothing."""
    names = [SNAPSHOT.sub(r"\1/\2", name) for name in (mine, theirs)]
    if any(name == "lab" or Path(name).is_dir() for name in names):
        return True
    return len({official_name(name).rpartition("/")[2].lower() for name in names}) == 1


def own_contexts(model: TransformerBridge, texts: Any, ctx_len: int) -> Int[Tensor, "context ctx_len"]:
    """Tokens as they are, or text packed into contexts that start with BOS."""
    if isinstance(texts, torch.Tensor):
        if texts.ndim != 2 or texts.is_floating_point():
            raise ParameterError(
                f"texts: tokens must be int [context, ctx_len]; given {texts.dtype} {tuple(texts.shape)}"
            )
        return texts.long().cpu()
    if isinstance(texts, str | Path):
        if not Path(texts).expanduser().exists():
            raise ParameterError(
                f"texts = {str(texts)[:60]!r}: no such file; give a text file, a list of strings or tokens"
            )
        texts = corpus.documents(load_profile("lab", dataset=str(texts)))
    found = list(corpus.pack(texts, model.tokenizer, ctx_len))
    if len(found) < 2:
        raise ParameterError(
            f"texts: they fill {len(found)} contexts of {ctx_len} tokens; give more text or a smaller ctx_len"
        )
    return torch.from_numpy(np.stack(found)).long()
