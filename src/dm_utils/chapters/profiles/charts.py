"""Charts of this chapter: what each profile needs of a machine."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.charts.marks import chooser

TERMS = ["the model", "SAEs", "forward pass and engine"]


def memory(terms: pd.DataFrame, machines: pd.DataFrame) -> alt.LayerChart:
    """Stack the terms of each profile's GPU memory, with lines where GPUs end; a list chooses the section.

    `terms` holds `profile, section, term, GB`; `machines` holds `machine, GB`.
    """
    pick = chooser("section", terms["section"].unique().tolist(), "Section", radio=True)
    order = terms["profile"].unique().tolist()
    data = terms.assign(order=terms["term"].map(TERMS.index), text=terms["GB"].map("{:.1f} GB".format)).round(3)
    bars = alt.Chart(data).transform_filter(alt.datum.section == pick).mark_bar()
    bars = bars.encode(
        x=alt.X("GB:Q", title="GPU memory (GB)", stack="zero"),
        y=alt.Y("profile:N", title=None, sort=order),
        color=alt.Color(
            "term:N",
            title=None,
            sort=TERMS,
            scale=alt.Scale(domain=TERMS, scheme="tableau10"),
            legend=alt.Legend(orient="bottom"),
        ),
        order="order:Q",
        tooltip=[alt.Tooltip("profile:N"), alt.Tooltip("term:N"), alt.Tooltip("text:N", title="memory")],
    )
    ends = alt.Chart(machines).encode(x=alt.X("GB:Q"))
    look = {"align": "right", "baseline": "top", "angle": 270, "dx": -4, "dy": 3, "fontSize": 11}
    names = ends.mark_text(color="currentColor", **look).encode(y=alt.value(0), text="machine:N")
    rules = ends.mark_rule(color="currentColor", strokeDash=[4, 3], opacity=0.7)
    layered = alt.layer(bars, rules, names).add_params(pick)
    return layered.properties(width="container", height=45 * len(order))
