"""Does a second regressor improve the prediction of a larger SAE's error norms? (Appendix E, Eq. 23, Fig. 16)

Eq. 13 predicts the error norm of a larger SAE from that of a smaller one; Eq. 23 adds the smaller SAE's nonlinear error
norm. The paper reports the percent decrease in FVU, 100 (1 − FVU₂₃/FVU₁₃). Here every fraction is held out and has an
interval, and other second regressors stand beside the paper's, so that one sees what is special about it.

All columns share one pass over the tokens: their products, summed per context, are all that every regression among
them, its held-out FVU and its bootstrap need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.regression import Bootstrap, Estimate, Split, Sums, check_finite, factorise

if TYPE_CHECKING:
    from dm_utils.saes import SaeRef
    from dm_utils.study import Study

ONE = "1"
SECOND = {
    "nonlinear": "nonlinear error (the paper's)",
    "linear": "linear error",
    "sae": "Sae(x)",
    "x": "activation x",
    "curve": "error, other power",
    "position": "token position",
    "shuffled": "nonlinear error, shuffled",
}


class ContextMoments:
    """Sums of products of named columns, one per context, apart for fitting and held-out tokens.

    Parameters
    ----------
    columns : name → float [token].
    split : which tokens fit, and the context of each.
    n_bootstrap, seed : resamples of the held-out contexts, the same for every statistic, so differences are paired.

    Raises
    ------
    ValueError : a column has another length, or holds NaN or Inf.
    """

    def __init__(
        self,
        columns: Mapping[str, Float[Tensor, " token"]],
        split: Split,
        n_bootstrap: int = 1000,
        seed: int = 0,
    ):
        for name, column in columns.items():
            if column.shape != split.fit.shape:
                raise ValueError(f"column {name} must be [{len(split.fit)}], as the split; it is {tuple(column.shape)}")
            check_finite(column, f"column {name}")
        self.names = [ONE, *columns]
        stacked = torch.stack([torch.ones(len(split.fit)), *columns.values()], 1).double()
        self.scale = (stacked[split.fit] ** 2).mean(0).sqrt()
        self.scale[self.scale == 0] = 1
        stacked /= self.scale
        self._fit = _sums(stacked, split, split.fit)
        self._fit_draws = (n_bootstrap, seed)
        self._held_out = Bootstrap(_sums(stacked, split, ~split.fit), n_bootstrap, seed)

    def _index(self, names: Sequence[str]) -> list[int]:
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ValueError(f"no column {', '.join(unknown)}; the columns are {', '.join(self.names[1:])}")
        return [self.names.index(name) for name in names]

    def gram(self, sums: Sums) -> Float[Tensor, "draw column column"]:
        """Sums of products of the scaled columns, of each draw."""
        return sums["products"].unflatten(1, (len(self.names), len(self.names)))

    def fit(self, target: str, regressors: Sequence[str], intercept: bool = True) -> Float[Tensor, " column"]:
        """Least squares of the target on the regressors over the fitting tokens, as a residual.

        Returns one weight per scaled column: 1 for the target, minus its coefficient for each regressor, else 0.
        """
        used, y = self._index([ONE, *regressors] if intercept else regressors), self._index([target])[0]
        gram = self._fit["products"].sum(0).unflatten(0, (len(self.names), -1))
        weights = torch.zeros(len(self.names), dtype=torch.float64)
        weights[used] = -factorise(gram[used][:, used])[1](gram[used][:, [y]])[:, 0]
        weights[y] = 1
        return weights

    def _fvu(self, sums: Sums, target: str, weights: Tensor) -> Float[Tensor, " draw"]:
        gram, y = self.gram(sums), self._index([target])[0]
        total = gram[:, y, y] - gram[:, 0, y] ** 2 / gram[:, 0, 0]
        rss = torch.einsum("i,nij,j->n", weights, gram, weights)
        return torch.where(total > 1e-12 * gram[:, y, y], rss / total, torch.nan)

    def fvu(self, target: str, regressors: Sequence[str], intercept: bool = True) -> Estimate:
        """Held-out FVU, 1 − R², of the target predicted from the regressors."""
        weights = self.fit(target, regressors, intercept)
        return self._held_out.estimate(lambda sums: self._fvu(sums, target, weights), "the target does not vary")

    def percent_decrease(
        self, target: str, base: Sequence[str], extra: Sequence[str], intercept: bool = True
    ) -> Estimate:
        """100 (1 − FVU(base + extra) / FVU(base)): what the extra regressors save, in percent of the held-out FVU.

        Positive when they help; slightly negative when they are noise that was fitted.
        """
        before, after = self.fit(target, base, intercept), self.fit(target, [*base, *extra], intercept)
        return self._held_out.estimate(
            lambda sums: 100 * (1 - self._fvu(sums, target, after) / self._fvu(sums, target, before)),
            "the target does not vary, or the base predicts it exactly",
        )

    def covariance(self, names: Sequence[str]) -> Float[Tensor, "column column"]:
        """Covariance of columns over the held-out tokens, in their own units."""
        used = self._index(names)
        gram = self.gram(self._held_out.observed)[0]
        n = gram[0, 0]
        centred = gram[used][:, used] / n - torch.outer(gram[0, used], gram[0, used]) / n**2
        return centred * torch.outer(self.scale[used], self.scale[used])

    def coefficients(self, target: str, regressors: Sequence[str], intercept: bool = True) -> dict[str, Estimate]:
        """Coefficients in the columns' own units; intervals resample the *fitting* contexts and fit again."""
        used, y = self._index([ONE, *regressors] if intercept else regressors), self._index([target])[0]
        units = self.scale[y] / self.scale[used]

        def solve(sums: Sums) -> Tensor:
            gram = self.gram(sums)
            return torch.linalg.solve(gram[:, used][:, :, used], gram[:, used, y]) * units

        resampled = Bootstrap(self._fit, *self._fit_draws)
        names = ["intercept", *regressors] if intercept else list(regressors)
        return {name: resampled.estimate(lambda sums, i=i: solve(sums)[:, i]) for i, name in enumerate(names)}


def _sums(columns: Float[Tensor, "token column"], split: Split, chosen: Tensor) -> Sums:
    """Σ z zᵀ per context over the chosen tokens, float64 [context, column²], and how many tokens there are."""
    order = torch.argsort(split.group[chosen], stable=True)
    counts = torch.bincount(split.group[chosen], minlength=split.n_groups)
    blocks = columns[chosen][order].split(counts.tolist())
    return {"n": counts[:, None].double(), "products": torch.stack([(z.T @ z).flatten() for z in blocks])}


# --- on a study --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairStudy:
    """The columns of several SAEs of one site at one power of the norms, smallest SAE first.

    `moments` has, for each SAE id, the columns "error id", "nonlinear id", … as `SECOND` names them.
    """

    refs: list[SaeRef]
    power: int
    moments: ContextMoments

    def pairs(self) -> list[tuple[SaeRef, SaeRef]]:
        """Every (smaller, larger) pair of widths."""
        return [(small, large) for small, large in combinations(self.refs, 2) if small.d_sae < large.d_sae]

    def second(self, name: str, small: SaeRef) -> str:
        """The column of a second regressor of a pair whose smaller SAE is `small`."""
        return name if name in ("x", "position") else f"{name} {small.id}"


def pair_study(study: Study, refs: Sequence[SaeRef], power: int = 2) -> PairStudy:
    """Gather the norms (power 1) or squared norms (power 2) of SAEs of one site.

    Raises
    ------
    ValueError : power is not 1 or 2, the SAEs sit at different sites, or there is no pair of different widths.
    """
    if power not in (1, 2):
        raise ValueError(f"power = {power!r}: it must be 1 (norms) or 2 (squared norms)")
    if len({ref.hook_name for ref in refs}) != 1 or len({ref.d_sae for ref in refs}) < 2:
        raise ValueError(f"give SAEs of one site and at least two widths; given {', '.join(ref.id for ref in refs)}")
    refs = sorted(refs, key=lambda ref: ref.d_sae)
    site = study.site(refs[0].layer, refs[0].component)
    columns = {"position": site.position.double()}
    shuffle = torch.from_numpy(np.random.default_rng(study.profile.seed).permutation(len(site.x)))
    for ref in refs:
        squared = {name: torch.from_numpy(v).double() for name, v in study.token_scalars(ref).items()}
        norms = {name: squared[f"{name}_norm2"] ** (power / 2) for name in ("error", "nonlinear", "linear", "sae", "x")}
        columns["x"] = norms.pop("x")
        columns |= {f"{name} {ref.id}": values for name, values in norms.items()}
        columns[f"curve {ref.id}"] = squared["error_norm2"] ** ((3 - power) / 2)
        columns[f"shuffled {ref.id}"] = norms["nonlinear"][shuffle]
    moments = ContextMoments(columns, site.split, study.profile.n_bootstrap, study.profile.seed)
    return PairStudy(refs, power, moments)


def decrease_table(pairs: PairStudy, intercept: bool = True, given: Sequence[str] = ()) -> pd.DataFrame:
    """Percent decrease in held-out FVU of every pair and every second regressor (Fig. 16 and its controls).

    Parameters
    ----------
    pairs : the norms, from `pair_study`.
    intercept : fit a constant too, as the paper's regressions do.
    given : keys of `SECOND` that both regressions may use already; what is left is the second regressor's own.

    Returns
    -------
    DataFrame
        `small_id, large_id, small, large` (widths), `l0_small, l0_large` (labels), `power`, `second` (a key of
        `SECOND`), and `fvu_one` (Eq. 13), `fvu_two` (Eq. 23), `decrease`, each with `_low` and `_high`.
    """
    rows = []
    for small, large in pairs.pairs():
        target = f"error {large.id}"
        base = [f"error {small.id}", *(pairs.second(name, small) for name in given)]
        about = {"small_id": small.id, "large_id": large.id, "small": small.d_sae, "large": large.d_sae}
        about |= {"l0_small": small.l0, "l0_large": large.l0, "power": pairs.power}
        one = _flat("fvu_one", pairs.moments.fvu(target, base, intercept))
        for name in [name for name in SECOND if name not in given]:
            extra = [pairs.second(name, small)]
            two = pairs.moments.fvu(target, [*base, *extra], intercept)
            decrease = pairs.moments.percent_decrease(target, base, extra, intercept)
            rows.append({**about, "second": name, **one, **_flat("fvu_two", two), **_flat("decrease", decrease)})
    return pd.DataFrame(rows)


def survival_table(pairs: PairStudy) -> pd.DataFrame:
    """How much of each part of a small SAE's error a larger one still has: ‖e₂‖² ≈ a‖linear₁‖² + b‖nonlinear₁‖² + c.

    The prediction of Appendix B.3 is b > a, with b near 1: a larger SAE removes the linear part and keeps the rest.
    Columns: `small_id, large_id, small, large`, and `linear` (a), `nonlinear` (b), `intercept` (c), each with `_low`
    and `_high`.
    """
    rows = []
    for small, large in pairs.pairs():
        parts = {name: f"{name} {small.id}" for name in ("linear", "nonlinear")}
        found = pairs.moments.coefficients(f"error {large.id}", list(parts.values()))
        about = {"small_id": small.id, "large_id": large.id, "small": small.d_sae, "large": large.d_sae}
        named = {name: found[column] for name, column in parts.items()} | {"intercept": found["intercept"]}
        for name, value in named.items():
            about |= _flat(name, value)
        rows.append(about)
    return pd.DataFrame(rows)


def beyond_table(pairs: PairStudy, intercept: bool = True) -> pd.DataFrame:
    """What each part of the error adds to Eq. 13 when the other part is already there, in percent of the FVU.

    Columns: `small, large`, and `nonlinear` (given linear), `linear` (given nonlinear), each with `_low` and `_high`.
    """
    table = pd.DataFrame()
    for part, other in (("nonlinear", "linear"), ("linear", "nonlinear")):
        found = decrease_table(pairs, intercept, given=[other])
        found = found[found["second"] == part].set_index(["small", "large"])
        for end in ("", "_low", "_high"):
            table[f"{part}{end}"] = found[f"decrease{end}"]
    return table.reset_index()


def redundancy_table(pairs: PairStudy) -> pd.DataFrame:
    """R² of each SAE's nonlinear norm predicted from its own error norm and linear norm.

    Squared norms obey ‖e‖² = ‖linear‖² + ‖nonlinear‖² + 2⟨linear, nonlinear⟩. Were the last term zero at every token
    this R² would be 1, and the linear norm would serve in Eq. 23 exactly as well as the nonlinear one.
    Columns: `sae_id, d_sae, power, r2`, with `_low` and `_high`.
    """
    rows = []
    for ref in pairs.refs:
        fvu = pairs.moments.fvu(f"nonlinear {ref.id}", [f"error {ref.id}", f"linear {ref.id}"])
        r2 = Estimate(1 - fvu.value, 1 - fvu.high, 1 - fvu.low, fvu.note)
        rows.append({"sae_id": ref.id, "d_sae": ref.d_sae, "power": pairs.power, **_flat("r2", r2)})
    return pd.DataFrame(rows)


def quadratic_table(pairs: PairStudy) -> pd.DataFrame:
    """What a page needs to judge any guess ‖e₂‖² ≈ a‖linear₁‖² + b‖nonlinear₁‖² + c, with c matching the means.

    One row per pair: the held-out variance `yy` of ‖e₂‖², covariances `ly, ny, ll, ln, nn` with and among the parts,
    so that FVU(a, b) = (yy − 2a·ly − 2b·ny + a²ll + 2ab·ln + b²nn) / yy; `small`, `large`, and `pair`, a title.
    """
    rows = []
    for small, large in pairs.pairs():
        covariance = pairs.moments.covariance([f"error {large.id}", f"linear {small.id}", f"nonlinear {small.id}"])
        (yy, ly, ny), (_, ll, ln), (_, _, nn) = covariance.tolist()
        row = {"small": small.d_sae, "large": large.d_sae, "pair": f"{small.d_sae:,} → {large.d_sae:,}"}
        rows.append(row | {"yy": 1.0, "ly": ly / yy, "ny": ny / yy, "ll": ll / yy, "ln": ln / yy, "nn": nn / yy})
    return pd.DataFrame(rows)


def _flat(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
