"""How the error depends on the position in the context: the reason for leaving the first tokens out (Section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.engine.study import Study
from dm_utils.maths.resampling import Bootstrap, Estimate

if TYPE_CHECKING:
    from dm_utils.world.sae_ref import SaeRef


def by_position(study: Study, ref: SaeRef) -> tuple[pd.DataFrame, Estimate]:
    """FVU of an SAE by position, and that of the early positions over that of the later ones.

    Positions 1 (after BOS) to the last are in bins that double in length; early are those that the profile's `skip` leaves
    out (the first quarter of the context, where it leaves out none). No fit is involved, so every token counts; intervals
    resample contexts.

    Returns
    -------
    DataFrame, Estimate
        One row per bin: `first`, `last`, `value`, `low`, `high`; and the ratio.
    """

    def compute() -> tuple[Any, None]:
        p, whole = study.profile, Study(study.profile.with_overrides(skip=1), study.store)
        site = whole.site(ref.layer, ref.component)
        error2 = torch.from_numpy(whole.token_scalars(ref)["error_norm2"])
        spread2 = torch.cat([(x.cpu() - site.design.mean.float()).square().sum(1) for _, x in site.design.blocks()])
        early = p.skip if p.skip > 1 else max(2, p.ctx_len // 4)
        place = site.context, site.position, early
        rows, ratio = fvu_by_position(error2, spread2, *place, p.n_bootstrap, p.seed)
        return {"rows": rows, "ratio": ratio.plain()}, None

    kept = study.store.kept("by_position", study.result_key(ref), compute, sources=(__name__,))[0]
    return pd.DataFrame(kept["rows"]), Estimate.from_plain(kept["ratio"])


def fvu_by_position(
    error2: Float[Tensor, " token"],
    spread2: Float[Tensor, " token"],
    context: Int[Tensor, " token"],
    position: Int[Tensor, " token"],
    early: int,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> tuple[list[dict[str, float]], Estimate]:
    """Σ‖SaeError‖² / Σ‖x − mean‖² in bins 1, 2–3, 4–7 … of the position, and of positions before `early` over the others."""
    bins = position.double().log2().floor().long()
    n_contexts, n_bins = int(context.max()) + 1, int(bins.max()) + 1
    sums = {name: torch.zeros(n_contexts, n_bins + 2, dtype=torch.float64) for name in ("error", "spread")}
    side = n_bins + (position >= early).long()
    for name, values in (("error", error2), ("spread", spread2)):
        for column in (bins, side):
            sums[name].index_put_((context, column), values.double(), accumulate=True)
    resampled = Bootstrap(sums | {"n": torch.ones(n_contexts, 1, dtype=torch.float64)}, n_bootstrap, seed)

    def fvu(bin_: int) -> Estimate:
        return resampled.estimate(lambda s: s["error"][:, bin_] / s["spread"][:, bin_])

    last = int(position.max())
    rows = [{"first": 2**i, "last": min(2 ** (i + 1) - 1, last)} | fvu(i).columns() for i in bins.unique().tolist()]
    shares = (n_bins, n_bins + 1)
    ratio = resampled.estimate(
        lambda s: torch.div(*((s["error"] / s["spread"])[:, side] for side in shares)), "there are no early positions"
    )
    return rows, ratio
