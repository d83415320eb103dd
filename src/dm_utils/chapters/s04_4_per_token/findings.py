"""What Section 4.4's pairs say: sentences, and a verdict on each of its claims."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from dm_utils.base.verdicts import DIFFERS, HOLDS, PARTLY, UNTESTABLE, above, higher, verdict
from dm_utils.base.words import span
from dm_utils.maths.resampling import Estimate
from dm_utils.maths.tables import estimates

HALF = 0.5


def by_distance(main: pd.DataFrame, scalar: pd.DataFrame) -> str:
    """R² by how often the width doubles, and what an intercept adds; rows of pairs with columns `small, large, r2, slope`."""
    octaves = np.log2(main["large"].to_numpy() / main["small"].to_numpy()).round().astype(int)
    spoken = [f"{n}: {span(r2)}" for n, r2 in main["r2"].groupby(octaves)]
    cost = main["r2"].to_numpy() - scalar["r2"].to_numpy()
    return (
        f"$R^2$ by how many times the width doubles: {', '.join(spoken)} (intervals of ±{half_width(main):.3f} or less). Leaving "
        f"the intercept out costs {cost.min():.3f} to {cost.max():.3f}. The scalars of Eq. 13 are {scalar['slope'].min():.2f} "
        f"to {scalar['slope'].max():.2f}: a larger SAE makes the same error, somewhat smaller."
    )


def half_width(pairs: pd.DataFrame) -> float:
    """The largest distance of an R² from an end of its interval."""
    return float(max((pairs["r2_high"] - pairs["r2"]).max(), (pairs["r2"] - pairs["r2_low"]).max()))


def falls_with_distance(main: pd.DataFrame) -> list[bool | None]:
    """For every larger SAE, each step to a narrower smaller one: True if R² falls with intervals apart, False if it rises."""
    cases: list[bool | None] = []
    for _, pairs in main.groupby("large"):
        r2 = estimates(pairs.sort_values("small", ascending=False), "r2")
        cases += [higher(near, far) for near, far in pairwise(r2)]
    return cases


def agreement(found: Estimate, chance: float) -> str:
    """Holds where the interval lies above one half, partly where only above chance, differs where it lies at or below it.

    An interval that holds chance cannot tell.
    """
    if above(found, HALF):
        return HOLDS
    return {True: PARTLY, False: DIFFERS, None: UNTESTABLE}[above(found, chance)]


def claims(main: pd.DataFrame, worst: Estimate, contexts: Estimate, ends: str) -> pd.DataFrame:
    """A verdict on each claim of Section 4.4, from the pairs and from what the narrowest and the widest SAE share.

    R² is called high where its interval lies above one half, for every pair; it falls with distance by `falls_with_distance`;
    the same tokens and contexts by `agreement` (chance is 0.1 for the worst tenth, 0 for a correlation).
    """
    r2, steps = estimates(main, "r2"), falls_with_distance(main)
    rows = [
        (
            "R² of the pairs is high overall (more than half)",
            f"{main['r2'].min():.3f} to {main['r2'].max():.3f}, intervals of ±{half_width(main):.3f} or less",
            verdict(above(value, HALF) for value in r2),
        ),
        (
            "It decreases as SAEs get farther apart",
            f"falls in {steps.count(True)} of {len(steps)} steps, intervals apart",
            verdict(steps),
        ),
        (
            "Large SAEs fail on the tokens where small ones fail",
            f"of the worst tenth, {worst} shared ({ends})",
            agreement(worst, 0.1),
        ),
        (
            "… and in the same contexts",
            f"correlation of the means over a context: {contexts} ({ends})",
            agreement(contexts, 0),
        ),
    ]
    return pd.DataFrame(rows, columns=["The paper says", "This run", "Verdict"])


def learned(main: pd.DataFrame, probe: Estimate) -> str:
    """How well one SAE's errors are told from another's, beside the probe of Eq. 10."""
    widths = sorted({*main["small"], *main["large"]})
    best = main[main["large"] == widths[-1]].sort_values("r2").iloc[-1]
    return (
        f"One straight line takes the error norms of one SAE to those of another, from {widths[0]:,} to {widths[-1]:,} latents, "
        f"with $R^2$ of {main['r2'].min():.2f} to {main['r2'].max():.2f}. The error norm of the widest SAE is predicted with "
        f"$R^2$ = {Estimate.read(best, 'r2')} from width {best['small']:,}, and with {probe} from the activation itself."
    )
