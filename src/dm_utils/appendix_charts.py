"""Charts of Appendices A and E: predictors of the error norm, its parts over widths, and second regressors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import altair as alt
import numpy as np
import pandas as pd

from dm_utils.charts import COLORS, INK, chooser, texts, width_axis

PART_TITLES = {"error": "SAE error", "linear": "linear error", "nonlinear": "nonlinear error"}
PREDICTOR_COLORS = [COLORS["x"], "#4c78a8", "#e45756", "#72b7b2", "#54a24b", "#88d27a", "#9d755d", "#8a8a8a", "#b279a2"]
GUESS = (  # FVU of ‖wa·linear + wb·nonlinear‖² as a prediction, from the columns of `scaling_pairs.quadratic_table`
    "1 - 2*(wa*wa*datum.ly + wb*wb*datum.ny + wa*wb*datum.xy)"
    " + pow(wa, 4)*datum.ll + pow(wb, 4)*datum.nn + wa*wa*wb*wb*(datum.xx + 2*datum.ln)"
    " + 2*pow(wa, 3)*wb*datum.lx + 2*wa*pow(wb, 3)*datum.nx"
)
TARGET_TITLES = {
    "r2_norm": "‖SaeError(x)‖, straight lines (Fig. 13)",
    "r2_norm2": "‖SaeError(x)‖², straight lines (Eq. 10)",
    "r2_norm_binned": "‖SaeError(x)‖, scalars through 64 bins",
    "r2_norm2_binned": "‖SaeError(x)‖², scalars through 64 bins",
}


def part_color(parts: Collection[str]) -> alt.Color:
    """Return the colour of the error's parts, each by its meaning."""
    names = [PART_TITLES[part] for part in parts]
    return alt.Color("part:N", title=None, scale=alt.Scale(domain=names, range=[COLORS[part] for part in parts]))


def norm_predictors(table: pd.DataFrame) -> alt.LayerChart:
    """Draw the R² of every predictor of the error norm over layers (Fig. 13), as `compare_norm_predictors` gives it.

    A list chooses the target; a click in the legend singles out predictors.
    """
    order = list(dict.fromkeys(table["predictor"]))
    parts = []
    for metric, title in TARGET_TITLES.items():
        columns = {metric: "value", f"{metric}_low": "low", f"{metric}_high": "high"}
        part = table[["sae_id", "layer", "predictor", *columns]].rename(columns=columns).assign(target=title)
        parts.append(part.assign(text=texts(part, "value", "low", "high")))
    target, picked = (
        chooser("target", list(TARGET_TITLES.values()), "Predict"),
        alt.selection_point(fields=["predictor"], bind="legend"),
    )
    scale, legend = alt.Scale(domain=order, range=PREDICTOR_COLORS), alt.Legend(columns=3)
    base = (
        alt.Chart(pd.concat(parts, ignore_index=True).round(5))
        .encode(
            x=alt.X("layer:Q", title="layer", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(padding=14)),
            color=alt.Color("predictor:N", title="predicted from", sort=order, scale=scale, legend=legend),
            opacity=alt.condition(picked, alt.value(1), alt.value(0.12)),
        )
        .transform_filter(alt.datum.target == target)
    )
    tooltip = ["predictor:N", alt.Tooltip("text:N", title="R²"), "layer:Q", alt.Tooltip("sae_id:N", title="SAE")]
    bars = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title="R², held out"), y2="high:Q")
    line = base.mark_line(point=alt.OverlayMarkDef(size=55)).encode(y="value:Q", tooltip=tooltip)
    return alt.layer(bars, line).add_params(target, picked).properties(width="container", height=360)


def learning_curve(table: pd.DataFrame) -> alt.LayerChart:
    """Draw the R² of two predictors against the number of fitting tokens, as `learning_curve.norm_learning_curve` gives it."""
    data = table.assign(text=texts(table, "r2", "r2_low", "r2_high")).round(5)
    names = list(dict.fromkeys(data["predictor"]))
    hue = alt.Color("predictor:N", title="predicted from", scale=alt.Scale(domain=names, range=PREDICTOR_COLORS))
    base = alt.Chart(data).encode(x=alt.X("n_fit:Q", title="fitting tokens", scale=alt.Scale(type="log")), color=hue)
    per = alt.Tooltip("per_identity:Q", title="fitting tokens per identity", format=".1f")
    tooltip = ["predictor:N", alt.Tooltip("text:N", title="R²"), alt.Tooltip("n_fit:Q", format=","), per]
    bars = base.mark_rule(strokeWidth=2).encode(y=alt.Y("r2_low:Q", title="R², held out"), y2="r2_high:Q")
    line = base.mark_line(point=alt.OverlayMarkDef(size=60)).encode(y="r2:Q", tooltip=tooltip)
    return alt.layer(bars, line).properties(width="container", height=260)


def part_lines(tokens: pd.DataFrame, parts: Sequence[str] = ("linear", "nonlinear")) -> alt.VConcatChart:
    """Draw the norms of the error's parts along the tokens, one line per SAE (Fig. 12); drag below to choose tokens."""
    brush = alt.selection_interval(encodings=["x"], name="span", value={"x": [0, 30]})
    data = tokens.round({part: 4 for part in parts})
    top = float(data[list(parts)].to_numpy().max())
    hue = alt.Color("d_sae:O", title="SAE width", scale=alt.Scale(scheme="viridis"))
    x = alt.X(
        "index:Q",
        title="token (hover for its text)",
        scale=alt.Scale(domain={"param": "span", "encoding": "x"}, nice=False),
    )
    panels = []
    for part in parts:
        tooltip = [alt.Tooltip(name) for name in ("token:N", "position:Q", "sae:N")]
        tooltip.append(alt.Tooltip(f"{part}:Q", title=f"norm of {PART_TITLES[part]}", format=".4g"))
        y = alt.Y(f"{part}:Q", title=f"‖{PART_TITLES[part]}‖", scale=alt.Scale(domain=[0, top]))
        base = alt.Chart(data).encode(x=x, y=y, color=hue)
        marks = base.mark_line(clip=True) + base.mark_point(size=36, clip=True).encode(tooltip=tooltip)
        panels.append(marks.properties(width=620, height=190))
    small = (
        alt.Chart(data)
        .mark_line(strokeWidth=1)
        .encode(
            x=alt.X("index:Q", title="drag to choose the tokens above"),
            y=alt.Y(f"{parts[-1]}:Q", title=None, axis=None),
            color=hue,
        )
    )
    return alt.vconcat(*panels, small.add_params(brush).properties(width=620, height=50))


def part_means(table: pd.DataFrame) -> alt.LayerChart:
    """Draw the held-out mean norm of each part against width, as `part_trends.width_table` gives it."""
    shares = {"mean norm": table, "relative to the narrowest SAE": relative(table)}
    data = pd.concat([part.assign(shown=name) for name, part in shares.items()], ignore_index=True)
    data = data.assign(part=data["part"].map(PART_TITLES), text=texts(data, "value", "low", "high")).round(5)
    shown = chooser("shown", list(shares), "Show", radio=True)
    base = (
        alt.Chart(data).encode(x=width_axis(), color=part_color(PART_TITLES)).transform_filter(alt.datum.shown == shown)
    )
    y = {"title": "norm", "scale": alt.Scale(zero=True)}
    band = base.mark_area(opacity=0.25).encode(y=alt.Y("low:Q", **y), y2="high:Q")
    tooltip = ["part:N", alt.Tooltip("text:N", title="norm"), alt.Tooltip("sae_id:N", title="SAE")]
    line = base.mark_line(point=alt.OverlayMarkDef(size=60)).encode(y=alt.Y("value:Q", **y), tooltip=tooltip)
    return alt.layer(band, line).add_params(shown).properties(width="container", height=280)


def relative(table: pd.DataFrame) -> pd.DataFrame:
    """Divide each part's means and interval ends by the mean at the narrowest width."""
    first = table.sort_values("d_sae").groupby("part")["value"].first()
    by = table["part"].map(first)
    return table.assign(**{name: table[name] / by for name in ("value", "low", "high")})


def change_densities(changes: Mapping[str, np.ndarray], n_bins: int = 80) -> alt.LayerChart:
    """Draw how each token's norm changes per doubling of the width, in percent, as a density per part."""
    everything = np.concatenate(list(changes.values()))
    low, high = np.quantile(everything, [0.002, 0.998])
    edges, rows = np.linspace(low, high, n_bins + 1), []
    for part, values in changes.items():
        counts = np.histogram(values, edges)[0]
        rows.append(
            pd.DataFrame({"part": PART_TITLES[part], "at": edges[:-1], "end": edges[1:], "share": counts / len(values)})
        )
    base = alt.Chart(pd.concat(rows, ignore_index=True).round(6)).encode(
        x=alt.X("at:Q", title="change of a token's norm per doubling of the width (%)", bin="binned"),
        x2="end:Q",
        y=alt.Y("share:Q", title="share of tokens", axis=alt.Axis(format="%"), stack=None),
        color=part_color(changes),
    )
    tooltip = [
        "part:N",
        alt.Tooltip("at:Q", format=".1f", title="from"),
        alt.Tooltip("end:Q", format=".1f", title="to"),
    ]
    bars = base.mark_bar(opacity=0.55).encode(tooltip=[*tooltip, alt.Tooltip("share:Q", format=".2%")])
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(strokeDash=[4, 4]).encode(x="x:Q")
    return alt.layer(bars, zero).properties(width="container", height=240)


def token_means(table: pd.DataFrame) -> alt.LayerChart:
    """Draw the mean squared error norm of every frequent token against how often it occurs; hover for its text."""
    base = alt.Chart(table.round(4)).encode(x=alt.X("count:Q", title="occurrences", scale=alt.Scale(type="log")))
    tooltip = [
        "token:N",
        "count:Q",
        alt.Tooltip("mean:Q", format=".4g"),
        alt.Tooltip("low:Q", title="10 % below", format=".4g"),
    ]
    tooltip.append(alt.Tooltip("high:Q", title="10 % above", format=".4g"))
    bars = base.mark_rule(opacity=0.12).encode(y=alt.Y("low:Q", title="squared error norm"), y2="high:Q")
    marks = base.mark_point(color=COLORS["error"], size=34, opacity=0.8).encode(y="mean:Q", tooltip=tooltip)
    return alt.layer(bars, marks).properties(width="container", height=300).interactive()


# --- Appendix E --------------------------------------------------------------------------------------------


def pair_decreases(table: pd.DataFrame, names: Mapping[str, str]) -> alt.LayerChart:
    """Draw the percent decrease in FVU of every pair (Fig. 16); lists choose the second regressor and the norm.

    `table` is `scaling_pairs.decrease_table` of one or both powers; `names` gives each second regressor's title.
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
    text = percents(table, "decrease")
    return table.assign(name=table["second"].map(dict(names)), norm=norm, pair=pair, text=text).round(5)


def percents(table: pd.DataFrame, name: str) -> list[str]:
    """Write percentages with their intervals to two decimals, never as minus zero."""
    columns = (table[f"{name}{end}"].round(2) + 0.0 for end in ("", "_low", "_high"))
    return [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in zip(*columns, strict=True)]


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
    x = alt.X("decrease_low:Q", title="decrease in held-out FVU (%)")
    bars = base.mark_rule(strokeWidth=3).encode(x=x, x2="decrease_high:Q")
    marks = base.mark_point(size=110).encode(x="decrease:Q")
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(strokeDash=[4, 4]).encode(x="x:Q")
    return alt.layer(zero, bars, marks).add_params(pair, norm).properties(width="container", height=230)


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
    bars = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title="coefficient"), y2="high:Q")
    tooltip = ["part:N", alt.Tooltip("text:N", title="coefficient"), "small:O", "large:O"]
    line = base.mark_line(point=alt.OverlayMarkDef(size=70)).encode(y="value:Q", tooltip=tooltip)
    one = alt.Chart(pd.DataFrame({"y": [1]})).mark_rule(strokeDash=[4, 4], color=INK).encode(y="y:Q")
    return alt.layer(one, bars, line).add_params(small).properties(width="container", height=300)


def guess_weights(table: pd.DataFrame) -> alt.LayerChart:
    """Let the reader set the weights of the two parts and see the held-out FVU of that guess, for a chosen pair.

    `table` is `scaling_pairs.quadratic_table` with `fvu_one` and `fvu_two`: the FVU of any guess is a form of nine
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
