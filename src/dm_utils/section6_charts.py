"""Charts of Sections 5.3, 6.1 and 6.2 that no other chapter draws; theme and colours are the book's."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from .charts import COLORS, INK, chooser, sae_tooltip, texts, width_axis

WIDE: dict[str, str] = {"width": "container"}
PART_NAMES = {"error": "SaeError", "linear": "LinearError", "nonlinear": "NonlinearError"}
PART_HUE = alt.Scale(domain=list(PART_NAMES.values()), range=[COLORS[part] for part in PART_NAMES])
MEASURED, OF_NORM, OF_VARIANCE = "recovered", "its share of the error's norm", "its share of the variance"


def dashes(field: str, order: Sequence[str], patterns: Sequence[list[int]]) -> alt.StrokeDash:
    """Tell lines apart by their dashes, one pattern for each value of a field, with a legend in one column."""
    legend = alt.Legend(orient="bottom", columns=1, symbolType="stroke", symbolSize=600)
    scale = alt.Scale(domain=list(order), range=list(patterns))
    return alt.StrokeDash(f"{field}:N", title=None, sort=list(order), scale=scale, legend=legend)


def percent_span(values: pd.Series) -> str:
    """Write the range of shares as percentages, for example ``12 to 31 %``."""
    return f"{100 * values.min():.0f} to {100 * values.max():.0f} %"


def recovery_rows(table: pd.DataFrame, along: str) -> pd.DataFrame:
    """Long form of `downstream.downstream_table` for :func:`recovery`: one row per SAE, part, loss and quantity.

    ``along`` names the comparison that these SAEs make, for example "width, at L0 near 16".
    """
    sources = {MEASURED: "{loss}_recovered_{part}", OF_NORM: "share_norm_{part}", OF_VARIANCE: "share_variance_{part}"}
    rows = []
    for loss, words in (("ce", "cross-entropy"), ("kl", "KL to the original")):
        for part in ("linear", "nonlinear"):
            for quantity, source in sources.items():
                name = source.format(loss=loss, part=part)
                about = table[["sae_id", "d_sae", "l0", "layer", "architecture"]]
                values = {"value": table[name], "low": table[f"{name}_low"], "high": table[f"{name}_high"]}
                rows.append(about.assign(**values, quantity=quantity, part=PART_NAMES[part], loss=words, along=along))
    return pd.concat(rows, ignore_index=True)


def recovery(rows: pd.DataFrame, x: str, title: str) -> alt.LayerChart:
    """Draw what adding each part back recovers, beside the two predictions (Fig. 8), against ``x`` (d_sae or l0)."""
    rows = rows.assign(text=texts(rows, "value", "low", "high")).round({"value": 5, "low": 5, "high": 5, "l0": 2})
    loss = chooser("loss", list(dict.fromkeys(rows["loss"])), "Loss", radio=True)
    along = (
        width_axis() if x == "d_sae" else alt.X(f"{x}:Q", title=title, scale=alt.Scale(type="log", base=2, padding=14))
    )
    order, drawn = [MEASURED, OF_NORM, OF_VARIANCE], rows["part"].unique().tolist()
    base = (
        alt.Chart(rows)
        .encode(x=along, color=alt.Color("part:N", title=None, scale=PART_HUE, legend=alt.Legend(values=drawn)))
        .transform_filter(alt.datum.loss == loss)
    )
    y_axis = alt.Y("value:Q", title="share of the increase", axis=alt.Axis(format="%"))
    dash = dashes("quantity", order, [[1, 0], [6, 4], [2, 3]])
    bars = (
        base.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high:Q").transform_filter(alt.datum.quantity == MEASURED)
    )
    tooltip = [alt.Tooltip("part:N"), alt.Tooltip("quantity:N"), *sae_tooltip("share")]
    lines = base.mark_line(point=alt.OverlayMarkDef(size=60)).encode(y=y_axis, strokeDash=dash, tooltip=tooltip)
    return alt.layer(bars, lines).add_params(loss).properties(**WIDE, height=320)


def damage(table: pd.DataFrame) -> alt.LayerChart:
    """Draw the KL that taking each part of the error out of x causes, beside random changes as long; choose the SAE."""
    names = {
        "without": "x without this part",
        "random": "x + random direction",
        "difference": "x + difference of two activations",
    }
    rows = []
    for part, words in PART_NAMES.items():
        for kind, label in names.items():
            name = f"kl_{kind}_{part}"
            values = {"value": table[name], "low": table[f"{name}_low"], "high": table[f"{name}_high"]}
            rows.append(table[["sae_id"]].assign(**values, part=words, kind=label))
    data = pd.concat(rows, ignore_index=True)
    data = data.assign(text=texts(data, "value", "low", "high")).round(5)
    sae = chooser("sae", table["sae_id"].tolist(), "SAE")
    base = alt.Chart(data).transform_filter(alt.datum.sae_id == sae)
    y_axis = alt.Y("kind:N", title=None, sort=list(names.values()), axis=alt.Axis(labelLimit=260))
    hue = alt.Color("part:N", legend=None, scale=PART_HUE)
    x_axis = alt.X("value:Q", title="KL to the original, nats per token")
    bars = base.mark_bar(opacity=0.75).encode(y=y_axis, x=x_axis, color=hue, tooltip=["part:N", "kind:N", "text:N"])
    rules = base.mark_rule(strokeWidth=2, color=INK).encode(y=y_axis, x="low:Q", x2="high:Q")
    layered = alt.layer(bars, rules, data=data).properties(width=420, height=80)
    rows_of = alt.Row(
        "part:N", title=None, sort=list(PART_NAMES.values()), header=alt.Header(labelAngle=0, labelAlign="left")
    )
    return layered.facet(row=rows_of).add_params(sae)


def mixing(grid: pd.DataFrame) -> alt.LayerChart:
    """Draw the loss over how much of each part is added back; two sliders choose a mixture and read it off.

    ``grid`` holds ``linear, nonlinear`` (the shares added), ``value, low, high`` (nats per token above the original).
    """
    steps = sorted(grid["linear"].unique().tolist())
    width = float(np.diff(steps).min())
    data = grid.assign(text=texts(grid, "value", "low", "high"), largest=grid["value"].max()).round(5)
    at = {
        name: alt.param(
            name=f"share_{name}",
            value=0,
            bind=alt.binding_range(min=0, max=1, step=width, name=f"{PART_NAMES[name]} added "),
        )
        for name in ("linear", "nonlinear")
    }
    base = alt.Chart(data).encode(
        x=alt.X("linear:O", title="share of LinearError added to Sae(x)", axis=alt.Axis(labelAngle=0, format=".0%")),
        y=alt.Y("nonlinear:O", title="share of NonlinearError added", sort="descending", axis=alt.Axis(format=".0%")),
        tooltip=["linear:Q", "nonlinear:Q", "text:N"],
    )
    hue = alt.Color("value:Q", legend=None, scale=alt.Scale(scheme="viridis", reverse=True))
    chosen = "abs(datum.linear - share_linear) < 1e-6 && abs(datum.nonlinear - share_nonlinear) < 1e-6"
    frame = base.mark_rect(fill=None, stroke=INK, strokeWidth=3).transform_filter(chosen)
    dark = alt.condition("datum.value > 0.6 * datum.largest", alt.value("#ffffff"), alt.value("#111111"))
    numbers = base.mark_text(fontSize=12).encode(text=alt.Text("value:Q", format=".3f"), color=dark)
    reading = (
        alt.Chart(data)
        .mark_text(align="left", fontSize=13, fontWeight=600, color=INK)
        .encode(x=alt.value(0), y=alt.value(-10), text="reading:N")
        .transform_filter(chosen)
        .transform_calculate(reading="'loss above the original: ' + datum.text")
    )
    cells = base.mark_rect().encode(color=hue)
    return alt.layer(cells, frame, numbers, reading).add_params(*at.values()).properties(**WIDE, height=300)


def encoders(table: pd.DataFrame) -> alt.LayerChart:
    """Draw FVU and FVU_nonlinear against width under each encoder (column ``encoder``), with 95 % intervals."""
    parts = {"fvu": "FVU", "fvu_nonlinear": "FVU nonlinear"}
    rows = []
    for name, words in parts.items():
        values = {"value": table[name], "low": table[f"{name}_low"], "high": table[f"{name}_high"]}
        about = table[["sae_id", "d_sae", "l0", "layer", "architecture", "encoder"]]
        rows.append(about.assign(**values, metric=words))
    data = pd.concat(rows, ignore_index=True)
    data = data.assign(text=texts(data, "value", "low", "high")).round({"value": 5, "low": 5, "high": 5, "l0": 2})
    order = list(dict.fromkeys(table["encoder"]))
    hue = alt.Color(
        "metric:N",
        title=None,
        scale=alt.Scale(domain=list(parts.values()), range=[COLORS["error"], COLORS["nonlinear"]]),
    )
    dash = dashes("encoder", order, [[1, 0], [2, 3], [7, 4]])
    base = alt.Chart(data).encode(x=width_axis(), color=hue)
    y_axis = alt.Y("value:Q", title="fraction of variance unexplained", scale=alt.Scale(zero=True))
    bars = base.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high:Q")
    tooltip = [alt.Tooltip("metric:N"), alt.Tooltip("encoder:N"), *sae_tooltip("value")]
    lines = base.mark_line(point=alt.OverlayMarkDef(size=60)).encode(y=y_axis, strokeDash=dash, tooltip=tooltip)
    return alt.layer(bars, lines).properties(**WIDE, height=340)


CASES = {
    "encoder": "x, the SAE's encoder",
    "trained": "x, pursuit on the SAE's dictionary",
    "random": "x, pursuit on a random dictionary",
    "twin": "Gaussian twin of x, pursuit on the SAE's dictionary",
}


def dictionary_controls(table: pd.DataFrame) -> alt.LayerChart:
    """Draw the FVU of pursuit beside its controls against width: columns ``case, d_sae, fvu, fvu_low, fvu_high``."""
    data = table.assign(name=table["case"].map(CASES), text=texts(table, "fvu", "fvu_low", "fvu_high")).round(5)
    colors = [COLORS["error"], COLORS["encoder"], COLORS["absent"], COLORS["x"]]
    scale = alt.Scale(domain=list(CASES.values()), range=colors)
    hue = alt.Color("name:N", title=None, scale=scale, legend=alt.Legend(orient="bottom", columns=1))
    base = alt.Chart(data).encode(x=width_axis(), color=hue)
    bars = base.mark_rule(strokeWidth=1.5).encode(y="fvu_low:Q", y2="fvu_high:Q")
    y_axis = alt.Y("fvu:Q", title="fraction of variance unexplained")
    lines = base.mark_line(point=alt.OverlayMarkDef(size=60)).encode(y=y_axis, tooltip=["name:N", "d_sae:Q", "text:N"])
    return alt.layer(bars, lines).properties(**WIDE, height=320)


def token_paths(paths: pd.DataFrame) -> alt.LayerChart:
    """Draw one token's remaining error against the number of atoms, per encoder; choose the token, slide the number.

    ``paths`` holds ``token`` (its name in the list), ``encoder, atoms, left`` (share of ‖x − mean‖² that remains).
    """
    token = chooser("token", list(dict.fromkeys(paths["token"])), "Token")
    last = int(paths["atoms"].max())
    k = alt.param(name="atoms_kept", value=min(8, last), bind=alt.binding_range(min=0, max=last, step=1, name="Atoms "))
    base = alt.Chart(paths.round(4)).transform_filter(alt.datum.token == token)
    hue = alt.Color("encoder:N", title=None, scale=alt.Scale(range=[COLORS["error"], COLORS["encoder"]]))
    x_axis, y_axis = (
        alt.X("atoms:Q", title="number of atoms"),
        alt.Y("left:Q", title="share of the token left", scale=alt.Scale(domainMin=0)),
    )
    lines = base.mark_line().encode(x=x_axis, y=y_axis, color=hue)
    here = base.transform_filter("datum.atoms == atoms_kept")
    dots = here.mark_point(size=110).encode(x=x_axis, y=y_axis, color=hue)
    words = here.mark_text(dx=10, dy=-10, align="left").encode(
        x=x_axis, y=y_axis, text=alt.Text("left:Q", format=".3f"), color=hue
    )
    return alt.layer(lines, dots, words).add_params(token, k).properties(**WIDE, height=300)


def neighbour_bars(table: pd.DataFrame, order: Sequence[str]) -> alt.LayerChart:
    """Draw the R² of each part of the error from each neighbour (Fig. 9b), rows of `between.predict_parts`.

    Lists choose the regressor (reconstruction or raw activation; alone or with x) and which R².
    """
    rows = []
    for name, words in (("r2", "mean over dimensions (the paper's)"), ("r2_weighted", "variance-weighted")):
        values = {"value": table[name], "low": table[f"{name}_low"], "high": table[f"{name}_high"]}
        rows.append(table[["neighbour", "reading", "kind", "given", "target", "sae_id"]].assign(**values, r2=words))
    data = pd.concat(rows, ignore_index=True)
    data = data.assign(part=data["target"].map(PART_NAMES), text=texts(data, "value", "low", "high")).round(5)
    data["regressor"] = data["kind"] + ", " + data["given"]
    kind = chooser("regressor", list(dict.fromkeys(data["regressor"])), "Predict from")
    metric = chooser("which", list(dict.fromkeys(data["r2"])), "R²")
    base = alt.Chart(data).transform_filter((alt.datum.regressor == kind) & (alt.datum.r2 == metric))
    y_axis = alt.Y("neighbour:N", title=None, sort=list(order), axis=alt.Axis(labelLimit=220))
    offset = alt.YOffset("part:N", sort=list(PART_NAMES.values()))
    x_axis = alt.X("value:Q", title="held-out R²")
    tooltip = [
        "neighbour:N",
        "reading:N",
        alt.Tooltip("sae_id:N", title="SAE"),
        "part:N",
        alt.Tooltip("text:N", title="R²"),
    ]
    hue = alt.Color("part:N", title=None, scale=PART_HUE)
    bars = base.mark_bar(opacity=0.8).encode(y=y_axis, yOffset=offset, x=x_axis, color=hue, tooltip=tooltip)
    rules = base.mark_rule(strokeWidth=1.5, color=INK).encode(y=y_axis, yOffset=offset, x="low:Q", x2="high:Q")
    return alt.layer(bars, rules).add_params(kind, metric).properties(**WIDE, height=64 * len(order))


def built_in_bars(rows: pd.DataFrame) -> alt.LayerChart:
    """Draw measured R² beside its controls: columns ``case, r2`` (which), ``value, low, high``."""
    order = list(dict.fromkeys(rows["case"]))
    data = rows.assign(text=texts(rows, "value", "low", "high")).round(5)
    metric = chooser("which", list(dict.fromkeys(rows["r2"])), "R²")
    base = alt.Chart(data).transform_filter(alt.datum.r2 == metric)
    y_axis = alt.Y("case:N", title=None, sort=order, axis=alt.Axis(labelLimit=420))
    x_axis = alt.X("value:Q", title="held-out R² of NonlinearError from Sae(x)", scale=alt.Scale(domainMin=0))
    hue = alt.condition(alt.datum.case == order[0], alt.value(COLORS["nonlinear"]), alt.value(COLORS["error"]))
    bars = base.mark_bar(opacity=0.8).encode(y=y_axis, x=x_axis, color=hue, tooltip=["case:N", "text:N"])
    rules = base.mark_rule(strokeWidth=2, color=INK).encode(y=y_axis, x="low:Q", x2="high:Q")
    return alt.layer(bars, rules).add_params(metric).properties(**WIDE, height=44 * len(order))


def scale_slider(curve: pd.DataFrame, measured: float) -> alt.LayerChart:
    """Draw the R² that arithmetic gives if the nonlinear part of Sae(x) were scaled; a slider reads the curve.

    ``curve`` holds ``scale`` (1 is the SAE as it is) and ``r2``; ``measured`` is the R² found at scale 1.
    """
    steps = sorted(curve["scale"].unique().tolist())
    step = round(float(np.diff(steps).min()), 6)
    at = alt.param(
        name="noise", value=1.0, bind=alt.binding_range(min=steps[0], max=steps[-1], step=step, name="Scale ")
    )
    base = alt.Chart(curve.round(5))
    x_axis = alt.X("scale:Q", title="the nonlinear part of Sae(x), times")
    y_axis = alt.Y("r2:Q", title="R² of NonlinearError from Sae(x)", scale=alt.Scale(domain=[0, 1]))
    line = base.mark_line(color=COLORS["error"]).encode(x=x_axis, y=y_axis)
    here = base.transform_filter("abs(datum.scale - noise) < 1e-6")
    dot = here.mark_point(size=120, color=COLORS["nonlinear"]).encode(x=x_axis, y=y_axis)
    words = here.mark_text(align="left", dx=12, dy=12).encode(x=x_axis, y=y_axis, text=alt.Text("r2:Q", format=".3f"))
    found = alt.Chart(pd.DataFrame({"scale": [1.0], "r2": [measured]})).mark_point(
        shape="cross", size=160, filled=False, color=INK
    )
    return (
        alt.layer(
            line,
            found.encode(x=x_axis, y=y_axis, tooltip=[alt.Tooltip("r2:Q", title="measured", format=".3f")]),
            dot,
            words,
        )
        .add_params(at)
        .properties(**WIDE, height=280)
    )
