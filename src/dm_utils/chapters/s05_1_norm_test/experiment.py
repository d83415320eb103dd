"""The norm prediction test on every part of the error (Section 5.1), and what a Gaussian would score in it.

The test asks how much of the variance of ‖v‖² a linear function explains (Eq. 10 with v for SaeError).  Two regressors answer
different questions: from x, the paper's Figure 6; from v itself, the form that Appendix B argues for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from dm_utils.base.names import VECTORS
from dm_utils.engine.study import Study
from dm_utils.maths.norm_theory import gaussian_norm_r2
from dm_utils.maths.regression import Design, factorise, probe, r2_of_prediction
from dm_utils.maths.resampling import Estimate, Split
from dm_utils.maths.synthetic import random_superposition
from dm_utils.world.sae_ref import SaeRef

REGRESSORS = ("from x", "from itself")


@dataclass(frozen=True)
class JointMoments:
    """Moments of z = (x, Sae(x)) over the fitting tokens, float64: every vector of the test is linear in z.

    `mean` [2d], `scatter` [2d, 2d] and `cross` [2d, vector] are sums about the mean; `norm_mean` [vector] is the mean of each
    vector's squared norm, in the order of `VECTORS`.
    """

    n: int
    mean: Float[Tensor, " z"]
    scatter: Float[Tensor, "z z"]
    cross: Float[Tensor, "z vector"]
    norm_mean: Float[Tensor, " vector"]

    def maps(self) -> dict[str, tuple[Float[Tensor, "z d"], Float[Tensor, " d"]]]:
        """For each vector v its map T, v − mean = Tᵀ(z − mean), and its mean over the fitting tokens (Eqs. 4, 14, 15)."""
        d = len(self.mean) // 2
        one, zero = torch.eye(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
        x, sae = torch.cat([one, zero]), torch.cat([zero, one])
        error = x - sae
        solve = factorise(self.scatter[:d, :d])[1]
        linear = x @ solve(self.scatter[:d] @ error)  # b* of Eq. 11
        mean_x, mean_sae = self.mean.split(d)
        means = (mean_x, mean_sae, mean_x - mean_sae, mean_x - mean_sae, torch.zeros(d, dtype=torch.float64))
        return dict(zip(VECTORS, zip((x, sae, error, linear, error - linear), means, strict=True), strict=True))


def joint_moments(
    x: Float[Tensor, "token d"],
    sae_out: Float[Tensor, "token d"],
    norms: Float[Tensor, "token vector"],
    split: Split,
    block: int,
) -> JointMoments:
    """Accumulate `JointMoments` over the fitting tokens, a block at a time, about the mean."""
    rows = split.fit.nonzero()[:, 0].split(block)
    n = int(split.fit.sum())
    mean = torch.cat([torch.stack([v[r].sum(0, dtype=torch.float64) for r in rows]).sum(0) for v in (x, sae_out)]) / n
    norm_mean = torch.stack([norms[r].sum(0) for r in rows]).sum(0) / n
    scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    cross = torch.zeros(len(mean), norms.shape[1], dtype=torch.float64)
    for r in rows:
        z = torch.cat([x[r], sae_out[r]], 1).double() - mean
        scatter += z.T @ z
        cross += z.T @ (norms[r] - norm_mean)
    return JointMoments(n, mean, scatter, cross, norm_mean)


def self_tests(study: Study, ref: SaeRef) -> dict[str, dict[str, Any]]:
    """For each vector: `r2` of its squared norm from itself (as `Estimate.plain`), its `rank`, and its `gaussian` twin's score.

    x and Sae(x) are walked through once to fit all vectors and once to predict. Kept in the store. LinearError is an affine map
    of x: where that map has full rank, both regressors must agree.
    """

    def compute() -> tuple[Any, None]:
        site, p, scalars = study.site(ref.layer, ref.component), study.profile, study.token_scalars(ref)
        sae_out = torch.cat([out.cpu() for _, _, out in study.reconstructions(ref)])
        norms = torch.stack([torch.from_numpy(scalars[f"{name}_norm2"]).double() for name in VECTORS], 1)
        joint = joint_moments(site.x, sae_out, norms, site.split, p.block)
        fitted = {name: _fit(joint, *parts, index) for index, (name, parts) in enumerate(joint.maps().items())}
        weights = torch.stack([weight for weight, _, _ in fitted.values()], 1)
        parts = zip(site.x.split(p.block), sae_out.split(p.block), strict=True)
        predicted = torch.cat([(torch.cat(z, 1).double() - joint.mean) @ weights for z in parts]) + joint.norm_mean
        found = {}
        for index, (name, (_, rank, twin)) in enumerate(fitted.items()):
            r2 = r2_of_prediction(norms[:, index], predicted[:, index], site.split, p.n_bootstrap, p.seed)
            found[name] = {"r2": r2.plain(), "gaussian": None if math.isnan(twin) else twin, "rank": rank}
        return found, None

    return study.store.kept("norm_test", study.result_key(ref), compute, sources=(__name__,))[0]


def _fit(
    joint: JointMoments, to_v: Float[Tensor, "z d"], mean: Float[Tensor, " d"], index: int
) -> tuple[Float[Tensor, " z"], int, float]:
    """The probe of a vector's squared norm from itself, as weights on z; the vector's rank; its Gaussian twin's R²."""
    scatter = to_v.T @ joint.scatter @ to_v
    if scatter.diagonal().sum() <= 1e-12 * joint.scatter.diagonal().sum():
        return torch.zeros(len(to_v), dtype=torch.float64), 0, math.nan
    rank, solve = factorise(scatter)
    probe_v = solve(to_v.T @ joint.cross[:, index, None])[:, 0]
    return to_v @ probe_v, rank, gaussian_norm_r2(mean, scatter / joint.n)


def norm_tests(study: Study, refs: Sequence[SaeRef]) -> pd.DataFrame:
    """The test for every SAE, vector and regressor.

    Returns
    -------
    DataFrame
        One row per SAE, vector (`VECTORS`, column ``vector``) and regressor (`REGRESSORS`): ``value, low, high``, the Gaussian twin's
        ``gaussian`` and the vector's ``rank`` (from itself only), ``fvu``, and the SAE's columns with its site in ``site``. x is the
        same for every SAE of a site and appears once per site.
    """
    measured = study.measure(refs)
    parts = []
    for ref, (_, row) in tqdm(list(zip(refs, measured.iterrows(), strict=True)), desc="norm tests", leave=False):
        own = self_tests(study, ref)
        for name in VECTORS:
            from_x, itself = Estimate.read(row, f"r2_{name}_norm"), Estimate.from_plain(own[name]["r2"])
            twin = {"gaussian": own[name]["gaussian"], "rank": own[name]["rank"]}
            parts.append({"vector": name, "regressor": "from x", **from_x.columns(), **_about(row)})
            parts.append({"vector": name, "regressor": "from itself", **itself.columns(), **twin, **_about(row)})
    table = pd.DataFrame(parts).astype({"value": float, "low": float, "high": float, "gaussian": float})
    is_x = table["vector"] == "x"
    once = table[is_x].drop_duplicates(["hook_name", "regressor"])
    once = once.assign(sae_id="(any SAE of the site)", architecture="–")
    once[["d_sae", "l0", "fvu", "dead_fraction"]] = math.nan
    return pd.concat([once, table[~is_x]], ignore_index=True).astype({"d_sae": "Int64"})


def _about(row: pd.Series) -> dict[str, Any]:
    names = ("sae_id", "hook_name", "layer", "architecture", "d_sae", "l0", "fvu", "dead_fraction")
    return {name: row[name] for name in names} | {"site": row["component"]}


def planted(
    absent: float, d: int = 128, n_latents: int = 1024, expected_l0: float = 16.0, n_tokens: int = 20_000, seed: int = 0
) -> dict[str, dict[str, float]]:
    """The test where the truth is known: an error that consists of absent linear features and of nothing else.

    x is a sparse sum of random directions with exponential weights whose frequencies follow a power law
    (`synthetic.random_superposition`); Sae(x) holds the true weights of the most frequent features and misses the rarest, a share
    `absent` of them. Returns vector → {"from x", "from itself"} → held-out R².
    """
    if not 0 < absent < 1:
        raise ValueError(f"absent is {absent}; it must lie strictly between 0 and 1")
    truth = random_superposition(n_latents, d, n_tokens, expected_l0, seed=seed)
    missing = truth.dictionary.clone()
    missing[: round((1 - absent) * n_latents)] = 0.0  # frequencies fall with the index
    error = truth.weights.superpose(missing)
    split = Split.random(torch.arange(n_tokens) // 100, seed=seed)
    design = Design(truth.x, split)
    linear = design.fit_map(lambda rows, _: error[rows])(truth.x)
    parts = {"x": truth.x, "sae": truth.x - error, "error": error, "linear": linear, "nonlinear": error - linear}
    found = {}
    for name, v in parts.items():
        norm2 = v.double().square().sum(1)[:, None]
        r2 = (design.probe(norm2, 100)[0].r2, Design(v, split).probe(norm2, 100)[0].r2)
        found[name] = dict(zip(REGRESSORS, map(float, r2), strict=True))
    return found


def outliers(table: pd.DataFrame, reach: float = 1.5) -> pd.DataFrame:
    """Rows beyond `reach` interquartile ranges from the quartiles of their vector and regressor (a box plot's rule)."""

    def beyond(values: pd.Series) -> pd.Series:
        low, high = values.quantile([0.25, 0.75])
        margin = reach * (high - low)
        return (values < low - margin) | (values > high + margin)

    flagged = table.groupby(["vector", "regressor"])["value"].transform(beyond).astype(bool)
    return table[flagged | table["value"].isna()].sort_values("value").reset_index(drop=True)


def without_largest(study: Study, ref: SaeRef, vector: str, share: float = 0.001) -> dict[str, Any]:
    """Why an R² may be low: how much of the variance of ‖v‖² sits in its largest tokens, and the R² (from x) without them.

    Returns ``share_of_variance``, the part of Σ(‖v‖² − mean)² that the largest `share` of tokens holds, and ``r2_without``, fitted and
    evaluated on the other tokens.
    """
    if not 0 < share < 0.5:
        raise ValueError(f"share is {share}; it must lie strictly between 0 and 0.5")
    site = study.site(ref.layer, ref.component)
    norm2 = torch.from_numpy(study.token_scalars(ref)[f"{vector}_norm2"]).double()
    deviation = (norm2 - norm2.mean()).square()
    largest = torch.zeros(len(norm2), dtype=torch.bool)
    largest[norm2.topk(max(1, round(share * len(norm2)))).indices] = True
    keep = ~largest
    split = Split(fit=site.split.fit[keep], group=site.split.group[keep])
    rest = probe(site.x[keep], norm2[keep], split, n_bootstrap=study.profile.n_bootstrap, seed=study.profile.seed)
    return {"share_of_variance": float(deviation[largest].sum() / deviation.sum()), "r2_without": rest.r2}


def explain_outliers(study: Study, refs: Sequence[SaeRef], found: pd.DataFrame) -> pd.DataFrame:
    """`without_largest` for each row of `outliers` (regressor from x): adds ``share_of_variance`` and ``r2_without``."""
    by_id = {(ref.hook_name, ref.id): ref for ref in refs}
    by_site = {ref.hook_name: ref for ref in refs}
    rows = []
    for _, row in found[found["regressor"] == "from x"].iterrows():
        ref = by_id.get((row["hook_name"], row["sae_id"]), by_site[row["hook_name"]])
        why = without_largest(study, ref, row["vector"])
        rows.append(
            row.to_dict() | {"share_of_variance": why["share_of_variance"], "r2_without": why["r2_without"].value}
        )
    return pd.DataFrame(rows)
