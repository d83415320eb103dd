"""Which SAE's error Section 5.2 takes apart: as in the paper, one whose error has two parts of about equal size."""

from __future__ import annotations

import pandas as pd

from dm_utils.engine.study import Study
from dm_utils.world.sae_ref import SaeRef


def linear_shares(measured: pd.DataFrame) -> pd.Series:
    """The share of the error's variance that its linear part takes, by SAE: 1 − FVU_nonlinear / FVU."""
    return (1 - measured["fvu_nonlinear"] / measured["fvu"]).set_axis(measured["sae_id"].astype(str))


def most_equal(study: Study) -> SaeRef:
    """The SAE of the study's layer and architecture whose error is nearest to half linear; the first such in the suite's order."""
    refs = study.saes(architecture=study.sae().architecture)
    shares = linear_shares(study.measure(refs))
    return refs[int((shares - 0.5).abs().to_numpy().argmin())]
