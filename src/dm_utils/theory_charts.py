"""Charts of Appendices B to D: costs of the norm test, readings of Fig. 14, planted and recovered noise, masked sums."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import altair as alt
import pandas as pd

from dm_utils.charts import COLORS, INK, chooser, texts

PARTS = {
    "explained": ("explained by the probe", COLORS["linear"]),
    "shape": ("cost of the law of the weights", "#c9a227"),
    "interference": ("cost of interference", "#8c6d46"),
    "superposition": ("cost of superposition", "#5e8f6e"),
}
READINGS = {
    "mean": "mean over all tokens",
    "mean_active": "mean over active tokens",
    "paper": "E(w²)/E(w), Appendix C.1",
    "through_origin": "E(w³)/E(w²)",
    "best": "Cov(w, w²)/Var(w)",
    "independent": "the theorem, independent latents",
    "a*": "a* itself",
}
ESTIMATES = {
    "nonlinear": ("estimated Introduced (nonlinear)", COLORS["nonlinear"]),
    "dense": ("linear part of the error", COLORS["linear"]),
}
SHARE = alt.Axis(format="%")


def _slider(name: str, levels: Sequence[float], title: str, start: int | None = None) -> alt.Parameter:
    step = min((b - a for a, b in itertools.pairwise(levels)), default=1.0)
    binding = alt.binding_range(min=min(levels), max=max(levels), step=step, name=f"{title} ")
    return alt.param(name=name, value=levels[len(levels) // 2 if start is None else start], bind=binding)


def _near(field: str, parameter: alt.Parameter) -> str:
    return f"abs(datum.{field} - {parameter.name}) < 0.000001"


def norm_costs(grid: pd.DataFrame) -> alt.LayerChart:
    """Stack where the variance of ||x||^2 goes against how often features fire, in closed form.

    ``grid`` has ``law, crowding, cosine, signs, probability`` and one share per part of :data:`PARTS`. Lists and a slider
    choose the law of the weights, the features per dimension, the cosine between features and its sign.
    """
    law = chooser("law", list(dict.fromkeys(grid["law"])), "Weights when active")
    crowding = chooser("crowding", list(dict.fromkeys(grid["crowding"])), "Features")
    signs = chooser("signs", list(dict.fromkeys(grid["signs"])), "Signs of the cosines", radio=True)
    cosine = alt.param(
        name="cosine",
        value=float(grid["cosine"].min()),
        bind=alt.binding_select(options=sorted(grid["cosine"].unique()), name="Cosine between features "),
    )
    chosen = "datum.law == law && datum.crowding == crowding && datum.signs == signs && " + _near("cosine", cosine)
    names, colors = zip(*PARTS.values(), strict=True)
    rename = {key: name for key, (name, _) in PARTS.items()}
    base = (
        alt.Chart(grid.rename(columns=rename).round(4))
        .transform_filter(chosen)
        .transform_fold(list(names), ["part", "share"])
    )
    base = base.transform_calculate(order=f"indexof({list(names)}, datum.part)")
    area = base.mark_area().encode(
        x=alt.X(
            "probability:Q", title="share of tokens on which a feature fires", scale=alt.Scale(type="log"), axis=SHARE
        ),
        y=alt.Y("share:Q", title="share of Var ‖x‖²", stack="zero", axis=SHARE, scale=alt.Scale(domain=[0, 1])),
        color=alt.Color("part:N", title=None, scale=alt.Scale(domain=names, range=colors), sort=list(names)),
        order=alt.Order("order:Q"),
        tooltip=["part:N", alt.Tooltip("share:Q", format=".3f"), alt.Tooltip("probability:Q", format=".2%")],
    )
    line = base.transform_filter(alt.datum.part == names[0]).mark_line(color=INK, strokeWidth=1.5, point=True)
    line = line.encode(x="probability:Q", y="share:Q", tooltip=[alt.Tooltip("share:Q", title="R²", format=".3f")])
    chart = alt.layer(area, line).add_params(law, crowding, cosine, signs)
    return chart.properties(width="container", height=300)


def exact_and_simulated(checks: pd.DataFrame, title: str, digits: str = ".2f") -> alt.LayerChart:
    """Set each simulated value (point, interval) beside its closed form (tick) and, where there is one, the printed value.

    ``checks`` has ``case, exact, value, low, high`` and optionally ``printed``.
    """
    order = list(checks["case"])
    table = checks.assign(text=texts(checks, "value", "low", "high")).round(5)
    base = alt.Chart(table).encode(y=alt.Y("case:N", title=None, sort=order, axis=alt.Axis(labelLimit=320)))
    axis = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, padding=20), axis=alt.Axis(format=digits))
    tooltip = ["case:N", alt.Tooltip("exact:Q", format=".4f"), alt.Tooltip("text:N", title="simulated")]
    layers = [
        base.mark_tick(thickness=3, size=26, color=COLORS["linear"]).encode(x=alt.X("exact:Q"), tooltip=tooltip),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q"),
        base.mark_point(color=INK, size=55).encode(x=axis, tooltip=tooltip),
    ]
    if "printed" in checks:
        printed = base.transform_filter("isValid(datum.printed)").mark_point(shape="cross", angle=45, size=90)
        layers.append(printed.encode(x="printed:Q", color=alt.value(COLORS["nonlinear"]), tooltip=["printed:Q"]))
    return alt.layer(*layers).properties(width="container", height=alt.Step(30))


def fig14(latents: pd.DataFrame) -> alt.LayerChart:
    """Plot every latent's dot product with a* against the chosen reading of its average weight (Fig. 14)."""
    names = [name for name in ("mean_active", *READINGS) if name in latents]
    names = list(dict.fromkeys(names))
    binding = alt.binding_select(options=names, labels=[READINGS[name] for name in names], name="Against ")
    reading = alt.param(name="reading", value=names[0], bind=binding)
    columns = ["latent", "dot", "dot_low", "dot_high", "probability", "share", *names]
    base = alt.Chart(latents[columns].round(4)).transform_calculate(given="datum[reading]")
    points = base.mark_circle(opacity=0.55).encode(
        x=alt.X("given:Q", title="chosen reading of the latent's average weight"),
        y=alt.Y("dot:Q", title="dot product of the latent with a*"),
        size=alt.Size("share:Q", title="share of the variance", scale=alt.Scale(range=[6, 420])),
        color=alt.value(COLORS["sae"]),
        tooltip=[
            alt.Tooltip("latent:Q", format="d"),
            alt.Tooltip("dot:Q", title="dot product", format=".3f"),
            alt.Tooltip("dot_low:Q", title="95 % from", format=".3f"),
            alt.Tooltip("dot_high:Q", title="to", format=".3f"),
            alt.Tooltip("given:Q", title="reading", format=".3f"),
            alt.Tooltip("probability:Q", title="fires on", format=".2%"),
            alt.Tooltip("share:Q", title="share of variance", format=".2%"),
        ],
    )
    equal = base.mark_line(strokeDash=[5, 4], color=INK).encode(x="given:Q", y="given:Q")
    return alt.layer(equal, points).add_params(reading).properties(width="container", height=380)


def bars(
    table: pd.DataFrame, label: str, value: str, title: str, color: str, names: Mapping[str, str]
) -> alt.LayerChart:
    """Draw one value with its interval per row, labelled directly."""
    low, high = f"{value}_low", f"{value}_high"
    shown = table.assign(text=texts(table, value, low, high), name=[names.get(n, n) for n in table[label]]).round(5)
    base = alt.Chart(shown).encode(
        y=alt.Y("name:N", title=None, sort=list(shown["name"]), axis=alt.Axis(labelLimit=360))
    )
    bar = base.mark_bar(color=color, opacity=0.8).encode(
        x=alt.X(f"{value}:Q", title=title), tooltip=["name:N", "text:N"]
    )
    rule = base.mark_rule(strokeWidth=2).encode(x=f"{low}:Q", x2=f"{high}:Q")
    return alt.layer(bar, rule).properties(width="container", height=alt.Step(28))


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
    base = alt.Chart(long).transform_filter(_near("noise_x", noise_x)).transform_filter(_near("noise_sae", noise_sae))
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
    base = alt.Chart().transform_filter(_near("held", other))
    color = alt.Color("estimate:N", title=None, scale=alt.Scale(domain=names, range=colors))
    x = alt.X("planted:Q", title="planted, share of the variance of x′", axis=SHARE)
    line = base.mark_line(point=True).encode(
        x=x,
        y=alt.Y("value:Q", title="recovered", axis=SHARE),
        color=color,
        tooltip=["estimate:N", alt.Tooltip("planted:Q", format=".0%"), alt.Tooltip("text:N", title="recovered")],
    )
    band = base.mark_area(opacity=0.2).encode(x=x, y="low:Q", y2="high:Q", color=color)
    equal = base.mark_line(strokeDash=[5, 4], color=INK).encode(x=x, y="planted:Q")
    chart = alt.layer(band, equal, line, data=long).properties(width=280, height=260)
    return chart.facet(alt.Column("noise:N", title=None, sort="descending")).add_params(other)


def shares_by_law(table: pd.DataFrame) -> alt.FacetChart:
    """Plot what share of a planted noise each estimate takes, for every law of the noise.

    ``table`` is what :func:`dm_utils.planting.by_law` returns; one panel per noise.
    """
    names, colors = zip(*ESTIMATES.values(), strict=True)
    title = {"introduced": names[0], "dense": names[1]}
    shown = table.assign(estimate=table["estimate"].map(title), text=texts(table, "value", "low", "high")).round(4)
    color = alt.Color("estimate:N", title=None, scale=alt.Scale(domain=names, range=colors))
    y = alt.Y("law:N", title=None, sort=list(dict.fromkeys(table["law"])), axis=alt.Axis(labelLimit=220))
    base = alt.Chart().encode(y=y, color=color, yOffset="estimate:N")
    x = alt.X("value:Q", title="rise of the estimate per unit of planted noise")
    rule = base.mark_rule(strokeWidth=3).encode(x="low:Q", x2="high:Q")
    point = base.mark_point(size=80).encode(x=x, tooltip=["law:N", "estimate:N", alt.Tooltip("text:N", title="share")])
    chart = alt.layer(rule, point, data=shown).properties(width=270, height=alt.Step(19))
    return chart.facet(alt.Column("noise:N", title=None, sort="descending"))


def curves(table: pd.DataFrame, title: str) -> alt.LayerChart:
    """Plot FVU_nonlinear against FVU as features are masked, one line per case, over the parabola f (1 - f).

    ``table`` has ``case, order, fvu, fvu_nonlinear`` and, where measured, ``fvu_nonlinear_low`` and ``_high``; a list
    chooses the order of masking, a click in the legend singles out a case.
    """
    order = chooser("order", list(dict.fromkeys(table["order"])), "Masked")
    picked = alt.selection_point(fields=["case"], bind="legend")
    share = [i / 50 for i in range(51)]
    parabola = alt.Chart(pd.DataFrame({"fvu": share, "fvu_nonlinear": [f * (1 - f) for f in share]}))
    parabola = parabola.mark_line(strokeDash=[5, 4], color=INK).encode(x="fvu:Q", y="fvu_nonlinear:Q")
    base = alt.Chart(table.round(5)).transform_filter(alt.datum.order == order)
    cases = list(dict.fromkeys(table["case"]))
    encoding = {
        "x": alt.X("fvu:Q", title="FVU: share of the variance masked", axis=SHARE, scale=alt.Scale(domain=[0, 1])),
        "color": alt.Color(
            "case:N",
            title=title,
            sort=cases,
            legend=alt.Legend(orient="bottom", columns=1, titleLimit=500, labelLimit=500),
        ),
        "opacity": alt.condition(picked, alt.value(1), alt.value(0.12)),
    }
    line = base.mark_line(point=alt.OverlayMarkDef(size=40)).encode(
        y=alt.Y("fvu_nonlinear:Q", title="FVU nonlinear (0 would be right)", axis=SHARE),
        tooltip=["case:N", *(alt.Tooltip(f"{n}:Q", format=".3f") for n in ("masked", "fvu", "fvu_nonlinear"))],
        **encoding,
    )
    rules = base.transform_filter("isValid(datum.fvu_nonlinear_low)").mark_rule(strokeWidth=3)
    rules = rules.encode(y="fvu_nonlinear_low:Q", y2="fvu_nonlinear_high:Q", **encoding)
    return alt.layer(parabola, rules, line).add_params(order, picked).properties(width="container", height=360)


def sweep(table: pd.DataFrame) -> alt.LayerChart:
    """Plot how bent the curve is against one property of the dictionary at a time, chosen from a list.

    ``table`` has ``property, setting, position, bend``; ``bend`` is 0 for a straight line and 1 for the full parabola.
    """
    prop = chooser("prop", list(dict.fromkeys(table["property"])), "Change")
    base = alt.Chart(table.round(4)).transform_filter(alt.datum.property == prop)
    x = alt.X("setting:N", title=None, sort=alt.EncodingSortField("position"), axis=alt.Axis(labelAngle=0))
    y = alt.Y("bend:Q", title="bend (1: the full parabola)", scale=alt.Scale(domain=[0, 1.05]))
    line = base.mark_line(color=COLORS["nonlinear"]).encode(x=x, y=y)
    point = base.mark_point(color=COLORS["nonlinear"]).encode(
        x=x, y=y, tooltip=["property:N", "setting:N", alt.Tooltip("bend:Q", format=".3f")]
    )
    return alt.layer(line, point).add_params(prop).properties(width="container", height=260)
