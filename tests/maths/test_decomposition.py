"""The decomposition of the error, on errors whose parts are known."""

import math

import pytest
import torch

import dm_utils as dm
from dm_utils.maths import decomposition
from dm_utils.maths.decomposition import Decomposer
from dm_utils.maths.regression import Design
from dm_utils.maths.resampling import Split, runs


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(6000, 24, dtype=torch.float64) * torch.linspace(0.2, 3, 24) + 4


def rotation(d, seed=5):
    return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))[0]


def test_planted_linear_error_is_recovered_exactly(x):
    linear = 0.2 * x @ rotation(24) + 0.3
    report = dm.decompose(x, x - linear)
    torch.testing.assert_close(report.linear_error, linear, rtol=0, atol=1e-9)
    assert report.r2_error_vector.value == pytest.approx(1, abs=1e-12)
    assert report.fvu_nonlinear.value == pytest.approx(0, abs=1e-12)


def test_planted_noise_lands_in_the_nonlinear_part_at_its_size(x):
    noise = 0.5 * torch.randn_like(x)
    report = dm.decompose(x, x - 0.2 * x @ rotation(24) - noise)
    total = float((x - x.mean(0)).square().sum() / len(x))
    assert report.fvu_nonlinear.value == pytest.approx(24 * 0.25 / total, rel=0.03)
    assert report.fvu_nonlinear.low < 24 * 0.25 / total < report.fvu_nonlinear.high
    assert float(report.nonlinear_error.square().mean()) == pytest.approx(0.25, rel=0.03)


def test_the_parts_add_up(x):
    report = dm.decompose(x, x * 0.9 + torch.sin(x))
    torch.testing.assert_close(report.linear_error + report.nonlinear_error, report.sae_error)
    torch.testing.assert_close(report.sae_error, x - (x * 0.9 + torch.sin(x)))


def test_a_dead_sae_has_only_linear_error(x):
    report = dm.decompose(x, torch.full_like(x, 1.5))
    assert report.r2_error_vector.value == pytest.approx(1, abs=1e-12)
    assert report.fvu_nonlinear.value == pytest.approx(0, abs=1e-12)


def test_a_perfect_sae_is_said_to_be_perfect(x):
    for perfect in (x.clone(), (x.float() * 3).double() / 3):
        report = dm.decompose(x, perfect)
        assert math.isnan(report.r2_error_vector.value)
        assert "no error to predict" in str(report)
        assert report.fvu.value == pytest.approx(0, abs=1e-12)


def test_metrics_agree_with_their_definitions(x):
    """Straight from the formulas: numpy on the held-out tokens."""
    sae_out = torch.relu(x - 0.3) + 0.1 * torch.randn_like(x)
    report = dm.decompose(x, sae_out, seed=4)
    held = ~Split.random(runs(len(x)), seed=4).fit
    error, nonlinear, truth = (
        report.sae_error[held],
        report.nonlinear_error[held],
        x[held],
    )
    rss, tss = nonlinear.square().sum(0), (error - error.mean(0)).square().sum(0)
    variance = (truth - truth.mean(0)).square().sum()
    assert report.r2_error_vector.value == pytest.approx(float((1 - rss / tss).mean()), abs=1e-9)
    assert report.r2_error_vector_weighted.value == pytest.approx(float(1 - rss.sum() / tss.sum()), abs=1e-9)
    assert report.fvu.value == pytest.approx(float(error.square().sum() / variance), abs=1e-9)
    assert report.fvu_nonlinear.value == pytest.approx(float(nonlinear.square().sum() / variance), abs=1e-9)


def test_rescaled_r2_equals_decomposing_the_rescaled_reconstruction(x):
    """The closed form (nonlinear part times α) against a second, direct decomposition."""
    sae_out = 0.8 * torch.relu(x)
    split = Split.random(runs(len(x)), seed=0)
    result = dm.decompose(x, sae_out, split=split).decomposition
    alpha = float((x * sae_out)[split.fit].sum() / sae_out[split.fit].square().sum())
    again = dm.decompose(x, alpha * sae_out, split=split)
    assert result.shrinkage == pytest.approx(alpha, abs=1e-12)
    assert result.metrics["r2_error_vector_rescaled"].value == pytest.approx(again.r2_error_vector.value, abs=1e-9)
    assert again.fvu_nonlinear.value == pytest.approx(alpha**2 * result.metrics["fvu_nonlinear"].value, abs=1e-9)


def test_the_best_rescaling_is_fitted_on_the_fitting_tokens_alone(x):
    split = Split.random(runs(len(x)), seed=0)
    sae_out = torch.where(split.fit[:, None], x / 2, 3 * x)
    assert dm.decompose(x, sae_out, split=split).decomposition.shrinkage == pytest.approx(2, abs=1e-12)


@pytest.mark.parametrize(("scale", "cosine"), [(0.8, 1), (1.25, -1)])
def test_a_reconstruction_that_is_too_short_or_too_long_has_that_norm_ratio_and_its_error_points_that_way(
    x, scale, cosine
):
    metrics = dm.decompose(x, scale * x).decomposition.metrics
    assert metrics["norm_ratio"].value == pytest.approx(scale, abs=1e-12)
    assert metrics["cos_linear_x"].value == pytest.approx(cosine, abs=1e-9)


@pytest.mark.parametrize("block", [1000, 61, 6000])
def test_blocks_of_any_size_give_the_same_numbers(x, block):
    sae_out = torch.relu(x)
    expected = dm.decompose(x, sae_out).decomposition.metrics
    found = dm.decompose(x, sae_out, block=block).decomposition.metrics
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value.value, abs=1e-9), name
        assert found[name].low == pytest.approx(value.low, abs=1e-9), name


def test_float32_agrees_with_float64(x):
    expected, found = (dm.decompose(x.to(t), torch.relu(x).to(t)) for t in (torch.float64, torch.float32))
    assert found.r2_error_vector.value == pytest.approx(expected.r2_error_vector.value, abs=1e-5)
    assert found.fvu_nonlinear.value == pytest.approx(expected.fvu_nonlinear.value, rel=1e-4)


def test_one_design_serves_many_saes(x):
    decomposer = Decomposer(Design(x, Split.random(runs(len(x)))))
    for scale in (0.5, 0.9):
        shared = decomposer.run(lambda rows, b, s=scale: s * torch.relu(b)).metrics["fvu_nonlinear"]
        assert shared == dm.decompose(x, scale * torch.relu(x)).fvu_nonlinear


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x[:, :-1], "must match x"),
        (lambda x: x.float(), "must match x"),
        (lambda x: x[:-5], "must match x"),
        (
            lambda x: x.index_fill(0, torch.tensor([2]), math.inf),
            "sae_out, tokens 0 to 5999: 24 of",
        ),
    ],
)
def test_bad_reconstructions_are_refused(x, make, message):
    with pytest.raises(ValueError, match=message):
        dm.decompose(x, make(x))


def test_bad_activations_and_groups_are_refused(x):
    with pytest.raises(ValueError, match="one context id per token"):
        dm.decompose(x, x / 2, groups=torch.zeros(5, dtype=torch.long))
    with pytest.raises(ValueError, match="must be \\[token, d\\]"):
        dm.decompose(x[None], x[None])
    with pytest.raises(ValueError, match="zero everywhere"):
        dm.decompose(torch.zeros_like(x), x)
    with pytest.raises(ValueError, match="cannot determine"):
        dm.decompose(x[:30], x[:30] / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.1, 7.1, 10000.1])
def test_a_constant_dimension_is_reconstructed_by_its_mean(x, constant, dtype, monkeypatch):
    """It varies nowhere, so it neither enters the fit nor the mean of R² over dimensions."""
    from dm_utils.maths import regression

    x = x.to(dtype)
    padded = torch.cat([x, torch.full((len(x), 1), constant, dtype=dtype)], 1)
    expected = dm.decompose(x, torch.relu(x - 2))
    for wide in (False, True):
        if not wide:
            monkeypatch.setattr(regression, "product_dtype", lambda _, dtype: dtype)
        found = dm.decompose(padded, torch.cat([torch.relu(x - 2), padded[:, -1:] * 0.9], 1))
        for name in ("r2_error_vector", "r2_error_norm", "fvu_nonlinear"):
            assert getattr(found, name).value == pytest.approx(getattr(expected, name).value, abs=2e-3), name
        monkeypatch.undo()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_decomposed_as_float32(x, dtype):
    half, sae_out = (x * 90).to(dtype), torch.relu(x * 90).to(dtype)
    found, expected = dm.decompose(half, sae_out), dm.decompose(half.float(), sae_out.float())
    assert str(found) == str(expected)
    assert found.nonlinear_error.dtype == torch.float32


def test_a_reconstruction_is_made_once_where_memory_allows_and_again_where_it_does_not(x, monkeypatch):
    design, found, calls = Design(x, Split.random(runs(len(x)))), [], []

    def sae_out(rows, block):
        calls.append(rows)
        return torch.relu(block - 2)

    for kept in (decomposition.KEPT, 0):
        monkeypatch.setattr(decomposition, "KEPT", kept)
        found.append(decomposition.Decomposer(design, n_bootstrap=10).run(sae_out).metrics)
    assert len(calls) == 3 * len(list(design.blocks()))
    assert found[0] == found[1]
