"""Sentences of this chapter, from its numbers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dm_utils.base.words import code, how_many
from dm_utils.chapters.costs.experiment import BENCHMARKS, MODEL


def question_sentence(table: pd.DataFrame, n_saes: int) -> str:
    """How many pre-activations have to be computed again, over the SAEs whose codes can be certified."""
    if table.empty:
        return f"None of these {n_saes} SAEs is an affine map and a cut, so all of them are encoded by a dense product."
    ordered = table.sort_values("ratio")
    low, high = ordered.iloc[0], ordered.iloc[-1]
    share = (table["candidates"] / table["d_sae"]).max()
    return (
        f"Of {n_saes} SAEs, {how_many(len(table), n_saes)} can be certified. The bound leaves between {low['ratio']:.2f} "
        f"({code(low['sae_id'])}) and {high['ratio']:.2f} ({code(high['sae_id'])}) pre-activations in question for each active "
        f"latent, at most {100 * share:.1f} % of the width. The largest error over its bound is {table['share'].max():.2f}."
    )


def condition_sentence(kept: dict[str, bool], where: str) -> str:
    """Which formats' products keep their partial sums on this machine, and what is done where they do not."""
    held, lost = ([name for name, holds in kept.items() if holds is wanted] for wanted in (True, False))
    if not lost:
        return f"On {where}, products in {' and '.join(held)} keep their partial sums, so both may screen."
    return (
        f"On {where}, products in {' and '.join(lost)} do not keep their partial sums: there the bound is not trusted, and "
        f"codes and atoms come from {' or '.join([*held, 'float32'])} instead."
    )


def stage_sentence(table: pd.DataFrame, where: str) -> str:
    """The ratios of the encode's three times, with what they were measured on; or that there is no certified encode."""
    us = table.set_index("stage")["us"]
    if "encode, certified" not in us:
        return f"Measured on {where}. This SAE's codes cannot be certified, so there is only the dense encode."
    dense, certified, floor = us["encode, dense float32"], us["encode, certified"], us["the bfloat16 product alone"]
    return (
        f"Measured on {where}, in processor time. The certified encode takes {certified / dense:.2f} times the dense one's "
        f"time, and {certified / floor:.1f} times that of the low-precision product alone, its floor. "
        "The model runs once for all SAEs of a site; of what each SAE costs, the dense encode is "
        f"{'the largest' if dense >= us.drop(MODEL).max() else 'not the largest'}."
    )


def benchmark_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The committed benchmark's ratios, one row per case and machine, as the page shows them."""
    names = {
        "case": "encode of",
        "l0": "L0",
        "released/": "certified, against the released procedure",
        "float32/": "against dense float32",
        "/product": "times its floor",
        "ties": "ties",
    }
    shown = rows.rename(columns=names)[list(names.values())]
    plural = rows["threads"].map(lambda n: f"{n} thread{'s' * (n != 1)}")
    return shown.assign(machine=rows["device"] + ", " + plural)


def whole_table(rows: pd.DataFrame) -> pd.DataFrame:
    """What a case took from its activations to its numbers, one row per way, with the machine."""
    plural = rows["threads"].map(lambda n: f"{n} thread{'s' * (n != 1)}")
    names = {"case": "case", "way": "way", "seconds": "seconds", "released/": "times as fast as the released procedure"}
    return rows.rename(columns=names)[list(names.values())].assign(machine=rows["device"] + ", " + plural)


def gpu_sentence(folder: Path = BENCHMARKS) -> str:
    """Whether a table of a GPU's stages is there."""
    found = sorted(path.name for path in folder.glob("gpu*.csv"))
    if found:
        return f"Measured on a GPU: {', '.join(code(name) for name in found)} in `benchmarks/results`."
    return (
        "No run of `benchmarks/gpu.py` is committed, so the rows of a GPU wait for one: nothing on this page says what is "
        "gained there. The same code runs on a CPU, where tests hold it."
    )
