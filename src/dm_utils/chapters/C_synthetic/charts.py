"""Charts of this chapter: planted and recovered noise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import altair as alt
import pandas as pd

from dm_utils.charts.marks import SHARE, near, texts, with_interval
from dm_utils.charts.theme import COLORS, INK

ESTIMATES = {
    "nonlinear": ("estimated Introduced (nonlinear)", COLORS["nonlinear"]),
    "dense": ("linear part of the error", COLORS["linear"]),
}


def _slider(name: str, levels: Sequence[float], title: str, start: int | None = None) -> alt.Parameter:
    step = min((b - a for a, b in itertools.pairwise(levels)), default=1.0)
    binding = alt.binding_range(min=min(levels), max=max(levels), step=step, name=f"{title} ")
    return alt.param(name=name, value=levels[len(levels) // 2 if start is None else start], bind=binding)


def fig15(table: pd.DataFrame) -> alt.LayerChart:
    """Break the error down over masked latents, as Fig. 1 does over width, for chosen planted noise (Fig. 15, top)."""
    noise_x = _slider("noise_x", sorted(table["noise_x"].unique()), "Noise on x′")
    noise_sae = _slider("noise_sae", sorted(table["noise_sae"].unique()), "Noise on Sae(x′)")
    long = pd.concat(
        [
            table[["noise_x", "noise_sae", "masked"]].assign(
                part=name, value=table[key], low=table[f"{key}_low"], high=table[f"{key}_high"]
            )
            for key, (name, _) in ESTIMATES.items()
        ]
    )
    long = long.assign(text=texts(long, "value", "low", "high")).round(5)
    names, colors = zip(*ESTIMATES.values(), strict=True)
    base = alt.Chart(long).transform_filter(near("noise_x", noise_x)).transform_filter(near("noise_sae", noise_sae))
    x = alt.X("masked:Q", title="share of latents masked", axis=SHARE)
    area = (
        base.transform_calculate(order=f"indexof({list(names)}, datum.part)")
        .mark_area(opacity=0.75)
        .encode(
            x=x,
            y=alt.Y("value:Q", title="share of the variance of x′", stack="zero", axis=SHARE),
            color=alt.Color("part:N", title=None, scale=alt.Scale(domain=names, range=colors), sort=list(names)),
            order=alt.Order("order:Q"),
            tooltip=["part:N", alt.Tooltip("text:N", title="share"), alt.Tooltip("masked:Q", format=".0%")],
        )
    )
    planted = base.transform_filter(alt.datum.part == names[0]).mark_line(strokeDash=[5, 4], color=INK)
    planted = planted.encode(x=x, y=alt.Y("noise_sae:Q"))
    chart = alt.layer(area, planted).add_params(noise_x, noise_sae)
    return chart.properties(width="container", height=320)


def planted_recovered(table: pd.DataFrame) -> alt.FacetChart:
    """Plot each estimate against the planted amount it should equal, the other noise fixed by a slider (Fig. 15, bottom)."""
    other = _slider("other", sorted(table["noise_x"].unique()), "The other noise", start=0)
    rows = []
    for noise, held in (("noise_x", "noise_sae"), ("noise_sae", "noise_x")):
        for key, (name, _) in ESTIMATES.items():
            part = table[[noise, held]].set_axis(["planted", "held"], axis=1)
            part = part.assign(estimate=name, value=table[key], low=table[f"{key}_low"], high=table[f"{key}_high"])
            rows.append(part.assign(noise="noise on x′" if noise == "noise_x" else "noise on Sae(x′)"))
    long = pd.concat(rows)
    long = long.assign(text=texts(long, "value", "low", "high")).round(5)
    names, colors = zip(*ESTIMATES.values(), strict=True)
    x = alt.X("planted:Q", title="planted, share of the variance of x′", axis=SHARE)
    base = alt.Chart().encode(x=x).transform_filter(near("held", other))
    recovered = base.encode(
        color=alt.Color("estimate:N", title=None, scale=alt.Scale(domain=names, range=colors)),
        tooltip=["estimate:N", alt.Tooltip("planted:Q", format=".0%"), alt.Tooltip("text:N", title="recovered")],
    )
    line = with_interval(recovered, alt.Y("value:Q", title="recovered", axis=SHARE), "line", band=True, point=True)
    equal = base.mark_line(strokeDash=[5, 4], color=INK).encode(y="planted:Q")
    chart = alt.layer(equal, line, data=long).properties(width=280, height=260)
    return chart.facet(alt.Column("noise:N", title=None, sort="descending")).add_params(other)


def shares_by_law(table: pd.DataFrame) -> alt.FacetChart:
    """Plot what share of a planted noise each estimate takes, for every law of the noise.

    ``table`` is what `experiment.by_law` returns; one panel per noise.
    """
    names, colors = zip(*ESTIMATES.values(), strict=True)
    title = {"introduced": names[0], "dense": names[1]}
    shown = table.assign(estimate=table["estimate"].map(title), text=texts(table, "value", "low", "high")).round(4)
    color = alt.Color("estimate:N", title=None, scale=alt.Scale(domain=names, range=colors))
    y = alt.Y("law:N", title=None, sort=list(dict.fromkeys(table["law"])), axis=alt.Axis(labelLimit=220))
    tooltip = ["law:N", "estimate:N", alt.Tooltip("text:N", title="share")]
    base = alt.Chart(shown).encode(y=y, color=color, yOffset="estimate:N", tooltip=tooltip)
    x = alt.X("value:Q", title="rise per unit of planted noise")
    chart = with_interval(base, x, rule={"strokeWidth": 3}, size=80).properties(width=200, height=alt.Step(19))
    return chart.facet(alt.Column("noise:N", title=None, sort="descending"))
