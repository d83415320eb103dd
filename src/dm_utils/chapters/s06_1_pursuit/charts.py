"""Charts of this chapter: what a stronger encoder changes."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import pandas as pd

from dm_utils.base.words import label
from dm_utils.charts.marks import (
    SHARE,
    WIDE,
    chooser,
    dashes,
    named_colors,
    sae_tooltip,
    texts,
    tidy,
    width_axis,
    with_interval,
)
from dm_utils.charts.theme import COLORS


def encoders(table: pd.DataFrame) -> alt.LayerChart:
    """Draw FVU and FVU_nonlinear against width under each encoder (column ``encoder``), with 95 % intervals."""
    parts = ["fvu", "fvu_nonlinear"]
    order = list(dict.fromkeys(table["encoder"]))
    hue = alt.Color("metric:N", title=None, scale=named_colors([label(part) for part in parts], ["error", "nonlinear"]))
    dash = dashes("encoder", order, [[1, 0], [2, 3], [7, 4]])
    tooltip = [alt.Tooltip("metric:N"), alt.Tooltip("encoder:N"), *sae_tooltip("value")]
    data = tidy(table, parts, keep=["encoder"])
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


ENCODERS = {"gradient pursuit": COLORS["encoder"], "the SAE's own encoder": COLORS["error"]}
SIDE: dict[str, int] = {"width": 560, "height": 120}


def token_steps(paths: pd.DataFrame, words: Mapping[int, str], start: int = 8) -> alt.VConcatChart:
    """One token atom by atom: what is left of it under each encoder, and which latents that encoder has by then.

    Choose the token, slide the number of atoms. ``paths`` is `experiment.token_paths`; ``words`` says what a latent writes for.
    The token that is shown first is one on which the encoders differ as much as on the others, by the median.
    """
    last = int(paths["atoms"].max())
    token = chooser("token", list(dict.fromkeys(paths["token"])), "Token")
    token.param.value = typical(paths, min(start, last))
    bind = alt.binding_range(min=0, max=last, step=1, name="Atoms ")
    k = alt.param(name="atoms_kept", value=min(start, last), bind=bind)
    base = alt.Chart(paths.drop(columns=["latent", "size", "both"]).round(4)).transform_filter(alt.datum.token == token)
    scale = alt.Scale(domain=list(ENCODERS), range=list(ENCODERS.values()))
    x_axis = atom_axis("atoms", "number of atoms", last)
    y_axis = alt.Y("left:Q", title="share of the token left", axis=SHARE, scale=alt.Scale(domainMin=0))
    base = base.transform_filter("isValid(datum.left)").encode(x=x_axis, y=y_axis)
    base = base.encode(color=alt.Color("encoder:N", title=None, scale=scale))
    here = base.transform_filter("datum.atoms == atoms_kept")
    values = [  # the curves may be close, and pursuit's is the lower one
        here.transform_filter(alt.datum.encoder == name)
        .mark_text(dx=8, dy=dy, align="left")
        .encode(text=alt.Text("left:Q", format=".1%"))
        for name, dy in zip(ENCODERS, (-10, -25), strict=True)
    ]
    curves = alt.layer(base.mark_line(), here.mark_point(size=110), *values).properties(width=560, height=200)
    sides = alt.vconcat(*(chosen_latents(paths, words, name, token, last) for name in ENCODERS), spacing=12)
    return alt.vconcat(curves, sides.resolve_scale(y="shared"), spacing=12).add_params(token, k)


def typical(paths: pd.DataFrame, k: int) -> str:
    """The token whose gain by pursuit with k atoms is the median one."""
    left = paths[paths["atoms"] == k].pivot(index="token", columns="encoder", values="left")
    gain = left["the SAE's own encoder"] - left["gradient pursuit"]
    return str((gain - float(gain.quantile(0.5, "lower"))).abs().idxmin())


def atom_axis(field: str, title: str, last: int) -> alt.X:
    """The same place for a number of atoms and for the atom that was added last."""
    axis = alt.Axis(labelAngle=0, values=list(range(0, last + 1, max(1, last // 8))))
    return alt.X(f"{field}:O", title=title, scale=alt.Scale(domain=list(range(last + 1))), axis=axis)


def chosen_latents(
    paths: pd.DataFrame, words: Mapping[int, str], encoder: str, token: alt.Parameter, last: int
) -> alt.LayerChart:
    """The latents of one encoder in the order of their choice, as long as each stands in the sum, filled where both chose it."""
    rows = paths[paths["encoder"] == encoder].assign(common=lambda table: table["both"].map(sum))
    rows["size"] = [[round(value, 3) for value in size] for size in rows["size"]]
    known = pd.DataFrame({"latent": list(words), "writes": [words[latent] for latent in words]})
    here = alt.Chart(rows.drop(columns=["encoder", "left"])).transform_filter(alt.datum.token == token)
    here = here.transform_filter("datum.atoms == atoms_kept")
    base = here.transform_flatten(["latent", "size", "both"]).transform_window(rank="row_number()")
    base = base.transform_lookup("latent", alt.LookupData(known, "latent", ["writes"]))
    tooltip = ["latent:Q", alt.Tooltip("writes:N", title="writes for"), alt.Tooltip("size:Q", format=".3f")]
    x_axis = atom_axis("rank", "atom", last)
    base = base.encode(x=x_axis, y=alt.Y("size:Q", title="size", scale=alt.Scale(zero=True)))
    hue = alt.value(ENCODERS[encoder])
    fill = alt.condition("datum.both", alt.value(0.75), alt.value(0.08))
    bars = base.mark_bar(strokeWidth=1).encode(color=hue, stroke=hue, fillOpacity=fill, tooltip=tooltip)
    labels = base.mark_text(angle=270, align="left", dx=4, fontSize=9, limit=70).encode(text="writes:N")
    says = "length(datum.latent) + ' latents, ' + datum.common + ' of them chosen by both'"
    count = here.transform_calculate(says=says).mark_text(align="right", fontWeight=600, baseline="bottom")
    count = count.encode(x=alt.value(556), y=alt.value(-3), text="says:N")  # above the bars and their names
    return alt.layer(bars, labels, count).properties(title=alt.Title(encoder, offset=10), **SIDE)
