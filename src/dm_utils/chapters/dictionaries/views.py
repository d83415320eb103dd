"""The tables that the chapter shows, and what they were made from, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dm_utils.base.words import LABELS, escape, number
from dm_utils.chapters.dictionaries.experiment import BASELINE
from dm_utils.maths.resampling import Estimate

Table = Any  # a pd.DataFrame: pandas' stubs know nothing of the columns that rows are read by
NAMES = {
    **LABELS,
    "linear_share": "linear share of the squared error",
    "beyond_token_norm": "R² of the error norm beyond the token",
    "beyond_token_vector": "R² of the error vector beyond the token",
    "beyond_tokens_norm": "R² of the error norm beyond three tokens",
    "beyond_tokens_vector": "R² of the error vector beyond three tokens",
    "ce_recovered": "cross-entropy recovered",
    "ce_sae": "cross-entropy with Sae(x), nats per token",
    "train_seconds": "training, seconds",
    "kl": "KL divergence, nats per token",
    "fvu_pursued": "FVU after pursuit",
    "fvu_nonlinear_pursued": "FVU nonlinear after pursuit",
    "rules": "balanced accuracy of token rules",
    "rules_dealt": "balanced accuracy of rules dealt to other latents",
}


def prices(methods: Table) -> pd.DataFrame:
    """Who wins, and what it costs beside TopK: one row per method, in the order of FVU; one seed has no scatter."""
    base = methods[methods["method"] == BASELINE]
    unit = {
        name: float(base[name].iloc[0]) if len(base) else float("nan") for name in ("train_seconds", "encode_flops")
    }
    view = pd.DataFrame({"Method": methods["title"], "L0": methods["l0"].round(1)})
    names = {
        "fvu": "FVU",
        "fvu_nonlinear": "FVU nonlinear",
        "linear_share": "linear share",
        "ce_recovered": "CE recovered",
        "rules": "accuracy of token rules",
    }
    for name, words in names.items():
        view[words] = [str(Estimate.read(row, name)) for _, row in methods.iterrows()]
        if name in ("fvu", "fvu_nonlinear"):  # the scatter of the others is in the figure above
            view[f"{words}, ± seeds"] = [number(value, 2) for value in methods[f"{name}_sd"]]
    view["dead"] = [f"{100 * share:.1f} %" for share in methods["dead_fraction"]]
    view["pursuit takes off FVU"] = [
        "–" if pd.isna(row.fvu_pursued) else f"{100 * (1 - row.fvu_pursued / row.fvu):.0f} %"
        for row in methods.itertuples()
    ]
    for name, words in (("train_seconds", "training time"), ("encode_flops", "encode FLOPs")):
        view[f"{words}, × TopK"] = (methods[name] / unit[name]).round(1)
    return view


def sizes_view(everywhere: Table) -> pd.DataFrame:
    """The ratio of each method (rows) at each width and L0 (columns), with its interval over text."""
    if not len(everywhere):
        return pd.DataFrame({"Method": []})
    text = [
        str(Estimate(row.ratio, row.low, row.high)) if row.ratio == row.ratio else "–"
        for row in everywhere.itertuples()
    ]
    named = everywhere.assign(
        size=[f"W {row.d_sae:,}, L0 {row.l0_wanted:g}" for row in everywhere.itertuples()], text=text
    )
    view = named.pivot(index="title", columns="size", values="text").reindex(
        index=named["title"].unique(), columns=named["size"].unique()
    )
    return view.fillna("–").rename_axis(index="Method", columns=None).reset_index()


def rates_view(best: Table) -> pd.DataFrame:
    """The learning rate that each method got, from `experiment.best_rates`."""
    rows = [
        (row.title, row.tried, f"{row.lr:g}{' (end of the ladder)' if row.at_end else ''}", number(row.fvu))
        for row in best.itertuples()
    ]
    return pd.DataFrame(rows, columns=["Method", "rates tried", "best", "FVU of its trial"])


def what_ran(table: Table, about: Mapping[str, Any]) -> str:
    """Which runs exist, on how many tokens, and which are missing."""
    seeds = table.groupby(["method", "d_sae", "l0_wanted"])["seed"].nunique()
    missing = about.get("missing_methods", [])
    still = f" Not run yet: {', '.join(escape(name) for name in missing)}." if missing else ""
    broken = about.get("failed", {})
    failed = f" Broken off: {', '.join(escape(name) for name in broken)}." if broken else ""
    widths = ", ".join(f"{width:,}" for width in sorted(table["d_sae"].unique()))
    return (
        f"{about['done']} of {about['wanted']} runs are shipped: {table['method'].nunique()} methods, width {widths}, up to {seeds.max()} "
        f"{'seed' if seeds.max() == 1 else 'seeds'}, layer {table['layer'].iloc[0]}, at most {table['tokens'].max():,} training tokens "
        f"each, measured on {about['contexts']} contexts that none of them saw.{still}{failed}"
    )


def other_profile(name: str) -> str:
    """What the chapter says on a profile that is not the lab."""
    if name == "lab":
        return ""
    return "Dictionaries are trained here on the lab only, since training needs text that is the same for all: these results are the lab's."
