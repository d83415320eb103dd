"""The shipped results: one row per training run, in a CSV file whose first lines say what ran."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dm_utils.lab import tables

SHIPPED = tables.shipped("dictionaries")
RATES = "dictionary_rates.csv"  # beside it: the learning rates that were tried
LONGER = "dictionary_longer.csv"  # and the headline's runs with more tokens
RUN = ("method", "d_sae", "l0_wanted", "seed", "fvu", "fvu_nonlinear")
TRIAL = ("method", "title", "lr", "fvu", "best")
COMMAND = "python -m dm_utils.chapters.dictionaries.train"


def read(file: Path = SHIPPED, needed: Sequence[str] = RUN) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows, which have the columns `needed` at least, and what the head says; see `tables.read`."""
    return tables.read(file, needed, f"{COMMAND} --ship")


def read_longer() -> tuple[pd.DataFrame, dict[str, Any]]:
    """The shipped runs with more tokens, and what the head says of them; `longer` is how many times as many."""
    return read(SHIPPED.with_name(LONGER))


def read_rates() -> tuple[pd.DataFrame, dict[str, Any]]:
    """The shipped trials of learning rates, and what the head says of them."""
    return read(SHIPPED.with_name(RATES), TRIAL)
