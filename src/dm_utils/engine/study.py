"""The one place where a profile's world meets the maths: sites, their SAEs, and results kept in the store."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from dm_utils.base.errors import ParameterError
from dm_utils.base.files import content_key
from dm_utils.engine.ahead import Ahead
from dm_utils.engine.sources import source_digest
from dm_utils.engine.store import Arrays, Store
from dm_utils.maths.codes import Codes, decode, sparse_decode_applies
from dm_utils.maths.decomposition import SCALARS, Decomposer, Decomposition
from dm_utils.maths.encoding import encode, prefer, reconstruct
from dm_utils.maths.regression import AffineMap, Design
from dm_utils.maths.resampling import Estimate, Split
from dm_utils.world import corpus, models, saes
from dm_utils.world.memory import available, with_less
from dm_utils.world.profile import Component, Profile
from dm_utils.world.profiles import load_profile
from dm_utils.world.sae_ref import SaeRef

if TYPE_CHECKING:
    from sae_lens import SAE
    from transformer_lens.model_bridge import TransformerBridge


ROOM = 4  # times the size of an SAE's weights that must be free for it to be loaded ahead


@dataclass(frozen=True)
class Site:
    """The kept activations of one hook: x float32 [token, d], and each token's context, position and id.

    `design` holds the factorised moments that every SAE of the site shares.
    """

    hook_name: str
    layer: int
    component: Component
    x: Float[Tensor, "token d"]
    context: Int[Tensor, " token"]
    position: Int[Tensor, " token"]
    token_id: Int[Tensor, " token"]
    split: Split
    design: Design
    decomposer: Decomposer


@dataclass(frozen=True)
class Parts:
    """Every vector of one SAE at one site, float32 [token, d], in memory at once (small studies)."""

    x: Float[Tensor, "token d"]
    sae_out: Float[Tensor, "token d"]
    sae_error: Float[Tensor, "token d"]
    linear_error: Float[Tensor, "token d"]
    nonlinear_error: Float[Tensor, "token d"]


class Study:
    """A profile, its model and text, and the measurements made of its SAEs.

    Nothing loads until it is needed; every measurement is kept in the store under a key that hashes all that
    determines it.
    """

    def __init__(self, profile: Profile | str = "lab", store: Store | None = None):
        self.profile = load_profile(profile) if isinstance(profile, str) else profile
        self.store = store or Store()
        self._sites: dict[tuple[int, Component], Site] = {}

    # --- what there is -------------------------------------------------------------------------------------

    def saes(
        self,
        *,
        near_l0: float | None = None,
        width: int | None = None,
        layer: int | str | None = None,
        component: Component = "resid",
        architecture: str | None = None,
    ) -> list[SaeRef]:
        """The SAEs at a layer ("all" for every layer), filtered; with `near_l0`, the nearest L0 of each width."""
        layer = self.profile.layer if layer is None else layer
        found = saes.catalog(self.profile, component)
        layers = sorted({ref.layer for ref in found})
        if layer != "all" and layer not in layers:
            raise ParameterError(
                f"layer = {layer!r}: {self.profile.title} has {component} SAEs at layers {layers}, or 'all'"
            )
        found = [ref for ref in found if layer in ("all", ref.layer)]
        found = self._filter(found, "architecture", architecture)
        found = self._filter(found, "d_sae", width)
        return saes.nearest_l0(found, near_l0) if near_l0 is not None else found

    @staticmethod
    def _filter(found: list[SaeRef], field: str, wanted: Any) -> list[SaeRef]:
        if wanted is None:
            return found
        there = sorted({getattr(ref, field) for ref in found})
        if wanted not in there:
            raise ParameterError(f"{field} = {wanted!r}: the SAEs here have {', '.join(map(str, there))}")
        return [ref for ref in found if getattr(ref, field) == wanted]

    def sae(self, *, near_l0: float | None = None, width: int | None = None, **where: Any) -> SaeRef:
        """The one SAE nearest to an L0 and a width (the profile's own, unless given)."""
        wanted, target = width or self.profile.width, near_l0 or self.profile.near_l0
        found = self.saes(near_l0=target, **where)
        return min(
            found,
            key=lambda ref: (abs(math.log(ref.d_sae / wanted)), abs(ref.l0 - target)),
        )

    @cached_property
    def model(self) -> TransformerBridge:
        """The language model, booted on first use."""
        return models.load_model(self.profile)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return models.load_tokenizer(self.profile)

    @cached_property
    def contexts(self) -> Int[Tensor, "context ctx_len"]:
        """The token contexts, BOS first, from the store when the text and the tokenizer are the same."""
        p = self.profile
        key = {name: getattr(p, name) for name in ("dataset", "dataset_revision", "n_contexts", "ctx_len", "seed")}
        key |= {"text": corpus.identity(p), "tokenizer": models.tokenizer_identity(p)}

        def compute() -> tuple[Any, Arrays]:
            return None, {"contexts": corpus.contexts(p, self.tokenizer, self.store, key).numpy()}

        found = self.store.kept("contexts", key, compute, sources=(corpus.__name__,))[1]["contexts"]
        if self.store.holds("contexts_so_far", key, sources=(corpus.__name__,)):  # left on the way to all of them
            self.store.remove("contexts_so_far", self.store.full_key(key, (corpus.__name__,)))
        return torch.from_numpy(found)

    def token_text(self, token_ids: Int[Tensor, " token"]) -> list[str]:
        """The text of each token, as it stands in the context. It comes from the wild: escape it."""
        return [self.tokenizer.decode([int(i)]) for i in token_ids]

    def load_sae(self, ref: SaeRef) -> SAE[Any]:
        """Load an SAE on the study's device, on flat activations. Raises ParameterError if it does not fit its site."""
        sae = saes.load_sae(ref, models.resolve_device(self.profile.device))
        hook = self.hook_name(ref.layer, ref.component)
        width = models.hook_width(self.profile, hook)
        saes.check_fits(ref, sae, hook, width, saes.catalog(self.profile, ref.component))
        prefer(sae, self.profile.precision)
        return sae

    # --- activations ---------------------------------------------------------------------------------------

    def site(self, layer: int | None = None, component: Component = "resid") -> Site:
        """The activations of one site, from the store or from one run of the model."""
        where = (self.profile.layer if layer is None else layer, component)
        if where not in self._sites:
            self.collect([where])
            self._sites[where] = self._open_site(*where)
        return self._sites[where]

    def collect(self, wanted: Iterable[tuple[int, Component]]) -> None:
        """Put the activations of several sites into the store, running the model once for all that it lacks."""
        if not (missing := self._uncollected(wanted)):
            return
        with self.store.locked("activations", self._site_key(*missing[0])):
            self._run_model(self._uncollected(missing))  # what another process has not just collected

    def _uncollected(self, wanted: Iterable[tuple[int, Component]]) -> list[tuple[int, Component]]:
        return [where for where in sorted(set(wanted)) if where not in self._sites and self._stored(*where) is None]

    def _run_model(self, missing: list[tuple[int, Component]]) -> None:
        if not missing:
            return
        p, hooks = self.profile, [self.hook_name(*where) for where in missing]
        with contextlib.ExitStack() as stack:
            arrays = [
                stack.enter_context(
                    self.store.mapping(
                        "activations", self._site_key(*where), self._shape(*where), by=(models.__name__,)
                    )
                )
                for where in missing
            ]
            batches = models.activations(self.model, self.contexts, hooks, p.batch)
            total, rows = math.ceil(p.n_contexts / p.batch), 0
            for batch in tqdm(batches, total=total, desc="activations", unit="batch", leave=False):
                kept = [batch[hook][:, p.skip : p.ctx_len - 1].flatten(0, 1).float().cpu() for hook in hooks]
                for array, values in zip(arrays, kept, strict=True):
                    array[rows : rows + len(values)] = values.numpy()
                rows += len(kept[0])

    def hook_name(self, layer: int, component: Component = "resid") -> str:
        """The site of a component: where the profile's SAEs of that layer sit, else its usual hook."""
        listed = saes.catalog(self.profile, component) if component in self.profile.releases else []
        return next((ref.hook_name for ref in listed if ref.layer == layer), models.hook_name(component, layer))

    def _shape(self, layer: int, component: Component) -> tuple[int, int]:
        p = self.profile
        return p.n_contexts * p.kept_per_context, models.hook_width(p, self.hook_name(layer, component))

    def _stored(self, layer: int, component: Component) -> np.ndarray | None:
        return self.store.mapped("activations", self._site_key(layer, component), self._shape(layer, component))

    def _site_key(self, layer: int, component: Component) -> dict[str, Any]:
        return {
            "model": self._model_identity,
            "tokens": hashlib.sha256(self.contexts.numpy().tobytes()).hexdigest(),
            "hook_name": self.hook_name(layer, component),
            "skip": self.profile.skip,
            "dtype": self.profile.dtype,
            "source": source_digest((models.__name__,)),
        }

    @cached_property
    def _model_identity(self) -> str:
        return models.identity(self.profile)

    def _open_site(self, layer: int, component: Component) -> Site:
        p, hook = self.profile, self.hook_name(layer, component)
        array = self._stored(layer, component)
        if array is None:
            raise RuntimeError(f"the activations of {hook} vanished from {self.store.root} while they were in use")
        x = torch.from_numpy(array)
        kept = torch.arange(p.skip, p.ctx_len - 1)
        context = torch.arange(p.n_contexts).repeat_interleave(len(kept))
        split = Split.random(context, p.fit_fraction, p.seed, p.split_by)
        device = models.resolve_device(p.device)
        design, _ = with_less(
            lambda block: Design(x, split, block=block, device=device, name=hook),
            p.block,
            f"tokens per block, at {hook}",
        )
        return Site(
            hook_name=hook,
            layer=layer,
            component=component,
            x=x,
            context=context,
            position=kept.repeat(p.n_contexts),
            token_id=self.contexts[:, kept].flatten(),
            split=split,
            design=design,
            decomposer=Decomposer(design, n_bootstrap=p.n_bootstrap, seed=p.seed, interval=p.interval),
        )

    # --- measurements --------------------------------------------------------------------------------------

    def measure(self, refs: Sequence[SaeRef]) -> pd.DataFrame:
        """One row per SAE: what it is, its measured L0 and dead latents, and each metric with its interval."""
        missing = [ref for ref in refs if not self.store.holds("sae", self.result_key(ref), sources=(__name__,))]
        if missing:
            self.collect((ref.layer, ref.component) for ref in refs)
        with Ahead(self.load_sae, missing, self._has_room) as ahead:
            rows = [self._result(ref, ahead.take)[0] for ref in tqdm(refs, desc="SAEs", unit="SAE", leave=False)]
        return pd.DataFrame([self._row(ref, row) for ref, row in zip(refs, rows, strict=True)])

    def _has_room(self, ref: SaeRef) -> bool:
        """Whether an SAE's two float32 matrices fit beside another's."""
        weights = 2 * 4 * ref.d_sae * self._shape(ref.layer, ref.component)[1]
        return ROOM * weights < available(models.resolve_device(self.profile.device))

    def token_scalars(self, ref: SaeRef) -> dict[str, np.ndarray]:
        """Per-token float32 scalars of an SAE: the squared norms of x, Sae(x) and the error's parts, and L0."""
        return self._result(ref)[1]

    def error_map(self, ref: SaeRef) -> AffineMap:
        """LinearError of an SAE as an affine map of x (Eq. 14)."""

        def compute() -> tuple[Any, Arrays]:
            fitted = self._measured(ref)[0].error_map
            return None, {
                "coef": fitted.coef.float().numpy(),
                "intercept": fitted.intercept.float().numpy(),
            }

        arrays = self.store.kept("error_map", self.result_key(ref), compute, sources=(__name__,))[1]
        return AffineMap(torch.from_numpy(arrays["coef"]), torch.from_numpy(arrays["intercept"]))

    def reconstructions(self, ref: SaeRef) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Walk through (rows, x, Sae(x)) of an SAE's site, a block at a time."""
        sae, site = self.load_sae(ref), self.site(ref.layer, ref.component)
        for rows, x in site.design.blocks():
            yield rows, x, reconstruct(sae, x)

    def parts(self, ref: SaeRef) -> Parts:
        """Every vector of an SAE at once; five arrays of tokens × d, so for small studies."""
        x = self.site(ref.layer, ref.component).x
        sae_out = torch.cat([out.cpu() for _, _, out in self.reconstructions(ref)])
        linear = self.error_map(ref)(x)
        return Parts(x, sae_out, x - sae_out, linear, x - sae_out - linear)

    def result_key(self, ref: SaeRef) -> dict[str, Any]:
        """Everything that determines an SAE's measurements."""
        p = self.profile
        protocol = {name: getattr(p, name) for name in ("fit_fraction", "split_by", "seed", "n_bootstrap", "interval")}
        site = content_key(self._site_key(ref.layer, ref.component))
        key = {"site": site, "sae": ref.key(), "protocol": protocol}
        return key if p.precision == "float32" else key | {"precision": p.precision}

    def _result(self, ref: SaeRef, load: Callable[[SaeRef], SAE[Any]] | None = None) -> tuple[dict[str, Any], Arrays]:
        def compute() -> tuple[Any, Arrays]:
            result, l0, dead, ties = self._measured(ref, load)
            metrics = {name: estimate.plain() for name, estimate in result.metrics.items()}
            scalars = {name: result.scalars[name].numpy() for name in SCALARS} | {"l0": l0.float().numpy()}
            data = {
                "l0": float(l0.double().mean()),
                "dead_fraction": dead,
                "shrinkage": None if math.isnan(result.shrinkage) else result.shrinkage,
                "ties": ties,
            }
            return data | {"metrics": metrics}, scalars

        return self.store.kept("sae", self.result_key(ref), compute, sources=(__name__,))

    def _measured(
        self, ref: SaeRef, load: Callable[[SaeRef], SAE[Any]] | None = None
    ) -> tuple[Decomposition, Tensor, float, int]:
        """`_decompose`, in smaller blocks from where memory runs out."""
        design = self.site(ref.layer, ref.component).design

        def run(block: int) -> tuple[Decomposition, Tensor, float, int]:
            design.block = block
            return self._decompose(ref, load or self.load_sae)

        result, design.block = with_less(run, design.block, f"tokens per block, for {ref.id}")
        return result

    def _decompose(self, ref: SaeRef, load: Callable[[SaeRef], SAE[Any]]) -> tuple[Decomposition, Tensor, float, int]:
        """Encode each block once, keep its sparse codes, and decode them for both passes; the last number counts ties."""
        sae, site = load(ref), self.site(ref.layer, ref.component)
        sparse = sparse_decode_applies(sae)
        kept: dict[int, Codes] = {}
        l0 = torch.zeros(len(site.x), dtype=torch.int32)
        alive = torch.zeros(ref.d_sae, dtype=torch.bool)

        def sae_out(rows: slice, x: Tensor) -> Tensor:
            if rows.start in kept:
                return decode(sae, kept[rows.start])
            if not sparse:
                hidden = sae.encode(x)
                l0[rows] = (hidden != 0).sum(-1).int().cpu()
                alive.logical_or_((hidden != 0).any(0).cpu())
                return sae.decode(hidden)
            try:
                code = kept[rows.start] = encode(sae, x)
            except ValueError as error:
                raise ValueError(f"{ref.id}, tokens {rows.start} to {rows.stop - 1}: {error}") from error
            l0[rows] = code.l0.int().cpu()
            alive[code.indices.cpu()] = True
            return decode(sae, code)

        with torch.inference_mode():
            result = site.decomposer.run(sae_out, name=f"Sae(x) of {ref.id}")
        return result, l0, 1 - float(alive.float().mean()), sum(code.ties for code in kept.values())

    def _row(self, ref: SaeRef, data: dict[str, Any]) -> dict[str, Any]:
        row: dict[str, Any] = {
            "profile": self.profile.name,
            "model": self.profile.title,
            "sae_id": ref.id,
            "sae_revision": ref.commit,
            "hook_name": ref.hook_name,
            "layer": ref.layer,
            "component": ref.component,
            "architecture": ref.architecture,
            "d_sae": ref.d_sae,
            "l0_label": ref.l0,
            "l0": data["l0"],
            "dead_fraction": data["dead_fraction"],
            "shrinkage": math.nan if data["shrinkage"] is None else data["shrinkage"],
        }
        if self.profile.precision != "float32":  # a dense product counts none
            row["ties"] = data["ties"]
        for name, stored in data["metrics"].items():
            row |= Estimate.from_plain(stored).columns(name)
        return row
