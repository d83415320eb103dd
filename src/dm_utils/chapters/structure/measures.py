"""Every test of this chapter on one cloud of vectors and on its twins, as rows of a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.base.errors import ParameterError, check_range, shown
from dm_utils.chapters.structure import geometry
from dm_utils.chapters.structure.coding import LEARNED, OWN, learned_dictionary, left_over
from dm_utils.chapters.structure.components import (
    COMPONENTS,
    DECODER,
    RANDOM,
    excess_kurtosis,
    independent_components,
    random_directions,
)
from dm_utils.chapters.structure.twins import GAUSSIAN, ITSELF, Moments, kinds
from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums, Split, Sums

Row = dict[str, Any]
PARTICIPATION, KURTOSIS, CODING, SAVED, DIMENSION = "participation", "kurtosis", "coding", "saved", "dimension"
MOST = 65_536


@dataclass(frozen=True)
class Sizes:
    """How much is looked at: tokens drawn, directions per kind, atoms of a learned dictionary, neighbours of a plane."""

    n_tokens: int
    directions: int
    atoms: int
    neighbours: int

    def __post_init__(self) -> None:
        check_range("n_tokens", self.n_tokens, 1000, whole=True)
        check_range("directions", self.directions, 2, MOST, whole=True)
        check_range("atoms", self.atoms, 2, MOST, whole=True)
        check_range("neighbours", self.neighbours, 3, 1000, whole=True)

    def key(self) -> dict[str, int]:
        """What the sizes add to a result's key."""
        return asdict(self)


def check_l0s(l0s: Any, atoms: int) -> None:
    """Refuse numbers of latents per token that no code can have. Raises ParameterError."""
    if l0s is None:
        return
    if not isinstance(l0s, list) or not l0s or len(set(map(str, l0s))) < len(l0s):
        raise ParameterError(
            f"l0s = {shown(l0s)}: it must be None or a list of different whole numbers, such as [1, 4]"
        )
    for l0 in l0s:
        check_range("l0s", l0, 1, atoms, whole=True)


@dataclass(frozen=True)
class Cloud:
    """Some vectors [token, d], their split by context, and the dictionary [atom, d] that is said to compose them, if any."""

    v: Float[Tensor, "token d"]
    split: Split
    dictionary: Float[Tensor, "atom d"] | None = None
    own_l0: int = 1


def measured(cloud: Cloud, l0s: Sequence[int], sizes: Sizes, n_bootstrap: int = 1000, seed: int = 0) -> list[Row]:
    """Every test on a cloud and its twins: rows of `kind`, `test`, `case`, `l0`, `value`, `low`, `high`.

    Directions, dictionaries and twins come from the fitting contexts, every value from the held-out ones. The elliptical
    twin is not coded: a code of so many latents is as good for a vector as for twice the vector.
    """
    rows = []
    for kind, v in kinds(cloud.v, cloud.split.fit, seed).items():
        rows += [{"kind": kind} | row for row in _geometry(v, cloud.split, n_bootstrap, seed)]
        rows += [{"kind": kind} | row for row in _kurtosis(v, cloud, sizes, seed)]
    return rows + list(_coding(cloud, l0s, sizes, n_bootstrap, seed))


def _row(test: str, value: Estimate, case: str = "", l0: float = math.nan) -> Row:
    return {"test": test, "case": case, "l0": l0} | value.columns()


def _geometry(v: Tensor, split: Split, n_bootstrap: int, seed: int) -> Iterator[Row]:
    out, context = v[~split.fit], split.group[~split.fit]
    yield _row(PARTICIPATION, geometry.participation_ratio(out, context))
    distances, _ = geometry.nearest(out, context, 2)
    yield _row(DIMENSION, geometry.intrinsic_dimension(distances, context, n_bootstrap, seed))


def _kurtosis(v: Tensor, cloud: Cloud, sizes: Sizes, seed: int) -> Iterator[Row]:
    """Along independent components, random directions and atoms of the dictionary, all in the leading whitened coordinates."""
    fit, context, moments = cloud.split.fit, cloud.split.group[~cloud.split.fit], Moments.of(v[cloud.split.fit])
    z = moments.whiten(v)[:, : sizes.directions]
    directions = {
        COMPONENTS: independent_components(z[fit], seed),
        RANDOM: random_directions(z.shape[1], z.shape[1], seed + 1),
    }
    for case, found in directions.items():
        yield _row(KURTOSIS, excess_kurtosis(z[~fit] @ found.T, context), case)
    if cloud.dictionary is not None:
        generator = torch.Generator().manual_seed(seed)
        some = torch.randperm(len(cloud.dictionary), generator=generator)[: sizes.directions]
        atoms = cloud.dictionary[some].double() @ (moments.axes / moments.spread)[:, : z.shape[1]]
        yield _row(KURTOSIS, excess_kurtosis(z[~fit] @ atoms.T, context), DECODER)


def _coding(cloud: Cloud, l0s: Sequence[int], sizes: Sizes, n_bootstrap: int, seed: int) -> Iterator[Row]:
    """FVU at each L0 of the cloud and of its Gaussian twin, each with a dictionary of its own, and what the cloud saves."""
    split, found = cloud.split, kinds(cloud.v, cloud.split.fit, seed)
    columns: dict[str, Tensor] = {}
    own = {} if cloud.dictionary is None else {OWN: cloud.dictionary}
    cases = [(LEARNED, l0) for l0 in l0s] + [(case, cloud.own_l0) for case in own]
    for kind in (ITSELF, GAUSSIAN):
        mean = found[kind][split.fit].mean(0)
        fit, out = found[kind][split.fit] - mean, found[kind][~split.fit] - mean
        dictionaries = own | {LEARNED: learned_dictionary(fit, sizes.atoms, seed)}
        columns |= {f"{kind} x": out, f"{kind} x2": out.double().square().sum(1)}
        columns |= {f"{kind} {case} {l0}": left_over(out, dictionaries[case], l0) for case, l0 in cases}
    sums = HeldOutSums(geometry.everything(split.group[~split.fit]))
    sums.add(slice(0, len(out)), **columns)
    resampled = Bootstrap(sums.totals, n_bootstrap, seed)
    for case, l0 in cases:
        for kind in (ITSELF, GAUSSIAN):
            fvu = resampled.estimate(partial(_fvu, code=f"{kind} {case} {l0}", kind=kind))
            yield {"kind": kind} | _row(CODING, fvu, case, l0)
        yield {"kind": ITSELF} | _row(SAVED, resampled.estimate(partial(_saved, code=f"{case} {l0}")), case, l0)


def _fvu(sums: Sums, code: str, kind: str) -> Float[Tensor, " draw"]:
    whole = sums[f"{kind} x2"][:, 0] - (sums[f"{kind} x"] ** 2 / sums["n"]).sum(1)
    return sums[code][:, 0] / whole


def _saved(sums: Sums, code: str) -> Float[Tensor, " draw"]:
    return 1 - _fvu(sums, f"{ITSELF} {code}", ITSELF) / _fvu(sums, f"{GAUSSIAN} {code}", GAUSSIAN)
