"""Charts of this chapter: the verdicts as squares, by part of the paper."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.charts.marks import WIDE, chooser, named_colors
from dm_utils.charts.theme import VERDICT_COLORS

PARTS_OF_THE_PAPER = {
    "abstract": "Abstract, §1",
    "§1": "Abstract, §1",
    "§4": "§4 Predicting error",
    "§5": "§5 The parts",
}
PARTS_OF_THE_PAPER |= {"§6": "§6 Reducing it", "§7": "§7 Uses", "App": "Appendices"}


def part_of(place: str) -> str:
    """The part of the paper that a claim's first place belongs to."""
    return next(part for start, part in PARTS_OF_THE_PAPER.items() if place.startswith(start))


def verdicts(board: pd.DataFrame) -> alt.Chart:
    """Draw every claim as a square in its part of the paper, coloured by its verdict; a list chooses the profile."""
    order = list(VERDICT_COLORS)
    data = board.assign(part=board["place"].map(part_of), rank=board["verdict"].map(order.index))
    data = data.sort_values(["profile", "part", "rank"], kind="stable")
    data["at"] = data.groupby(["profile", "part"]).cumcount()
    profile = chooser("profile", data["profile"].unique().tolist(), "Profile")
    hue = alt.Color("verdict:N", title=None, sort=order, scale=named_colors(order, list(VERDICT_COLORS.values())))
    shape = alt.Shape(
        "verdict:N",
        title=None,
        sort=order,
        scale=alt.Scale(domain=order, range=["circle", "diamond", "cross", "square"]),
    )
    parts = list(dict.fromkeys(PARTS_OF_THE_PAPER.values()))
    tooltip = [alt.Tooltip(name) for name in ("claim", "place", "paper", "value", "verdict")]
    return (
        alt.Chart(data)
        .mark_point(size=220)
        .encode(
            x=alt.X("at:O", title=None, axis=None),
            y=alt.Y("part:N", title=None, sort=parts, axis=alt.Axis(labelLimit=200)),
            color=hue,
            shape=shape,
            tooltip=tooltip,
        )
        .transform_filter(alt.datum.profile == profile)
        .add_params(profile)
        .properties(**WIDE, height=230)
    )
