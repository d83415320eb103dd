"""Planted noise and the norm probe on an SAE whose right answers are known: orthonormal latents that it encodes exactly."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sae_lens import TopKSAE, TopKSAEConfig

from dm_utils.chapters.B_modelling import latent_norms
from dm_utils.chapters.C_synthetic import experiment as planting
from dm_utils.chapters.C_synthetic import recovery
from dm_utils.engine.latent_sample import latent_sample
from dm_utils.engine.store import Store
from dm_utils.maths import synthetic

D, M, K, TOKENS = 32, 16, 6, 12_000
REF = SimpleNamespace(layer=0, component="resid", d_sae=M)


def exact_sae(dictionary: torch.Tensor) -> TopKSAE:
    sae = TopKSAE(TopKSAEConfig(d_in=D, d_sae=M, k=K))
    sae.W_dec.data, sae.W_enc.data = dictionary.clone(), dictionary.T.clone().contiguous()
    sae.b_enc.data.fill_(-1e-4)  # rounding must not count as firing
    sae.b_dec.data.zero_()
    return sae.eval().requires_grad_(False)


@pytest.fixture
def study(tmp_path):
    dictionary = synthetic.orthonormal_dictionary(M, D)
    weights = synthetic.sparse_weights("bernoulli", torch.full((M,), 0.1), TOKENS, scale=torch.linspace(1, 2, M))
    site = SimpleNamespace(x=weights.superpose(dictionary), context=torch.arange(TOKENS) // 100)
    return SimpleNamespace(
        profile=SimpleNamespace(fit_fraction=0.6, split_by="token"),
        site=lambda layer, component: site,
        load_sae=lambda ref: exact_sae(dictionary),
        result_key=lambda ref: {"sae": "exact"},
        store=Store(tmp_path),
    )


def test_independent_noise_on_the_output_is_found_and_features_that_are_orthogonal_are_not_mistaken_for_it(
    study,
) -> None:
    found = planting.recover(study, REF, planting.NoisePlan((0.0,), (0.0, 0.1, 0.2), (0.0, 0.5), n_bootstrap=100))
    table = found.table().set_index(["masked", "noise_sae"])
    assert table.loc[(0.0, 0.0), "error"] < 0.002  # the rare tokens with more than K active latents
    assert table.loc[(0.5, 0.0), "error"] > 0.4
    assert table.loc[(0.5, 0.0), "nonlinear"] < 0.01  # masked orthogonal latents are linear in the input
    share = recovery.shares(found)
    assert share["noise_sae", "introduced"].value == pytest.approx(1.0, abs=0.05)
    assert share["noise_sae", "dense"].value == pytest.approx(0.0, abs=0.02)
    assert recovery.correlations(recovery.Recovery(found.cells, found.draws))["noise_sae", "introduced"].low > 0.99


def test_shrinkage_planted_on_the_output_is_called_dense(study) -> None:
    plan = planting.NoisePlan((0.0,), (0.0, 0.1, 0.2), kind_sae="linear_in_x", n_bootstrap=100)
    share = recovery.shares(planting.recover(study, REF, plan))
    assert share["noise_sae", "dense"].value == pytest.approx(1.0, abs=0.05)
    assert share["noise_sae", "introduced"].value == pytest.approx(0.0, abs=0.02)


def test_the_axis_of_output_noise_equals_planting_each_level_by_hand(study) -> None:
    grid = planting.recover(study, REF, planting.NoisePlan((0.1,), (0.0, 0.2), n_bootstrap=100)).table()
    alone = planting.recover(study, REF, planting.NoisePlan((0.1,), (0.2,), n_bootstrap=100)).table()
    columns = ["error", "nonlinear", "nonlinear_low", "nonlinear_high"]
    assert grid.loc[grid["noise_sae"] == 0.2, columns].to_numpy() == pytest.approx(alone[columns].to_numpy(), rel=1e-6)


def test_equal_noises_cancel_and_opposite_noises_add(study) -> None:
    table = planting.by_correlation(study, REF, 0.1, planting.NoisePlan(n_bootstrap=100), (-1.0, 0.0, 1.0))
    low, middle, high = (float(table.loc[table["correlation"] == r, "error"].iloc[0]) for r in (1.0, 0.0, -1.0))
    assert low < middle < high


def test_a_second_call_reads_the_store(study) -> None:
    plan = planting.NoisePlan((0.0,), (0.0, 0.1), n_bootstrap=100)
    first = planting.recover(study, REF, plan)
    study.site = None
    again = planting.recover(study, REF, plan)
    assert again.cells.equals(first.cells)
    assert torch.equal(again.draws["nonlinear"], first.draws["nonlinear"])


def test_noise_in_quiet_directions_is_found(study) -> None:
    found = planting.recover(study, REF, planting.NoisePlan((0.0, 0.1), (0.0,), n_bootstrap=100))
    assert recovery.found_share(found, 0.1).low > 0.4  # half of the 32 dimensions hold no latent
    with pytest.raises(ValueError, match="needs this level"):
        recovery.found_share(found, 0.2)


def test_masking_the_commonest_features_costs_more_than_masking_the_rarest(study) -> None:
    """Half of the latents fire ten times as often: E[w²] of the masked half over the variance of both."""
    dictionary = synthetic.orthonormal_dictionary(M, D)
    often = torch.where(torch.arange(M) < M // 2, 0.1, 0.01)
    weights = synthetic.sparse_weights("bernoulli", often, TOKENS)
    study.site(0, "resid").x = weights.superpose(dictionary)
    error = {}
    for order in ("rarest first", "commonest first"):
        plan = planting.NoisePlan((0.0,), (0.0,), (0.5,), order=order, n_bootstrap=100)
        error[order] = planting.recover(study, REF, plan).table()["error"].item()
    variance = 0.1 * 0.9 + 0.01 * 0.99
    assert error["rarest first"] == pytest.approx(0.01 / variance, abs=0.03)
    assert error["commonest first"] == pytest.approx(0.1 / variance, abs=0.03)


def test_masked_latents_never_fire(study) -> None:
    kept = torch.arange(M) >= 4
    sae = planting.mask_latents(study.load_sae(REF), kept)
    codes = sae.encode(study.site(0, "resid").x)
    assert not codes[:, ~kept].any()
    assert codes[:, kept].any()


def test_probe_on_orthonormal_bernoulli_latents_is_the_sum_weighted_by_the_active_mean(study) -> None:
    sample = latent_sample(study, REF, TOKENS)
    refits = latent_norms.refit(sample)
    latents = latent_norms.latent_table(sample, refits)
    assert np.allclose(latents["dot"], latents["mean_active"], rtol=0.02)
    assert (latents["dot_low"] <= latents["dot"]).all()
    readings = latent_norms.which_mean(sample, refits).set_index("reading")
    assert readings.loc["mean_active", "slope"] == pytest.approx(1.0, abs=0.02)
    assert readings.loc["a*", "r2"] > 0.98
    assert readings.loc["mean", "slope"] == pytest.approx(10.0, rel=0.05)  # each fires on a tenth of the tokens
    steps = latent_norms.ladder(sample, sample.sae_out).set_index("step")["r2"]
    assert steps["orthonormal latents, independent"] > 0.98
    assert steps["decoder's latents, shuffled over tokens"] > 0.98
    assert steps["Gaussian with the mean and covariance of x"] < 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: planting.NoisePlan(noise_x=()), "one level or more"),
        (lambda: planting.NoisePlan(noise_sae=(-0.1,)), "none negative"),
        (lambda: planting.NoisePlan(masked=(1.0,)), "no SAE is left"),
    ],
)
def test_bad_plans_are_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
