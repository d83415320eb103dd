"""The sentences of Section 3, at their threshold."""

import numpy as np
import pandas as pd
from figures import figures

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


def test_one_token_is_drawn_to_scale():
    vectors = pd.DataFrame(
        {
            "vector": ["Sae(x)", "SaeError", "LinearError", "NonlinearError"],
            "norm / ‖x‖": [0.9, 0.4, 0.25, 0.3],
            "angle with x, °": [20.0, 60, 50, 70],
            "angle with NonlinearError, °": [80.0, 40, 95, 0],
        }
    )
    assert figures(findings.in_scale(vectors)) == "90 % 20 40 % 25 % 30 % 95"


def test_both_l0s_and_the_spread_over_tokens_are_told():
    said = findings.active_latents(TABLE, {"topk": np.array([16, 12, 14, 14])}, k=14)
    assert figures(said) == "topk one 0 15.50 16 12 16 1.4 25.00 %"
    assert figures(findings.learned(TABLE, 2e-4, 27.4, 2048)) == "1 9 2.0 -04 27 2,048 10.0 %"
