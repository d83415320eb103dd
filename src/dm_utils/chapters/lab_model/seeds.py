"""The headline SAEs trained again with other seeds: what shipped of them are their measurements, not their weights.

make lab ARGS="--keep-model --seeds 3"                              # trains them
python -m dm_utils.chapters.lab_model.seeds _build/lab/saes         # measures them and replaces the table
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from dm_utils.base.errors import ParameterError
from dm_utils.base.files import write_atomic
from dm_utils.engine.study import Study
from dm_utils.lab import weights_path
from dm_utils.world.profiles import load_profile

TABLE = weights_path().with_name("results") / "seeds.csv"
METRICS = ("r2_error_norm", "r2_error_vector", "fvu", "fvu_nonlinear")


def shipped(file: Path = TABLE) -> pd.DataFrame:
    """The measurements of the other seeds: a row per SAE with `sae_id, seed, d_sae, l0, dead_fraction` and the metrics with intervals."""
    return pd.read_csv(file)


def measure(folder: Path) -> pd.DataFrame:
    """Measure every SAE of a folder that says its seed, on the lab's default text.

    Raises
    ------
    ParameterError : the folder holds none.
    """
    study = Study(load_profile("lab", releases=str(folder)))
    refs = [ref for ref in study.saes() if "_seed_" in ref.id]
    if not refs:
        raise ParameterError(
            f"{folder} holds no SAE of another seed at layer {study.profile.layer}: train with --seeds 3"
        )
    table = study.measure(refs)
    columns = [f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")]
    seeds = table["sae_id"].str.rpartition("_seed_")[2].astype(int)
    return table.assign(seed=seeds)[["sae_id", "seed", "d_sae", "l0", "dead_fraction", *columns]].round(6)


def beside(headline: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """One row per SAE and metric: the shipped SAEs (seed 0) and the others, `sae_id, seed, d_sae, metric, value, low, high`."""
    both = pd.concat([headline.assign(seed=0), others], ignore_index=True)
    rows = []
    for metric in METRICS:
        ends = {metric: "value", f"{metric}_low": "low", f"{metric}_high": "high"}
        rows.append(both[["sae_id", "seed", "d_sae", *ends]].rename(columns=ends).assign(metric=metric))
    return pd.concat(rows, ignore_index=True)


def main(
    folder: Annotated[Path, typer.Argument(exists=True, help="The trained SAEs: `saes` of the work folder.")],
) -> None:
    """Measure the SAEs of other seeds, and replace the table that ships."""
    table = measure(folder)
    write_atomic(TABLE, table.to_csv(index=False).encode())
    typer.echo(f"{len(table)} SAEs measured: {TABLE}")


if __name__ == "__main__":
    typer.run(main)
