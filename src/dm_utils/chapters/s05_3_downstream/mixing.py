"""The loss of Sae(x) with a share of each part of its error added back (Section 5.3): how far from quadratic it is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import Tensor

from dm_utils.chapters.s05_3_downstream.experiment import splice_key
from dm_utils.chapters.s05_3_downstream.recovery import context_sums, ratio
from dm_utils.engine.splice import splice
from dm_utils.maths.encoding import reconstruct
from dm_utils.maths.resampling import Bootstrap

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef


def mixing_grid(study: Study, ref: SaeRef, n_contexts: int = 8, steps: int = 5) -> pd.DataFrame:
    """Loss of Sae(x) + a LinearError(x) + b NonlinearError(x) over a grid of shares a and b from 0 to 1.

    Returns
    -------
    DataFrame
        ``linear`` (a), ``nonlinear`` (b), and ``value, low, high``: nats per held-out token above the original.
    """
    p, site = study.profile, study.site(ref.layer, ref.component)
    shares = [i / (steps - 1) for i in range(steps)]
    key = splice_key(study, study.result_key(ref), n_contexts) | {"mixtures": shares}

    def compute() -> tuple[Any, None]:
        sae, error_map = study.load_sae(ref), study.error_map(ref)

        def variants(x: Tensor, _: int) -> dict[str, Tensor]:
            sae_out, linear = reconstruct(sae, x.to(sae.W_dec.device)).to(x), error_map(x)
            nonlinear = x - sae_out - linear
            return {f"{a} {b}": sae_out + a * linear + b * nonlinear for a in shares for b in shares}

        scored = ~site.split.fit.view(p.n_contexts, -1)[:n_contexts]
        contexts, kept = study.contexts[:n_contexts], slice(p.skip, p.ctx_len - 1)
        at_once = max(12, 2 * p.batch)
        found = splice(study.model, contexts, site.hook_name, variants, kept=kept, scored=scored, at_once=at_once)
        extra = found.cross_entropy[1:] - found.cross_entropy[:1]
        sums = context_sums(found.context, dict(zip(found.names[1:], extra, strict=True)))
        estimate = Bootstrap(sums, p.n_bootstrap, p.seed).estimate
        cells = {name: estimate(partial(ratio, top=name, bottom="n")) for name in found.names[1:]}
        return [[*map(float, name.split()), e.value, e.low, e.high] for name, e in cells.items()], None

    rows = study.store.kept("downstream", key, compute, sources=(__name__,))[0]
    return pd.DataFrame(rows, columns=["linear", "nonlinear", "value", "low", "high"])


def power(grid: pd.DataFrame) -> float:
    """By which power of its length the loss falls where the whole error shrinks evenly (the diagonal); 2 if it is quadratic."""
    line = grid[(grid["linear"] == grid["nonlinear"]) & (grid["linear"] < 1)]
    return float(np.polyfit(np.log(1 - line["linear"]), np.log(line["value"].clip(1e-6)), 1)[0])
