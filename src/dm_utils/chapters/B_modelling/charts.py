"""Charts of this chapter: costs of the norm test, and readings of Fig. 14."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import pandas as pd

from dm_utils.charts.marks import SHARE, Slide, chooser, named_colors, near, texts, with_interval
from dm_utils.charts.theme import COLORS, INK

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
    chosen = "datum.law == law && datum.crowding == crowding && datum.signs == signs && " + near("cosine", cosine)
    names, colors = zip(*PARTS.values(), strict=True)
    rename = {key: name for key, (name, _) in PARTS.items()}
    base = (
        alt.Chart(grid.drop(columns="bound").rename(columns=rename).round(4))
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


def probe_coherence(grid: pd.DataFrame) -> alt.LayerChart:
    """Draw the R² of the best probe against the cosine between features, in closed form, for both signs of the cosines.

    ``grid`` is `sweeps.cost_grid`. Lists choose the law of the weights and the crowding, a slider how often a feature fires; the
    corollary's bound is drawn where it holds. The cosine 0 stands for orthogonal, or as nearly so as the crowding allows.
    """
    data = grid[["law", "crowding", "signs", "cosine", "probability", "explained", "bound"]].round(4)
    law = chooser("law", list(dict.fromkeys(grid["law"])), "Weights when active")
    crowding = chooser("crowding", list(dict.fromkeys(grid["crowding"])), "Features")
    rates = sorted(grid["probability"].unique())
    headlines = {rate: f"Each feature fires on {rate:.1%} of the tokens" for rate in rates}
    slide = Slide("probability", "How often", headlines, start=rates[len(rates) // 2 - 1], format=".1%")
    base = (
        alt.Chart(data).transform_filter("datum.law == law && datum.crowding == crowding").transform_filter(slide.here)
    )
    signs = list(dict.fromkeys(grid["signs"]))
    hue = alt.Color(
        "signs:N", legend=None, scale=alt.Scale(domain=signs, range=[COLORS["linear"], COLORS["nonlinear"]])
    )
    room = alt.Scale(domain=[0, grid["cosine"].max() * 1.5])
    x = alt.X("cosine:Q", title="cosine between features", scale=room, axis=alt.Axis(tickCount=6))
    y = alt.Y("explained:Q", title="R² of the best probe", scale=alt.Scale(domain=[0, 1]))
    base = base.encode(x=x, y=y, color=hue)
    tooltip = ["signs:N", "cosine:Q", alt.Tooltip("explained:Q", title="R²", format=".3f")]
    lines = base.mark_line(point=alt.OverlayMarkDef(size=50)).encode(tooltip=[*tooltip, "bound:Q"])
    ends = base.transform_filter(alt.datum.cosine == grid["cosine"].max()).mark_text(align="left", dx=8, fontWeight=600)
    one = base.transform_filter((alt.datum.signs == signs[0]) & "isValid(datum.bound)").encode(color=alt.value(INK))
    bound = one.mark_line(strokeDash=[2, 4], strokeWidth=1.5).encode(y="bound:Q")
    said = one.transform_filter(alt.datum.cosine == grid["cosine"].max()).mark_text(align="left", dx=8, text="at least")
    chart = alt.layer(lines, ends.encode(text="signs:N"), bound, said.encode(y="bound:Q"))
    return slide.told(chart.add_params(law, crowding, slide.parameter)).properties(width="container", height=280)


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


def bars(table: pd.DataFrame, label: str, value: str, title: str, names: Mapping[str, str]) -> alt.LayerChart:
    """Draw one value with its interval per row, labelled directly."""
    low, high = f"{value}_low", f"{value}_high"
    shown = table.assign(text=texts(table, value, low, high), name=[names.get(n, n) for n in table[label]]).round(5)
    y = alt.Y("name:N", title=None, sort=list(shown["name"]), axis=alt.Axis(labelLimit=360))
    base = alt.Chart(shown).encode(y=y, tooltip=["name:N", "text:N"])
    x = alt.X(f"{value}:Q", title=title)
    chart = with_interval(base, x, "bar", low, high, rule={"strokeWidth": 2}, color=COLORS["sae"], opacity=0.8)
    return chart.properties(width="container", height=alt.Step(28))


def tilt(tokens: pd.DataFrame, features: Mapping[str, Sequence[float]]) -> alt.LayerChart:
    """Draw activations in a plane, and the error of an SAE whose first atom is turned by a slider's angle (rows of `tilt.tokens`).

    From Sae(x) the linear part of the error leads towards x, the nonlinear part the rest of the way. `features` gives the angles
    of the true features by case.
    """
    degrees = alt.param(
        name="degrees", value=25, bind=alt.binding_range(min=-60, max=60, step=1, name="first atom turned by, ° ")
    )
    pick = chooser("which", list(features), "Features")
    ends = [float(end) for axis in ("x1", "x2") for end in (tokens[axis].min(), tokens[axis].max())]
    room = max(ends[1] - ends[0], ends[3] - ends[2]) * 1.05
    scale = [alt.Scale(domain=[(a + b - room) / 2, (a + b + room) / 2], nice=False) for a, b in (ends[:2], ends[2:])]
    x, y = (alt.X("x1:Q", axis=None, scale=scale[0]), alt.Y("x2:Q", axis=None, scale=scale[1]))
    turned = {"u1": "1 - cos(degrees * PI / 180)", "u2": "-sin(degrees * PI / 180)"}
    here = alt.Chart(tokens).transform_filter(alt.datum.case == pick).transform_calculate(**turned)
    here = here.transform_calculate(s1="datum.x1 - datum.weight * datum.u1", s2="datum.x2 - datum.weight * datum.u2")
    here = here.transform_calculate(m1="datum.s1 + datum.linear * datum.u1", m2="datum.s2 + datum.linear * datum.u2")
    layers = [_segment(here, x, y, part, *ends) for part, *ends in (("linear", "s", "m"), ("nonlinear", "m", "x"))]
    dots = here.mark_point(size=26, color=COLORS["x"]).encode(
        x=x, y=y, tooltip=["x1:Q", "x2:Q", "weight:Q", "linear:Q"]
    )
    says = "'FVU ' + format(datum.scale * (pow(datum.u1, 2) + pow(datum.u2, 2)), '.3f') + ', of it linear in x: '"
    text = here.transform_window(row="row_number()").transform_filter("datum.row == 1")
    text = text.transform_calculate(says=says + " + format(datum.r2, '.0%')").mark_text(align="left", fontSize=13)
    text = text.encode(x=alt.value(4), y=alt.value(10), text="says:N")
    return (
        alt.layer(*_atoms(features, pick, x, y, room / 3), *layers, dots, text)
        .add_params(degrees, pick)
        .properties(width=360, height=360)
    )


def _segment(base: alt.Chart, x: alt.X, y: alt.Y, part: str, start: str, end: str) -> alt.Chart:
    """A line for every token from one of its points to another, in a part's colour."""
    hue = alt.Color("part:N", title=None, scale=named_colors(["linear", "nonlinear"], ["linear", "nonlinear"]))
    drawn = base.transform_calculate(part=f"'{part}'").mark_rule(strokeWidth=2, opacity=0.8)
    first, second = (axis.copy() for axis in (x, y))
    first.shorthand, second.shorthand = f"{start}1:Q", f"{start}2:Q"
    return drawn.encode(x=first, y=second, x2=f"{end}1:Q", y2=f"{end}2:Q", color=hue)


def _atoms(
    features: Mapping[str, Sequence[float]], pick: alt.Parameter, x: alt.X, y: alt.Y, length: float
) -> tuple[alt.Chart, alt.Chart]:
    """The true features, thin, and the first one as the dictionary has it, turned by the slider."""
    rows = [{"case": case, "angle": a, "first": i == 0} for case, each in features.items() for i, a in enumerate(each)]
    base = alt.Chart(pd.DataFrame(rows)).transform_filter(alt.datum.case == pick)

    def ray(angle: str) -> alt.Chart:
        ends = {f"x{i}": f"{length} * {f}(({angle}) * PI / 180)" for i, f in ((1, "cos"), (2, "sin"))}
        return base.transform_calculate(**ends, origin="0").encode(x=x, y=y, x2="origin:Q", y2="origin:Q")

    true = ray("datum.angle").mark_rule(color=INK, opacity=0.6)
    learned = ray("datum.angle + degrees").transform_filter("datum.first")
    return true, learned.mark_rule(color=COLORS["sae"], strokeWidth=3)
