"""The scoreboard as a table, and what it says in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dm_utils.base.files import write_atomic
from dm_utils.chapters.scoreboard.claims import CLAIMS
from dm_utils.chapters.scoreboard.rules import WORDS, Claim


def with_series(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with `series`: what a metric's name says after its last comma, such as the L0 of a fit."""
    return rows.assign(series=rows["metric"].astype(str).str.rpartition(", ")[2])


def scoreboard(rows: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """Judge every claim on every profile's rows.

    Returns
    -------
    DataFrame
        ``key, place, claim, paper, profile, value, verdict, agree, of, test, chapter``, in the paper's order.
    """
    found = []
    for claim in claims:
        for profile, some in with_series(rows).groupby("profile", sort=False):
            verdict = claim.rule(some)
            about = {
                "key": claim.key,
                "place": claim.place,
                "claim": claim.says,
                "paper": claim.paper,
                "profile": profile,
            }
            judged = {"value": verdict.value, "verdict": verdict.word, "agree": verdict.agree, "of": verdict.of}
            found.append(about | judged | {"test": claim.test, "chapter": claim.rule.chapter})
    return pd.DataFrame(found)


def link_to_board(board: pd.DataFrame, folder: Path) -> None:
    """Write the whole scoreboard as CSV beside the tables, and show the link."""
    from IPython.display import HTML, display

    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "scoreboard_claims.csv"
    write_atomic(target, board.to_csv(index=False).encode())
    display(
        HTML(
            '<p class="dm-download"><a href="../tables/scoreboard_claims.csv" download>Download every claim</a> (CSV)</p>'
        )
    )


def summary(board: pd.DataFrame, profile: str) -> str:
    """How many claims hold, hold partly, differ or cannot be tested on a profile, as a sentence."""
    mine = board[board["profile"] == profile]
    counts = mine["verdict"].value_counts()
    parts = [
        f"{counts.get(word, 0)} {words}"
        for word, words in zip(WORDS, ("hold", "hold partly", "differ", "cannot be tested here"), strict=True)
    ]
    return f"Of {len(mine)} claims, {', '.join(parts[:-1])} and {parts[-1]}."
