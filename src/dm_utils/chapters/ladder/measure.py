"""Measure a rung of the ladder with the book's own engine, and put its rows into the table that ships.

make lab SIZE=64                                              # trains the rung into _build/lab_64
python -m dm_utils.chapters.ladder.measure _build/lab_64      # measures it
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor

from dm_utils.base.errors import ParameterError
from dm_utils.engine import ladder
from dm_utils.engine.breakdown import fvu_draws
from dm_utils.engine.recovery import context_sums, excess, recovered, share_of_variance
from dm_utils.engine.splice import splice
from dm_utils.lab.ladder import L0_SHARES, WIDTHS
from dm_utils.lab.suite import SaeSpec
from dm_utils.maths.context_products import ContextProducts
from dm_utils.maths.encoding import encode, reconstruct
from dm_utils.maths.pursuit import SparseCodes, pursuit_codes
from dm_utils.maths.reduced_rank import MISSED, ByRank, ranked_map
from dm_utils.maths.resampling import Bootstrap, Estimate
from dm_utils.maths.scaling import percentiles
from dm_utils.maths.vector_r2 import vector_r2

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef

PARTS = ("linear", "nonlinear")
METRICS = (
    *("fvu", "fvu_nonlinear", "r2_error_norm", "r2_linear_norm", "r2_nonlinear_norm", "r2_error_vector", "r2_x_norm"),
    *("norm_ratio", "cos_linear_x"),
)
SPLICED_CONTEXTS = 64


def study_of(work: Path) -> Study:
    """The study of a rung: the lab's protocol and text, with the model and the SAEs of a work folder."""
    import dm_utils.dictionaries  # noqa: F401 so that SAELens can load what only this package knows
    from dm_utils.engine.study import Study
    from dm_utils.world.profiles import load_profile

    if not (work / "model" / "config.json").is_file():
        raise ParameterError(f"{work} holds no trained model: `make lab SIZE=64` trains a rung into _build/lab_64")
    return Study(load_profile("lab", model=str(work / "model"), releases=str(work / "saes")))


# --- one SAE -----------------------------------------------------------------------------------------------


def pursued(study: Study, ref: SaeRef) -> dict[str, Estimate]:
    """Encoder error (Section 6.1): what gradient pursuit with the encoder's own L0 takes off FVU and FVU_nonlinear, paired."""
    sae, site, p = study.load_sae(ref), study.site(ref.layer, ref.component), study.profile
    codes: dict[int, SparseCodes] = {}

    def sae_out(rows: slice, x: Tensor) -> Tensor:
        if rows.start not in codes:
            codes[rows.start] = pursuit_codes(x, sae, encode(sae, x).l0)
        return codes[rows.start].decode(sae.W_dec, sae.b_dec)

    with torch.inference_mode():
        other = site.decomposer.run(sae_out, name=f"pursuit on {ref.id}").scalars
    own = study.token_scalars(ref)
    found: dict[str, Estimate] = {}
    for name, scalar in (("fvu", "error_norm2"), ("fvu_nonlinear", "nonlinear_norm2")):
        both = torch.stack([torch.from_numpy(own[scalar]), other[scalar]])
        value, draws = fvu_draws(site.design, both, p.n_bootstrap, p.seed)
        found[f"{name}_drop"] = percentiles(value[0] - value[1], draws[:, 0] - draws[:, 1])
        found[f"{name}_drop_relative"] = percentiles(1 - value[1] / value[0], 1 - draws[:, 1] / draws[:, 0])
    return found


def downstream(study: Study, ref: SaeRef) -> dict[str, Estimate]:
    """Loss recovered by each part of the error (Section 5.3), its share of the variance, and the difference."""
    p, site = study.profile, study.site(ref.layer, ref.component)
    sae, error_map = study.load_sae(ref), study.error_map(ref)

    def variants(x: Tensor, _: int) -> dict[str, Tensor]:
        out, linear = reconstruct(sae, x.to(sae.W_dec.device)).to(x), error_map(x)
        return {"sae": out, "sae_linear": out + linear, "sae_nonlinear": x - linear}

    n = min(SPLICED_CONTEXTS, p.n_contexts)
    scored, positions = ~site.split.fit.view(p.n_contexts, -1)[:n], slice(p.skip, p.ctx_len - 1)
    result = splice(study.model, study.contexts[:n], site.hook_name, variants, kept=positions, scored=scored)
    row = result.context * p.kept_per_context + result.position - p.skip
    scalars = study.token_scalars(ref)
    columns = {f"ce_{name}": losses for name, losses in zip(result.names, result.cross_entropy, strict=True)}
    columns |= {f"{part}_norm2": torch.from_numpy(scalars[f"{part}_norm2"])[row] for part in ("error", *PARTS)}
    resampled = Bootstrap(context_sums(result.context, columns), p.n_bootstrap, p.seed)
    statistics = {f"ce_recovered_{part}": partial(recovered, variant=f"sae_{part}") for part in PARTS}
    statistics |= {f"share_variance_{part}": partial(share_of_variance, part=part) for part in PARTS}
    statistics |= {f"ce_excess_{part}": partial(excess, part=part) for part in PARTS}
    return {name: resampled.estimate(statistic) for name, statistic in statistics.items()}


def subspaces(study: Study, ref: SaeRef) -> dict[str, Estimate]:
    """The rank of the linear error and the directions that the SAE mostly misses, over d; and what Sae(x) says of the rest.

    `rank_90_share`: the least rank that holds nine tenths of the linear error (Eq. 11 by rank). `missed_share`: the directions of b*
    along which the error keeps over half of the variance of x. `own_output`: R² of NonlinearError from Sae(x), mean over dimensions.
    """
    p, site, parts = study.profile, study.site(ref.layer, ref.component), study.parts(ref)

    def error(rows: slice, x: Tensor) -> Tensor:
        return parts.sae_error[rows].to(x.device)

    judge = ByRank(site.design, error, ranked_map(site.design, error), p.n_bootstrap, p.seed)
    own = vector_r2(
        parts.sae_out,
        lambda rows: parts.nonlinear_error[None, rows],
        site.split,
        n_bootstrap=p.n_bootstrap,
        seed=p.seed,
    )
    shares = {"rank_90_share": judge.rank_for(0.9), "missed_share": judge.missed_directions(MISSED)}
    d = judge.n_directions
    return {name: Estimate(n.value / d, n.low / d, n.high / d) for name, n in shares.items()} | {
        "own_output": own[0][0]
    }


def kept(study: Study, ref: SaeRef, measure: Callable[[Study, SaeRef], dict[str, Estimate]]) -> dict[str, Estimate]:
    """What a costly measurement of this module gives for an SAE, from the store where it has been made."""
    key = {"of": study.result_key(ref), "measure": measure.__name__}

    def compute() -> tuple[Any, None]:
        return {name: found.plain() for name, found in measure(study, ref).items()}, None

    plain = study.store.kept("ladder", key, compute, sources=(__name__,))[0]
    return {name: Estimate.from_plain(one) for name, one in plain.items()}


def per_doubling(study: Study, refs: Sequence[SaeRef]) -> Estimate:
    """The relative change of FVU_nonlinear per doubling of the width, over SAEs of one L0 and one seed: the slope of its logarithm.

    The interval is over text alone; trainings of other seeds say how far the slope scatters beyond it.
    """
    p, design = study.profile, study.site(refs[0].layer, refs[0].component).design
    norms = torch.from_numpy(np.stack([study.token_scalars(ref)["nonlinear_norm2"] for ref in refs]))
    value, draws = fvu_draws(design, norms, p.n_bootstrap, p.seed)
    octaves = np.log2([ref.d_sae for ref in refs])
    weights = (octaves - octaves.mean()) / ((octaves - octaves.mean()) ** 2).sum()
    return percentiles(float(np.expm1(np.log(value) @ weights)), np.expm1(np.log(draws) @ weights))


def across_widths(study: Study, refs: Sequence[SaeRef]) -> dict[str, Estimate]:
    """What a smaller SAE's squared norms say of the squared error norms of a larger one, over every pair of widths.

    `forecast`: R² of Eq. 13 with one scalar, of the worst pair. `second_regressor`: the share of FVU that the nonlinear error's norm
    takes off beside it (Eq. 23), of the best pair.
    """
    p, split = study.profile, study.site(refs[0].layer, refs[0].component).split
    columns = {
        f"{part} {ref.id}": torch.from_numpy(study.token_scalars(ref)[f"{part}_norm2"])
        for ref in refs
        for part in ("error", "nonlinear")
    }
    products = ContextProducts(columns, split, p.n_bootstrap, p.seed)
    lost, saved = [], []
    for small, large in combinations(sorted(refs, key=lambda ref: ref.d_sae), 2):
        target, one, other = f"error {large.id}", f"error {small.id}", f"nonlinear {small.id}"
        lost.append(products.fvu(target, [one], intercept=False))
        saved.append(products.percent_decrease(target, [one], [other]))
    worst, best = max(lost, key=lambda one: one.value), max(saved, key=lambda one: one.value)
    return {
        "forecast": Estimate(1 - worst.value, 1 - worst.high, 1 - worst.low),
        "second_regressor": Estimate(best.value / 100, best.low / 100, best.high / 100),
    }


# --- a rung ------------------------------------------------------------------------------------------------


def measured(study: Study) -> pd.DataFrame:
    """Every quantity of every SAE of a rung: the columns of `ladder.COLUMNS`.

    Losses are measured at the first of the ladder's W/d, what is about several widths at its first L0/d, and what costs most at both.
    """
    d, refs = study.profile.d_model, study.saes()
    specs = {ref.id: SaeSpec.from_id(ref.id) for ref in refs}
    rows = [_row(d, specs[ref.id], name, one) for ref, found in _of_each(study, refs) for name, one in found.items()]
    for seed in sorted({spec.seed for spec in specs.values()}):
        series = [ref for ref in refs if specs[ref.id].seed == seed and _is_first_l0(study, ref)]
        if len(series) > 1:
            found = {"per_doubling": per_doubling(study, series)} | across_widths(study, series)
            about = specs[series[0].id]
            rows += [_row(d, about, name, one) | {"width_ratio": float("nan")} for name, one in found.items()]
    return pd.DataFrame(rows)[list(ladder.COLUMNS)]


def _of_each(study: Study, refs: Sequence[SaeRef]) -> Iterator[tuple[SaeRef, dict[str, Estimate]]]:
    table = study.measure(refs)
    for ref, (_, row) in zip(refs, table.iterrows(), strict=True):
        exact = {name: Estimate(row[name], row[name], row[name]) for name in ("l0", "dead_fraction")}
        yield ref, exact | {name: Estimate.read(row, name) for name in METRICS}
    costly = [ref for ref in refs if ref.d_sae == WIDTHS[0] * study.profile.d_model]
    for ref in costly:
        yield ref, kept(study, ref, downstream)
        if _is_first_l0(study, ref):
            yield ref, kept(study, ref, pursued)
            yield ref, kept(study, ref, subspaces)


def _is_first_l0(study: Study, ref: SaeRef) -> bool:
    return SaeSpec.from_id(ref.id).l0 == round(L0_SHARES[0] * study.profile.d_model)


def _row(d: int, spec: SaeSpec, quantity: str, found: Estimate) -> dict[str, Any]:
    about = {"d": d, "width_ratio": spec.d_sae / d, "l0_ratio": spec.l0 / d, "seed": spec.seed}
    return about | {"quantity": quantity} | found.columns()


def how_made(work: Path) -> dict[str, Any]:
    """How a rung was trained, as its work folder records it: command, tokens and seconds of the model and of its SAEs.

    An SAE counts with the time of its fastest seed, which other work on the machine delayed least.
    """
    config = json.loads((work / "model" / "config.json").read_text())
    model = json.loads((work / "model.json").read_text())
    reports = [json.loads(path.read_text()) for path in sorted((work / "reports").glob("*.json"))]
    used = [(SaeSpec.from_id(one["id"]), one["seconds"]) for one in reports if (work / "saes" / one["id"]).is_dir()]
    fastest: dict[SaeSpec, float] = {}
    for spec, seconds in used:
        kind = replace(spec, seed=0)
        fastest[kind] = min(seconds, fastest.get(kind, seconds))
    return {
        "command": f"make lab SIZE={config['hidden_size']}",
        "model_tokens": model["training"]["tokens"],
        "model_seconds": round(model["training"]["seconds"]),
        "model_nats": round(model["evaluation"]["model_nats"], 4),
        "trigram_nats": round(model["evaluation"]["trigram_nats"], 4),
        "saes": len(used),
        "sae_seconds": round(sum(fastest[replace(spec, seed=0)] for spec, _ in used)),
    }


def main(
    work: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The work folder of `make lab SIZE=…`.")],
    table: Annotated[Path, typer.Option(help="The table whose rows of this rung are replaced.")] = ladder.SHIPPED,
) -> None:
    """Measure a rung of the ladder, and replace its rows in the table."""
    study = study_of(work)
    d, rows = study.profile.d_model, measured(study)
    others, about = ladder.read(table) if table.exists() else (rows[:0], {})
    if len(others):
        rows = pd.concat([others[others["d"] != d], rows], ignore_index=True)
    rows = rows.sort_values(["d", "l0_ratio", "width_ratio", "seed"], kind="stable")
    ladder.write(table, rows, about | {d: how_made(work)})
    typer.echo(f"d {d}: {rows['d'].eq(d).sum()} measurements: {table}")


if __name__ == "__main__":
    typer.run(main)
