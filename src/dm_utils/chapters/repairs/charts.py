"""Charts of this chapter: where each repair takes an SAE, linear error against nonlinear; every share; the dense channel by rank."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.chapters.repairs.prices import name
from dm_utils.charts.dots import dots
from dm_utils.charts.marks import WIDE, texts, with_interval
from dm_utils.charts.theme import COLORS, INK

KINDS = {
    "free": "free: folded into the decoder",
    "dense": "dense channel beside it",
    "search": "a search in place of the encoder",
    "latents": "more latents",
    "model": "the model is changed",
}
HUES = dict(zip(KINDS.values(), ("sae", "linear", "encoder", "x", "error"), strict=True))
SHOWN = {
    "removed": "of the error, removed",
    "removed_linear": "of the linear error, removed",
    "removed_nonlinear": "of the nonlinear error, removed",
    "ce_removed": "of the added cross-entropy, removed",
}
MARGIN = 1.08
NAMED = 0.04  # of the error: repairs that change it by less are named by their tooltips only, since they lie together


def kind(repair: str) -> str:
    """Which of `KINDS` a repair is."""
    if "channel" in repair:
        return KINDS["dense"]
    if "pursuit" in repair:
        return KINDS["search"]
    if repair in ("wider", "denser", "wider_denser", "boost"):
        return KINDS["latents"]
    return KINDS["model" if repair == "model" else "free"]


def arrows(table: pd.DataFrame) -> alt.LayerChart:
    """Draw each repair as an arrow from the SAE before it, FVU linear against FVU nonlinear; rows of `experiment.table`.

    Dashed lines join points of equal FVU; a list chooses the SAE.
    """
    table = table[(table["repair"] != "as it is") & ~table["repair"].str.startswith("sae_rank_")]
    ends = table[[f"{when}fvu_{part}" for when in ("", "before_") for part in ("linear", "nonlinear")]].to_numpy()
    span = [float(ends[:, i::2].max()) * MARGIN for i in (0, 1)]
    low = [min(0.0, float(ends[:, 0::2].min())) * MARGIN, float(ends[:, 1::2].min()) / MARGIN]
    data = table.assign(
        repair=table["repair"].map(name),
        kind=table["repair"].map(kind),
        sae=[f"{width:,} latents" for width in table["d_sae"]],
        text=texts(table, "fvu", "fvu_low", "fvu_high"),
    )
    columns = [
        "repair",
        "kind",
        "sae",
        "text",
        "removed",
        "fvu_linear",
        "fvu_nonlinear",
        "before_fvu_linear",
        "before_fvu_nonlinear",
    ]
    data = data[[*columns, "parameters", "flops", "latents", "dense"]].round(5)
    saes = data["sae"].unique().tolist()
    pick = alt.param(name="sae", value=saes[-1], bind=alt.binding_select(options=saes, name="SAE "))
    move = [f"(datum.fvu_{part} - datum.before_fvu_{part})" for part in ("linear", "nonlinear")]
    right, up = f"{move[0]} * width / {span[0] - low[0]}", f"{move[1]} * height / {span[1] - low[1]}"
    turn = f"atan2({right}, {up}) * 180 / PI"  # of a triangle that points up, in degrees, whatever the chart's width
    base = alt.Chart(data).transform_filter(alt.datum.sae == pick).transform_calculate(turn=turn)
    x = alt.X("fvu_linear:Q", title="FVU linear", scale=alt.Scale(domain=[low[0], span[0]], nice=False))
    y = alt.Y("fvu_nonlinear:Q", title="FVU nonlinear (Eq. 12)", scale=alt.Scale(domain=[low[1], span[1]], nice=False))
    hue = alt.Color("kind:N", title=None, scale=alt.Scale(domain=list(HUES), range=[COLORS[c] for c in HUES.values()]))
    hue = hue.legend(orient="bottom", columns=2)
    tooltip = ["repair:N", "kind:N", alt.Tooltip("text:N", title="FVU"), "fvu_linear:Q", "fvu_nonlinear:Q"]
    tooltip += [alt.Tooltip(f"{column}:Q", format=",") for column in ("parameters", "flops", "latents", "dense")]
    starts = base.encode(x=x.copy(), y=y)
    start = starts.mark_point(filled=False, size=110, color=INK).encode(
        x=alt.X("before_fvu_linear:Q"), y=alt.Y("before_fvu_nonlinear:Q"), tooltip=[]
    )
    shaft = base.mark_rule(strokeWidth=1.6, opacity=0.75).encode(
        x=alt.X("before_fvu_linear:Q"),
        y=alt.Y("before_fvu_nonlinear:Q"),
        x2="fvu_linear",
        y2="fvu_nonlinear",
        color=hue,
    )
    head = base.mark_point(shape="triangle", size=90).encode(
        x=x, y=y, color=hue, angle=alt.Angle("turn:Q", scale=None), tooltip=tooltip
    )
    far = base.transform_filter(f"abs(datum.removed) > {NAMED}")
    names = far.encode(x=x, y=y, text="repair:N")
    sides = {"===": 12, "!==": -6}  # names of dense channels stand below their level line, where no other arrow ends
    labels = [
        names.transform_filter(f"datum.kind {side} '{KINDS['dense']}'").mark_text(
            align="left", dx=7, dy=dy, fontSize=10.5, color=INK
        )
        for side, dy in sides.items()
    ]
    return (
        alt.layer(level(low, span, x, y), shaft, start, head, *labels).add_params(pick).properties(**WIDE, height=460)
    )


def level(low: list[float], span: list[float], x: alt.X, y: alt.Y) -> alt.Chart:
    """Lines of equal FVU, every 0.05."""
    lines = []
    for i in range(1, 41):
        total = 0.05 * i
        ends = [max(low[0], total - span[1]), min(span[0], total - low[1])]
        if ends[0] < ends[1]:
            lines.append({"x": ends[0], "y": total - ends[0], "x_end": ends[1], "y_end": total - ends[1]})
    drawn = alt.Chart(pd.DataFrame(lines, columns=["x", "y", "x_end", "y_end"]))
    drawn = drawn.mark_rule(strokeDash=[3, 5], opacity=0.35, color=INK)
    return drawn.encode(x=alt.X("x:Q", scale=x["scale"]), y=alt.Y("y:Q", scale=y["scale"]), x2="x_end:Q", y2="y_end:Q")


def shares(table: pd.DataFrame) -> alt.LayerChart:
    """Draw what each repair removes, with its interval over text: one line of dots per repair; a list chooses SAE and share."""
    data = table[table["repair"] != "as it is"].sort_values("removed", ascending=False)
    rows = [
        data[["d_sae", "l0"]].assign(
            repair=data["repair"].map(name),
            value=data[share],
            ci_low=data[f"{share}_low"],
            ci_high=data[f"{share}_high"],
            quantity=[f"{width:,} latents: {words}" for width in data["d_sae"]],
        )
        for share, words in SHOWN.items()
    ]
    long = pd.concat(rows, ignore_index=True).dropna(subset="value")
    chart = dots(long, "repair")
    return chart.properties(height=max(160, 20 * long["repair"].nunique()))


def by_rank(curves: pd.DataFrame, table: pd.DataFrame) -> alt.LayerChart:
    """Draw FVU with the best dense channel of every rank, one line per SAE; a dashed line is its decoder refitted, which costs nothing."""
    data = curves.assign(
        sae=[f"{width:,} latents" for width in curves["d_sae"]], text=texts(curves, "fvu", "fvu_low", "fvu_high")
    )
    order = data["sae"].unique().tolist()
    hue = alt.Color("sae:N", title=None, sort=order, scale=alt.Scale(scheme="viridis"))
    tooltip = ["sae:N", "rank:Q", alt.Tooltip("text:N", title="FVU"), alt.Tooltip("recovered:Q", format=".0%")]
    base = alt.Chart(data.round(5)).encode(
        x=alt.X("rank:Q", title="rank of the dense channel"), color=hue, tooltip=tooltip
    )
    y = alt.Y("fvu:Q", title="FVU", scale=alt.Scale(zero=False))
    line = with_interval(base, y, "line", "fvu_low", "fvu_high", band=True, rule={"opacity": 0})
    free = table[table["repair"] == "decoder"].assign(sae=lambda t: [f"{width:,} latents" for width in t["d_sae"]])
    rule = alt.Chart(free[["sae", "fvu"]].round(5)).mark_rule(strokeDash=[5, 4]).encode(y=y, color=hue)
    return alt.layer(line, rule).properties(**WIDE, height=300)
