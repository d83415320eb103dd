"""Repairs of SAEs side by side: which SAEs, and one row per SAE and repair."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from dm_utils.base.errors import ParameterError, check_range, shown
from dm_utils.chapters.repairs.measuring import PARTS, downstream, parts
from dm_utils.chapters.repairs.patient import UNREPAIRED, Patient
from dm_utils.chapters.repairs.prices import Price
from dm_utils.maths.resampling import Estimate

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef

N_WIDTHS = 3


def check_sizes(widths: Any, rank: Any, search_contexts: Any, spliced_contexts: Any) -> None:
    """Refuse sizes that cannot be used, before anything is loaded. Raises ParameterError, naming the parameter."""
    if widths is not None and (not isinstance(widths, list) or not widths or len(set(map(str, widths))) < len(widths)):
        raise ParameterError(f"widths = {shown(widths)}: it must be a list of different whole numbers, as [512, 1024]")
    for width in widths or ():
        check_range("widths", width, 1, whole=True)
    check_range("rank", rank, 1, whole=True)
    check_range("search_contexts", search_contexts, 4, whole=True)
    check_range("spliced_contexts", spliced_contexts, 2, whole=True)


def chosen(study: Study, widths: Sequence[int] | None, near_l0: float | None, architecture: str | None) -> list[SaeRef]:
    """The SAEs to repair: of the given widths, else of up to three, the profile's own and the next narrower ones, at the L0 nearest."""
    first = study.sae(near_l0=near_l0, architecture=architecture)
    there = study.saes(near_l0=near_l0 or study.profile.near_l0, architecture=first.architecture)
    by_width = {ref.d_sae: ref for ref in there}
    if widths is None:
        return [by_width[width] for width in sorted(by_width) if width <= first.d_sae][-N_WIDTHS:]
    for width in widths:
        if width not in by_width:
            raise ParameterError(
                f"widths = {shown(widths)}: the SAEs here have {', '.join(map(str, sorted(by_width)))}"
            )
    return [by_width[width] for width in widths]


def rows_of(patient: Patient) -> Iterator[dict[str, Any]]:
    """One row per repair: `parts` and `downstream` with intervals, the parts before (`before_fvu` …), and the price."""
    left, searched, ce = patient.left(), patient.searched(), patient.losses()
    p, ref = patient.study.profile, patient.ref
    own = {name: (left["x"], left[UNREPAIRED], sums) for name, sums in left.items() if name != "x"}
    own |= {name: (left["x"], left[UNREPAIRED], sums) for name, sums in patient.spend_more().items()}
    own |= {
        name: (searched["x"], searched[UNREPAIRED], sums)
        for name, sums in searched.items()
        if name not in ("x", UNREPAIRED)
    }
    price = Price(p.d_model, ref.d_sae, ref.l0, patient.rank)
    for name, (x, before, after) in own.items():
        found = parts(x, before, after, p.n_bootstrap, p.seed)
        found |= downstream(ce, UNREPAIRED, name, p.n_bootstrap, p.seed)
        row = {"sae_id": ref.id, "hook_name": ref.hook_name, "d_sae": ref.d_sae, "l0": ref.l0}
        row |= {"repair": name, "trained": False} | price.of(name)
        first = parts(x, before, before, 2, 0)
        row |= {f"before_{part}": first[part].value for part in PARTS}
        yield row | {column: value for key, e in found.items() for column, value in e.columns(key).items()}


def table(patients: Sequence[Patient]) -> pd.DataFrame:
    """One row per SAE and repair."""
    return pd.DataFrame([row for patient in tqdm(patients, desc="SAEs", leave=False) for row in rows_of(patient)])


def curves(patients: Sequence[Patient]) -> pd.DataFrame:
    """The curve over ranks of every SAE."""
    return pd.concat([patient.curve() for patient in patients], ignore_index=True)


def estimate(rows: pd.DataFrame, repair: str, name: str) -> Estimate:
    """One repair's estimate among the rows of one SAE; undefined where it did not run."""
    found = rows[rows["repair"] == repair]
    return Estimate(math.nan, math.nan, math.nan, "not run") if found.empty else Estimate.read(found.iloc[0], name)
