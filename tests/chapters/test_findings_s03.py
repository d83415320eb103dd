"""The sentences of Section 3, at their threshold."""

import numpy as np
import pandas as pd

from dm_utils.chapters.s03_notation import findings

TABLE = pd.DataFrame([{"architecture": "topk", "sae_id": "one", "l0": 15.5, "l0_label": 16.0, "fvu": 0.1}])


def test_rounding_is_relative_to_the_activation():
    assert "agree with SAELens to rounding" in findings.learned(TABLE, 0.9e-5 * 27, 27, 2048)
    assert "differ from SAELens" in findings.learned(TABLE, 1.1e-5 * 27, 27, 2048)
    assert "10.0 % (topk)" in findings.learned(TABLE, 0.0, 27, 2048)


def test_active_latents_are_counted_by_token():
    said = findings.active_latents(TABLE, {"topk": np.array([16, 16, 15, 15])}, k=16)
    assert "15 to 16 active latents per token, standard deviation 0.5" in said
    assert "positive: 50.00 %" in said
    assert "positive" not in findings.active_latents(TABLE, {"topk": np.array([16])}, k=None)
