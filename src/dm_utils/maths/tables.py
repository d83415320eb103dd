"""Estimates in tables: what columns M, M_low and M_high hold, row by row."""

from __future__ import annotations

import pandas as pd

from dm_utils.maths.resampling import Estimate


def estimates(table: pd.DataFrame, name: str = "value") -> list[Estimate]:
    """The estimate of each row, from the columns that `Estimate.columns` writes."""
    return [Estimate.read(row, name) for _, row in table.iterrows()]
