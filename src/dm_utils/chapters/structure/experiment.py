"""The vectors of one SAE on a sample of tokens, every test on each and on its twins, and the layers' curvature and FVU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from dm_utils.base.names import VECTORS
from dm_utils.chapters.structure import geometry, planted
from dm_utils.chapters.structure.measures import DIMENSION, PARTICIPATION, Cloud, Row, Sizes, measured
from dm_utils.chapters.structure.twins import ELLIPTICAL, Moments, kinds
from dm_utils.maths.encoding import reconstruct
from dm_utils.maths.resampling import Estimate, Split

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef

SHOWN = tuple(name for name in VECTORS if name != "error")  # SaeError is the sum of the last two
OFF_PLANE = "off_plane"
PREDICTORS, TARGETS = (DIMENSION, OFF_PLANE, PARTICIPATION), ("fvu", "fvu_nonlinear")
SHUFFLES = 9999  # orders of the layers that a p-value counts; all of them where there are fewer


@dataclass(frozen=True)
class Sample:
    """Some tokens of a site, whole contexts of them fitting, and the vectors of `SHOWN` there, float32 [token, d]."""

    rows: Int[Tensor, " token"]
    split: Split
    vectors: dict[str, Float[Tensor, "token d"]]
    decoder: Float[Tensor, "latent d"]


def drawn(study: Study, layer: int | None, n_tokens: int) -> tuple[Int[Tensor, " token"], Split]:
    """A random sample of the kept tokens, from all contexts, and its split by context; the same at every layer."""
    p, site = study.profile, study.site(layer)
    rows = torch.randperm(len(site.x), generator=torch.Generator().manual_seed(p.seed))[:n_tokens].sort().values
    return rows, Split.random(site.context[rows], p.fit_fraction, p.seed, by="context")


def sample(study: Study, ref: SaeRef, sizes: Sizes) -> Sample:
    """x, Sae(x) and the two parts of the error (Eqs. 14, 15) on the sample; LinearError is the map that the book fits (Eq. 11)."""
    rows, split = drawn(study, ref.layer, sizes.n_tokens)
    x, sae = study.site(ref.layer, ref.component).x[rows], study.load_sae(ref)
    out = reconstruct(sae, x.to(sae.W_dec.device)).float().cpu()
    linear = study.error_map(ref)(x)
    vectors = {"x": x, "sae": out, "linear": linear, "nonlinear": x - out - linear}
    return Sample(rows, split, vectors, sae.W_dec.detach().float().cpu())


def l0s_near(l0: float, atoms: int) -> list[int]:
    """A quarter of an SAE's L0, it, and four times it; at least one latent and at most every atom."""
    return sorted({min(atoms, max(1, round(l0 * times))) for times in (0.25, 1, 4)})


def by_vector(study: Study, ref: SaeRef, l0s: Sequence[int] | None, sizes: Sizes) -> pd.DataFrame:
    """Every test on every vector of `SHOWN` and its twins: the rows of `measures.measured`, with the column `vector`."""
    p, rows = study.profile, []
    loaded: list[Sample] = []
    chosen = l0s_near(ref.l0, sizes.atoms) if l0s is None else sorted(l0s)
    for name in tqdm(SHOWN, desc="vectors", unit="vector", leave=False):

        def compute(name: str = name) -> tuple[Any, None]:
            loaded.extend([] if loaded else [sample(study, ref, sizes)])
            found = loaded[0]
            cloud = Cloud(found.vectors[name], found.split, found.decoder, max(1, round(ref.l0)))
            return plain(measured(cloud, chosen, sizes, p.n_bootstrap, p.seed)), None

        key = study.result_key(ref) | sizes.key() | {"l0s": chosen, "vector": name}
        kept = study.store.kept("structure", key, compute, sources=(__name__,))[0]
        rows += [{"vector": name} | row for row in kept]
    return pd.DataFrame(rows).astype({"l0": float, "value": float, "low": float, "high": float})


def plain(rows: Sequence[Row]) -> list[Row]:
    """Rows as JSON takes them: NaN is None."""
    return [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]


def by_plant(study: Study) -> pd.DataFrame:
    """Every test on every planted cloud and its twins, as `by_vector`, with the column `plant`."""
    p = study.profile
    sizes = Sizes(planted.TOKENS, planted.D, planted.FEATURES, 20)

    def compute() -> tuple[Any, None]:
        found = planted.clouds(p.seed)
        parts = tqdm(found.items(), desc="planted", unit="cloud", leave=False)
        tables = {name: measured(cloud, [planted.ACTIVE], sizes, p.n_bootstrap, p.seed) for name, cloud in parts}
        return [{"plant": name} | row for name, rows in tables.items() for row in plain(rows)], None

    key = {"seed": p.seed, "n_bootstrap": p.n_bootstrap}
    kept = study.store.kept("structure_planted", key, compute, sources=(__name__,))[0]
    return pd.DataFrame(kept).astype({"l0": float, "value": float, "low": float, "high": float})


def spectra(study: Study, ref: SaeRef, sizes: Sizes) -> pd.DataFrame:
    """The share of each vector's variance in its leading directions, and of its twins': `vector, kind, direction, share`."""
    found, rows = sample(study, ref, sizes), []
    for name, v in found.vectors.items():
        for kind, cloud in kinds(v, found.split.fit, study.profile.seed).items():
            if kind != ELLIPTICAL:
                variance = Moments.of(cloud[~found.split.fit]).spread.square()
                share = (variance.cumsum(0) / variance.sum()).tolist()
                rows += [{"vector": name, "kind": kind, "direction": i + 1, "share": s} for i, s in enumerate(share)]
    return pd.DataFrame(rows)


# --- layers ------------------------------------------------------------------------------------------------


def like(study: Study, ref: SaeRef) -> list[SaeRef]:
    """At each layer the SAE of this width and architecture with the nearest L0; layers that have none are left out."""
    there = [r for r in study.saes(layer="all") if (r.d_sae, r.architecture) == (ref.d_sae, ref.architecture)]
    layers = sorted({r.layer for r in there})
    return [min((r for r in there if r.layer == one), key=lambda r: abs(r.l0 - ref.l0)) for one in layers]


def by_layer(study: Study, ref: SaeRef, sizes: Sizes) -> pd.DataFrame:
    """The shape of x at each layer and the FVU of the like SAE there, each with its interval.

    Returns
    -------
    DataFrame
        The rows of `Study.measure`, with the columns of `PREDICTORS` (on the sample's held-out tokens), `_low` and `_high`.
    """
    refs = like(study, ref)
    study.collect((one.layer, one.component) for one in refs)
    table, rows, rank = study.measure(refs), [], max(1, round(ref.l0))
    for one in tqdm(refs, desc="layers", unit="layer", leave=False):

        def compute(one: SaeRef = one) -> tuple[Any, None]:
            return {name: found.plain() for name, found in shape(study, one.layer, rank, sizes).items()}, None

        key = study.result_key(one) | sizes.key() | {"rank": rank}
        kept = study.store.kept("structure_layer", key, compute, sources=(__name__,))[0]
        rows.append({k: v for name, e in kept.items() for k, v in Estimate.from_plain(e).columns(name).items()})
    return pd.concat([table.reset_index(drop=True), pd.DataFrame(rows)], axis=1)


def shape(study: Study, layer: int, rank: int, sizes: Sizes) -> dict[str, Estimate]:
    """Intrinsic dimension, distance from the local plane of `rank` directions, and participation ratio of x at a layer."""
    p, (rows, split) = study.profile, drawn(study, layer, sizes.n_tokens)
    out = study.site(layer).x[rows][~split.fit]
    context, k = split.group[~split.fit], min(sizes.neighbours, len(out) // 2)
    distances, places = geometry.nearest(out, context, max(2, k))
    plane = geometry.off_plane(out, places, context, min(rank, k - 1), p.n_bootstrap, p.seed)
    return {
        DIMENSION: geometry.intrinsic_dimension(distances, context, p.n_bootstrap, p.seed),
        OFF_PLANE: plane,
        PARTICIPATION: geometry.participation_ratio(out, context),
    }


def over_layers(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Spearman's rank correlation of each predictor with each FVU over the layers, and its p-value from shuffled layers.

    Columns `predictor, target, n, rho, p`; both NaN with fewer than four layers, where no order is unlikely.
    """
    rows = []
    for predictor in PREDICTORS:
        for target in TARGETS:
            x, y = table[predictor].to_numpy(), table[target].to_numpy()
            rho, p = (math.nan, math.nan) if len(table) < 4 else _spearman(x, y, seed)
            rows.append({"predictor": predictor, "target": target, "n": len(table), "rho": rho, "p": p})
    return pd.DataFrame(rows)


def _spearman(x: Any, y: Any, seed: int) -> tuple[float, float]:
    x, y = (stats.rankdata(values) - (len(values) + 1) / 2 for values in (x, y))
    size = math.sqrt((x**2).sum() * (y**2).sum())
    found = stats.permutation_test(
        (x,),
        lambda some, axis: (some * y).sum(axis) / size,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=SHUFFLES,
        rng=seed,
    )
    return float(found.statistic), float(found.pvalue)
