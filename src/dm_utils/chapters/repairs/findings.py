"""What the tables of repairs say: verdicts by stated rules, and sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from dm_utils.base.verdicts import DIFFERS, HOLDS, PARTLY, UNTESTABLE, above, higher, verdict
from dm_utils.base.words import number, span
from dm_utils.chapters.repairs.experiment import estimate
from dm_utils.chapters.repairs.prices import name, readable
from dm_utils.maths.resampling import Estimate

LOW, MOST = 0.25, 0.5  # of the dimensions: up to which a rank is low; of the linear error: more than that is most of it
WORTH = 0.1  # of the nonlinear error: a repair that removes more, interval and all, does something about it
TWIN_WORDS = (("before_", "without"), ("", "with"))
FREE = ("rescaled", "decoder", "sae_affine")
Case = bool | None


def by_sae(table: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    """The rows of each SAE, narrowest first."""
    for width, rows in table.groupby("d_sae"):
        yield int(str(width)), rows


def at_rank(curves: pd.DataFrame, width: int, rank: int, column: str) -> Estimate:
    """An estimate of the dense channel's curve."""
    rows = curves[(curves["d_sae"] == width) & (curves["rank"] == rank)]
    return Estimate.read(rows.iloc[0], column)


def low_rank(curves: pd.DataFrame) -> int:
    """A quarter of the dimensions."""
    return max(1, int(LOW * curves["rank"].max()))


def best(rows: pd.DataFrame, among: tuple[str, ...]) -> Estimate:
    """The least FVU that some repairs leave."""
    found = rows[rows["repair"].isin(among)]
    missing = Estimate(math.nan, math.nan, math.nan, "not run")
    return missing if found.empty else Estimate.read(found.iloc[int(found["fvu"].to_numpy().argmin())], "fvu")


def both(first: Case, second: Case) -> Case:
    """Whether two things hold; None where that cannot be told."""
    if first is False or second is False:
        return False
    return None if first is None or second is None else True


# --- cases, one per SAE (or per trained pair) --------------------------------------------------------------


def takes_most(curves: pd.DataFrame) -> list[Case]:
    """Whether the best channel of a quarter of the dimensions takes more than half of the linear error."""
    widths, rank = sorted(curves["d_sae"].unique()), low_rank(curves)
    return [above(at_rank(curves, width, rank, "recovered"), MOST) for width in widths]


def beats_free(table: pd.DataFrame, curves: pd.DataFrame) -> list[Case]:
    """Whether that channel leaves less FVU than the best repair that costs nothing."""
    rank = low_rank(curves)
    return [higher(best(rows, FREE), at_rank(curves, width, rank, "fvu")) for width, rows in by_sae(table)]


def beats_width(table: pd.DataFrame, curves: pd.DataFrame) -> list[Case]:
    """Whether it leaves less FVU than an SAE of twice the latents, which has many times its parameters."""
    rank = low_rank(curves)
    return [
        higher(estimate(rows, "wider", "fvu"), at_rank(curves, width, rank, "fvu")) for width, rows in by_sae(table)
    ]


def beats_latents(table: pd.DataFrame, curves: pd.DataFrame) -> list[Case]:
    """Whether a channel of rank L0 leaves less FVU than an SAE with twice the L0: as many numbers per token more."""
    cases = []
    for width, rows in by_sae(table):
        rank = min(max(1, round(float(rows["l0"].iloc[0]))), int(curves["rank"].max()))
        cases.append(higher(estimate(rows, "denser", "fvu"), at_rank(curves, width, rank, "fvu")))
    return cases


def pairs(trained: pd.DataFrame) -> pd.DataFrame:
    """The dictionaries that were trained with a channel, each beside its twin."""
    return trained[trained["repair"].str.endswith("_channel")] if len(trained) else trained


def lowers(trained: pd.DataFrame, part: str) -> list[Case]:
    """Whether a dictionary trained with a channel leaves less of a part than its twin without, intervals apart."""
    rows = [row for _, row in pairs(trained).iterrows()]
    return [higher(Estimate.read(row, f"before_{part}"), Estimate.read(row, part)) for row in rows]


def adding_nothing(table: pd.DataFrame) -> pd.DataFrame:
    """The repairs that add neither latents nor dense numbers, and leave the model alone."""
    return table[
        (table["latents"] == 0) & (table["dense"] == 0) & ~table["repair"].isin(["as it is", "wider", "model"])
    ]


def reaches_nonlinear(table: pd.DataFrame) -> list[Case]:
    """Whether a repair that adds neither latents nor dense numbers removes more than a tenth of the nonlinear error."""
    cases: list[Case] = []
    for _, rows in by_sae(adding_nothing(table)):
        found = [above(Estimate.read(row, "removed_nonlinear"), WORTH) for _, row in rows.iterrows()]
        cases.append(True if True in found else None if None in found else False)
    return cases


def proposal(table: pd.DataFrame, curves: pd.DataFrame) -> str:
    """The verdict on the paper's proposal of a low-rank dense channel.

    It is right for an SAE if a channel of a quarter of the dimensions takes most of the linear error, and leaves less FVU than what
    the same SAE can have for nothing.
    """
    return verdict(both(*pair) for pair in zip(takes_most(curves), beats_free(table, curves), strict=True))


def architecture(trained: pd.DataFrame) -> str:
    """The verdict on the same channel as a part of the architecture: trained along, it lowers FVU and its nonlinear part."""
    return verdict(both(*case) for case in zip(lowers(trained, "fvu"), lowers(trained, "fvu_nonlinear"), strict=True))


# --- tables and sentences ----------------------------------------------------------------------------------


def claims(table: pd.DataFrame, trained: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """A verdict on each question of this chapter, one case per SAE."""
    rank, widths = low_rank(curves), sorted(curves["d_sae"].unique())
    low = [at_rank(curves, width, rank, "recovered").value for width in widths]
    left = [at_rank(curves, width, rank, "fvu").value for width in widths]
    every = everything(table, trained)
    most = [rows["removed_nonlinear"].max() for _, rows in by_sae(adding_nothing(every))]
    here = f"FVU {span(left, '.3f')}"
    rows = [
        (
            "A channel of a quarter of the dimensions takes most of the linear error",
            f"rank {rank}: {span(low, '.0f', ' %')}",
            verdict(takes_most(curves)),
        ),
        (
            "… and leaves less than the best repair that costs nothing",
            f"{here}; {values(table, FREE)}",
            verdict(beats_free(table, curves)),
        ),
        ("… and than twice the latents", f"{here}; {values(table, ('wider',))}", verdict(beats_width(table, curves))),
        (
            "With as many numbers per token, a channel leaves less than more latents",
            f"twice the L0: {values(table, ('denser',))}",
            verdict(beats_latents(table, curves)),
        ),
        (
            "Trained with a channel, an SAE leaves less nonlinear error",
            beside_twin(trained),
            verdict(lowers(trained, "fvu_nonlinear")),
        ),
        (
            "Some repair without more latents or dense numbers removes a tenth of the nonlinear error",
            f"most by any of these: {span(most, '.0f', ' %')}",
            verdict(reaches_nonlinear(every)),
        ),
        (
            "The paper's proposal (§7), a low-rank dense channel, beside a finished SAE",
            "the first two together",
            proposal(table, curves),
        ),
        ("… and trained with the SAE", "less FVU, and less nonlinear error", architecture(trained)),
    ]
    return pd.DataFrame(rows, columns=["Question", "This run", "Verdict"])


def beside_twin(trained: pd.DataFrame) -> str:
    """The nonlinear error of dictionaries with a channel and of their twins without; says so where none ships."""
    found = pairs(trained)
    if found.empty:
        return "no such dictionary ships for these SAEs"
    ends = [f"{span(found[f'{when}fvu_nonlinear'], '.3f')} {words}" for when, words in TWIN_WORDS]
    return f"FVU nonlinear {ends[0]}, {ends[1]}"


def everything(table: pd.DataFrame, trained: pd.DataFrame) -> pd.DataFrame:
    """All rows."""
    return pd.concat([table, trained], ignore_index=True) if len(trained) else table


def values(table: pd.DataFrame, among: tuple[str, ...]) -> str:
    """The least FVU that some repairs leave, over the SAEs; says so where none ran."""
    found = [best(rows, among).value for _, rows in by_sae(table)]
    known = [value for value in found if not math.isnan(value)]
    return f"{span(known, '.3f')}" if known else "not run"


def prices(rows: pd.DataFrame) -> pd.DataFrame:
    """What each repair of one SAE removes and costs, most of the error first."""
    ordered = rows[rows["repair"] != "as it is"].sort_values("removed", ascending=False)
    view = pd.DataFrame({"Repair": ordered["repair"].map(name)})
    view["trained"] = ["yes" if trained else "" for trained in ordered["trained"]]
    words = {
        "removed": "of the error",
        "removed_linear": "linear",
        "removed_nonlinear": "nonlinear",
        "ce_removed": "of the added CE",
    }
    for column, title in words.items():
        view[title] = [percent(row, column) for _, row in ordered.iterrows()]
    view["parameters"] = [f"{int(value):,}" for value in ordered["parameters"]]
    view["FLOPs per token"] = [f"{value:,.0f}" for value in ordered["flops"]]
    view["latents per token"] = [f"+{value:g}" if value else "" for value in ordered["latents"]]
    view["dense numbers"] = [f"{value:g}" if value else "" for value in ordered["dense"]]
    return view.assign(**{"to be read?": ordered["repair"].map(readable)})


def percent(row: Any, column: str) -> str:
    """A share with its interval, in percent."""
    found = [100 * float(row[f"{column}{end}"]) for end in ("", "_low", "_high")]
    if math.isnan(found[0]):
        return "–"
    return f"{found[0]:.1f} %" if math.isnan(found[1]) else f"{found[0]:.1f} % [{found[1]:.1f}, {found[2]:.1f}]"


def ranking(rows: pd.DataFrame) -> str:
    """For one SAE: what removes most for nothing, by a dense channel, by a search, and by more latents."""
    groups = {
        "for nothing": (*FREE, "kl", "mse", "adapter"),
        "by a dense channel of low rank": ("channel",),
        "by a search": ("pursuit", "exact_pursuit"),
        "by more latents": ("wider", "denser", "wider_denser", "boost"),
    }
    said = []
    for words, among in groups.items():
        found = rows[rows["repair"].isin(among)]
        if len(found):
            top = found.iloc[int(found["removed"].to_numpy().argmax())]
            shares = f"{100 * top['removed_linear']:.0f} % of the linear and {100 * top['removed_nonlinear']:.0f} % of the nonlinear part"
            said.append(f"{words} {100 * top['removed']:.0f} % of the error ({name(top['repair'])}: {shares})")
    return f"Of the SAE with {int(rows['d_sae'].iloc[0]):,} latents can be removed, at most, {'; '.join(said)}."


def data_per_latent(n_fit: int, l0: float, d_sae: int) -> str:
    """How many activations each latent's new direction was fitted to."""
    return (
        f"A refitted decoder has a direction per latent to learn, here from about {number(n_fit * l0 / d_sae, 2)} activations each at "
        f"{d_sae:,} latents: what it removes is held out, so where there are few it can be negative."
    )


def loss_sentence(table: pd.DataFrame) -> str:
    """Whether the loss follows the FVU, for the full dense channel, which removes the linear error and nothing else."""
    rows = table[table["repair"] == "channel_full"]
    return (
        f"With the whole linear error removed (a dense channel of full rank), {span(rows['removed'], '.0f', ' %')} of the error is gone "
        f"and {span(rows['ce_removed'], '.0f', ' %')} of the cross-entropy that the SAE costs."
    )


ANSWERS = {
    HOLDS: "Beside a finished SAE, the low-rank dense channel that the paper proposes is right: it takes most of the linear error, and "
    "more than can be had for nothing.",
    PARTLY: "Beside a finished SAE, the low-rank dense channel that the paper proposes is right for some of these SAEs only.",
    DIFFERS: "Beside a finished SAE, the low-rank dense channel that the paper proposes is not the repair: at low rank it does not take "
    "most of the linear error, or no more than can be had for nothing.",
    UNTESTABLE: "Whether a low-rank dense channel repairs a finished SAE cannot be told here.",
}


def together(trained: pd.DataFrame) -> str:
    """What a channel does that is trained with its SAE, beside the twin without."""
    found = pairs(trained)
    if found.empty:
        return "No SAE that was trained with a channel is shown, so the proposal as an architecture is **untestable here**."
    parts = [
        f"{span(found['removed'], '.0f', ' %')} of the error",
        f"{span(found['removed_linear'], '.0f', ' %')} of its linear part",
        f"{span(found['removed_nonlinear'], '.0f', ' %')} of its nonlinear part",
        f"{span(found['ce_removed'], '.0f', ' %')} of the cross-entropy that it costs",
    ]
    return (
        "Beside a finished SAE a channel cannot touch the nonlinear error, by arithmetic. Trained with it, it can, since latents are free "
        f"for other things: against a twin trained alike without one there go {', '.join(parts)}. As an architecture the proposal "
        f"therefore: **{architecture(trained)}**."
    )


def lessons(table: pd.DataFrame, trained: pd.DataFrame, curves: pd.DataFrame) -> list[str]:
    """What was learned, as sentences."""
    numbers = verdict(beats_latents(table, curves))
    widest = dict(by_sae(everything(table, trained)))[int(table["d_sae"].max())]
    said = f"That a channel beside a finished SAE spends its numbers per token better than further latents would: **{numbers}**."
    return [ANSWERS[proposal(table, curves)], together(trained), said, ranking(widest), loss_sentence(table)]
