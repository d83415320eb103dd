"""What the explorer needs of an SAE beyond its weights, fitted once on a profile's own tokens and kept in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dm_utils.base.files import content_key
from dm_utils.engine.explorer_contract import CONTEXTS
from dm_utils.engine.store import Arrays
from dm_utils.maths.encoding import encode
from dm_utils.maths.group_means import group_means
from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.profile import Component
    from dm_utils.world.sae_ref import SaeRef

POOL = 512  # tokens of the profile's text among which the nearest are looked for


def fitted(study: Study, ref: SaeRef) -> Arrays:
    """The error map and what predicts the error norm, float32.

    Returns
    -------
    dict
        `coef` [d, d] and `intercept` [d]: LinearError (Eq. 14). `mean` [d]: of x over the fitting tokens. `probe` [d] and
        `probe_intercept` [1]: ‖SaeError(x)‖² from x (Eq. 10). `lookup` [vocabulary]: its mean over the fitting tokens of
        the same identity, or over all of them for a token that is not among them.
    """

    def compute() -> tuple[Any, Arrays]:
        site, linear = study.site(ref.layer, ref.component), study.error_map(ref)
        target = torch.from_numpy(study.token_scalars(ref)["error_norm2"]).double()[:, None]
        scale = float(target.max())
        probe = site.design.fit_map(lambda rows, x: (target[rows] / scale).to(x.device))
        means = group_means(target, site.token_id, site.split)
        lookup = target[site.split.fit].mean().repeat(len(study.tokenizer))
        lookup[torch.unique(site.token_id)] = means.table[:, 0]
        arrays = {"coef": linear.coef, "intercept": linear.intercept, "mean": site.design.mean, "lookup": lookup}
        arrays |= {"probe": probe.coef[:, 0] * scale, "probe_intercept": probe.intercept * scale}
        return None, {name: value.float().cpu().numpy() for name, value in arrays.items()}

    return study.store.kept("explorer_fits", _key(study, ref), compute, sources=(__name__,))[1]


def probe_wins(study: Study, ref: SaeRef) -> Estimate:
    """The share of held-out tokens whose ‖SaeError(x)‖² the probe on x tells better than the mean of their token does."""
    site, found = study.site(ref.layer, ref.component), fitted(study, ref)
    error = study.token_scalars(ref)["error_norm2"]
    probe = site.x.numpy() @ found["probe"] + found["probe_intercept"]
    wins = np.abs(probe - error) < np.abs(found["lookup"][site.token_id.numpy()] - error)
    sums = HeldOutSums(site.split)
    sums.add(slice(0, len(wins)), win=torch.from_numpy(wins).double())
    resampled = Bootstrap(sums.totals, study.profile.n_bootstrap, study.profile.seed)
    return resampled.estimate(lambda s: s["win"][:, 0] / s["n"][:, 0])


def strongest(study: Study, ref: SaeRef) -> Arrays:
    """Where each latent is strongest: `context`, `position` uint16 and `value` float32, each [latent, CONTEXTS].

    At most one token of a context; a value is the length of what the latent writes, 0 where there are fewer.
    """

    def compute() -> tuple[Any, Arrays]:
        site, sae = study.site(ref.layer, ref.component), study.load_sae(ref)
        best: list[np.ndarray] = [np.empty(0, kind) for kind in (int, int, np.float32)]  # latent, row, value
        for rows, x in site.design.blocks():
            code = encode(sae, x)
            row = torch.repeat_interleave(torch.arange(len(x), device=x.device), code.l0).cpu() + rows.start
            values = lengths(sae, code.indices, code.values)
            found = (code.indices.cpu().numpy(), row.numpy(), values.cpu().numpy())
            best = _top([np.concatenate(pair) for pair in zip(best, found, strict=True)], site.context.numpy())
        latent, row, value = best
        place = np.arange(len(latent)) - np.searchsorted(latent, latent)
        arrays = {name: np.zeros((ref.d_sae, CONTEXTS), np.uint16) for name in ("context", "position")}
        arrays["value"] = np.zeros((ref.d_sae, CONTEXTS), np.float32)
        columns = {"context": site.context.numpy()[row], "position": site.position.numpy()[row], "value": value}
        for name, column in columns.items():
            arrays[name][latent, place] = column
        return None, arrays

    return study.store.kept("explorer_strongest", _key(study, ref), compute, sources=(__name__,))[1]


def _top(entries: list[np.ndarray], context: np.ndarray) -> list[np.ndarray]:
    """Of (latent, row, value) the `CONTEXTS` largest values of each latent, one per context, sorted by latent and value."""
    latent, row, value = entries
    order = np.lexsort((row, -value, latent))
    latent, row, value = latent[order], row[order], value[order]
    pairs = latent * (int(context.max()) + 1) + context[row]
    first = np.sort(np.unique(pairs, return_index=True)[1])
    latent, row, value = latent[first], row[first], value[first]
    kept = np.arange(len(latent)) - np.searchsorted(latent, latent) < CONTEXTS
    return [latent[kept], row[kept], value[kept]]


def lengths(sae: Any, latents: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The length of what active latents write: their value times the norm of their decoder row."""
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        return values
    return values * sae.W_dec.norm(dim=-1)[latents]


def pool(study: Study, layer: int, component: Component = "resid") -> Arrays:
    """Some kept tokens of a site: `x` float16 [POOL, d], `context` and `position` uint16 [POOL]."""
    site = study.site(layer, component)
    rows = np.sort(np.random.default_rng(study.profile.seed).permutation(len(site.x))[:POOL])
    arrays = {name: getattr(site, name).numpy()[rows].astype(np.uint16) for name in ("context", "position")}
    return {"x": site.x[torch.from_numpy(rows)].half().numpy()} | arrays


def _key(study: Study, ref: SaeRef) -> dict[str, Any]:
    return {"result": content_key(study.result_key(ref)), "contexts": CONTEXTS}
