"""Does a second regressor improve the prediction of a larger SAE's error norms? (Appendix E, Eq. 23, Fig. 16)

Eq. 13 predicts the error norm of a larger SAE from that of a smaller one; Eq. 23 adds the smaller SAE's nonlinear error
norm. The paper reports the percent decrease in FVU, 100 (1 − FVU₂₃/FVU₁₃). Here every fraction is held out and has an
interval, and other second regressors stand beside the paper's, so that one sees what is special about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from dm_utils.maths.context_products import ContextProducts
from dm_utils.maths.resampling import Estimate

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef

SECOND = {
    "nonlinear": "nonlinear error (the paper's)",
    "linear": "linear error",
    "sae": "Sae(x)",
    "x": "activation x",
    "curve": "error, other power",
    "position": "token position",
    "shuffled": "nonlinear error, shuffled",
}


@dataclass(frozen=True)
class PairStudy:
    """The columns of several SAEs of one site at one power of the norms, smallest SAE first.

    `products` has, for each SAE id, the columns "error id", "nonlinear id", … as `SECOND` names them, and "cross id",
    2⟨LinearError, NonlinearError⟩.
    """

    refs: list[SaeRef]
    power: int
    products: ContextProducts

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
        cross = squared["error_norm2"] - squared["linear_norm2"] - squared["nonlinear_norm2"]
        columns[f"cross {ref.id}"] = cross
        columns[f"shuffled {ref.id}"] = norms["nonlinear"][shuffle]
    products = ContextProducts(columns, site.split, study.profile.n_bootstrap, study.profile.seed)
    return PairStudy(refs, power, products)


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
        one = pairs.products.fvu(target, base, intercept).columns("fvu_one")
        for name in [name for name in SECOND if name not in given]:
            extra = [pairs.second(name, small)]
            two = pairs.products.fvu(target, [*base, *extra], intercept)
            decrease = pairs.products.percent_decrease(target, base, extra, intercept)
            rows.append({**about, "second": name, **one, **two.columns("fvu_two"), **decrease.columns("decrease")})
    return pd.DataFrame(rows)


def survival_table(pairs: PairStudy, cross: bool = True) -> pd.DataFrame:
    """How much of each part of a small SAE's squared error norm a larger one still has.

    Solves ‖e₂‖² ≈ a‖linear₁‖² + b‖nonlinear₁‖² + k·2⟨linear₁, nonlinear₁⟩ + c. The three terms add up to ‖e₁‖², so
    a = b = k is Eq. 13: the split does not matter. The prediction of Appendix B.3 is b > a, with b near 1: a larger
    SAE removes the linear part and keeps the rest. `cross=False` leaves the third term out, which biases a and b
    wherever it goes along with the other two.
    Columns: `small_id, large_id, small, large`, and `linear` (a), `nonlinear` (b), `cross` (k), `intercept` (c), each
    with `_low` and `_high`. Raises ValueError unless the norms are squared.
    """
    if pairs.power != 2:
        raise ValueError(f"power = {pairs.power}: only squared norms add up to parts; give pair_study(…, power=2)")
    rows = []
    for small, large in pairs.pairs():
        parts = {name: f"{name} {small.id}" for name in ("linear", "nonlinear", "cross")[: 3 if cross else 2]}
        found = pairs.products.coefficients(f"error {large.id}", list(parts.values()))
        about = {"small_id": small.id, "large_id": large.id, "small": small.d_sae, "large": large.d_sae}
        named = {name: found[column] for name, column in parts.items()} | {"intercept": found["intercept"]}
        for name, value in named.items():
            about |= value.columns(name)
        rows.append(about)
    return pd.DataFrame(rows)


BEYOND = {
    "nonlinear_given_linear": ("nonlinear", "linear"),
    "linear_given_nonlinear": ("linear", "nonlinear"),
    "nonlinear_given_curve": ("nonlinear", "curve"),
    "linear_given_curve": ("linear", "curve"),
}


def beyond_table(pairs: PairStudy, intercept: bool = True) -> pd.DataFrame:
    """What a part of the error adds to Eq. 13 when another regressor is already there, in percent of the FVU.

    Columns: `small, large`, and the names of `BEYOND` (second regressor, given regressor), with `_low` and `_high`.
    """
    columns = []
    for name, (part, other) in BEYOND.items():
        found = decrease_table(pairs, intercept, given=[other])
        found = found[found["second"] == part].set_index(["small", "large"])
        names = {f"decrease{end}": f"{name}{end}" for end in ("", "_low", "_high")}
        columns.append(found[list(names)].rename(columns=names))
    return pd.concat(columns, axis=1).reset_index()


def redundancy_table(pairs: PairStudy) -> pd.DataFrame:
    """R² of each SAE's nonlinear norm predicted from its own error norm and linear norm.

    Squared norms obey ‖e‖² = ‖linear‖² + ‖nonlinear‖² + 2⟨linear, nonlinear⟩. Were the last term zero at every token
    this R² would be 1, and the linear norm would serve in Eq. 23 exactly as well as the nonlinear one.
    Columns: `sae_id, d_sae, power, r2`, with `_low` and `_high`.
    """
    rows = []
    for ref in pairs.refs:
        fvu = pairs.products.fvu(f"nonlinear {ref.id}", [f"error {ref.id}", f"linear {ref.id}"])
        r2 = Estimate(1 - fvu.value, 1 - fvu.high, 1 - fvu.low, fvu.note)
        rows.append({"sae_id": ref.id, "d_sae": ref.d_sae, "power": pairs.power, **r2.columns("r2")})
    return pd.DataFrame(rows)


def quadratic_table(pairs: PairStudy) -> pd.DataFrame:
    """What a page needs to judge any guess e₂ ≈ α linear₁ + β nonlinear₁ by the FVU of its squared norm.

    ‖αl + βn‖² = α²‖l‖² + β²‖n‖² + αβ·2⟨l, n⟩, so that the FVU, with a constant that matches the means, is a quadratic
    form of the covariances of ‖e₂‖² (y), ‖l‖² (l), ‖n‖² (n) and 2⟨l, n⟩ (x) over the held-out tokens.
    One row per pair: `small`, `large`, `pair` (a title), and `ly, ny, xy, ll, nn, xx, ln, lx, nx`, divided by `yy`.
    """
    rows = []
    for small, large in pairs.pairs():
        names = [f"error {large.id}", *(f"{name} {small.id}" for name in ("linear", "nonlinear", "cross"))]
        found = pairs.products.covariance(names)
        row = {"small": small.d_sae, "large": large.d_sae, "pair": f"{small.d_sae:,} → {large.d_sae:,}"}
        letters = ("y", "l", "n", "x")
        for i, first in enumerate(letters):
            for j, second in enumerate(letters[: i + 1]):
                row["".join(sorted((first, second), key="lnxy".index))] = float(found[i, j] / found[0, 0])
        rows.append(row)
    return pd.DataFrame(rows)
