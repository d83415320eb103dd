"""What Section 6.2 says of this run: each claim with its verdict, and what was learned, from the tables alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dm_utils.base.names import PART_NAMES
from dm_utils.base.verdicts import above, verdict, within
from dm_utils.base.words import span
from dm_utils.chapters.s06_2_between_saes.experiment import ALONE, KINDS, WITH_X
from dm_utils.maths.resampling import Estimate
from dm_utils.maths.tables import estimates

ROUNDINGS = 64  # rounding units by which two sums of three terms through a norm and a projection may differ
BUILT_IN = 0.95  # a prediction is arithmetic if noise in the nonlinear part's place reaches this share of it
PAPER_RANGES = {"nonlinear": (0.04, 0.14), "error": (0.06, 0.10)}


def identity_holds(identity: pd.DataFrame) -> list[str]:
    """Eq. 16 holds for a set of terms if its sides differ by no more than `ROUNDINGS` rounding units of the model's numbers."""
    off = identity["largest difference / rms"] / identity["rounding_unit"]
    return [verdict([units <= ROUNDINGS]) for units in off]


def identity(table: pd.DataFrame) -> str:
    """What the check of Eq. 16 says of the two readings of "adjacent"; rows as `experiment.residual_identity` gives them."""
    same, before = table["largest difference / rms"]
    units, verdicts = same / table["rounding_unit"].iloc[0], identity_holds(table)
    return (
        f"Eq. 16, for the terms of the *same* layer: **{verdicts[0]}** (to {units:.0f} rounding units of the model's numbers). With "
        f"the MLP and attention of the layer before: **{verdicts[1]}** (off by {before:.1f} times the typical size of the "
        "residual stream)."
    )


def is_arithmetic(built_in: Mapping[str, Any]) -> str:
    """That Sae(x) predicts NonlinearError is arithmetic: the interval of the noise control, over the measured value, lies above
    `BUILT_IN`."""
    measured, control = built_in["measured"][0], built_in["shuffled"][0]
    share = Estimate(*(end / measured.value for end in (control.value, control.low, control.high)))
    return verdict([above(share, BUILT_IN)])


def arithmetic(built_in: Mapping[str, Any]) -> str:
    """The measured R² beside noise and the formula."""
    (measured, weighted), (control, _) = built_in["measured"], built_in["shuffled"]
    formula, turned = built_in["arithmetic"][0], built_in["rotated"][0]
    return (
        f"Measured: $R^2$ = {measured} (variance-weighted {weighted}). With noise instead of the nonlinear part: {control}, "
        f"{100 * control.value / measured.value:.0f} % of it. By the formula: {formula:.3f}. That the number is arithmetic: "
        f"**{is_arithmetic(built_in)}**. It says how large the nonlinear part is relative to $\\text{{Sae}}(\\mathbf{{x}})$ in each "
        f"direction. Turned at random, the nonlinear part lands in other directions and is predicted with {turned}."
    )


def alone_by_reconstruction(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the paper's Fig. 9b: each site's SAE reconstruction, alone."""
    return table[(table["kind"] == KINDS[0]) & (table["given"] == ALONE)]


def in_the_papers_range(table: pd.DataFrame, part: str, reading: str) -> str:
    """Previous components predict the part as well as the paper says: the R² of each site of a reading, whole interval, lies in
    its range."""
    rows = earlier_sites(table, part, reading)
    return verdict(within(r2, *PAPER_RANGES[part]) for r2 in estimates(rows, "r2"))


def earlier_sites(table: pd.DataFrame, part: str, reading: str) -> pd.DataFrame:
    """The rows of one part for the previous residual stream and the sites of a reading of "adjacent"."""
    rows = alone_by_reconstruction(table)
    chosen = (rows["neighbour"] != "same residual") & rows["reading"].isin([reading, "both"]) & (rows["target"] == part)
    return rows[chosen]


def statements(table: pd.DataFrame, built_in: Mapping[str, Any]) -> pd.DataFrame:
    """The claims of Section 6.2, what this run found, and the verdict by the rules above."""
    measured = built_in["measured"][0]
    half = verdict([within(measured, 0.45, 0.55)])
    found = [("Sae(x) predicts half of NonlinearError", f"R² = {measured}; the claim is 0.45 to 0.55", half)]
    share = built_in["shuffled"][0].value / measured.value
    found += [("… which may be misleading", f"noise reaches {100 * share:.0f} % of it", is_arithmetic(built_in))]
    for part, (low, high) in PAPER_RANGES.items():
        for reading in ("the layer before", "the same layer"):
            rows = earlier_sites(table, part, reading)
            if len(rows):
                said = f"Previous components predict {100 * low:.0f} to {100 * high:.0f} % of {PART_NAMES[part]} ({reading})"
                found.append((said, span(rows["r2"], ".1f", " %"), in_the_papers_range(table, part, reading)))
    return pd.DataFrame(found, columns=["The paper, on Gemma 2 9B", "This run", "Verdict"])


def lessons(table: pd.DataFrame, built_in: Mapping[str, Any]) -> list[str]:
    """What was learned, as sentences."""
    rows = alone_by_reconstruction(table)
    rows = rows[rows["neighbour"] != "same residual"]
    top = {part: rows[rows["target"] == part].nlargest(1, "r2").iloc[0] for part in PAPER_RANGES}
    known = table[(table["kind"] == KINDS[0]) & (table["given"] == WITH_X) & (table["target"] == "nonlinear")]
    known = known[known["neighbour"] != "same residual"]
    lines = [
        f"Of all of SaeError, the best neighbour ({top['error']['neighbour']}) predicts {100 * top['error']['r2']:.1f} %; of "
        f"NonlinearError, {top['nonlinear']['neighbour']} predicts {100 * top['nonlinear']['r2']:.1f} %.",
        f"$\\text{{Sae}}(\\mathbf{{x}})$ predicts {100 * built_in['measured'][0].value:.0f} % of NonlinearError, and noise in its "
        f"place {100 * built_in['shuffled'][0].value:.0f} %. That this number is arithmetic: **{is_arithmetic(built_in)}**.",
        f"Given x as well, neighbours' reconstructions predict {span(known['r2'], '.1f', ' %')} of NonlinearError. This is what "
        "they know of it beyond x.",
    ]
    added = rows[rows["reading"] != "both"].groupby(["reading", "target"], as_index=False)["r2"].mean()
    if len(added):
        means = "; ".join(f"{row.reading}, {row.target} {100 * row.r2:.1f} %" for row in added.itertuples())
        lines.append(f"MLP and attention, mean over the two sites: {means}.")
    return lines


def figure_in_numbers(table: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """Fig. 9b as a reader's table: one row per site, a column per kind of regressor and part."""
    view = table[table["given"] == ALONE].copy()
    view["R²"] = [str(r2) for r2 in estimates(view, "r2")]
    view["column"] = view["kind"] + ": " + view["target"].map(PART_NAMES)
    wide = view.pivot(index=["neighbour", "reading"], columns="column", values="R²").reindex(order, level=0)
    return wide.reset_index().rename(columns={"neighbour": "site", "reading": "reading of adjacent"})


def beyond_x(table: pd.DataFrame) -> pd.DataFrame:
    """R² of NonlinearError from each neighbour, alone and together with x."""
    view = table[(table["target"] == "nonlinear") & (table["neighbour"] != "same residual")].copy()
    view["R²"] = [str(r2) for r2 in estimates(view, "r2")]
    view["column"] = view["kind"] + ", " + view["given"]
    columns = [f"{kind}, {given}" for kind in KINDS for given in (ALONE, WITH_X)]
    wide = view.pivot(index=["neighbour", "reading"], columns="column", values="R²")
    wide = wide.reindex(view["neighbour"].unique(), level=0)[columns]
    return wide.reset_index().rename(columns={"neighbour": "site", "reading": "reading of adjacent"})
