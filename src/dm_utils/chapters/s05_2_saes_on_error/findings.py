"""What Section 5.2's tables say: sentences, and a verdict on each of its claims."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from dm_utils.base.verdicts import above, verdict
from dm_utils.base.words import escape, interval
from dm_utils.chapters.s05_2_saes_on_error.charts import TARGET_NAMES
from dm_utils.maths.resampling import Estimate

EQUAL = (0.4, 0.6)  # of the error's variance: a part with a share in this range is about as large as the other


def sizes(shares: pd.Series, chosen: str) -> str:
    """Whether the parts of the chosen SAE's error are about equal (`EQUAL`), and which SAE of the layer comes nearest to that."""
    share, nearest = float(shares[chosen]), str((shares - 0.5).abs().idxmin())
    said = f"The linear part of this error takes {100 * share:.0f} % of its variance, the nonlinear part {100 * (1 - share):.0f} %"
    if EQUAL[0] <= share <= EQUAL[1]:
        return f"{said}: about equal, as in the paper."
    said += ": **not about equal**, as the paper chose them, so what follows compares a small part with a large one. "
    if nearest == chosen:
        return said + "No SAE of this layer comes nearer to equal parts."
    return (
        f"{said}The SAE of this layer nearest to equal parts is {escape(nearest)}, with {100 * shares[nearest]:.0f} % linear "
        "(leave out `width` and `near_l0` to take it)."
    )


def reconstruction(fvu: Mapping[str, Estimate], gaps: Mapping[str, Estimate]) -> str:
    """FVU of both parts and of their twins, and what each part's SAE does beyond its covariance.

    `gaps` holds `parts` and `twins` (nonlinear minus linear), `linear` and `nonlinear` (twin minus part), and `beyond`, the last
    two's difference. The twins' gap is a share of the parts' only where the latter's interval lies above 0.
    """
    parts, twins = gaps["parts"], gaps["twins"]
    said = (
        f"{100 * twins.value / parts.value:.0f} % of it"
        if above(parts, 0)
        else "although the parts do not differ that way"
    )
    return (
        f"Mean over seeds: **{fvu['linear']}** on the linear part, **{fvu['nonlinear']}** on the nonlinear part, a gap of {parts}. "
        f"Their Gaussian twins, which have no features, give {fvu['linear_gaussian']} and {fvu['nonlinear_gaussian']}: "
        f"a gap of {twins} from the covariances alone, {said}.\n\n"
        f"Beyond its covariance, the SAE reconstructs {gaps['linear']} more of the linear part and {gaps['nonlinear']} more of the "
        f"nonlinear part (FVU of the twin minus FVU of the part); linear minus nonlinear: {gaps['beyond']}."
    )


def inherited(left: Estimate, own_l0: float, own_width: int, trained: Estimate, width: int, k: int) -> str:
    """What the first SAE's own latents leave of LinearError, beside the SAE that was trained on it."""
    return (
        f"The first SAE's own {own_width:,} latents, about {own_l0:.0f} active per token, leave **{left}** of LinearError; the SAE that "
        f"was trained on it, with {width:,} latents and {k} active, {trained}. So {100 * (1 - left.value):.0f} % of the linear part "
        "is carried by latents that the first SAE has."
    )


def overfit(gaps: pd.Series) -> str:
    """Validation minus training FVU at the end, by target."""
    named = ", ".join(f"{name} {gap:+.3f}" for name, gap in gaps.items())
    return (
        f"Validation minus training FVU at the end: {named}. A large positive gap would mean that the training text is too short for "
        "this shape."
    )


def explained(accuracy: pd.DataFrame, difference: pd.DataFrame, own: str) -> str:
    """Balanced accuracy of each kind of latents (`own` first, then the controls), and the difference over the tenths."""
    balanced = accuracy[accuracy["group"] == "balanced"].set_index(["kind", "part"])
    says = {key: interval(row["value"], row["low"], row["high"]) for key, row in balanced.iterrows()}
    change, deciles = Estimate.read(difference.loc["balanced"]), difference.filter(like="Q", axis=0)
    lines = [
        f'Balanced accuracy (mean of "not" and of the tenths; 0.5 for nothing): linear {says[own, "linear"]}, nonlinear '
        f"{says[own, 'nonlinear']}; linear minus nonlinear {interval(change.value, change.low, change.high)}. Over the tenths, the "
        f"difference runs from {deciles['value'].min():+.3f} to {deciles['value'].max():+.3f}; its interval lies above 0 in "
        f"{(deciles['low'] > 0).sum()} of {len(deciles)} and below 0 in {(deciles['high'] < 0).sum()}."
    ]
    controls = [kind for kind in accuracy["kind"].unique() if kind != own]
    lines += [f"Control ({c}): linear {says[c, 'linear']}, nonlinear {says[c, 'nonlinear']}." for c in controls]
    return "\n\n".join(lines)


def claims(gaps: Mapping[str, Estimate], explanation: Estimate, judge: str, share: float) -> pd.DataFrame:
    """A verdict on each claim of Section 5.2: a difference stands where its whole interval lies above 0, fails where below.

    `explanation` is the balanced accuracy of the linear part's latents minus that of the nonlinear part's; `share` that of the
    linear part in the error's variance, which the claims presuppose to be about a half (`EQUAL`).
    """
    rows = [
        (
            "(set-up) the two parts are about equal in size",
            f"{100 * share:.0f} % linear",
            verdict([EQUAL[0] <= share <= EQUAL[1]]),
        ),
        (
            "An SAE reconstructs the linear part better",
            f"FVU lower by {gaps['parts']}",
            verdict([above(gaps["parts"], 0)]),
        ),
        (
            "(not asked) and by more than the covariances give",
            f"linear minus nonlinear, beyond the Gaussian twins: {gaps['beyond']}",
            verdict([above(gaps["beyond"], 0)]),
        ),
        (
            "Latents of the linear part are explained better",
            f"balanced accuracy higher by {explanation} (by {judge})",
            verdict([above(explanation, 0)]),
        ),
    ]
    return pd.DataFrame(rows, columns=["The paper", "This run", "Verdict"])


def learned(found: pd.DataFrame, left: Estimate, judge: str) -> str:
    """The verdicts of `claims`, and how much of the linear part needs no new latent."""
    equal, better, beyond, easier = found["Verdict"]
    return (
        f"**In this run**, that an SAE reconstructs {TARGET_NAMES['linear']} better than {TARGET_NAMES['nonlinear']}: **{better}**; that "
        f"it does so by more than the covariances give, which the paper does not ask: **{beyond}**; that latents of the linear part are "
        f"explained better, by {escape(judge)} (in the paper, by a language model): **{easier}**. The paper's premise, two parts of about "
        f"one size: **{equal}**. And {100 * (1 - left.value):.0f} % of the linear part needs no new latent: the first SAE's own carry it."
    )
