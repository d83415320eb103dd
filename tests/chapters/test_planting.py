"""Planted noise and the norm probe on an SAE whose right answers are known: orthonormal latents that it encodes exactly."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
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


def test_an_estimates_ends_are_the_middle_95_percent_of_its_draws() -> None:
    draws = torch.cat([torch.tensor([7.0]), torch.arange(0, 1001.0)]).double()
    found = recovery.as_estimate(draws)
    assert (found.value, found.low, found.high) == (7, 25, 975)


def grid(noise_x=(0.0, 0.1, 0.2), noise_sae=(0.0, 0.1), masked=(0.0,)) -> recovery.Recovery:
    """A recovery whose error is 2 noise_x + 3 noise_sae + 0.5, and whose nonlinear part is noise_x/2 + noise_sae + masked."""
    cells = [{"noise_x": x, "masked": m, "noise_sae": s} for s in noise_sae for x in noise_x for m in masked]
    table = pd.DataFrame(cells)
    error = 2 * table["noise_x"] + 3 * table["noise_sae"] + 0.5
    nonlinear = table["noise_x"] / 2 + table["noise_sae"] + table["masked"]
    draws = {"error": error, "nonlinear": nonlinear}
    return recovery.Recovery(table, {name: torch.tensor(v.to_numpy()).expand(4, -1) for name, v in draws.items()})


def test_slopes_are_those_of_the_planted_levels() -> None:
    share = recovery.shares(grid())
    known = {
        ("noise_x", "dense"): 1.5,
        ("noise_sae", "dense"): 2,
        ("noise_x", "introduced"): 0.5,
        ("noise_sae", "introduced"): 1,
    }
    assert {name: estimate.value for name, estimate in share.items()} == pytest.approx(known)
    assert {*recovery.shares(grid(noise_sae=(0.1,)))} == {("noise_x", "dense"), ("noise_x", "introduced")}
    assert recovery.found_share(grid(), 0.2).value == pytest.approx(1.5)
    with pytest.raises(ValueError, match="needs this level"):
        recovery.found_share(grid(noise_sae=(0.1,)), 0.2)
    with pytest.raises(ValueError, match="level = 0"):
        recovery.found_share(grid(), 0)


def test_correlations_and_the_table_are_of_one_masked_fraction() -> None:
    found = grid(masked=(0.0, 0.5))
    table = found.table()
    assert table["dense"].to_numpy() == pytest.approx((table["error"] - table["nonlinear"]).to_numpy())
    assert {f"{name}{end}" for name in ("error", "nonlinear", "dense") for end in ("", "_low", "_high")} <= set(table)
    some = table[table["masked"] == 0.5]
    for (noise, name), estimate in recovery.correlations(found, 0.5).items():
        column = some["dense" if name == "dense" else "nonlinear"]
        assert estimate.value == pytest.approx(np.corrcoef(some[noise], column)[0, 1])
    assert len(recovery.correlations(found)) == 4 and len(recovery.correlations(grid(noise_sae=(0.1,)))) == 2
    with pytest.raises(ValueError, match=r"masked = 0\.25: this plan has"):
        found.at(0.25)


def test_a_law_is_planted_on_one_side_at_a_time(study) -> None:
    plan = planting.NoisePlan((0.0, 0.1), (0.0, 0.2), (0.0, 0.5), n_bootstrap=100)
    found = planting.by_law(study, REF, ["student_t", "gaussian"], plan).set_index(["noise", "law", "estimate"])
    assert len(found) == 2 * 2 * 2
    alone = replace(plan, noise_x=(0.0,), kind_sae="student_t", masked=(0.0,))
    known = recovery.shares(planting.recover(study, REF, alone))
    for name in ("dense", "introduced"):
        row = found.loc[("noise on Sae(x′)", "student_t", name)]
        assert row.tolist() == list(known["noise_sae", name].columns().values())
    alone = replace(plan, noise_sae=(0.0,), kind_x="gaussian", masked=(0.0,))
    known = recovery.shares(planting.recover(study, REF, alone))["noise_x", "dense"]
    assert found.loc[("noise on x′", "gaussian", "dense"), "value"] == known.value


def test_correlated_noises_are_told_where_both_are_planted(study) -> None:
    table = planting.by_correlation(study, REF, 0.1, planting.NoisePlan(n_bootstrap=100), (-1.0, 1.0))
    assert table[["correlation", "noise_x", "noise_sae", "masked"]].to_numpy().tolist() == [
        [-1, 0.1, 0.1, 0],
        [1, 0.1, 0.1, 0],
    ]


def test_a_second_pass_takes_whole_contexts(study) -> None:
    x, context = planting.second_pass_input(study, REF, 250)
    assert len(x) == len(context) == 200 and context.unique().tolist() == [0, 1]
    torch.testing.assert_close(x, study.load_sae(REF)(study.site(0, "resid").x[:200]))


def test_masks_and_levels_that_cannot_be_are_refused(study) -> None:
    sae = study.load_sae(REF)
    with pytest.raises(ValueError, match="a mask of 15 latents does not fit"):
        planting.mask_latents(sae, torch.ones(M - 1, dtype=torch.bool))
    del sae.b_enc
    with pytest.raises(ValueError, match="does not fit this SAE"):
        planting.mask_latents(sae, torch.ones(M, dtype=torch.bool))
    for call in (lambda: planting.NoisePlan(noise_x=(-0.1,)), lambda: planting.NoisePlan(masked=(-0.1,))):
        with pytest.raises(ValueError, match="none negative"):
            call()
    assert planting.NoisePlan(noise_x=(0.0,), masked=(0.99,)).masked == (0.99,)
