"""The shipped results: one row per training run, in a CSV file whose first lines say what ran."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dm_utils.base.errors import LoadError
from dm_utils.base.files import write_atomic
from dm_utils.lab import weights_path

SHIPPED = weights_path().with_name("results") / "dictionaries.csv"
RATES = "dictionary_rates.csv"  # beside it: the learning rates that were tried
RUN = ("method", "d_sae", "l0_wanted", "seed", "fvu", "fvu_nonlinear")
TRIAL = ("method", "title", "lr", "fvu", "best")
DIGITS = 6
COMMAND = "python -m dm_utils.chapters.dictionaries.train"


def write(file: Path, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    """Write the rows of finished runs; `about` becomes lines "# name: value" above them."""
    table = pd.DataFrame([{name: value for name, value in row.items() if name != "plan"} for row in rows])
    text = io.StringIO()
    table.to_csv(text, index=False, float_format=f"%.{DIGITS}g", lineterminator="\n")
    head = "".join(f"# {name}: {json.dumps(value)}\n" for name, value in about.items())
    write_atomic(file, (head + text.getvalue()).encode())


def read(file: Path = SHIPPED, needed: Sequence[str] = RUN) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows, which have the columns `needed` at least, and what the head says.

    Raises LoadError where the file is missing or not such a table; says how to make it.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        head = [line[2:].partition(": ") for line in lines if line.startswith("# ")]
        table = pd.read_csv(io.StringIO("".join(line for line in lines if not line.startswith("# "))))
        about = {name: json.loads(value) for name, _, value in head}
        table[list(needed)]
    except (OSError, ValueError, KeyError) as error:
        raise LoadError(f"{file} is not a table of results ({error}); `{COMMAND} --ship` makes it anew") from error
    return table, about


def read_rates() -> tuple[pd.DataFrame, dict[str, Any]]:
    """The shipped trials of learning rates, and what the head says of them."""
    return read(SHIPPED.with_name(RATES), TRIAL)
