"""Charts of this chapter: what a stronger encoder changes."""

from __future__ import annotations

import altair as alt
import pandas as pd

from dm_utils.charts.marks import WIDE, chooser, dashes, sae_tooltip, texts, width_axis, with_interval
from dm_utils.charts.theme import COLORS


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
    tooltip = [alt.Tooltip("metric:N"), alt.Tooltip("encoder:N"), *sae_tooltip("value")]
    base = alt.Chart(data).encode(x=width_axis(), color=hue, strokeDash=dash, tooltip=tooltip)
    y_axis = alt.Y("value:Q", title="fraction of variance unexplained", scale=alt.Scale(zero=True))
    chart = with_interval(base, y_axis, "line", point=alt.OverlayMarkDef(size=60))
    return chart.properties(**WIDE, height=340)


CASES = {
    "encoder": "x, the SAE's encoder",
    "trained": "x, pursuit on the SAE's dictionary",
    "random": "x, pursuit on a random dictionary",
    "twin": "Gaussian twin of x, pursuit on the SAE's dictionary",
}


def control_lines(table: pd.DataFrame) -> alt.LayerChart:
    """Draw the FVU of pursuit beside its controls against width: columns ``case, d_sae, fvu, fvu_low, fvu_high``."""
    data = table.assign(name=table["case"].map(CASES), text=texts(table, "fvu", "fvu_low", "fvu_high")).round(5)
    colors = [COLORS["error"], COLORS["encoder"], COLORS["absent"], COLORS["x"]]
    scale = alt.Scale(domain=list(CASES.values()), range=colors)
    hue = alt.Color("name:N", title=None, scale=scale, legend=alt.Legend(orient="bottom", columns=1))
    base = alt.Chart(data).encode(x=width_axis(), color=hue, tooltip=["name:N", "d_sae:Q", "text:N"])
    y_axis = alt.Y("fvu:Q", title="fraction of variance unexplained")
    chart = with_interval(base, y_axis, "line", "fvu_low", "fvu_high", point=alt.OverlayMarkDef(size=60))
    return chart.properties(**WIDE, height=320)


def token_curves(paths: pd.DataFrame) -> alt.LayerChart:
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
