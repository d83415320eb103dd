"""What Section 4.2's tables say: sentences, and a verdict on each of its claims."""

from __future__ import annotations

import pandas as pd

from dm_utils.base.verdicts import Interval, above, verdict, within
from dm_utils.base.words import code
from dm_utils.engine.suite import steps
from dm_utils.engine.token_identity import BEYOND, TOKEN, TOKENS, X
from dm_utils.maths.resampling import Estimate
from dm_utils.maths.tables import estimates

MEAN, WEIGHTED, RESCALED = "r2_error_vector", "r2_error_vector_weighted", "r2_error_vector_rescaled"
SURVIVES = 0.9  # of an R²: the share that has to be left after rescaling


def over_the_suite(main: pd.DataFrame) -> str:
    """How both kinds of R² run over width and L0."""
    wider = {name: steps(main, name, "d_sae", "near_l0") for name in (MEAN, WEIGHTED)}
    denser = {name: steps(main, name, "near_l0", "d_sae") for name in (MEAN, WEIGHTED)}
    mean, weighted = main[MEAN], main[WEIGHTED]
    return (
        f"Over {len(main)} {main['architecture'].iloc[0]} SAEs the mean $R^2$ runs from {mean.min():.2f} to {mean.max():.2f}, "
        f"the variance-weighted one from {weighted.min():.2f} to {weighted.max():.2f}. From one width to the next at equal "
        f"$L_0$ the mean {wider[MEAN]} and the weighted one {wider[WEIGHTED]}; from one $L_0$ to the next at equal width the "
        f"mean {denser[MEAN]} and the weighted one {denser[WEIGHTED]}."
    )


def by_dimension(dimensions: pd.DataFrame, sae_id: str) -> str:
    """The mean and the weighted R² of one SAE, and its dimension with the most error; columns `dimension, share, r2`."""
    r2, share = dimensions["r2"], dimensions["share"]
    largest = dimensions.sort_values("share").iloc[-1]
    weighted = float((r2 * share).sum())
    return (
        f"For {code(sae_id)} the mean over {len(r2)} dimensions is {r2.mean():.3f} and the weighted value {weighted:.3f}. The "
        f"dimension with the most error variance (number {largest.dimension:.0f}) holds {100 * largest.share:.1f} % of it, "
        f"{len(r2) * largest.share:.1f} times an equal share, and has $R^2$ = {largest.r2:.3f}."
    )


def beyond_tokens(table: pd.DataFrame) -> str:
    """How much of Eq. 11 is more than a mean by token, for one SAE; rows of `engine.token_identity.token_table`."""
    row = {name: some.iloc[0] for name, some in table.groupby("predictor")}
    found = {name: Estimate.read(row[name], "r2_vector") for name in row}
    adds = {name: Estimate.read(row[BEYOND[name]], "beyond_vector") for name in BEYOND}
    more = above(adds[TOKENS], 0)
    judged = "so part of $\\mathbf{b}^*$ is more than which tokens these are" if more else "which may be nothing"
    return (
        f"For {code(row[X]['sae_id'])}, $\\mathbf{{x}}$ explains {found[X]} of the error vector (variance-weighted), the mean of "
        f"the token {found[TOKEN]}, means over the token and the two before it {found[TOKENS]}. Of what the token's mean "
        f"leaves, $\\mathbf{{x}}$ explains {adds[TOKEN]}; of what those of three tokens leave {adds[TOKENS]}, {judged}. "
        f"Together they explain {found[BEYOND[TOKEN]]} and {found[BEYOND[TOKENS]]}."
    )


def claims(table: pd.DataFrame, main: pd.DataFrame, every: Interval) -> pd.DataFrame:
    """A verdict on each claim of Section 4.2; `every` is the range of R² that the paper reports.

    A case is one SAE or one step between neighbours. An SAE counts as inside the range, or as surviving a rescaling, only
    with its whole interval; a step only if its intervals are apart. An R² survives if nine tenths of it are left.
    """
    r2, rescaled = estimates(table, MEAN), estimates(main, RESCALED)
    wider, denser = steps(main, MEAN, "d_sae", "near_l0"), steps(main, MEAN, "near_l0", "d_sae")
    norm = steps(main, "r2_error_norm", "near_l0", "d_sae")
    left = main[RESCALED] / main[MEAN]
    survive = [above(after, SURVIVES * before) for after, before in zip(rescaled, main[MEAN], strict=True)]
    opposite = [norm.rising, denser.falling]
    rows = [
        (
            f"R² varies widely, between {every.low:g} and {every.high:g}",
            f"{table[MEAN].min():.2f} to {table[MEAN].max():.2f} over {len(r2)} SAEs",
            verdict(within(value, every.low, every.high) for value in r2),
        ),
        ("R² decreases with width", str(wider), wider.falling),
        ("R² decreases with L0", str(denser), denser.falling),
        (
            "R² of the error norm goes the other way with L0",
            f"the norm's {norm}, the vector's {denser}",
            opposite[0] if opposite[1] == "holds" else opposite[1],
        ),
        (
            "b* does not mostly reverse shrinkage",
            f"{100 * left.min():.0f} to {100 * left.max():.0f} % of R² is left after the best rescaling",
            verdict(survive),
        ),
    ]
    return pd.DataFrame(rows, columns=["The paper, on Gemma 2", "This run", "Verdict"])


def what_is_left(main: pd.DataFrame) -> str:
    """How much of the linear error rescaling leaves: nearly all (nine tenths of every R²), most (half) or only a part."""
    least = (main[RESCALED] / main[MEAN]).min()
    return "nearly all" if least >= SURVIVES else "most" if least >= 0.5 else "only a part"


def learned(main: pd.DataFrame, pure: float) -> str:
    """How much of the error is linear, and what shrinkage has to do with it; `pure` is the cosine of pure shrinkage."""
    before, after, cosine = main[MEAN], main[RESCALED], main["cos_linear_x"]
    ratio, scale = 100 * main["norm_ratio"], main["shrinkage"]
    return (
        f"Between {100 * before.min():.0f} and {100 * before.max():.0f} % of the error vector (mean over dimensions) is a "
        f"linear function of the activation. Reconstructions have {ratio.min():.0f} to {ratio.max():.0f} % of the norm of "
        f"$\\mathbf{{x}}$; the rescaling that fits best is by {scale.min():.3f} to {scale.max():.3f}. After it, "
        f"{what_is_left(main)} of the linear error is left: $R^2$ changes by at most {(before - after).abs().max():.3f} and "
        f"runs from {after.min():.2f} to {after.max():.2f}. The cosine of the linear error with $\\mathbf{{x}}$ is "
        f"{cosine.min():.2f} to {cosine.max():.2f}; pure shrinkage towards the mean would give {pure:.2f} here, not 1."
    )
