"""How much of some vectors an affine map of others predicts, held out: several targets from one set of regressors."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from dm_utils.maths.regression import Design
from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums, Split, r2_mean, r2_weighted

Targets = Callable[[slice], Float[Tensor, "target token d"]]


def vector_r2(
    regressors: Float[Tensor, "token z"], targets: Targets, split: Split, *, n_bootstrap: int = 1000, seed: int = 0
) -> list[tuple[Estimate, Estimate]]:
    """Held-out R² of an affine map from the regressors to each target: mean over dimensions, and variance-weighted.

    Parameters
    ----------
    regressors : float [token, z].
    targets : returns the rows of every target, stacked, [target, token, d]; all share one design and one pass.
    """
    design = Design(regressors, split, name="the regressors")
    fitted = design.fit_map(lambda rows, z: _side_by_side(targets(rows)).to(z))
    totals: list[HeldOutSums] = []
    shift: Tensor | None = None
    for rows, z in design.blocks():
        values = targets(rows)
        predicted = fitted(z).cpu().view(values.shape[1], len(values), -1).transpose(0, 1)
        shift = values.mean(1, keepdim=True) if shift is None else shift
        totals = totals or [HeldOutSums(split) for _ in values]
        for sums, y, y_hat in zip(totals, values - shift, predicted - shift, strict=True):
            sums.add(rows, y=y, y2=y**2, residual2=(y - y_hat) ** 2)
    resampled = [Bootstrap(sums.totals, n_bootstrap, seed) for sums in totals]
    return [(b.estimate(r2_mean), b.estimate(r2_weighted)) for b in resampled]


def _side_by_side(values: Float[Tensor, "target token d"]) -> Float[Tensor, "token columns"]:
    return values.transpose(0, 1).flatten(1)
