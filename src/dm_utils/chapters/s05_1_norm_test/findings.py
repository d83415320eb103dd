"""What Section 5.1's table says: sentences, and a verdict on each of its claims."""

from __future__ import annotations

import math

import pandas as pd

from dm_utils.base.names import VECTOR_NAMES, VECTORS
from dm_utils.base.verdicts import higher, verdict, within
from dm_utils.base.words import escape
from dm_utils.maths.tables import estimates

NOTABLY = 0.1  # by this much an R² is notably lower than another
PERFECT = 0.9  # an R² from here on is almost perfect
CONCENTRATED = 0.25  # of a variance: more than this in one token of a thousand lets few tokens decide
LIFTED = 0.05  # by this much an R² has risen


def parts(table: pd.DataFrame) -> pd.DataFrame:
    """The two parts from x, one row per SAE: `linear`, `nonlinear` (R²) and `lower`: True where the nonlinear part scores lower
    with intervals apart, False where it scores higher with intervals apart, None where they overlap."""
    rows = table[table["regressor"] == "from x"].set_index(["hook_name", "sae_id"]).sort_index()
    linear = rows[rows["vector"] == "linear"]
    nonlinear = rows[rows["vector"] == "nonlinear"].reindex(linear.index)
    cases = [higher(*pair) for pair in zip(estimates(linear), estimates(nonlinear), strict=True)]
    lower = pd.Series(cases, index=linear.index, dtype=object)
    return pd.DataFrame({"linear": linear["value"], "nonlinear": nonlinear["value"], "lower": lower})


def medians(table: pd.DataFrame) -> dict[str, float]:
    """Median R² from x of each vector over SAEs (of x, over sites)."""
    rows = table[table["regressor"] == "from x"]
    return {str(name): float(value) for name, value in rows.groupby("vector")["value"].median().items()}


def figure_6(table: pd.DataFrame) -> str:
    """The medians of Figure 6, and in how many SAEs which part scores lower."""
    middle, each = medians(table), parts(table)
    apart, reversed_ = (each["lower"] == True).sum(), (each["lower"] == False).sum()  # noqa: E712
    named = ", ".join(f"{VECTOR_NAMES[name]} {middle[name]:.2f}" for name in VECTORS[1:])
    x = table[(table["regressor"] == "from x") & (table["vector"] == "x")]["value"]
    return (
        f"Medians over {len(each)} SAEs: {named}. The nonlinear part scores below the linear part in "
        f"**{(each['nonlinear'] < each['linear']).sum()} of {len(each)}** SAEs, with intervals apart in {apart}; the order is reversed, "
        f"with intervals apart, in {reversed_}. $\\|\\mathbf{{x}}\\|^2$ itself is predicted with $R^2$ from {x.min():.2f} to "
        f"{x.max():.2f} over {len(x)} sites."
    )


def claims(table: pd.DataFrame) -> pd.DataFrame:
    """A verdict on each claim of Section 5.1.

    For ‖x‖² a case is a site: its interval lies at or above `PERFECT`, or below it. For the parts a case is an SAE. *Lower*: with
    intervals apart. *Notably lower*: by `NOTABLY` or more, with intervals apart; it fails where the difference is smaller.
    """
    x = table[(table["regressor"] == "from x") & (table["vector"] == "x")]
    each, middle = parts(table), medians(table)
    gap = each["linear"] - each["nonlinear"]
    notably = [
        (True if lower else None) if g >= NOTABLY else False for g, lower in zip(gap, each["lower"], strict=True)
    ]
    perfect = [within(r2, PERFECT, math.inf) for r2 in estimates(x)]
    above, below = (each["lower"] == True).sum(), (each["lower"] == False).sum()  # noqa: E712
    rows = [
        (
            "‖x‖² is almost perfectly predictable",
            f"R² of {PERFECT} or more at {sum(case is True for case in perfect)} of {len(x)} sites; median {middle['x']:.2f}",
            verdict(perfect),
        ),
        (
            "NonlinearError scores lower than LinearError",
            f"in {above} of {len(each)} SAEs; reversed in {below}; intervals overlap in {len(each) - above - below}",
            verdict(each["lower"]),
        ),
        (
            f"notably lower (by {NOTABLY} or more)",
            f"in {notably.count(True)} of {len(each)} SAEs; medians {middle['nonlinear']:.2f} and {middle['linear']:.2f}",
            verdict(notably),
        ),
    ]
    return pd.DataFrame(rows, columns=["The paper", "This run", "Verdict"])


def twins(table: pd.DataFrame) -> pd.DataFrame:
    """Each vector from itself beside its Gaussian twin: medians over SAEs, and how many lie above it with their whole interval."""
    own = table[table["regressor"] == "from itself"]
    own = own.assign(gain=own["value"] - own["gaussian"], beats=own["low"] > own["gaussian"])
    groups = own.groupby("vector", sort=False)
    columns = {
        "SAEs": groups.size(),
        "R², median": groups["value"].median().round(3),
        "Gaussian twin, median": groups["gaussian"].median().round(3),
        "above the twin, median": groups["gain"].median().round(3),
        "SAEs above their twin": groups["beats"].sum(),
    }
    return pd.DataFrame(columns).loc[list(VECTORS)].rename_axis("vector").reset_index()


def itself_instead(table: pd.DataFrame) -> str:
    """How R² changes when a vector is predicted from itself instead of from x."""
    both = table.pivot_table(index=["hook_name", "sae_id", "vector"], columns="regressor", values="value")
    shift = (both["from itself"] - both["from x"]).unstack("vector")
    ends = {name: f"{shift[name].min():+.2f} to {shift[name].max():+.2f}" for name in ("nonlinear", "error")}
    return (
        f"From itself instead of from $\\mathbf{{x}}$, the nonlinear part's $R^2$ changes by {ends['nonlinear']}, that of the whole error "
        f"by {ends['error']}, and that of the linear part by no more than {shift['linear'].abs().max():.1e}."
    )


def planted(truth: pd.DataFrame) -> str:
    """What the test says of an error that is all absent features; columns `Vector, from x, from itself`."""
    rows = truth[truth["Vector"] == VECTOR_NAMES["nonlinear"]]
    x, itself = (f"{rows[name].min():.2f} to {rows[name].max():.2f}" for name in ("from x", "from itself"))
    return (
        f"The nonlinear part of this error scores {x} from $\\mathbf{{x}}$ and {itself} from itself, although all of it is a sparse sum of "
        "features. So a low score does not exclude absent features: where they lie in superposition, cross terms hide them from this test."
    )


def outliers(table: pd.DataFrame, found: pd.DataFrame, explained: pd.DataFrame) -> str:
    """How many points are outliers, whether few tokens or a rank decide them, and where they sit."""
    lowest, from_x = table.sort_values("value").iloc[0], (table["regressor"] == "from x").sum()
    where = f"{lowest['vector']}, {lowest['regressor']}, {escape(lowest['sae_id'])} at {escape(lowest['hook_name'])}"
    said = (
        f"{len(explained)} of {from_x} points of Figure 6 are outliers by this rule, {len(found) - len(explained)} of the second "
        f"figure. Undefined: {table['value'].isna().sum()}. The lowest is {lowest['value']:.2f} ({where}). {deficient(table)} SAEs have "
        "a vector of lower rank than $\\mathbf{x}$: the regressions accumulate in float64 and report their rank, so a low value is a "
        "property of the vectors and not of the solver."
    )
    if not len(explained):
        return said
    few = (explained["share_of_variance"] > CONCENTRATED).sum()
    lifted = (explained["r2_without"] > explained["value"] + LIFTED).sum()
    layers = ", ".join(f"{layer}: {n}" for layer, n in explained["layer"].value_counts().sort_index().items())
    return said + (
        f" In {few} of the {len(explained)} outliers more than a quarter of the variance of the norm sits in one token in a thousand; "
        f"leaving those tokens out raises $R^2$ by more than {LIFTED} in {lifted}. Outliers by layer: {layers}."
    )


def deficient(table: pd.DataFrame) -> int:
    """In how many SAEs some vector has a lower rank than the x of its site."""
    own = table[table["regressor"] == "from itself"]
    full = own[own["vector"] == "x"].set_index("hook_name")["rank"]
    rest = own[own["vector"] != "x"]
    return int(rest[rest["rank"] < rest["hook_name"].map(full)].groupby(["hook_name", "sae_id"]).ngroups)


def learned(table: pd.DataFrame) -> str:
    """The order of the parts with its verdicts, and what each vector gains over its Gaussian twin."""
    middle, said = medians(table), claims(table)["Verdict"]
    gains = twins(table).set_index("vector")["above the twin, median"]
    named = ", ".join(f"{VECTOR_NAMES[str(name)]} {gain:+.2f}" for name, gain in gains.items())
    return (
        f"**In this run** the medians of NonlinearError and LinearError are {middle['nonlinear']:.2f} and {middle['linear']:.2f}. That the "
        f"first scores lower: **{said[1]}**; notably lower: **{said[2]}**. That $\\|\\mathbf{{x}}\\|^2$ is almost perfectly predictable: "
        f"**{said[0]}** (median over sites {middle['x']:.2f}). Above its Gaussian twin, each vector gains in the median: {named}. "
        "That gain, not the height of the violin, is what a mean and a covariance do not explain."
    )
