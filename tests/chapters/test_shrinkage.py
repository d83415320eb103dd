"""A shorter norm is not shrinkage: an orthogonal projection shrinks nothing, a scaled copy does nothing else."""

import pytest
import torch

from dm_utils.chapters.A_more_predictions.shrinkage import shrinkage
from dm_utils.maths.resampling import Split

N, D = 6000, 10


@pytest.fixture
def split():
    return Split.random(torch.arange(N) // 100, seed=0)


def scalars(x, sae_out):
    names = {"x_norm2": x * x, "sae_norm2": sae_out**2, "error_norm2": (x - sae_out) ** 2, "x_dot_sae": x * sae_out}
    return {name: values.sum(1).numpy() for name, values in names.items()}


def test_a_projection_is_shorter_but_not_shrunk(split):
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = x * (torch.arange(D) < 8)  # drops a fifth of the squared norm
    found = shrinkage(scalars(x, kept), split)
    assert found["best_scale"].value == pytest.approx(1)
    assert found["norm_ratio_total"].value == pytest.approx(found["norm_ratio_unshrunk"].value)
    assert found["norm_ratio_total"].low < 0.8**0.5 < found["norm_ratio_total"].high


def test_a_scaled_copy_is_nothing_but_shrunk(split):
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = shrinkage(scalars(x, 0.9 * x), split)
    assert found["best_scale"].value == pytest.approx(1 / 0.9)
    assert found["norm_ratio_total"].value == pytest.approx(0.9)
    assert found["norm_ratio_unshrunk"].value == pytest.approx(0.99**0.5)


def test_fitting_tokens_do_not_count(split):
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    altered = torch.where(split.fit[:, None], 5 * x, 0.9 * x)
    assert shrinkage(scalars(x, altered), split)["best_scale"].value == pytest.approx(1 / 0.9)
