"""An estimate and the columns, or the JSON, that hold it."""

from __future__ import annotations

import json
import math

import pandas as pd

from dm_utils.maths.resampling import Estimate


def test_an_estimate_comes_back_from_its_columns() -> None:
    estimate = Estimate(0.5, 0.4, 0.6)
    table = pd.DataFrame([estimate.columns("fvu") | estimate.columns()])
    assert list(table.columns) == ["fvu", "fvu_low", "fvu_high", "value", "low", "high"]
    assert Estimate.read(table.iloc[0], "fvu") == Estimate.read(table.iloc[0]) == estimate


def test_an_undefined_estimate_survives_json_with_its_reason() -> None:
    stored = json.loads(json.dumps(Estimate(math.nan, math.nan, math.nan, "it does not vary").plain(), allow_nan=False))
    assert str(Estimate.from_plain(stored)) == "undefined: it does not vary"
