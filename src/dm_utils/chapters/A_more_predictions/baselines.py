"""How far simple quantities predict the norm of the SAE error, against the activation itself (Appendix A.3, Fig. 13).

Every predictor is fitted on the fitting tokens of one site and judged on the others. Fig. 13 of the paper names the
norm ‖SaeError(x)‖ while Eq. 10 names its square, so both are predicted here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from dm_utils.engine.token_loss import token_losses
from dm_utils.maths.group_means import group_means
from dm_utils.maths.regression import BLOCK, Design
from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums, Split, Sums, check_finite

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef

ACTIVATION = "activation x"
TOKEN = "token identity"
EASY = "all but the activation"
EVERYTHING = "everything together"
SCALAR_NAMES = ("SAE L0", "activation norm", "model loss", "loss on this token", "position")
PAPER_BASELINES = (TOKEN, "SAE L0", "activation norm", "model loss")
PREDICTORS = (ACTIVATION, TOKEN, *SCALAR_NAMES, EASY, EVERYTHING)
TARGETS = ("norm", "norm2")  # ‖SaeError(x)‖ as Fig. 13 says, and its square as Eq. 10 says
N_BINS = 64


def bins(values: Float[Tensor, " token"], split: Split, n_bins: int = N_BINS) -> Int[Tensor, " token"]:
    """Cut a scalar into bins that hold equally many fitting tokens: their means are any function of the scalar."""
    edges = torch.quantile(values[split.fit].double(), torch.linspace(0, 1, n_bins + 1, dtype=torch.float64)[1:-1])
    return torch.bucketize(values.double(), torch.unique(edges), right=True)


def affine_prediction(
    regressors: Float[Tensor, "token d"], targets: Float[Tensor, "token target"], split: Split, intercept: bool = True
) -> Float[Tensor, "token target"]:
    """Least squares of each target on the regressors, fitted on the fitting tokens, evaluated for every token."""
    return design_prediction(Design(regressors, split, intercept=intercept, name="regressors"), targets)


def design_prediction(design: Design, targets: Float[Tensor, "token target"]) -> Float[Tensor, "token target"]:
    """The same from a design whose moments are already factorised."""
    targets = targets.double()
    scale = targets.abs().amax(0).clamp_min(torch.finfo(torch.float64).tiny)
    fitted = design.fit_map(lambda rows, x: (targets[rows] / scale).to(x.device))
    exact = torch.float64 if design.device.type == "cpu" else design.x.dtype
    return scale * torch.cat([fitted(x.to(exact)).cpu().double() for _, x in design.blocks()])


def grouped_prediction(
    regressors: Float[Tensor, "token d"],
    targets: Float[Tensor, "token target"],
    group: Int[Tensor, " token"],
    split: Split,
) -> Float[Tensor, "token target"]:
    """Least squares on the regressors *and* one indicator per group, without building the indicators.

    Regressors and targets lose their group means, the slopes are fitted on what is left, and the means are added
    back: the exact solution of the joint least squares (Frisch, Waugh and Lovell). Holds a copy of the regressors.
    """
    x_means, y_means = group_means(regressors, group, split), group_means(targets, group, split)
    within = torch.empty_like(regressors)
    for start in range(0, len(within), BLOCK):
        rows = slice(start, start + BLOCK)
        within[rows] = (regressors[rows].double() - x_means.table[x_means.index[rows]]).to(within.dtype)
    return y_means.values + affine_prediction(within, targets.double() - y_means.values, split, intercept=False)


class Comparison:
    """Held-out R² of several predictions of one scalar target, from one set of resampled contexts.

    Because every prediction meets the same resamples, differences between two of them get paired intervals.
    """

    def __init__(
        self,
        target: Float[Tensor, " token"],
        predictions: Mapping[str, Float[Tensor, " token"]],
        split: Split,
        n_bootstrap: int = 1000,
        seed: int = 0,
    ):
        self.names = list(predictions)
        stacked = torch.stack([predictions[name].double() for name in self.names], 1)
        check_finite(stacked, "predictions")
        check_finite(target, "target")
        target = target.double()
        centred = (target - target[split.fit].mean())[:, None]
        sums = HeldOutSums(split)
        sums.add(slice(0, len(target)), y=centred, y2=centred**2, residual2=(target[:, None] - stacked) ** 2)
        self._bootstrap = Bootstrap(sums.totals, n_bootstrap, seed)

    def r2(self, name: str) -> Estimate:
        """1 − RSS/TSS of one prediction."""
        return self._bootstrap.estimate(lambda sums: self._all_r2(sums)[:, self.names.index(name)])

    def gap(self, name: str, other: str) -> Estimate:
        """R² of `name` minus R² of `other`, with a paired interval."""
        i, j = self.names.index(name), self.names.index(other)
        return self._bootstrap.estimate(lambda sums: self._all_r2(sums)[:, i] - self._all_r2(sums)[:, j])

    def gap_to_best(self, name: str, others: Sequence[str]) -> Estimate:
        """R² of `name` minus the best R² among `others`; the best is chosen anew in every resample."""
        i, rest = self.names.index(name), [self.names.index(other) for other in others]
        return self._bootstrap.estimate(lambda sums: self._all_r2(sums)[:, i] - self._all_r2(sums)[:, rest].amax(-1))

    @staticmethod
    def _all_r2(sums: Sums) -> Float[Tensor, "draw prediction"]:
        tss = sums["y2"] - sums["y"] ** 2 / sums["n"]
        return torch.where(tss > 0, 1 - sums["residual2"] / tss, torch.nan)


# --- on a study --------------------------------------------------------------------------------------------


def scalar_regressors(study: Study, ref: SaeRef) -> dict[str, Float[Tensor, " token"]]:
    """The scalars of Fig. 13 and two more, float64 [token]: SAE L0, ‖x‖, the model's losses and the position."""
    scalars, losses = study.token_scalars(ref), token_losses(study)
    site = study.site(ref.layer, ref.component)
    columns = {
        "SAE L0": torch.from_numpy(scalars["l0"]),
        "activation norm": torch.from_numpy(scalars["x_norm2"]).sqrt(),
        "model loss": torch.from_numpy(losses["next"]),
        "loss on this token": torch.from_numpy(losses["own"]),
        "position": site.position,
    }
    return {name: columns[name].double() for name in SCALAR_NAMES}


def predictions(study: Study, ref: SaeRef) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Predictions of ‖SaeError‖ and ‖SaeError‖² by every predictor, float64 [token, 2].

    Returns
    -------
    straight, flexible : dict
        By name of `PREDICTORS`: least squares; and, for the scalars, the means over `N_BINS` bins, which follow any
        smooth function of the scalar.
    """
    site, split = study.site(ref.layer, ref.component), study.site(ref.layer, ref.component).split
    targets = error_norms(study, ref)
    scalars = scalar_regressors(study, ref)
    together = torch.stack(list(scalars.values()), 1)
    straight = {
        ACTIVATION: design_prediction(site.design, targets),
        TOKEN: group_means(targets, site.token_id, split).values,
        EASY: grouped_prediction(together, targets, site.token_id, split),
    }
    both = torch.cat([site.x, together.to(site.x.dtype)], 1)
    straight[EVERYTHING] = grouped_prediction(both, targets, site.token_id, split)
    straight |= {name: affine_prediction(column[:, None], targets, split) for name, column in scalars.items()}
    flexible = {name: group_means(targets, bins(column, split), split).values for name, column in scalars.items()}
    return {name: straight[name] for name in PREDICTORS}, flexible


def error_norms(study: Study, ref: SaeRef) -> Float[Tensor, "token 2"]:
    """‖SaeError(x)‖ and its square, float64."""
    squared = torch.from_numpy(study.token_scalars(ref)["error_norm2"]).double()
    return torch.stack([squared.sqrt(), squared], 1)


def compare_norm_predictors(study: Study, refs: Sequence[SaeRef]) -> pd.DataFrame:
    """Held-out R² of every predictor of every SAE's error norm (Fig. 13), one row per SAE and predictor.

    Returns
    -------
    DataFrame
        The SAE's columns, `predictor`, and for each M of `r2_norm`, `r2_norm2` (straight lines), `r2_norm_binned`,
        `r2_norm2_binned` (scalars through bins) the columns M, M_low, M_high; `gap_norm`, `gap_norm2` with intervals
        (R² from the activation minus this predictor's), and `lead_norm`, `lead_norm2` (the activation's row only:
        its R² minus the best of the paper's four baselines). `n_unseen`, `n_held_out`: how many held-out tokens have
        an identity that no fitting token has, and how many there are.
    """
    rows = [_norm_rows(study, ref) for ref in tqdm(refs, desc="norm predictors", unit="SAE", leave=False)]
    return pd.concat([pd.DataFrame(some) for some in rows], ignore_index=True)


def _norm_rows(study: Study, ref: SaeRef) -> list[dict[str, Any]]:
    key = study.result_key(ref)
    data, _ = study.store.kept("norm_predictors", key, lambda: (_compute_rows(study, ref), None), sources=(__name__,))
    about = {name: getattr(ref, name) for name in ("hook_name", "layer", "component", "architecture", "d_sae", "l0")}
    return [{"sae_id": ref.id, **about, **row} for row in data]


def _compute_rows(study: Study, ref: SaeRef) -> list[dict[str, Any]]:
    p, site = study.profile, study.site(ref.layer, ref.component)
    targets, (straight, flexible) = error_norms(study, ref), predictions(study, ref)
    unseen = group_means(targets, site.token_id, site.split).unseen & ~site.split.fit
    rows: dict[str, dict[str, Any]] = {name: {"predictor": name} for name in PREDICTORS}
    for column, target in enumerate(TARGETS):
        compared = {name: values[:, column] for name, values in straight.items()}
        compared |= {f"{name} binned": values[:, column] for name, values in flexible.items()}
        judge = Comparison(targets[:, column], compared, site.split, p.n_bootstrap, p.seed)
        for name in PREDICTORS:
            binned = f"{name} binned" if name in flexible else name
            rows[name] |= flat(f"r2_{target}", judge.r2(name)) | flat(f"r2_{target}_binned", judge.r2(binned))
            rows[name] |= flat(f"gap_{target}", judge.gap(ACTIVATION, name))
        rows[ACTIVATION] |= flat(f"lead_{target}", judge.gap_to_best(ACTIVATION, PAPER_BASELINES))
    counts = {"n_unseen": int(unseen.sum()), "n_held_out": int((~site.split.fit).sum())}
    return [row | counts for row in rows.values()]


def flat(name: str, estimate: Estimate) -> dict[str, float | None]:
    """An estimate as the columns `name`, `name_low`, `name_high` of a table (None where undefined)."""
    return dict(zip(estimate.columns(name), estimate.plain()[:3], strict=True))


def wide(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """One row per SAE with a column per predictor and target, for `Chapter.record_table`, and those columns' names.

    The columns are `r2_norm_from_token_identity` and so on, each with `_low` and `_high`.
    """
    base = table.drop_duplicates("sae_id").set_index("sae_id")[["hook_name", "layer", "d_sae", "l0"]]
    metrics, parts = [], [base]
    for predictor, part in table.groupby("predictor", sort=False):
        slug = str(predictor).replace(" ", "_")
        names = {
            f"r2_{target}{end}": f"r2_{target}_from_{slug}{end}" for target in TARGETS for end in ("", "_low", "_high")
        }
        parts.append(part.set_index("sae_id")[list(names)].rename(columns=names))
        metrics += [f"r2_{target}_from_{slug}" for target in TARGETS]
    return pd.concat(parts, axis=1).reset_index(), metrics


def token_table(study: Study, ref: SaeRef, least: int = 20) -> pd.DataFrame:
    """Tokens that occur `least` times or more: how often, and the mean and spread of ‖SaeError(x)‖² among them.

    Columns `token`, `count`, `mean`, `low`, `high` (10 and 90 percent of the tokens). `token` is text from the wild.
    """
    site = study.site(ref.layer, ref.component)
    frame = pd.DataFrame({"id": site.token_id.numpy(), "error": study.token_scalars(ref)["error_norm2"]})
    groups = frame.groupby("id")["error"]
    table = groups.agg(count="size", mean="mean", low=partial(_quantile, q=0.1), high=partial(_quantile, q=0.9))
    table = table[table["count"] >= least].sort_values("count", ascending=False).reset_index()
    table.insert(0, "token", study.token_text(torch.tensor(table["id"].tolist())))
    return table.drop(columns="id")


def _quantile(values: pd.Series, q: float) -> float:
    return float(values.quantile(q))
