"""A learning curve is judged on the same held-out tokens throughout, and a table needs more text than a probe."""

import pytest
import torch

from dm_utils.chapters.A_more_predictions.baselines import ACTIVATION, TOKEN
from dm_utils.chapters.A_more_predictions.learning_curve import fewer_fitting_tokens, learning_curve
from dm_utils.maths.resampling import Split

N = 8000


@pytest.fixture
def split():
    return Split.random(torch.arange(N) // 100, seed=0)


def test_every_share_keeps_all_held_out_tokens_and_nests(split):
    small, part = fewer_fitting_tokens(split, 0.1)
    large, _ = fewer_fitting_tokens(split, 0.5)
    assert set(small[~part.fit].tolist()) == set((~split.fit).nonzero()[:, 0].tolist())
    assert set(small.tolist()) <= set(large.tolist())
    assert int(part.fit.sum()) == round(0.1 * int(split.fit.sum()))
    with pytest.raises(ValueError, match="share = 0"):
        fewer_fitting_tokens(split, 0)


def test_a_table_of_identities_learns_slower_than_a_probe_of_few_dimensions(split):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 400, (N,), generator=generator)
    x = torch.randn(400, 3, generator=generator)[ids]
    y = x[:, 0].double() + 0.3 * torch.randn(N, generator=generator, dtype=torch.float64)
    rows = learning_curve(x, ids, y, split, shares=(1 / 16, 1.0))
    r2 = {(row["n_fit"], row["predictor"]): row["r2"] for row in rows}
    few, many = sorted({n for n, _ in r2})
    assert many == int(split.fit.sum())
    assert r2[few, ACTIVATION] > 0.85 and r2[few, TOKEN] < 0.6
    assert r2[many, TOKEN] > r2[few, TOKEN] + 0.2
    assert rows[-1]["per_identity"] == pytest.approx(many / 400, rel=0.01)
