"""What Section 4.3's fits say: their tables, and a verdict on each of its claims over every L0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from dm_utils.base.verdicts import DIFFERS, HOLDS, PARTLY, UNTESTABLE, above, verdict, within
from dm_utils.base.words import code
from dm_utils.engine.breakdown import WidthFits
from dm_utils.engine.suite import steps
from dm_utils.engine.token_identity import BEYOND, TOKEN, TOKENS, X
from dm_utils.maths.resampling import Estimate

Fits = Mapping[float, WidthFits]  # by L0
SPOKEN = {
    HOLDS: "As on Gemma 2, at every $L_0$",
    PARTLY: "As on Gemma 2 in some cases only",
    DIFFERS: "Unlike Gemma 2",
    UNTESTABLE: "Not to be told here",
}
STAYS, OTHER_DEAD = (
    0.1,
    2,
)  # a change of c, as a share of it, up to which c stays; the factor by which dead shares are different
ROUGHLY = 0.02  # a relative change per doubling of the width up to which a quantity is called roughly constant


def roughly_constant(fit: WidthFits) -> bool | None:
    """Whether FVU_nonlinear changes by less than 2 % per doubling of the width, its interval included."""
    return within(fit.fvu_nonlinear_level.per_doubling, -ROUGHLY, ROUGHLY)


def trends(fits: Fits) -> pd.DataFrame:
    """How FVU and its nonlinear part change with width, one row per L0."""
    rows = []
    for near, fit in fits.items():
        row = {"L0 near": f"{near:g}", "FVU nonlinear, mean over widths": str(fit.fvu_nonlinear_level.level)}
        row |= {"its change per doubling": percent(fit.fvu_nonlinear_level.per_doubling)}
        row |= {"FVU's change per doubling": percent(fit.fvu_trend.per_doubling)}
        constant = {True: "roughly constant", False: "not constant", None: "cannot be told"}[roughly_constant(fit)]
        rows.append(row | {"FVU nonlinear is": constant})
    return pd.DataFrame(rows)


def percent(change: Estimate) -> str:
    """A relative change with its interval, in percent."""
    return f"{100 * change.value:+.1f} % [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"


def constants(fits: Fits) -> pd.DataFrame:
    """What each L0's fit says about very wide SAEs, and how sure that is."""
    rows = []
    for near, fit in fits.items():
        without = fit.fvu.leave_one_out
        row = {"L0 near": f"{near:g}", "constant c": str(fit.fvu.constant), "exponent m": str(fit.fvu.exponent)}
        unknown = np.isnan(without).any()
        row |= {"c without one SAE": "too few SAEs" if unknown else f"{without.min():.3f} to {without.max():.3f}"}
        row |= {"nonlinear level h": str(fit.fvu_nonlinear_level.level)}
        row |= {"linear error that stays, c − h": str(fit.gap())}
        row |= {"the same, if the nonlinear part falls": str(fit.gap(falling=True))}
        rows.append(row | {"The constant": "not identified" if fit.fvu.note else "identified"})
    return pd.DataFrame(rows)


def claims(fits: Fits, main: pd.DataFrame) -> pd.DataFrame:
    """A verdict on each claim of Section 4.3. A case is one L0, or for the second claim one step between neighbours.

    FVU_nonlinear is roughly constant by `roughly_constant`; the power law ends above the line if c − h lies above zero with
    its interval; width reduces the linear part most if that part loses more of FVU than the nonlinear one from the narrowest
    SAE to the widest, the interval over text included.
    """
    denser = steps(main, "fvu_nonlinear", along="near_l0", fixed="d_sae")
    gaps, leads = [fit.gap() for fit in fits.values()], [fit.linear_lead for fit in fits.values()]
    rows = [
        (
            "FVU nonlinear is roughly constant in width, at the middle layer",
            "per doubling: " + at_each(fits, lambda fit: percent(fit.fvu_nonlinear_level.per_doubling)),
            verdict(map(roughly_constant, fits.values())),
        ),
        ("FVU nonlinear decreases with L0", str(denser), denser.falling),
        (
            "The power law ends above the horizontal line",
            "c − h: " + at_each(fits, lambda fit: str(fit.gap())),
            verdict(above(gap, 0) for gap in gaps),
        ),
        (
            "Width reduces the linear part most",
            "linear loss minus nonlinear loss: " + at_each(fits, lambda fit: signed(fit.linear_lead)),
            verdict(above(lead, 0) for lead in leads),
        ),
    ]
    return pd.DataFrame(rows, columns=["The paper, on Gemma 2", "This run, by L0", "Verdict"])


def headlines(tables: Mapping[float, pd.DataFrame]) -> dict[float, str]:
    """What the widest SAE near each L0 leaves, and how much of that is nonlinear: the title of Figure 1 there."""
    said = {}
    for near, table in tables.items():
        widest = table.iloc[table["d_sae"].argmax()]
        left, part = 100 * widest["fvu"], 100 * widest["fvu_nonlinear"] / widest["fvu"]
        said[near] = (
            f"L0 near {near:g}, {int(widest['d_sae']):,} latents: {left:.1f} % unexplained, {part:.0f} % of that nonlinear"
        )
    return said


def beyond_tokens(table: pd.DataFrame) -> str:
    """How much of NonlinearError means by token take off, for one SAE; rows of `engine.token_identity.token_table`."""
    row = {name: some.iloc[0] for name, some in table.groupby("predictor")}
    fvu = {name: Estimate.read(row[name], "fvu") for name in (X, *BEYOND.values())}
    taken = {name: Estimate.read(row[BEYOND[name]], "of_nonlinear") for name in BEYOND}
    most = above(taken[TOKENS], 0.5)
    share = "About half" if most is None else "Most" if most else "Less than half"
    return (
        f"With the mean of the token as a predictor beside $\\mathbf{{x}}$, FVU nonlinear of {code(row[X]['sae_id'])} goes from "
        f"{fvu[X]} to {fvu[BEYOND[TOKEN]]}: the token takes {taken[TOKEN]} of NonlinearError. With means over the token and the "
        f"two before it, it goes to {fvu[BEYOND[TOKENS]]}, and they take {taken[TOKENS]}. {share} of NonlinearError is which "
        "three tokens these are."
    )


def by_length(saes: pd.DataFrame, constants: pd.DataFrame) -> pd.DataFrame:
    """The rows of `constants` (tables of `lengths.shipped`) beside what is dead of the widest SAE: `d_sae, dead_fraction, tokens`."""
    widest = saes.loc[saes.groupby("steps")["d_sae"].idxmax(), ["steps", "tokens", "d_sae", "dead_fraction"]]
    return constants.merge(widest, on="steps").sort_values("steps", ignore_index=True)


def lengths_table(rows: pd.DataFrame) -> pd.DataFrame:
    """How `by_length` is shown."""
    shown = pd.DataFrame({"Training steps": [f"{steps:,}" for steps in rows["steps"]]})
    shown["tokens per latent of the widest SAE"] = (rows["tokens"] / rows["d_sae"]).map("{:,.0f}".format)
    shown["dead latents of the widest SAE"] = (100 * rows["dead_fraction"]).map("{:.1f} %".format)
    estimates = rows.to_dict("records")
    shown["constant c"] = [str(Estimate.read(row, "constant")) for row in estimates]
    shown["c minus that of the recipe"] = [
        "–" if np.isnan(row["change"]) else signed(Estimate.read(row, "change")) for row in estimates
    ]
    return shown.assign(**{"nonlinear level h": [str(Estimate.read(row, "level")) for row in estimates]})


def stays(row: Any, standard: Any) -> bool | None:
    """Whether c is the same at another training length though other latents are dead; rows of `by_length`.

    No if the interval of its change lies clear of zero; yes if it lies within 10 % of the recipe's c while the dead shares of the
    widest SAEs differ by a factor of two or more; else it cannot be told.
    """
    change, reach = Estimate.read(row, "change"), STAYS * standard["constant"]
    if above(change, 0) is not None:
        return False
    less, more = sorted((row["dead_fraction"], standard["dead_fraction"]))
    return True if within(change, -reach, reach) and more >= OTHER_DEAD * less else None


def floor_and_dead(rows: pd.DataFrame) -> str:
    """What other training lengths say about the constant and dead latents; rows of `by_length`, one of them without a `change`."""
    own = rows["change"].isna()
    standard, others = rows[own].iloc[0], rows[~own].to_dict("records")
    said = [
        f"{row['steps']:,} steps instead of {standard['steps']:,} take it by {signed(Estimate.read(row, 'change'))} to "
        f"{row['constant']:.3f}, with {100 * row['dead_fraction']:.1f} % of the widest SAE dead"
        for row in others
    ]
    found = [stays(row, standard) for row in others]
    if False in found:
        verdict = (
            "It depends on how long the SAEs were trained: no floor that sparsity alone sets. Whether dead latents move it or short "
            "training does, these runs do not tell, for the two go together."
        )
    elif found and all(found):
        verdict = "So it stays while the dead share does not, and is no artefact of dead latents over these lengths."
    else:
        verdict = "These intervals do not tell whether it is an artefact of dead latents."
    open_at = [f"{row.steps:,}" for row in rows.itertuples() if row.note]
    unsure = f" At {', '.join(open_at)} steps the constant itself is not identified." if open_at else ""
    return (
        f"With {100 * standard['dead_fraction']:.1f} % of the widest SAE dead, the constant is {Estimate.read(standard, 'constant')}: "
        f"{'; '.join(said)}. {verdict}{unsure}"
    )


def at_each(fits: Fits, say: Callable[[WidthFits], str]) -> str:
    """What every fit says, named by its L0."""
    return "; ".join(f"{say(fit)} at {near:g}" for near, fit in fits.items())


def signed(value: Estimate) -> str:
    """A small difference with its interval."""
    return f"{value.value:+.4f} [{value.low:+.4f}, {value.high:+.4f}]"


def learned(fit: WidthFits, measured: pd.DataFrame, claims: pd.DataFrame, near: float, d: int) -> str:
    """What widening did at one L0, and which claims hold over all of them, as a Markdown list."""
    first, last = measured.iloc[0], measured.iloc[-1]
    lines = [
        f"At $L_0$ near {near:g}, widening from {first.d_sae:,} to {last.d_sae:,} latents ({first.d_sae / d:.0f} to "
        f"{last.d_sae / d:.0f} per dimension) takes FVU from {first.fvu:.3f} to {last.fvu:.3f} and FVU nonlinear from "
        f"{first.fvu_nonlinear:.3f} to {last.fvu_nonlinear:.3f}: the nonlinear part goes from "
        f"{100 * first.fvu_nonlinear / first.fvu:.0f} to {100 * last.fvu_nonlinear / last.fvu:.0f} % of what is unexplained."
    ]
    column = claims.columns[0]
    for word, words in SPOKEN.items():
        found = claims.loc[claims["Verdict"] == word, column].tolist()
        lines += [f"{words}: {'; '.join(found)}."] if found else []
    lines += [
        f"The constant of the power law at $L_0$ near {near:g}: {fit.fvu.constant}; {fit.fvu.note or 'it is identified'}.",
        f"Dead latents: {100 * first.dead_fraction:.1f} % of the narrowest SAE, {100 * last.dead_fraction:.1f} % of the widest.",
    ]
    return "\n".join(f"- {line}" for line in lines)
