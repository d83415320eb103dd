"""The paper's text and its released code differ in three choices; here each is made both ways, on the same SAE.

The text fits an affine map (the released code has no intercept), reports held-out values (its FVU is over all tokens, those
that fitted included) and leaves out 200 leading positions (its Figures 1 and 2 leave out the first token only).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dm_utils.engine.study import Study
from dm_utils.maths.decomposition import Decomposer, Decomposition
from dm_utils.maths.encoding import reconstruct
from dm_utils.maths.regression import Design

if TYPE_CHECKING:
    from dm_utils.engine.study import Site
    from dm_utils.world.sae_ref import SaeRef

METRICS = ("r2_error_norm", "r2_error_vector", "fvu", "fvu_nonlinear")
OVER_ALL = {"fvu": "error_norm2", "fvu_nonlinear": "nonlinear_norm2"}


def released_protocol(study: Study, ref: SaeRef) -> pd.DataFrame:
    """Every combination of the three choices for one SAE: eight numbers of the text's protocol, eight of the code's.

    Returns
    -------
    DataFrame
        One row per first position (the profile's `skip`, and 1), intercept (True, False) and metric: `skip, intercept,
        metric, value, low, high` over held-out tokens, and for the two FVUs `all_tokens`, over every kept token.
        The released code's values are those of `skip` 1, `intercept` False, and `all_tokens` where there are such.
    """

    def compute() -> tuple[Any, None]:
        return [row for skip in (study.profile.skip, 1) for row in _rows(study, ref, skip)], None

    key = study.result_key(ref)
    return pd.DataFrame(study.store.kept("released_protocol", key, compute, sources=(__name__,))[0]).astype(
        {"all_tokens": float}
    )


def _rows(study: Study, ref: SaeRef, skip: int) -> list[dict[str, Any]]:
    other = study if skip == study.profile.skip else Study(study.profile.with_overrides(skip=skip), study.store)
    site = other.site(ref.layer, ref.component)
    rows = []
    for intercept in (True, False):
        result = _decomposed(other, ref, site, intercept)
        whole = _over_all(result, site)
        for metric in METRICS:
            row: dict[str, Any] = {"skip": skip, "intercept": intercept, "metric": metric}
            rows.append(row | result.metrics[metric].columns() | {"all_tokens": whole.get(metric)})
    return rows


def _decomposed(study: Study, ref: SaeRef, site: Site, intercept: bool) -> Decomposition:
    p, design, sae = study.profile, site.design, study.load_sae(ref)
    if not intercept:
        design = Design(
            site.x, site.split, intercept=False, block=design.block, device=design.device, name=site.hook_name
        )
    decomposer = Decomposer(design, n_bootstrap=p.n_bootstrap, seed=p.seed, interval=p.interval)
    return decomposer.run(lambda _, x: reconstruct(sae, x), name=f"Sae(x) of {ref.id}")


def _over_all(result: Decomposition, site: Site) -> dict[str, float]:
    """Σ‖r‖² / Σ‖x − mean‖² over every kept token, fitting ones included."""
    x = np.asarray(site.x)
    total = len(x) * float(sum(np.var(column, dtype=np.float64) for column in x.T))
    return {name: float(result.scalars[norm].double().sum()) / total for name, norm in OVER_ALL.items()}
