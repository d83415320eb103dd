"""What stands beside a verdict: how far trainings scatter, and what the ladder of labs says of a claim that does not hold."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from dm_utils.base.verdicts import DIFFERS, PARTLY
from dm_utils.base.words import number
from dm_utils.chapters.scoreboard.rules import Rows
from dm_utils.engine.ladder import AWAY, NONE, QUESTIONS, TOWARDS, UNTOLD

LADDER_OF = "lab"  # the profile whose trainings and sizes are known
NOT_THERE = "not measured"
SIMULATED, OTHER_SITES = (
    "no model in it, so no size",
    f"{NOT_THERE}: the other sizes have no SAEs of other layers or components",
)
FEW_WIDTHS = f"{NOT_THERE}: its curve needs more widths than a smaller lab has"
WHY_NOT = dict.fromkeys(("poisson", "bernoulli", "table-off", "table-diagonal"), SIMULATED)
WHY_NOT |= dict.fromkeys(
    ("plateau", "early", "late", "beats-easy", "previous-nonlinear", "previous-error"), OTHER_SITES
)
WHY_NOT |= dict.fromkeys(("constant-c", "asymptote"), FEW_WIDTHS)
"""Why the ladder says nothing of a claim."""
SEEDS = Rows("lab_model", r".+, seed \d+")
QUANTITY = {question.key: question.quantity for question in QUESTIONS}
QUANTITY |= dict.fromkeys(("norm-width", "norm-l0"), "r2_error_norm")
QUANTITY |= dict.fromkeys(("vector-below", "vector-width", "vector-l0"), "r2_error_vector")
QUANTITY |= {"nonlinear-l0": "fvu_nonlinear", "slower": "per_doubling"}
"""The quantity of which a claim speaks, where it was measured on several trainings."""


def scatter(rows: pd.DataFrame, rung: pd.DataFrame) -> dict[str, tuple[float, int]]:
    """Of each quantity: the largest difference between trainings of one SAE, and how many trainings it had.

    `rows` are the book's results, in which the lab's chapter says its seeds; `rung` the measurements of the ladder's rung
    that is the lab.
    """
    said = SEEDS.of(rows)
    headline = said.assign(
        quantity=said["metric"].str.replace(r", seed \d+$", "", regex=True), of=said["d_sae"].astype(str)
    )
    series = rung["width_ratio"].fillna(0).astype(str)  # a quantity of a series of widths has none
    on_ladder = rung.assign(of=series + " " + rung["l0_ratio"].astype(str))
    columns = ["quantity", "of", "value"]
    groups = pd.concat([headline[columns], on_ladder[columns]], ignore_index=True).groupby(["quantity", "of"])["value"]
    found: dict[str, tuple[float, int]] = {}
    ends = groups.agg(["min", "max", "count"]).query("count > 1")
    for (quantity, _), low, high, n in ends.itertuples(name=None):
        if high - low > found.get(quantity, (0.0, 0))[0]:  # what no training moves is no quantity of the SAE
            found[quantity] = float(high - low), int(n)
    return found


def beside(board: pd.DataFrame, spreads: Mapping[str, tuple[float, int]], words: Mapping[str, str]) -> pd.DataFrame:
    """The board with `training`, the scatter over trainings, and `size`, what the ladder says of a claim that does not hold.

    `words` maps a claim's key to the word of `engine.ladder.trend`. Both columns are empty where nothing is known or asked.
    """
    mine = board["profile"] == LADDER_OF
    asked = mine & board["verdict"].isin([DIFFERS, PARTLY])
    known = board["key"].map(QUANTITY).map(spreads)
    training = [
        f"at most {number(one[0])} between {one[1]} trainings" if here and isinstance(one, tuple) else ""
        for here, one in zip(mine, known, strict=True)
    ]
    said = board["key"].map(lambda key: words.get(key, WHY_NOT.get(key, NOT_THERE)))
    return board.assign(training=training, size=("with size: " + said).where(asked, ""))


def about_size(board: pd.DataFrame) -> str:
    """Of the claims that differ on the lab, how many size moves which way, as a sentence; empty without any."""
    differ = board[(board["profile"] == LADDER_OF) & (board["verdict"] == DIFFERS)]
    if differ.empty:
        return ""
    counts = differ["size"].str.removeprefix("with size: ").str.partition(":")[0].value_counts()
    order = {
        TOWARDS: "come nearer to the paper's value as the lab grows",
        AWAY: "move away from it",
        NONE: "show no trend",
        UNTOLD: "cannot be told",
        NOT_THERE: "were not measured at other sizes",
        SIMULATED: "are of simulations, without a model",
    }
    parts = [f"{counts[word]} {words}" for word, words in order.items() if word in counts]
    return f"Of the {len(differ)} claims that differ on the lab, {', '.join(parts)}."
