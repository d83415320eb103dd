"""What this chapter's tables say: how nonlinear NonlinearError is, and how low the rank of the linear error."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pandas as pd

from dm_utils.base.verdicts import HOLDS, above, verdict
from dm_utils.base.words import how_many, span
from dm_utils.chapters.beyond_linear.experiment import ERROR, TWIN, widths
from dm_utils.maths.reduced_rank import MISSED
from dm_utils.maths.resampling import Estimate
from dm_utils.maths.tables import estimates

LOW_RANK, LARGE = 0.25, 0.1  # of the dimensions: up to which a rank is low, and from which a subspace is large


def of(table: pd.DataFrame, target: str, hidden: int | None = None) -> pd.DataFrame:
    """The rows of one target: its networks, or those of one size."""
    chosen = (table["target"] == target) & (table["hidden"] > 0 if hidden is None else table["hidden"] == hidden)
    return table[chosen]


def best(table: pd.DataFrame) -> pd.Series:
    """The network that predicts the *validation* contexts best: chosen without a look at the held-out ones."""
    return of(table, ERROR).sort_values("left_of_validation").iloc[0]


def sees(table: pd.DataFrame) -> list[bool | None]:
    """Of each network of the best one's size: whether its gain lies above zero and above every gain on the twin."""
    floor = max(0.0, of(table, TWIN)["gain_high"].max())
    return [above(gain, floor) for gain in estimates(of(table, ERROR, int(best(table)["hidden"])), "gain")]


def grows(table: pd.DataFrame) -> list[bool | None]:
    """Of each step to the next size: whether every seed leaves less than every seed before (None where they mix)."""
    cases: list[bool | None] = []
    for small, large in pairwise(widths(table)):
        before, after = (of(table, ERROR, units)["fvu_error"] for units in (small, large))
        cases.append(True if after.max() < before.min() else False if after.min() > before.max() else None)
    return cases


def most_is_left(table: pd.DataFrame) -> bool | None:
    """Whether the best network leaves more than half of NonlinearError, interval and all."""
    return above(Estimate.read(best(table), "left"), 0.5)


def low_rank(found: Mapping[str, Estimate], d: int) -> bool | None:
    """Whether a quarter of the dimensions hold nine tenths of the linear error."""
    case = above(found["rank_for_90_percent"], LOW_RANK * d)
    return None if case is None else not case


def large_subspace(found: Mapping[str, Estimate], d: int) -> bool | None:
    """Whether a tenth of the dimensions or more are directions that the SAE mostly fails to learn."""
    return above(found["missed_directions"], LARGE * d - 0.5)  # whole numbers: at least LARGE · d of them


def claims(table: pd.DataFrame, found: Mapping[str, Estimate], d: int) -> pd.DataFrame:
    """A verdict on each question of this chapter; the words are those of `base.verdicts`."""
    top, gains = best(table), of(table, ERROR, int(best(table)["hidden"]))["gain"]
    sizes = [of(table, ERROR, units)["fvu_error"].mean() for units in widths(table)]
    twins = estimates(of(table, TWIN), "gain")
    rows = [
        (
            "Part of NonlinearError is a function of x that a small network finds",
            f"FVU of the error falls by {span(gains, '.3f')} ({len(gains)} seeds, {top['hidden']} units)",
            verdict(sees(table)),
        ),
        (
            "The same networks find nothing in its Gaussian twin (control)",
            f"largest fall {max(twin.high for twin in twins):.3f}",
            verdict(above(twin, 0) is not True for twin in twins),
        ),
        (
            "A larger network finds more, at every step in size",
            f"FVU of the error {', '.join(f'{size:.3f}' for size in sizes)} for {', '.join(map(str, widths(table)))} units",
            verdict(grows(table)),
        ),
        (
            "Most of NonlinearError is beyond the best of them",
            f"it leaves {Estimate.read(top, 'left')}",
            verdict([most_is_left(table)]),
        ),
        (
            "Large linear subspaces that the SAE mostly fails to learn (§4.2)",
            f"{found['missed_directions'].value:.0f} of {d} directions of b* keep more than {100 * MISSED:.0f} % of their variance",
            verdict([large_subspace(found, d)]),
        ),
        (
            "The linear error is of low rank: a low-rank side channel would take it (§7)",
            f"nine tenths of it need rank {found['rank_for_90_percent'].value:.0f} of {d}",
            verdict([low_rank(found, d)]),
        ),
    ]
    return pd.DataFrame(rows, columns=["Question", "This run", "Verdict"])


def networks(table: pd.DataFrame, max_epochs: int) -> str:
    """What networks of growing size leave of the error, and whether training or size ended it."""
    affine = Estimate.read(table[(table["target"] == ERROR) & (table["hidden"] == 0)].iloc[0], "fvu_error")
    parts = [
        f"{span(some['fvu_error'], '.3f')} with {units} units"
        for units, some in ((units, of(table, ERROR, units)) for units in widths(table))
    ]
    trained = of(table, ERROR)
    unfinished = int((trained["epochs"] == max_epochs).sum())
    return (
        f"The affine map leaves {affine} of the error's variance. With a hidden layer on top there is left, over "
        f"{trained['seed'].nunique()} seeds, {', '.join(parts)}. "
        f"{how_many(unfinished, len(trained)).capitalize()} of the {len(trained)} networks were at their best in the last of "
        f"{max_epochs} epochs: for these the time of training, and not only their size, set the end."
    )


def ranks(found: Mapping[str, Estimate], d: int) -> str:
    """How the linear error spreads over ranks, and where the SAE mostly fails."""
    half, nine, count, variance = (
        found[name] for name in ("rank_for_50_percent", "rank_for_90_percent", "missed_directions", "missed_variance")
    )
    return (
        f"Half of what $\\mathbf{{b}}^*$ explains needs rank {half.value:.0f} [{half.low:.0f}, {half.high:.0f}], nine tenths rank "
        f"{nine.value:.0f} [{nine.low:.0f}, {nine.high:.0f}], of {d}. In {count.value:.0f} of its {d} directions the error keeps more than "
        f"{100 * MISSED:.0f} % of the variance of $\\mathbf{{x}}$; they hold {100 * variance.value:.1f} % of that variance."
    )


def learned(table: pd.DataFrame, found: Mapping[str, Estimate], d: int, d_sae: int) -> str:
    """What this chapter adds to the split of the error, by the verdicts."""
    top = best(table)
    left = Estimate.read(top, "left")
    seen = verdict(sees(table)) == HOLDS
    more = (
        "and each larger one found more"
        if verdict(grows(table)) == HOLDS
        else "and larger ones did not always find more"
    )
    rank = (
        "is of low rank: a narrow dense channel beside the SAE would take most of it"
        if low_rank(found, d)
        else "is spread over many directions: no narrow channel beside the SAE takes most of it"
    )
    subspace = "there are" if large_subspace(found, d) else "there are no"
    words = (
        f"A network of {top['hidden']} units takes {100 * (1 - left.value):.0f} % of NonlinearError off "
        f'(leaving {left}), {more}, while Gaussian vectors of the same covariance give them nothing. So "nonlinear" is not '
        f'"unpredictable": it is what an *affine* map does not see.'
        if seen
        else f"No network tried here finds more in NonlinearError than in Gaussian vectors of its covariance (the best leaves {left})."
    )
    return (
        f"{words} A network with the SAE's own {d_sae:,} latents and activation function would leave nothing at all, since the error is "
        f"$\\mathbf{{x}} - \\text{{Sae}}(\\mathbf{{x}})$. The linear error {rank}; {subspace} large linear subspaces that the SAE mostly "
        "fails to learn."
    )
