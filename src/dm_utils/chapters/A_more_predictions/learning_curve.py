"""How the comparison of Fig. 13 depends on the amount of text: R² of a predictor against the tokens it was fitted on.

Token identity is a table with one entry per token of the vocabulary, the activation a probe with one weight per
dimension. Both are judged on the same held-out tokens while the fitting tokens grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.chapters.A_more_predictions.baselines import (
    ACTIVATION,
    TOKEN,
    Comparison,
    affine_prediction,
    error_norms,
    flat,
    group_means,
)
from dm_utils.maths.resampling import Split

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef

SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


def fewer_fitting_tokens(split: Split, share: float, seed: int = 0) -> tuple[Int[Tensor, " kept"], Split]:
    """The held-out tokens and a seeded share of the fitting ones: their indices, and the split among them.

    Smaller shares of one seed are subsets of larger ones. Raises ValueError unless 0 < share ≤ 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share = {share}: it must be above 0 and at most 1")
    fitting = split.fit.nonzero()[:, 0]
    order = torch.randperm(len(fitting), generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros_like(split.fit)
    chosen[fitting[order[: max(1, round(share * len(fitting)))]]] = True
    kept = (chosen | ~split.fit).nonzero()[:, 0]
    return kept, Split(fit=chosen[kept], group=split.group[kept])


def learning_curve(
    x: Float[Tensor, "token d"],
    token_id: Int[Tensor, " token"],
    target: Float[Tensor, " token"],
    split: Split,
    shares: Sequence[float] = SHARES,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Held-out R² from the activation and from token identity at each share of the fitting tokens.

    Returns one row per share and predictor: `n_fit`, `per_identity` (fitting tokens per identity that has any),
    `predictor`, and `r2`, `r2_low`, `r2_high`.
    """
    rows = []
    for share in shares:
        kept, part = fewer_fitting_tokens(split, share, seed)
        y, ids = target[kept, None].double(), token_id[kept]
        guesses = {ACTIVATION: affine_prediction(x[kept], y, part), TOKEN: group_means(y, ids, part).values}
        judge = Comparison(y[:, 0], {name: guess[:, 0] for name, guess in guesses.items()}, part, n_bootstrap, seed)
        n_fit = int(part.fit.sum())
        about = {"n_fit": n_fit, "per_identity": n_fit / len(ids[part.fit].unique())}
        rows += [{**about, "predictor": name, **flat("r2", judge.r2(name))} for name in guesses]
    return rows


def norm_learning_curve(study: Study, ref: SaeRef, shares: Sequence[float] = SHARES) -> pd.DataFrame:
    """The learning curve of ‖SaeError(x)‖ of one SAE, kept in the study's store."""
    p, site = study.profile, study.site(ref.layer, ref.component)
    key = study.result_key(ref) | {"shares": list(shares)}

    def compute() -> tuple[Any, None]:
        norms = error_norms(study, ref)[:, 0]
        return learning_curve(site.x, site.token_id, norms, site.split, shares, p.n_bootstrap, p.seed), None

    rows = study.store.kept("learning_curve", key, compute, sources=(__name__,))[0]
    return pd.DataFrame(rows).assign(sae_id=ref.id)
