"""What this chapter's tables say: which parts have structure beyond their twins, and whether curvature predicts FVU."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from dm_utils.base.names import VECTOR_NAMES
from dm_utils.base.verdicts import DIFFERS, HOLDS, PARTLY, UNTESTABLE, above, higher, verdict
from dm_utils.base.words import span
from dm_utils.chapters.structure.coding import LEARNED, OWN
from dm_utils.chapters.structure.components import COMPONENTS, DECODER, RANDOM
from dm_utils.chapters.structure.experiment import OFF_PLANE, SHOWN
from dm_utils.chapters.structure.measures import CODING, DIMENSION, KURTOSIS, PARTICIPATION, SAVED
from dm_utils.chapters.structure.planted import CURVED, LOUD, NOISE, SPARSE
from dm_utils.chapters.structure.twins import ELLIPTICAL, ITSELF, TWINS
from dm_utils.maths.resampling import Estimate
from dm_utils.maths.tables import estimates

Table = Any  # a pd.DataFrame: pandas' stubs know nothing of the columns that rows are read by
UNLIKELY = 0.05  # a rank correlation counts if shuffled layers reach it less often
WORDS = {
    DIMENSION: "intrinsic dimension",
    OFF_PLANE: "distance from the local plane",
    PARTICIPATION: "participation ratio",
}
SAID = {
    HOLDS: "in every test",
    PARTLY: "in most tests",
    DIFFERS: "in few tests or none",
    UNTESTABLE: "in no test that can tell",
}


def one(table: Table, test: str, kind: str = ITSELF, case: str = "") -> Estimate:
    """The estimate of one test (the first L0 of a case), in the rows of one cloud."""
    found = table[(table["test"] == test) & (table["kind"] == kind) & (table["case"] == case)]
    return Estimate.read(found.iloc[0])


def saved(table: Table, case: str = LEARNED) -> list[Estimate]:
    """What sparse codes of a cloud leave less than those of its Gaussian twin, at each L0."""
    return estimates(table[(table["test"] == SAVED) & (table["case"] == case)].sort_values("l0"))


def together(cases: Iterable[bool | None]) -> bool | None:
    """One case of several that must all stand: it fails if one fails, and cannot be told if one cannot."""
    found = list(cases)
    return False if False in found else None if None in found else True


def structure(table: Table) -> list[bool | None]:
    """The three tests on one cloud: its independent components, its sparse codes and its dimension, each beyond its twins.

    Kurtosis along independent components above that of both twins; FVU below the Gaussian twin's at every L0; intrinsic
    dimension below that of both twins.
    """
    peaked, dimension = one(table, KURTOSIS, case=COMPONENTS), one(table, DIMENSION)
    return [
        together(higher(peaked, one(table, KURTOSIS, twin, COMPONENTS)) for twin in TWINS),
        together(above(value, 0) for value in saved(table)),
        together(higher(one(table, DIMENSION, twin), dimension) for twin in TWINS),
    ]


def planted(table: Table) -> list[bool | None]:
    """Whether the tests find what was planted in every cloud, and nothing where there is nothing."""
    found = {name: structure(rows) for name, rows in table.groupby("plant")}
    silent = [case is not True for name in (NOISE, LOUD) for case in found[name]]
    return [*found[SPARSE], *found[CURVED], *silent]


def less(few: Table, much: Table) -> list[bool | None]:
    """The three tests of `structure`, held against those of another cloud: whether the first has less of it."""
    pairs = zip(saved(much), saved(few), strict=True)
    return [
        higher(one(much, KURTOSIS, case=COMPONENTS), one(few, KURTOSIS, case=COMPONENTS)),
        together(higher(more, some) for more, some in pairs),
        higher(one(few, DIMENSION), one(much, DIMENSION)),
    ]


def own(table: Table) -> list[bool | None]:
    """Whether the SAE's decoder finds more in a cloud than in noise: as a dictionary, and as directions against random ones."""
    peaked = one(table, KURTOSIS, case=DECODER)
    rivals = [one(table, KURTOSIS, case=RANDOM), *(one(table, KURTOSIS, twin, DECODER) for twin in TWINS)]
    return [above(saved(table, OWN)[0], 0), together(higher(peaked, rival) for rival in rivals)]


def predicts(correlations: Table, predictor: str) -> list[bool | None]:
    """For each kind of FVU, whether it rises with a predictor over the layers (None: too few layers, or an order too likely)."""
    rows = correlations[correlations["predictor"] == predictor]
    likely = [math.isnan(row.p) or row.p >= UNLIKELY for row in rows.itertuples()]
    return [None if unclear else row.rho > 0 for row, unclear in zip(rows.itertuples(), likely, strict=True)]


def claims(vectors: Table, plants: Table, correlations: Table) -> pd.DataFrame:
    """A verdict on each question of this chapter; the words are those of `base.verdicts`."""
    of = {name: vectors[vectors["vector"] == name] for name in SHOWN}
    control = (
        "The tests find what is planted, and nothing in noise",
        counted(planted(plants)),
        verdict(planted(plants)),
    )
    rows = [control]
    for name in ("sae", "x", "linear", "nonlinear"):
        rows.append(
            (f"{VECTOR_NAMES[name]} has structure beyond its twins", beyond(of[name]), verdict(structure(of[name])))
        )
    rest, x = of["nonlinear"], of["x"]
    rows.append(("NonlinearError has less of it than x", counted(less(rest, x)), verdict(less(rest, x))))
    own_saved = saved(rest, OWN)[0]
    own_words = f"the SAE's decoder saves {own_saved}; kurtosis along it {one(rest, KURTOSIS, case=DECODER)}"
    rows.append(("What is left in NonlinearError lies along the SAE's own latents", own_words, verdict(own(rest))))
    for predictor, words in WORDS.items():
        found = correlations[correlations["predictor"] == predictor]
        said = (
            "fewer than four layers"
            if found["rho"].isna().any()
            else f"rank correlation {span(found['rho'])}, p {span(found['p'], '.3f')}"
        )
        claim = f"The {words} of x predicts FVU over layers"
        rows.append((claim, said, verdict(predicts(correlations, predictor))))
    return pd.DataFrame(rows, columns=["Question", "This run", "Verdict"])


def counted(cases: list[bool | None]) -> str:
    """How many of several cases stand."""
    return f"{cases.count(True)} of {len(cases)} cases"


def beyond(table: Table) -> str:
    """One cloud's three tests in numbers."""
    peaked, dimension = one(table, KURTOSIS, case=COMPONENTS), one(table, DIMENSION)
    twin = max(one(table, KURTOSIS, kind, COMPONENTS).value for kind in TWINS)
    flat = min(one(table, DIMENSION, kind).value for kind in TWINS)
    less_left = span((value.value for value in saved(table)), ".1f", " %")
    return (
        f"kurtosis {peaked.value:.2f} (twins up to {twin:.2f}); FVU lower by {less_left}; "
        f"dimension {dimension.value:.1f} (twins from {flat:.1f})"
    )


def planted_table(table: Table) -> pd.DataFrame:
    """What the tests say of each planted cloud, as a reader sees it."""
    word = {True: "found", False: "not found", None: "unclear"}
    rows = []
    for name, some in table.groupby("plant", sort=False):
        tests = dict(zip(("Components", "Sparse codes", "Dimension"), (word[c] for c in structure(some)), strict=True))
        rows.append({"Planted": name} | tests | {"In numbers": beyond(some)})
    return pd.DataFrame(rows)


def plants(table: Table) -> str:
    """What the planted clouds teach about the tests."""
    right, curved = planted(table), structure(table[table["plant"] == CURVED])
    oracle, learned = (one(table[table["plant"] == SPARSE], CODING, case=case) for case in (OWN, LEARNED))
    warning = (
        "A curved sheet, which has no features, passes all three as well: what they tell apart is structure and noise, not "
        "features and curvature."
        if verdict(curved) == HOLDS
        else "A curved sheet passes only some of them."
    )
    return (
        f"{counted(right).capitalize()} come out as planted. Coded with the dictionary that made it, the sparse cloud keeps an FVU of "
        f"{oracle}; with one that was learned from it, {learned}. {warning}"
    )


def loudness(table: Table) -> str:
    """How much of the kurtosis of NonlinearError is that some tokens are loud, by its rows."""
    peaked, any_way = one(table, KURTOSIS, case=COMPONENTS), one(table, KURTOSIS, case=RANDOM)
    twin = one(table, KURTOSIS, ELLIPTICAL, RANDOM)
    alike = higher(any_way, twin) is None
    same = "as much as" if alike else "not the same as"
    return (
        f"NonlinearError has an excess kurtosis of {any_way} even in random directions, {same} its elliptical twin there ({twin}): that "
        f"much is {'only' if alike else 'partly'} loud and quiet tokens. Along its independent components it has {peaked}."
    )


def codes(vectors: Table) -> str:
    """How much better than noise each vector is coded, by a learned dictionary and by the SAE's own."""
    parts = []
    for name in SHOWN:
        some = vectors[vectors["vector"] == name]
        learned = span((value.value for value in saved(some)), ".1f", " %")
        parts.append(f"{VECTOR_NAMES[name]} {learned} (the SAE's decoder: {100 * saved(some, OWN)[0].value:.1f} %)")
    return f"Below the FVU of its Gaussian twin at equal L0, with a learned dictionary: {'; '.join(parts)}."


def layers(table: Table, correlations: Table) -> str:
    """What orders the layers as their FVU does."""
    if len(table) < 4:
        return f"There are like SAEs at {len(table)} layer(s) here; a rank correlation needs four."
    found = correlations[correlations["target"] == "fvu"]
    parts = [f"{WORDS[row.predictor]} {row.rho:+.2f} (p = {row.p:.3f})" for row in found.itertuples()]
    depth = table["layer"].rank().corr(table["fvu"].rank())
    return (
        f"Rank correlation with FVU over {len(table)} layers: {', '.join(parts)}. Depth alone has {depth:+.2f}: what grows with depth "
        "predicts as well, and so few layers cannot tell which of them is the cause."
    )


def learned(vectors: Table, correlations: Table) -> str:
    """What this chapter adds, by the verdicts."""
    rest, x = (vectors[vectors["vector"] == name] for name in ("nonlinear", "x"))
    gains = [span((value.value for value in saved(some)), ".0f", " %") for some in (rest, x)]
    own_word = {HOLDS: "also", PARTLY: "in part"}.get(verdict(own(rest)), "not clearly")
    dimension = verdict(predicts(correlations, DIMENSION))
    order = {HOLDS: "orders the layers as their FVU does", PARTLY: "orders them as one of the two FVUs"}
    return (
        f"NonlinearError differs from noise of its covariance {SAID[verdict(structure(rest))]}: a sparse code of it saves "
        f"{gains[0]} of what its Gaussian twin leaves, where x saves {gains[1]}. What is left lies {own_word} along the SAE's own latents. "
        f"The intrinsic dimension of x {order.get(dimension, 'does not clearly order the layers as their FVU does')}."
    )
