"""Where each repair takes an SAE: numbered arrows in the plane of linear and nonlinear error, with a key of the numbers."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.chapters.repairs.prices import DENSE, FREE, NAMES, name
from dm_utils.charts.marks import WIDE, texts
from dm_utils.charts.theme import COLORS, INK

KINDS = {
    "free": "folded into the decoder",
    "dense": "a dense channel beside it",
    "search": "a search in place of the encoder",
    "latents": "more latents",
    "model": "the model is changed",
}
HUES = dict(zip(KINDS, ("sae", "linear", "encoder", "x", "error"), strict=True))
COLUMNS = [
    "key",
    "number",
    "kind",
    "sae",
    "text",
    "side",
    "label_y",
    "removed",
    "parameters",
    "flops",
    "latents",
    "dense",
]
ENDS = ["fvu_linear", "fvu_nonlinear", "before_fvu_linear", "before_fvu_nonlinear"]
MARGIN = 1.08
HEIGHT, PHONE = 460, 270  # px of the plot; its width on a phone, where numbers lie closest together
BESIDE, HEAD = 15, 7  # px from an arrow's head to the middle of its number; half a head's size
BOX = (15, 12)  # px: a number's size


def kind(repair: str) -> str:
    """Which of `KINDS` a repair is."""
    if repair in FREE or repair.startswith("sae_rank_"):
        return "free"
    if repair in DENSE:
        return "dense"
    return "search" if "pursuit" in repair else "model" if repair == "model" else "latents"


def key(repairs: pd.Series) -> pd.DataFrame:
    """`number`, `key` (number and name) and `kind` of every repair, those of a kind together; the index is the repair."""
    found = sorted(set(repairs), key=lambda repair: (list(KINDS).index(kind(repair)), list(NAMES).index(repair)))
    rows = [
        {"number": str(n), "key": f"{n}  {name(repair)}", "kind": kind(repair)} for n, repair in enumerate(found, 1)
    ]
    return pd.DataFrame(rows, index=pd.Index(found, name="repair"))


def spans(table: pd.DataFrame) -> tuple[list[float], list[float]]:
    """Return the ranges of both axes: all ends of arrows with a margin, from zero in the linear part."""
    linear, nonlinear = (table[ENDS[i::2]].to_numpy() for i in (0, 1))
    return (
        [min(0.0, linear.min() * MARGIN), linear.max() * MARGIN],
        [nonlinear.min() / MARGIN, nonlinear.max() * MARGIN],
    )


def place_numbers(ends: pd.DataFrame, x: list[float], y: list[float]) -> pd.DataFrame:
    """Return where each arrow's number stands, so that no two meet: `side` of its head (−1 left), and `label_y`, how high.

    A number stands beyond the tip of its arrow, or as little above or below as leaves every head and every number before it free; on
    a phone's width, so on any greater.
    """
    right = PHONE * (ends["fvu_linear"] - x[0]) / (x[1] - x[0])
    down = HEIGHT * (y[1] - ends["fvu_nonlinear"]) / (y[1] - y[0])
    left = (ends["fvu_linear"] < ends["before_fvu_linear"]) & (right > BESIDE + BOX[0])
    taken: list[tuple[float, ...]] = [(at, low, HEAD, HEAD) for at, low in zip(right, down, strict=True)]
    found = []
    for at, low, side in zip(right, down, 1 - 2 * left, strict=True):
        middle, steps = at + side * BESIDE, sorted(range(-HEIGHT, HEIGHT, 4), key=abs)
        low = next((low + step for step in steps if not meets(middle, low + step, taken)), low)
        taken.append((middle, low, BOX[0] / 2, BOX[1] / 2))
        found.append({"side": side, "label_y": y[1] - low / HEIGHT * (y[1] - y[0])})
    return pd.DataFrame(found, index=ends.index)


def meets(right: float, down: float, taken: list[tuple[float, ...]]) -> bool:
    """Whether a number there would lie over something: middles and half sizes, in pixels."""
    return any(
        abs(right - at) < BOX[0] / 2 + wide and abs(down - low) < BOX[1] / 2 + high for at, low, wide, high in taken
    )


def prepare(table: pd.DataFrame) -> pd.DataFrame:
    """One row per arrow: its ends, its number and where that stands, and what its tooltip says."""
    table = table[(table["repair"] != "as it is") & ~table["repair"].str.startswith("sae_rank_")]
    x, y = spans(table)
    found = []
    for width, rows in table.groupby("d_sae"):
        said = texts(rows, "fvu", "fvu_low", "fvu_high")
        found.append(rows.assign(sae=f"{width:,} latents", text=said).join(place_numbers(rows, x, y)))
    return pd.concat(found).join(key(table["repair"]), on="repair")[[*COLUMNS, *ENDS]].round(5)


def arrows(table: pd.DataFrame) -> alt.LayerChart:
    """Draw each repair as a numbered arrow from the SAE before it, FVU linear against FVU nonlinear; rows of `experiment.table`.

    Dashed lines join points of equal FVU; a list chooses the SAE.
    """
    data = prepare(table)
    span_x, span_y = spans(data)
    saes = data["sae"].unique().tolist()
    pick = alt.param(name="sae", value=saes[-1], bind=alt.binding_select(options=saes, name="SAE "))
    base = alt.Chart(data).transform_filter(alt.datum.sae == pick)
    x = alt.X("fvu_linear:Q", title="FVU linear", scale=alt.Scale(domain=span_x, nice=False))
    y = alt.Y("fvu_nonlinear:Q", title="FVU nonlinear (Eq. 12)", scale=alt.Scale(domain=span_y, nice=False))
    before = {"x": alt.X("before_fvu_linear:Q"), "y": alt.Y("before_fvu_nonlinear:Q")}
    shaft = base.mark_rule(strokeWidth=1.6, opacity=0.75).encode(**before, x2="fvu_linear", y2="fvu_nonlinear")
    start = base.mark_point(filled=False, size=110, color=INK).encode(**before)
    colored = [
        layer.encode(color=hue(data)) for layer in (shaft, heads(base, x, y, span_x, span_y), *numbers(base, x, y))
    ]
    parts = (level(span_x, span_y, x, y), colored[0], start, *colored[1:])
    return alt.layer(*parts).add_params(pick).properties(**WIDE, height=HEIGHT)


def hue(data: pd.DataFrame) -> alt.Color:
    """A repair has the colour of its kind, and its number and name in the key."""
    named = data.drop_duplicates("key").assign(order=lambda rows: rows["number"].astype(int)).sort_values("order")
    scale = alt.Scale(domain=named["key"].tolist(), range=[COLORS[HUES[kind]] for kind in named["kind"]])
    legend = alt.Legend(orient="bottom", columns=2, symbolType="triangle-right", symbolOpacity=1)
    return alt.Color("key:N", title=None, scale=scale, legend=legend)


def heads(base: alt.Chart, x: alt.X, y: alt.Y, span_x: list[float], span_y: list[float]) -> alt.Chart:
    """Arrow heads, which say on hover what the repair is and costs."""
    move = [f"(datum.fvu_{part} - datum.before_fvu_{part})" for part in ("linear", "nonlinear")]
    right, up = f"{move[0]} * width / {span_x[1] - span_x[0]}", f"{move[1]} * height / {span_y[1] - span_y[0]}"
    turn = f"atan2({right}, {up}) * 180 / PI"  # of a triangle that points up, in degrees, whatever the chart's width
    tooltip = ["key:N", alt.Tooltip("text:N", title="FVU"), "fvu_linear:Q", "fvu_nonlinear:Q"]
    tooltip += [alt.Tooltip(f"{column}:Q", format=",") for column in ("parameters", "flops", "latents", "dense")]
    drawn = base.transform_calculate(turn=turn).mark_point(shape="triangle", size=90, opacity=1)
    return drawn.encode(x=x, y=y, angle=alt.Angle("turn:Q", scale=None), tooltip=tooltip)


def numbers(base: alt.Chart, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """The numbers, and a line to each that could not stand beside its head."""
    line = base.mark_rule(strokeWidth=0.8, opacity=0.6).encode(x=x, y=y, y2="label_y")
    text = base.mark_text(dx=alt.expr(f"datum.side * {BESIDE}"), fontSize=11, fontWeight=600)
    return [line, text.encode(x=x, y=alt.Y("label_y:Q"), text="number:N")]


def level(span_x: list[float], span_y: list[float], x: alt.X, y: alt.Y) -> alt.Chart:
    """Lines of equal FVU, every 0.05."""
    lines = []
    for i in range(1, 41):
        total = 0.05 * i
        ends = [max(span_x[0], total - span_y[1]), min(span_x[1], total - span_y[0])]
        if ends[0] < ends[1]:
            lines.append({"x": ends[0], "y": total - ends[0], "x_end": ends[1], "y_end": total - ends[1]})
    drawn = alt.Chart(pd.DataFrame(lines, columns=["x", "y", "x_end", "y_end"]))
    drawn = drawn.mark_rule(strokeDash=[3, 5], opacity=0.35, color=INK)
    return drawn.encode(x=alt.X("x:Q", scale=x["scale"]), y=alt.Y("y:Q", scale=y["scale"]), x2="x_end:Q", y2="y_end:Q")
