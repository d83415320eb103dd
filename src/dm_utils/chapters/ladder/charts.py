"""Charts of this chapter: each claim against the width of the model, and how far every claim is from the paper at each rung."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from dm_utils.chapters.ladder.experiment import PAPER, Answer
from dm_utils.charts.marks import WIDE, chooser, dashes, texts, with_interval
from dm_utils.charts.theme import COLORS
from dm_utils.engine.ladder import AWAY, NONE, TOWARDS, UNTOLD

WORD_COLORS = {TOWARDS: COLORS["sae"], AWAY: COLORS["nonlinear"], NONE: COLORS["x"], UNTOLD: COLORS["error"]}


def by_size(points: pd.DataFrame) -> alt.LayerChart:
    """A claim's quantity at each rung, one series per setting, with the paper's range at the right edge; rows of `points`."""
    data = points.assign(text=texts(points, "value", "low", "high")).round({"value": 5, "low": 5, "high": 5})
    order = [*sorted(set(data["place"]) - {PAPER}, key=int), PAPER]
    series = [name for name in data["setting"].unique() if name != PAPER]
    claim = chooser("claim", data["says"].unique().tolist(), "Claim")
    axis = alt.Axis(labelAngle=0, labelExpr=f"datum.value == '{PAPER}' ? 'the paper' : datum.value")
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))
    tooltip = [alt.Tooltip(name) for name in ("place:N", "setting:N", "seeds:Q", "text:N")]
    base = alt.Chart(data).transform_filter(alt.datum.says == claim)
    base = base.encode(x=alt.X("place:N", title="d, the width of the model", sort=order, axis=axis), tooltip=tooltip)
    ours = base.transform_filter(alt.datum.setting != PAPER).encode(
        color=alt.Color("setting:N", title=None, scale=alt.Scale(domain=series, scheme="tableau10")),
        xOffset=alt.XOffset("setting:N", sort=series),
    )
    paper = base.transform_filter(alt.datum.setting == PAPER)
    rule = paper.mark_rule(strokeWidth=8, opacity=0.5, color=COLORS["error"]).encode(y="low:Q", y2="high:Q")
    ticks = [paper.mark_tick(thickness=3, size=40, color=COLORS["error"]).encode(y=end) for end in ("low:Q", "high:Q")]
    layers = [rule, *ticks, with_interval(ours, y, size=55)]
    title = alt.TitleParams(text=alt.ExprRef("claim"))
    return alt.layer(*layers).add_params(claim).properties(**WIDE, height=320, title=title)


def distances(answers: Sequence[Answer]) -> alt.LayerChart:
    """How far each claim lies from the paper's range at each rung, as a share of the distance at the smallest one."""
    rows = []
    for one in answers:
        scale = next((found.value for found in one.distances.values()), 0.0)
        for d, found in one.distances.items() if scale > 0 else ():
            ends = {"value": found.value / scale, "low": found.low / scale, "high": found.high / scale}
            rows.append({"says": one.question.says, "word": one.word, "d": d, "distance": found.value} | ends)
    data = pd.DataFrame(rows, columns=["says", "word", "d", "distance", "value", "low", "high"])
    data = data.assign(text=texts(data, "value", "low", "high")).round(5)
    hue = alt.Color("word:N", title=None, scale=alt.Scale(domain=list(WORD_COLORS), range=list(WORD_COLORS.values())))
    claims = data["says"].unique().tolist()
    legend = dashes("says", claims, [[1, 0], [8, 3], [2, 2], [8, 3, 2, 3], [12, 4], [4, 4], [1, 3]] * 2)
    tooltip = [alt.Tooltip(name) for name in ("says:N", "d:O", "distance:Q", "text:N", "word:N")]
    base = alt.Chart(data).encode(
        x=alt.X("d:O", title="d, the width of the model", axis=alt.Axis(labelAngle=0)),
        color=hue,
        strokeDash=legend,
        tooltip=tooltip,
    )
    y = alt.Y("value:Q", title="distance from the paper, smallest rung = 1")
    level = alt.Chart(pd.DataFrame({"value": [1.0]})).mark_rule(strokeDash=[4, 4], opacity=0.5).encode(y="value:Q")
    lines = with_interval(base, y, "line", rule={"strokeDash": [1, 0], "opacity": 0.5})
    return alt.layer(level, lines, base.mark_point(size=50).encode(y=y)).properties(**WIDE, height=320)
