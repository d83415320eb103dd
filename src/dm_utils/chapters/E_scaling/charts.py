"""Charts of this chapter: pairs of SAEs, and second regressors."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import pandas as pd

from dm_utils.base.names import PART_TITLES
from dm_utils.chapters.E_scaling.findings import percent
from dm_utils.charts.marks import chooser, texts, width_axis, with_interval
from dm_utils.charts.theme import COLORS, INK
from dm_utils.maths.tables import estimates

GUESS = (  # FVU of ‖wa·linear + wb·nonlinear‖² as a prediction, from the columns of `experiment.quadratic_table`
    "1 - 2*(wa*wa*datum.ly + wb*wb*datum.ny + wa*wb*datum.xy)"
    " + pow(wa, 4)*datum.ll + pow(wb, 4)*datum.nn + wa*wa*wb*wb*(datum.xx + 2*datum.ln)"
    " + 2*pow(wa, 3)*wb*datum.lx + 2*wa*pow(wb, 3)*datum.nx"
)


def pair_decreases(table: pd.DataFrame, names: Mapping[str, str]) -> alt.LayerChart:
    """Draw the percent decrease in FVU of every pair (Fig. 16); lists choose the second regressor and the norm.

    `table` is `experiment.decrease_table` of one or both powers; `names` gives each second regressor's title.
    """
    data = named(table, names)
    second, norm = (
        chooser("second", list(names.values()), "Second regressor"),
        chooser("norm", list(dict.fromkeys(data["norm"])), "Predict", radio=True),
    )
    tooltip = [
        alt.Tooltip("small:O", title="smaller SAE"),
        alt.Tooltip("large:O", title="larger SAE"),
        alt.Tooltip("text:N", title="decrease (%)"),
        alt.Tooltip("fvu_one:Q", title="FVU of one regressor", format=".4f"),
        alt.Tooltip("fvu_two:Q", title="FVU of two", format=".4f"),
    ]
    base = (
        alt.Chart(data)
        .encode(
            x=alt.X("small:O", title="predicted from the SAE of width", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("large:O", title="SAE of width", sort="descending"),
            tooltip=tooltip,
        )
        .transform_filter((alt.datum.name == second) & (alt.datum.norm == norm))
    )
    shade = alt.Opacity("decrease:Q", title="decrease in FVU (%)", scale=alt.Scale(range=[0.06, 0.6], nice=False))
    cells = base.mark_rect(color=COLORS["sae"]).encode(opacity=shade)
    numbers = base.mark_text(fontSize=12, lineBreak="|", lineHeight=14).encode(text="cell:N")
    numbers = numbers.transform_calculate(cell="replace(datum.text, ' ', '|')")
    return alt.layer(cells, numbers).add_params(second, norm).properties(width="container", height=340)


def named(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Add the titles that charts show: `name`, `norm`, `pair`, `text`."""
    norm = table["power"].map({1: "norms", 2: "squared norms"})
    pair = [f"{small:,} → {large:,}" for small, large in zip(table["small"], table["large"], strict=True)]
    text = [percent(estimate) for estimate in estimates(table, "decrease")]
    return table.assign(name=table["second"].map(dict(names)), norm=norm, pair=pair, text=text).round(5)


def second_regressors(table: pd.DataFrame, names: Mapping[str, str]) -> alt.LayerChart:
    """Draw what each second regressor saves for one pair of SAEs, with intervals; lists choose the pair and the norm."""
    data = named(table, names)
    pair = chooser("pair", list(dict.fromkeys(data["pair"])), "Pair")
    norm = chooser("norm", list(dict.fromkeys(data["norm"])), "Predict", radio=True)
    colors = {"nonlinear": COLORS["nonlinear"], "linear": COLORS["linear"], "sae": COLORS["sae"], "x": COLORS["x"]}
    scale = alt.Scale(domain=list(names.values()), range=[colors.get(key, COLORS["error"]) for key in names])
    base = (
        alt.Chart(data)
        .encode(
            y=alt.Y("name:N", title=None, sort=list(names.values()), axis=alt.Axis(labelLimit=240)),
            color=alt.Color("name:N", legend=None, scale=scale),
            tooltip=[alt.Tooltip("name:N", title="second regressor"), alt.Tooltip("text:N", title="decrease (%)")],
        )
        .transform_filter((alt.datum.pair == pair) & (alt.datum.norm == norm))
    )
    x = alt.X("decrease:Q", title="decrease in held-out FVU (%)")
    marks = with_interval(base, x, "point", "decrease_low", "decrease_high", rule={"strokeWidth": 3}, size=110)
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(strokeDash=[4, 4]).encode(x="x:Q")
    return alt.layer(zero, marks).add_params(pair, norm).properties(width="container", height=230)


def survival(table: pd.DataFrame) -> alt.LayerChart:
    """Draw how much of each part of a smaller SAE's squared error norm a larger SAE still has."""
    parts, titles = [], {part: PART_TITLES[part] for part in ("linear", "nonlinear")} | {"cross": "cross term"}
    for part, title in titles.items():
        columns = {part: "value", f"{part}_low": "low", f"{part}_high": "high"}
        parts.append(table[["small", "large", *columns]].rename(columns=columns).assign(part=title))
    colors = [COLORS["linear"], COLORS["nonlinear"], COLORS["error"]]
    hue = alt.Color("part:N", title=None, scale=alt.Scale(domain=list(titles.values()), range=colors))
    data = pd.concat(parts, ignore_index=True)
    data = data.assign(text=texts(data, "value", "low", "high")).round(5)
    small = chooser("small", sorted(data["small"].unique().tolist()), "Smaller SAE of width")
    base = alt.Chart(data).encode(x=width_axis("width of the larger SAE", "large"), color=hue)
    base = base.transform_filter(alt.datum.small == small)
    base = base.encode(tooltip=["part:N", alt.Tooltip("text:N", title="coefficient"), "small:O", "large:O"])
    y, point = alt.Y("value:Q", title="coefficient"), alt.OverlayMarkDef(size=70)
    lines = with_interval(base, y, "line", rule={"strokeWidth": 2}, point=point)
    one = alt.Chart(pd.DataFrame({"y": [1]})).mark_rule(strokeDash=[4, 4], color=INK).encode(y="y:Q")
    return alt.layer(one, lines).add_params(small).properties(width="container", height=300)


def guess_weights(table: pd.DataFrame) -> alt.LayerChart:
    """Let the reader set the weights of the two parts and see the held-out FVU of that guess, for a chosen pair.

    `table` is `experiment.quadratic_table` with `fvu_one` and `fvu_two`: the FVU of any guess is a form of nine
    numbers per pair, so that the page computes it without a kernel. The constant follows by matching the means.
    """
    pair = chooser("pair", list(dict.fromkeys(table["pair"])), "Pair")
    a, b = (
        alt.param(name=name, value=value, bind=alt.binding_range(min=0, max=1.5, step=0.01, name=f"{title} "))
        for name, value, title in (("wa", 0.0, "keep of the linear error"), ("wb", 1.0, "keep of the nonlinear error"))
    )
    order = ["your guess", "one regressor (Eq. 13)", "two regressors (Eq. 23)"]
    base = alt.Chart(table.round(6)).transform_filter(alt.datum.pair == pair)
    base = base.transform_calculate(guess=GUESS, one="datum.fvu_one", two="datum.fvu_two").transform_fold(
        ["guess", "one", "two"], as_=["key", "fvu"]
    )
    titles = {"guess": order[0], "one": order[1], "two": order[2]}
    base = base.transform_calculate(name=" : ".join(f"datum.key == '{k}' ? '{v}'" for k, v in titles.items()) + " : ''")
    base = base.transform_calculate(text="format(datum.fvu, '.4f')").encode(y=alt.Y("name:N", title=None, sort=order))
    x = alt.X("fvu:Q", title="held-out FVU of the larger SAE's squared error norm", scale=alt.Scale(zero=True))
    colors = alt.Scale(domain=order, range=[COLORS["nonlinear"], COLORS["error"], COLORS["linear"]])
    bars = base.mark_bar().encode(x=x, color=alt.Color("name:N", legend=None, scale=colors))
    words = base.mark_text(align="left", dx=5).encode(x=x, text="text:N")
    return alt.layer(bars, words).add_params(pair, a, b).properties(width="container", height=130)
