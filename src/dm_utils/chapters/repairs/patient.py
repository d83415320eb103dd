"""One SAE and its repairs: each as a reconstruction, and what it leaves of the error and costs the model, summed per context."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.base.errors import ParameterError
from dm_utils.chapters.repairs import search
from dm_utils.chapters.repairs.closed_form import Coded, Fits, beside, fit, through, weighted
from dm_utils.chapters.repairs.measuring import (
    Reconstruct,
    losses,
    part_sums,
    spliced,
    x_sums,
)
from dm_utils.maths.codes import Codes
from dm_utils.maths.encoding import encode, reconstruct
from dm_utils.maths.reduced_rank import ByRank
from dm_utils.maths.regression import AffineMap, Design
from dm_utils.maths.resampling import Split, Sums

if TYPE_CHECKING:
    from dm_utils.engine.store import Arrays
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef

UNREPAIRED = "as it is"


def larger(study: Study, ref: SaeRef) -> dict[str, SaeRef]:
    """Shipped SAEs that spend more latents: twice the width, twice the L0, or both; those that there are."""
    found = {}
    for name, width, l0 in (("wider", 2, 1), ("denser", 1, 2), ("wider_denser", 2, 2)):
        like = [
            other
            for other in study.saes(layer=ref.layer, component=ref.component, architecture=ref.architecture)
            if other.d_sae == width * ref.d_sae and abs(math.log2(other.l0 / (l0 * ref.l0))) < 0.25
        ]
        if ref.l0 and like:
            found[name] = like[0]
    return found


@dataclass
class Patient:
    """One SAE with its repairs. `rank` is the dense channel's; searches run on the first `search_contexts` contexts."""

    study: Study
    ref: SaeRef
    rank: int
    search_contexts: int
    spliced_contexts: int

    @cached_property
    def coded(self) -> Coded:
        """The SAE, its codes kept."""
        return Coded(self.study.load_sae(self.ref), self.study.site(self.ref.layer, self.ref.component).design)

    @cached_property
    def fits(self) -> Fits:
        """The repairs in closed form."""
        return fit(self.coded)

    @property
    def d(self) -> int:
        """Dimensions of the site."""
        return int(self.coded.design.x.shape[1])

    def ranks(self) -> list[int]:
        """Ranks at which maps of Sae(x) are measured: a few powers of two below d."""
        return [r for r in (self.d // 32, self.d // 8, self.d // 2) if r]

    # --- the repairs -----------------------------------------------------------------------------------------

    def dense(self) -> dict[str, AffineMap]:
        """Maps of x that are added to Sae(x)."""
        of_x = self.fits.of_x
        return {"channel": of_x.of_rank(min(self.rank, self.d)), "channel_full": of_x.full}

    def maps(self) -> dict[str, AffineMap]:
        """Maps of Sae(x) that are added to it."""
        of_sae = self.fits.of_sae
        return {f"sae_rank_{rank}": of_sae.of_rank(rank) for rank in self.ranks()} | {"sae_affine": of_sae.full}

    def decoders(self) -> dict[str, Callable[[Codes], Tensor]]:
        """Reconstructions from the SAE's own codes with other decoders."""
        fits, sae, values = self.fits, self.coded.sae, self.coded.values
        if fits.scale is None or fits.decoder is None or fits.bias is None:
            return {}
        scale, decoder, bias = fits.scale, fits.decoder, fits.bias
        return {
            "rescaled": lambda codes: weighted(codes, values(codes) * scale[codes.indices], sae.W_dec, sae.b_dec),
            "decoder": lambda codes: weighted(codes, values(codes), decoder, bias),
        }

    def closed_form(self, x: Float[Tensor, "token d"], out: Tensor, codes: Codes | None) -> dict[str, Tensor]:
        """Every repair in closed form of a block, given Sae(x) and its codes; the SAE as it is comes first."""
        found = {UNREPAIRED: out} | {name: out + m(out) for name, m in self.maps().items()}
        found |= {name: out + m(x) for name, m in self.dense().items()}
        return found | {name: made(codes) for name, made in self.decoders().items() if codes is not None}

    def searches(self) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """Name → the reconstruction of a search on the same dictionary, each token at its own L0."""
        sae = self.coded.sae
        if not self.coded.sparse:
            return {}
        return {
            "pursuit": lambda x, l0: search.gradient(sae, x, l0),
            "exact_pursuit": lambda x, l0: search.exact(sae, x, l0),
        }

    # --- what they leave -------------------------------------------------------------------------------------

    def key(self, **more: Any) -> dict[str, Any]:
        """What determines a result beside the code."""
        return self.study.result_key(self.ref) | more

    def kept(self, what: str, compute: Callable[[], dict[str, Sums]], **more: Any) -> dict[str, Sums]:
        """Sums per context by name, from the store or computed now."""

        def flat() -> tuple[Any, Arrays]:
            found = compute()
            arrays = {f"{name}/{part}": v.numpy() for name, sums in found.items() for part, v in sums.items()}
            return None, arrays

        key = self.key(what=what, **more)
        arrays = self.study.store.kept("repairs", key, flat, sources=(__name__,))[1]
        found: dict[str, Sums] = {}
        for name in sorted(arrays):  # a file keeps no order
            owner, _, part = name.rpartition("/")
            found.setdefault(owner, {})[part] = torch.from_numpy(arrays[name])
        return found

    def left(self) -> dict[str, Sums]:
        """Per repair in closed form, and for x (`x_sums`): sums over the held-out tokens of each context."""

        def compute() -> dict[str, Sums]:
            design, coded, name = self.coded.design, self.coded, self.ref.id
            own = design.fit_map(coded.reconstruct)
            found = {"x": x_sums(design), UNREPAIRED: part_sums(design, coded.reconstruct, name, own)}
            for key, added in self.maps().items():
                mapped = _added(coded.reconstruct, added, of_x=False)
                found[key] = part_sums(design, mapped, f"{key} of {name}", through(own, added))
            for key, added in self.dense().items():
                found[key] = part_sums(
                    design, _added(coded.reconstruct, added, of_x=True), f"{key} of {name}", beside(own, added)
                )
            for key, made in self.decoders().items():
                decoded = _decoded(coded, made)
                found[key] = part_sums(design, decoded, f"{key} of {name}")
            return found

        return self.kept("closed form", compute, rank=self.rank)

    def searched(self) -> dict[str, Sums]:
        """The same for the searches and the SAE as it is, on the first contexts."""

        def compute() -> dict[str, Sums]:
            design = first_contexts(self.coded.design, self.study.profile.n_contexts, self.search_contexts)
            sae = self.coded.sae
            found = {"x": x_sums(design)}
            found[UNREPAIRED] = part_sums(design, lambda rows, x: reconstruct(sae, x), self.ref.id)
            for name, made in self.searches().items():
                found[name] = part_sums(design, _once(sae, design, made), f"{name} on {self.ref.id}")
            return found

        return self.kept("search", compute, contexts=self.search_contexts)

    def spend_more(self) -> dict[str, Sums]:
        """The same for the shipped SAEs of more latents."""
        found = {}
        for name, other in larger(self.study, self.ref).items():
            patient = Patient(self.study, other, self.rank, self.search_contexts, self.spliced_contexts)

            def compute(patient: Patient = patient) -> dict[str, Sums]:
                coded = patient.coded
                return {"sae": part_sums(coded.design, coded.reconstruct, patient.ref.id)}

            found[name] = patient.kept("plain", compute)["sae"]
        return found

    def losses(self) -> Sums:
        """The model's losses with every reconstruction in the place of x, summed per held-out context."""

        def compute() -> dict[str, Sums]:
            site = self.study.site(self.ref.layer, self.ref.component)
            others = {name: self.study.load_sae(ref) for name, ref in larger(self.study, self.ref).items()}
            sae, searches = self.coded.sae, self.searches()

            def variants(x: Tensor) -> dict[str, Tensor]:
                y = x.to(sae.W_dec.device)
                out, codes = reconstruct(sae, y), encode(sae, y) if self.coded.sparse else None
                found = self.closed_form(y, out, codes)
                found |= {name: made(y, codes.l0) for name, made in searches.items() if codes is not None}
                found |= {name: reconstruct(other, y) for name, other in others.items()}
                return {name: value.to(x) for name, value in found.items()}

            return {"losses": losses(spliced(self.study, site, variants, self.spliced_contexts))}

        return self.kept("losses", compute, rank=self.rank, contexts=self.spliced_contexts)["losses"]

    # --- by rank ---------------------------------------------------------------------------------------------

    def curve(self) -> pd.DataFrame:
        """FVU with the best dense channel of every rank beside the SAE: `rank`, `fvu`, and `recovered` of the linear error."""

        def compute() -> tuple[Any, None]:
            coded, p = self.coded, self.study.profile

            def error(rows: slice, x: Tensor) -> Tensor:
                return x - coded.reconstruct(rows, x)

            judge = ByRank(coded.design, error, self.fits.of_x, p.n_bootstrap, p.seed)
            ranks = range(judge.n_directions + 1)
            return [
                {"rank": rank} | judge.left(rank, "x").columns("fvu") | judge.recovered(rank).columns("recovered")
                for rank in ranks
            ], None

        found = self.study.store.kept("repairs_by_rank", self.key(), compute, sources=(__name__,))[0]
        return pd.DataFrame(found).assign(sae_id=self.ref.id, d_sae=self.ref.d_sae)


def _once(sae: Any, design: Design, made: Callable[[Tensor, Tensor], Tensor]) -> Reconstruct:
    outs = {rows.start: made(x, encode(sae, x).l0) for rows, x in design.blocks()}
    return lambda rows, x: outs[rows.start]


def _added(reconstruct: Reconstruct, added: AffineMap, of_x: bool) -> Reconstruct:
    def whole(rows: slice, x: Tensor) -> Tensor:
        out = reconstruct(rows, x)
        return out + added(x if of_x else out)

    return whole


def _decoded(coded: Coded, made: Callable[[Codes], Tensor]) -> Reconstruct:
    return lambda rows, x: made(coded.codes(rows, x))


def first_contexts(design: Design, n_contexts: int, at_most: int) -> Design:
    """The design of the first contexts of a site, with the same split. Raises ParameterError where they hold too little."""
    n = len(design) * min(at_most, n_contexts) // n_contexts
    try:
        split = Split(design.split.fit[:n], design.split.group[:n])
        return Design(design.x[:n], split, block=design.block, device=design.device, name=design.name)
    except ValueError as error:
        raise ParameterError(f"search_contexts = {at_most}: {error}") from None
