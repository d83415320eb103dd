"""What Appendix C.3 says of this run: Table 1 with its verdict, where the test works, and what was learned."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from dm_utils.base.verdicts import above, verdict, within
from dm_utils.base.words import span
from dm_utils.chapters.C_synthetic.experiment import NOISE_NAMES
from dm_utils.maths.resampling import Estimate

Found = Mapping[
    tuple[str, str], Estimate
]  # (noise, estimate): as `recovery.correlations` and `recovery.shares` give them
RIGHT = {"noise_x": "dense", "noise_sae": "introduced"}  # the estimate that should find a noise
STRONG, WEAK = 0.75, 0.25  # a matching correlation lies above the first, another one within the second of 0
SIZE = 0.2  # a slope has the right size within this of 1 (matching) or 0 (not)
WORKS, FAILS = 0.8, 0.5  # the right estimate takes more than the first share of a noise; less than the second
BENDS = 1.5  # times by which masking alone may raise the nonlinear part before it counts as not constant


def right_answer(noise: str, estimate: str) -> int:
    """1 where the estimate should follow the noise, 0 where it should not."""
    return int(RIGHT[noise] == estimate)


def matching(correlation: Found) -> str:
    """Table 1's diagonal: the interval of each matching correlation lies above `STRONG`."""
    return verdict(above(e, STRONG) for pair, e in correlation.items() if right_answer(*pair))


def separate(correlation: Found) -> str:
    """Table 1 off the diagonal: the interval of each other correlation lies within `WEAK` of 0."""
    return verdict(within(e, -WEAK, WEAK) for pair, e in correlation.items() if not right_answer(*pair))


def pattern(correlation: Found) -> str:
    """Table 1's pattern holds if both its diagonal and the rest do; every one of the four correlations is a case."""
    return verdict(
        above(e, STRONG) if right_answer(*pair) else within(e, -WEAK, WEAK) for pair, e in correlation.items()
    )


def right_size(slopes: Found) -> str:
    """The estimates have the planted amounts' size: the interval of each slope lies within `SIZE` of its right answer."""
    return verdict(within(e, right_answer(*pair) - SIZE, right_answer(*pair) + SIZE) for pair, e in slopes.items())


def stays_constant(table: pd.DataFrame) -> str:
    """With nothing planted the nonlinear part stays where it is as latents are masked: nowhere does its whole interval lie above
    `BENDS` times that of the full SAE. `table` is `Recovery.table()`."""
    quiet = _quiet(table)
    full = BENDS * quiet["nonlinear_high"][0.0]
    return verdict(low <= full for low in quiet["nonlinear_low"].drop(0.0).tolist())


def _quiet(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["noise_x"] == 0) & (table["noise_sae"] == 0)].set_index("masked")


def nothing_planted(table: pd.DataFrame) -> str:
    """What the method reports where no noise was planted."""
    quiet = _quiet(table)
    rows = quiet.reset_index().to_dict("records")
    start = next(row for row in rows if row["masked"] == 0)
    peak = max(rows, key=lambda row: row["nonlinear"])
    return (
        f"**With no noise planted** the SAE returns its own reconstructions with an error of {start['error']:.1%} of their "
        "variance: it is nearly, not exactly, the identity on them. As latents are masked, the part that is not linear in the "
        f"input should stay at {start['nonlinear']:.1%}; at most it is {peak['nonlinear']:.1%} "
        f"[{peak['nonlinear_low']:.1%}, {peak['nonlinear_high']:.1%}], with {peak['masked']:.0%} of the latents masked. That it "
        f"stays: **{stays_constant(table)}**. Appendix D explains why absent features alone may bend the line."
    )


def table_1(correlation: Found, slopes: Found, paper: Mapping[tuple[str, str], str]) -> pd.DataFrame:
    """Table 1 as a reader's table: correlations beside the paper's, and slopes."""
    rows = []
    for (noise, name), value in correlation.items():
        rows.append(
            {
                "Planted": NOISE_NAMES[noise],
                "Estimated": name.title(),
                "Correlation, paper": paper[noise, name],
                "Correlation, this run": str(value),
                "Slope, this run": str(slopes[noise, name]),
                "Right answer": str(right_answer(noise, name)),
            }
        )
    return pd.DataFrame(rows)


def paper_key(noise: str, estimate: str) -> str:
    """The key of Table 1's value in `paper.VALUES`."""
    return f"table1.{estimate}_from_{'x' if noise == 'noise_x' else 'sae'}_noise"


def by_law(laws: pd.DataFrame) -> str:
    """Under which laws of the noise the right estimate takes more than `WORKS` of it, and under which less than `FAILS`."""
    right = {NOISE_NAMES[noise]: estimate for noise, estimate in RIGHT.items()}
    rows = laws[laws["estimate"] == laws["noise"].map(right)]
    named = pd.Series([f"{r.law} ({r.noise}: {r.value:.2f})" for r in rows.itertuples()], index=rows.index)
    works, fails = named[rows["low"] > WORKS], named[rows["high"] < FAILS]
    return (
        f"**Where the test works** (the right estimate takes more than {WORKS:.0%} of the planted noise): "
        f"{'; '.join(works) or 'nowhere'}.\n\n**Where it stops working** (the right estimate takes less than {FAILS:.0%}): "
        f"{'; '.join(fails) or 'nowhere'}."
    )


def statements(correlation: Found, slopes: Found, table: pd.DataFrame) -> pd.DataFrame:
    """The claims of Appendix C.3, what this run found, and the verdict by the rules above."""

    def values(found: Found, on_diagonal: bool) -> str:
        return " and ".join(f"{e.value:.2f}" for pair, e in found.items() if right_answer(*pair) == on_diagonal)

    quiet = span(_quiet(table)["nonlinear"], ".1f", " %")
    rows = [
        ("Each noise correlates with its own estimate", values(correlation, True), matching(correlation)),
        ("… and not with the other", values(correlation, False), separate(correlation)),
        ("Table 1's pattern (both)", "the four values above", pattern(correlation)),
        ("Each estimate has the planted size", f"slopes {values(slopes, True)}", right_size(slopes)),
        ("FVU nonlinear stays constant as latents are masked", f"{quiet} of the variance", stays_constant(table)),
    ]
    return pd.DataFrame(rows, columns=["The paper, on Gemma 2 9B", "This run", "Verdict"])


def ends_in_introduced(slopes: Found) -> str:
    """What reading the nonlinear error as introduced amounts to: an overestimate if more than half of the dense noise, whole
    interval, ends in it; roughly right if less than half does."""
    in_it = above(slopes["noise_x", "introduced"], 0.5)
    if in_it is None:
        return "not settled here"
    return "an overestimate here: most dense noise ends in it as well" if in_it else "roughly right for isotropic noise"


def lessons(correlation: Found, slopes: Found, table: pd.DataFrame, paper: Mapping[tuple[str, str], str]) -> list[str]:
    """What was learned, as sentences; `paper` holds Table 1's own values."""
    own_x, own_sae = correlation["noise_x", "dense"], correlation["noise_sae", "introduced"]
    other_x, other_sae = correlation["noise_x", "introduced"], correlation["noise_sae", "dense"]
    share = {pair: f"{value.value:.0%}" for pair, value in slopes.items()}
    return [
        f"Table 1's pattern: **{pattern(correlation)}**. The matching correlations are {own_x.value:.2f} and {own_sae.value:.2f}; "
        f"the others {other_x.value:.2f} (noise on x′ with the estimate of Introduced) and {other_sae.value:.2f}, where the paper "
        f"has {paper['noise_x', 'introduced']} and {paper['noise_sae', 'dense']}.",
        f"Correlation hides the size: of noise planted on x′, {share['noise_x', 'dense']} appears in the linear part and "
        f"{share['noise_x', 'introduced']} in the nonlinear part; of noise planted on Sae(x′), {share['noise_sae', 'introduced']} "
        f"appears in the nonlinear part. Right sizes: **{right_size(slopes)}**.",
        f"Reading the nonlinear error as what the SAE introduces is therefore {ends_in_introduced(slopes)}. How much dense noise "
        "a linear map can find depends on how many quiet directions the signal leaves, which a small model has few of.",
        "With features masked and nothing planted, that the nonlinear part stays constant: "
        f"**{stays_constant(table)}**; see Appendix D for why.",
    ]
