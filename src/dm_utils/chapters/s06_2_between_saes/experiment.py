"""How much of each part of an SAE's error neighbouring sites predict (Section 6.2, Fig. 9b), and Eq. 16 itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from dm_utils.base.errors import ParameterError
from dm_utils.base.names import PARTS
from dm_utils.maths.resampling import Estimate
from dm_utils.maths.vector_r2 import Targets, vector_r2
from dm_utils.world import models
from dm_utils.world.profile import Component

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from dm_utils.engine.study import Parts, Study
    from dm_utils.world.sae_ref import SaeRef

KINDS = ("SAE reconstruction", "raw activation")
ALONE, WITH_X = "alone", "together with x"


@dataclass(frozen=True)
class Neighbour:
    """A site whose SAE is to predict the error: its name in the chart, the SAE, and the reading of "adjacent"."""

    name: str
    ref: SaeRef
    reading: str


def neighbours(study: Study, ref: SaeRef) -> tuple[list[Neighbour], list[str]]:
    """The sites of Eq. 16 that have SAEs, nearest in width and L0 to ``ref``, and the names of those that have none.

    "Adjacent" has two readings: the layer before (the paper's text), and the same layer (Eq. 16, and the released
    procedure). The residual stream before the layer belongs to both.

    Raises
    ------
    ParameterError : the SAE sits at layer 0, or not in the residual stream; or no site of Eq. 16 but its own has an SAE.
    """
    here = ref.layer
    if ref.component != "resid" or here == 0:
        raise ParameterError(f"{ref.id} sits at {ref.hook_name}; Eq. 16 needs a residual stream after layer 0")
    wanted: list[tuple[str, Component, int, str]] = [
        ("previous residual", "resid", here - 1, "both"),
        ("MLP, layer before", "mlp", here - 1, "the layer before"),
        ("attention, layer before", "att", here - 1, "the layer before"),
        ("MLP, same layer", "mlp", here, "the same layer"),
        ("attention, same layer", "att", here, "the same layer"),
    ]
    found, lacking = [Neighbour("same residual", ref, "both")], []
    for name, component, layer, reading in wanted:
        try:
            near = study.sae(near_l0=ref.l0, width=ref.d_sae, layer=layer, component=component)
            found.append(Neighbour(name, near, reading))
        except ParameterError:
            lacking.append(name)
    if len(found) == 1:
        raise ParameterError(
            f"layer = {here}: an SAE at a neighbouring site is needed ({'; '.join(lacking)}), and {study.profile.title} has none; "
            "give releases that hold one, or another layer"
        )
    return found, lacking


def part_targets(parts: Parts) -> Targets:
    """SaeError, LinearError and NonlinearError of a block of tokens."""
    return lambda rows: torch.stack([parts.sae_error[rows], parts.linear_error[rows], parts.nonlinear_error[rows]])


def predict_parts(study: Study, ref: SaeRef, found: Sequence[Neighbour], parts: Parts) -> pd.DataFrame:
    """R² of predicting each part of the error of ``ref`` from each neighbour (Fig. 9b).

    Returns
    -------
    DataFrame
        One row per neighbour, kind of regressor (the SAE's reconstruction, or the raw activation that it reconstructs),
        ``given`` (alone, or together with x) and target: ``r2, r2_low, r2_high`` (mean over dimensions) and
        ``r2_weighted…``, with the neighbour's SAE.
    """
    rows, site = [], study.site(ref.layer, ref.component)
    x = parts.x
    for neighbour in tqdm(found, desc="neighbours", unit="site", leave=False):
        for kind in KINDS:
            for given in (ALONE, WITH_X):
                if kind == KINDS[1] and given == WITH_X and neighbour.ref == ref:
                    continue  # x twice
                key = _key(study, ref, neighbour.ref, kind, given)

                def compute(neighbour: Neighbour = neighbour, kind: str = kind, given: str = given) -> tuple[Any, None]:
                    z = regressor(study, neighbour.ref, kind, parts if neighbour.ref == ref else None)
                    z = torch.cat([x, z], 1) if given == WITH_X else z
                    p = study.profile
                    pairs = vector_r2(z, part_targets(parts), site.split, n_bootstrap=p.n_bootstrap, seed=p.seed)
                    return [[estimate.plain() for estimate in pair] for pair in pairs], None

                values = study.store.kept("between", key, compute, sources=(__name__,))[0]
                about = {"neighbour": neighbour.name, "reading": neighbour.reading, "kind": kind, "given": given}
                rows += [about | row for row in _rows(neighbour.ref, values)]
    return pd.DataFrame(rows)


def _key(study: Study, ref: SaeRef, other: SaeRef, kind: str, given: str) -> dict[str, Any]:
    return {"of": study.result_key(ref), "from": study.result_key(other), "kind": kind, "given": given}


def _rows(ref: SaeRef, values: Sequence[Sequence[Sequence[Any]]]) -> list[dict[str, Any]]:
    """One row per target from the (mean, weighted) pairs of estimates."""
    about = {name: getattr(ref, name) for name in ("hook_name", "layer", "component", "architecture", "d_sae", "l0")}
    rows = []
    for target, pair in zip(PARTS, values, strict=True):
        mean, weighted = (Estimate.from_plain(stored) for stored in pair)
        found = mean.columns("r2") | weighted.columns("r2_weighted")
        rows.append({"target": target, "sae_id": ref.id, **about, **found})
    return rows


def regressor(study: Study, ref: SaeRef, kind: str, parts: Parts | None = None) -> Float[Tensor, "token z"]:
    """The reconstruction of every kept token of an SAE's site, or the raw activations there."""
    if kind == KINDS[1]:
        return study.site(ref.layer, ref.component).x
    if parts is not None:
        return parts.sae_out
    return torch.cat([out.cpu() for _, _, out in study.reconstructions(ref)])


# --- the residual identity ---------------------------------------------------------------------------------


@torch.inference_mode()
def residual_identity(model: TransformerBridge, contexts: Int[Tensor, "context ctx_len"], layer: int) -> pd.DataFrame:
    """Check Eq. 16 on the model, and where each site of it stands.

    Returns
    -------
    DataFrame
        Eq. 16, and the same with the MLP and attention of the layer before: the largest difference between the sides,
        over the root mean square of the residual stream, beside the rounding unit of the model's dtype.
    """
    if not 1 <= layer < model.cfg.n_layers:
        raise ParameterError(f"layer = {layer}: Eq. 16 holds between layers, 1 to {model.cfg.n_layers - 1}")
    sites = {f"resid {at}": models.hook_name("resid", at) for at in (layer, layer - 1)}
    sites |= {f"mlp {at}": models.hook_name("mlp", at) for at in (layer, layer - 1)}
    sites |= {f"att {at}": f"blocks.{at}.hook_attn_out" for at in (layer, layer - 1)}
    sites["z"] = models.hook_name("att", layer)
    held: dict[str, Tensor] = {}
    hooks: list[tuple[Any, Any]] = [
        (site, lambda value, *, hook, name=name: held.update({name: value.clone()})) for name, site in sites.items()
    ]
    model.run_with_hooks(contexts.to(model.cfg.device), return_type=None, fwd_hooks=hooks, stop_at_layer=layer + 1)
    after, before = held[f"resid {layer}"], held[f"resid {layer - 1}"]
    projected = model.blocks[layer].attn.o(held["z"].flatten(2))
    norm = getattr(model.blocks[layer], "ln1_post", None)
    outer = f"RMSNorm(O_proj(AttnOut_{layer}))" if norm else f"O_proj(AttnOut_{layer})"
    attention = norm(projected) if norm else projected
    earlier = held[f"mlp {layer - 1}"] + held[f"att {layer - 1}"]
    equalities = {
        f"Resid_{layer} = MlpOut_{layer} + {outer} + Resid_{layer - 1}": held[f"mlp {layer}"] + attention + before,
        f"the same, with the MLP and attention of layer {layer - 1}": earlier + before,
    }
    rms, unit = after.float().square().mean().sqrt().item(), torch.finfo(after.dtype).eps
    rows = [(text, (side - after).float().abs().max().item() / rms) for text, side in equalities.items()]
    return pd.DataFrame(rows, columns=["equality", "largest difference / rms"]).assign(rounding_unit=unit)
