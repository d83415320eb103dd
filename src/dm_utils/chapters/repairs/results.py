"""The trained repairs as rows beside the others: from the table that ships, for the SAEs that a run shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dm_utils.base.words import span
from dm_utils.chapters.repairs.measuring import PARTS
from dm_utils.chapters.repairs.prices import Price, name
from dm_utils.lab import tables

COMMAND = "python -m dm_utils.chapters.repairs.train"
SHIPPED = tables.shipped("repairs")
COLUMNS = ("repair", "d_sae", "l0", "layer", "steps", "tokens", "train_seconds", "fvu", "fvu_nonlinear", "before_fvu")
TWINS = {"batchtopk_channel": "batchtopk", "matryoshka_channel": "matryoshka"}
TWIN_NAMES = {"batchtopk": "BatchTopK's twin", "matryoshka": "Matryoshka's twin"}
SHARES = {"removed": "fvu", "removed_linear": "fvu_linear", "removed_nonlinear": "fvu_nonlinear", "ce_removed": "ce"}


def read(file: Path = SHIPPED) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Every run that ships, and what the file says of them. Raises LoadError where it is damaged."""
    return tables.read(file, COLUMNS, f"{COMMAND} --ship")


def rows(table: pd.DataFrame, layer: int, d: int, shown: Sequence[tuple[int, float]], rank: int) -> pd.DataFrame:
    """The runs of a layer for the SAEs `shown` (widths and L0s), with their prices, as `experiment.table` has its rows.

    A dictionary trained with a channel is held against its twin, trained alike without: its shares have no intervals, since the two are
    two SAEs. The twins themselves are no repairs and are left out.
    """
    pairs = pd.Series([pair in set(shown) for pair in zip(table["d_sae"], table["l0"], strict=True)], table.index, bool)
    table = table[(table["layer"] == layer) & pairs]
    found = []
    repairs: list[dict[Any, Any]] = table[~table["repair"].isin(TWINS.values())].to_dict("records")
    for row in repairs:
        twin = table[(table["repair"] == TWINS.get(row["repair"])) & (table["d_sae"] == row["d_sae"])]
        if row["repair"] in TWINS:
            if twin.empty:
                continue
            row |= against(row, twin.iloc[0].to_dict())
        price = Price(d, int(row["d_sae"]), float(row["l0"]), rank).of(str(row["repair"]))
        found.append(row | price | {"trained": True})
    return pd.DataFrame(found)


def against(row: dict[Any, Any], twin: dict[Any, Any]) -> dict[str, float]:
    """The columns that hold a dictionary against its twin: `before_…`, and shares without intervals."""
    ends = ("", "_low", "_high")
    changed = {f"before_{part}{end}": float(twin[f"{part}{end}"]) for part in PARTS for end in ends}
    for share, part in SHARES.items():
        changed |= {share: 1 - row[part] / twin[part], f"{share}_low": math.nan, f"{share}_high": math.nan}
    return changed


def not_run(missing: Sequence[str]) -> str:
    """The runs ("repair_width") that did not run, in words: each repair with its widths; empty without any."""
    widths: dict[str, list[str]] = {}
    for run in missing:
        repair, _, width = run.rpartition("_")
        widths.setdefault(TWIN_NAMES.get(repair) or name(repair), []).append(f"{int(width):,}")
    listed = "; ".join(f"{what} (width {', '.join(at)})" for what, at in widths.items())
    return f" Not run: {listed}." if listed else ""


def told(shown: pd.DataFrame, about: dict[str, Any]) -> str:
    """On how much the trained repairs were trained, and what has not run."""
    still = not_run(about.get("missing", []))
    if shown.empty:
        return f"No trained repair of these SAEs ships; they were trained for the lab's layer {about['recipe']['layer']} only.{still}"
    dictionary, layer = about["recipe"]["dictionary"], about["recipe"]["layer"]
    tuned = shown[shown["repair"].isin(["kl", "mse", "adapter", "model"])]
    through = "none was tuned through the model"
    if len(tuned):
        through = (
            f"what was tuned through the model on {span(tuned['tokens'], ',.0f')} ({span(tuned['steps'], '.0f')} steps)"
        )
    return (
        f"{len(shown)} trained repairs are shown, one seed each; {about['done']} of {about['wanted']} runs ship, of layer {layer}. "
        f"Dictionaries were trained on {dictionary['steps'] * dictionary['batch']:,} tokens of the lab's training text, a fraction of what "
        f"the shipped SAEs had; {through}.{still}"
    )
