"""How the linear and nonlinear error of each token change with SAE width (Appendix A.4, Fig. 12)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.base.names import PARTS
from dm_utils.maths.resampling import Estimate, Split, check_finite, held_out_mean

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef


@dataclass(frozen=True)
class Trend:
    """How one norm changes over widths, per token and on average over the held-out tokens.

    `per_doubling` [token]: percent change of the token's norm per doubling of the width, from the least-squares line
    of log₂ norm on log₂ width. `mean`: the mean percent change over held-out tokens. `falls`: the share of held-out
    tokens whose line falls. `steady`: the share whose line moves less than `tolerance` percent per doubling.
    `within`: the share of the variance of log norm, over tokens and widths, that lies between the widths of one token.
    """

    per_doubling: Float[Tensor, " token"]
    mean: Estimate
    falls: Estimate
    steady: Estimate
    within: float


def trend(
    norms: Float[Tensor, "sae token"],
    widths: Sequence[int],
    split: Split,
    *,
    tolerance: float = 5.0,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Trend:
    """Fit log₂ norm = α + β log₂ width to every token by least squares; 100 (2^β − 1) is its change per doubling.

    Raises
    ------
    ValueError : shapes differ, fewer than two widths, or a norm that is not positive and finite.
    """
    if norms.shape != (len(widths), len(split.fit)):
        raise ValueError(f"norms must be [{len(widths)}, {len(split.fit)}] (SAE, token); given {tuple(norms.shape)}")
    if len(set(widths)) < 2:
        raise ValueError(f"a trend over width needs two widths or more; given {sorted(set(widths))}")
    check_finite(norms, "norms")
    if (norms <= 0).any():
        raise ValueError(f"{int((norms <= 0).sum())} norms are zero: a trend of the logarithm needs positive norms")
    logs = norms.double().log2()
    steps = torch.tensor([float(width) for width in widths], dtype=torch.float64).log2()
    steps -= steps.mean()
    centred = logs - logs.mean(0)
    change = 100 * (2 ** ((steps @ centred) / (steps @ steps)) - 1)
    falls, steady = (change < 0).double(), (change.abs() < tolerance).double()
    within = float(centred[:, ~split.fit].var(unbiased=False) / logs[:, ~split.fit].var(unbiased=False))
    mean, falls_mean, steady_mean = (held_out_mean(v, split, n_bootstrap, seed) for v in (change, falls, steady))
    return Trend(change, mean, falls_mean, steady_mean, within)


# --- on a study --------------------------------------------------------------------------------------------


def part_norms(study: Study, ref: SaeRef) -> dict[str, np.ndarray]:
    """‖SaeError(x)‖, ‖LinearError(x)‖, ‖NonlinearError(x)‖ of every token, float32 [token], as `PARTS` names them."""
    scalars = study.token_scalars(ref)
    return {part: np.sqrt(scalars[f"{part}_norm2"]) for part in PARTS}


def width_table(study: Study, refs: Sequence[SaeRef]) -> pd.DataFrame:
    """Held-out mean of each part's norm at each width: the SAE's columns, `part`, `value`, `low`, `high`, `relative`.

    `relative` is the mean divided by that of the narrowest SAE.
    """
    p, rows = study.profile, []
    for ref in sorted(refs, key=lambda ref: ref.d_sae):
        split = study.site(ref.layer, ref.component).split
        about = {name: getattr(ref, name) for name in ("hook_name", "layer", "architecture", "d_sae", "l0")}
        about |= {"sae_id": ref.id}
        for part, norms in part_norms(study, ref).items():
            mean = held_out_mean(torch.from_numpy(norms), split, p.n_bootstrap, p.seed)
            rows.append({**about, "part": part, **mean.columns()})
    table = pd.DataFrame(rows)
    return table.assign(relative=table["value"] / table.groupby("part")["value"].transform("first"))


def trends(study: Study, refs: Sequence[SaeRef], tolerance: float = 5.0) -> dict[str, Trend]:
    """The trend over widths of each part's norm, for SAEs of one site."""
    p, site = study.profile, study.site(refs[0].layer, refs[0].component)
    norms = [part_norms(study, ref) for ref in refs]
    widths = [ref.d_sae for ref in refs]
    stacked = {part: torch.from_numpy(np.stack([some[part] for some in norms])) for part in PARTS}
    return {
        part: trend(values, widths, site.split, tolerance=tolerance, n_bootstrap=p.n_bootstrap, seed=p.seed)
        for part, values in stacked.items()
    }


def strip_tokens(study: Study, refs: Sequence[SaeRef], context: int = 0, n_tokens: int = 100) -> pd.DataFrame:
    """The first kept tokens of a context, with each SAE's norms: what Fig. 12 draws.

    Columns `index`, `token` (text from the wild), `position`, `sae`, `d_sae`, and `error`, `linear`, `nonlinear`.
    """
    site = study.site(refs[0].layer, refs[0].component)
    chosen = (site.context == context).nonzero()[:n_tokens, 0]
    if not len(chosen):
        raise ValueError(f"context = {context}: there are contexts 0 to {int(site.context.max())}")
    base = {"token": study.token_text(site.token_id[chosen]), "position": site.position[chosen].numpy()}
    parts = []
    for ref in sorted(refs, key=lambda ref: ref.d_sae):
        norms = {part: values[chosen.numpy()].astype(float) for part, values in part_norms(study, ref).items()}
        about = {"index": range(len(chosen)), **base, "sae": f"{ref.d_sae:,} latents", "d_sae": ref.d_sae}
        parts.append(pd.DataFrame({**about, **norms}))
    return pd.concat(parts, ignore_index=True)


def strip_values(
    study: Study, refs: Sequence[SaeRef], n_contexts: int = 6
) -> tuple[list[list[str]], dict[str, dict[str, np.ndarray]]]:
    """What `widgets.TokenStrip` shows: the kept tokens of the first contexts, and each SAE's norms of the parts."""
    site = study.site(refs[0].layer, refs[0].component)
    chosen = site.context < n_contexts
    lengths = torch.bincount(site.context[chosen]).tolist()
    contexts = [study.token_text(ids) for ids in site.token_id[chosen].split(lengths)]
    names = {f"{ref.d_sae:,} latents": part_norms(study, ref) for ref in sorted(refs, key=lambda ref: ref.d_sae)}
    titles = {
        "error": "norm of the SAE error",
        "linear": "norm of its linear part",
        "nonlinear": "norm of its nonlinear part",
    }
    values = {
        sae: {title: norms[part][chosen.numpy()] for part, title in titles.items()} for sae, norms in names.items()
    }
    return contexts, values
