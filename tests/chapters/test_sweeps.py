"""Grids behind the interactive figures of Appendices B to D, and that their charts are complete."""

import pandas as pd
import pytest
import torch
import vl_convert

from dm_utils.chapters.B_modelling import charts as modelling
from dm_utils.chapters.B_modelling import findings, latent_norms
from dm_utils.chapters.B_modelling.sweeps import cost_grid
from dm_utils.chapters.C_synthetic import charts as planted
from dm_utils.chapters.D_random_data import charts as masked
from dm_utils.chapters.D_random_data import experiment as sweeps
from dm_utils.engine.latent_sample import LatentSample
from dm_utils.maths import masking, synthetic


@pytest.fixture(scope="module")
def sample():
    weights = synthetic.sparse_weights("gamma", synthetic.power_law_frequencies(60, 4.0, 0.8), 6000, shape=3.0)
    dictionary = synthetic.random_dictionary(60, 16)
    return LatentSample(weights.values, dictionary, weights.superpose(dictionary), torch.arange(6000) // 100)


def parameters(chart) -> set[str]:
    return {p["name"] for p in chart.to_dict().get("params", [])}


def test_parts_of_the_variance_sum_to_one_and_have_the_expected_zeros() -> None:
    grid = cost_grid((0.01, 0.1), (0.0, 0.2), d=24)
    assert grid[list(modelling.PARTS)].sum(axis=1).to_numpy() == pytest.approx(1.0)
    few = grid[(grid["crowding"] == "half as many as dimensions")]
    assert few["superposition"].max() < 1e-3
    assert few.loc[few["cosine"] == 0, "interference"].max() < 1e-3
    assert grid.loc[grid["law"] == "constant (Bernoulli)", "shape"].max() < 1e-6
    assert {"law", "crowding", "cosine", "signs"} <= parameters(modelling.norm_costs(grid))


def test_the_corollary_bounds_the_probe_where_it_holds_and_mixed_signs_cost_what_a_common_direction_gives() -> None:
    """Features of constant size that are orthogonal are told exactly; the same coherence may cost or help when crowded."""
    grid = cost_grid((0.01, 0.1), (0.0, 0.2, 0.6), d=24)
    bounded = grid["bound"].notna()
    assert (bounded == (grid["crowding"] == "half as many as dimensions")).all()
    assert (grid.loc[bounded, "explained"] >= grid.loc[bounded, "bound"] - 1e-9).all()
    constant = grid[(grid["law"] == "constant (Bernoulli)") & (grid["probability"] == 0.01)]
    r2 = constant.set_index(["crowding", "signs", "cosine"])["explained"]
    assert r2["half as many as dimensions", "mixed", 0.0] == pytest.approx(1, abs=1e-6)
    assert (
        r2["4 per dimension", "mixed", 0.6]
        < r2["4 per dimension", "mixed", 0.0]
        < r2["4 per dimension", "all positive", 0.6]
    )
    words = findings.coherence_alone(grid, "constant (Bernoulli)", 0.01)
    assert (
        f"{r2['4 per dimension', 'mixed', 0.0]:.2f} to {r2['4 per dimension', 'mixed', 0.6]:.2f} with mixed signs"
        in words
    )
    assert words.endswith("makes up for it.")
    chart = modelling.probe_coherence(grid)
    assert {"law", "crowding", "place"} <= parameters(chart)
    assert chart.to_dict()["usermeta"]["sliders"]["place"] == ["1.0%", "10.0%"]
    drawn = vl_convert.vegalite_to_svg(chart.to_json().replace('"container"', "500"), vl_version="6.4")
    assert "Each feature fires on 1.0% of the tokens" in drawn and ">mixed<" in drawn


def test_bend_is_one_minus_leverage_when_features_are_masked_singly_and_not_when_clusters_go() -> None:
    sweep = sweeps.bend_sweep(d=24)
    whole = sweep["property"].str.contains("whole")
    assert (sweep["bend"] - 1 + sweep["leverage"])[~whole].abs().max() < 0.1
    tight = sweep[whole & (sweep["setting"] == "0.99")].iloc[0]
    assert tight["bend"] < 0.2 < 1 - tight["leverage"]
    sparsity = sweep.loc[sweep["property"].str.contains("sparsity"), "bend"]
    assert sparsity.max() - sparsity.min() < 1e-9
    assert "prop" in parameters(masked.sweep(sweep))


def test_steeper_power_laws_bend_less() -> None:
    curves = sweeps.random_curves(32, 10, 0.025, (0.0, 1.0, 2.0))
    bends = (
        curves[curves["order"] == "random"].groupby("case", sort=False)[["fvu", "fvu_nonlinear"]].apply(masking.bend)
    )
    assert list(bends) == sorted(bends, reverse=True)
    assert {"order"} <= parameters(masked.curves(curves, "cases"))


def test_half_masked_simulations_hold_their_closed_form() -> None:
    found = sweeps.half_masked(d=12, n=6)
    half = (found["high"] - found["low"]) / 2
    assert ((found["value"] - found["exact"]).abs() < 3 * half).all()
    assert found["exact"].iloc[0] == pytest.approx(found["exact"].iloc[1], rel=1e-3)  # twenty times the L0


def test_ingredients_agree_where_latents_are_independent(sample) -> None:
    curves, table = sweeps.ingredient_curves(sample)
    assert set(curves["order"]) == set(synthetic.ORDERS)
    bends = table.loc[table["order"] == "random", "bend"]
    assert bends.iloc[3] == pytest.approx(bends.iloc[2], abs=0.05)
    assert bends.iloc[4] == pytest.approx(bends.iloc[2], abs=0.05)


def test_charts_of_the_readings_carry_every_reading(sample) -> None:
    refits = latent_norms.refit(sample)
    latents, readings = latent_norms.latent_table(sample, refits), latent_norms.which_mean(sample, refits)
    chart = modelling.fig14(latents)
    options = next(p for p in chart.to_dict()["params"] if p["name"] == "reading")["bind"]["options"]
    assert set(options) == {*latent_norms.READINGS, "independent"} == set(readings["reading"]) - {"a*"}
    assert readings.set_index("reading")["r2"].idxmax() == "a*"


def test_charts_of_planted_noise_have_their_sliders() -> None:
    levels = [(a, b, c) for a in (0.0, 0.1, 0.2) for b in (0.0, 0.1, 0.2) for c in (0.0, 0.5)]
    table = pd.DataFrame(levels, columns=["noise_x", "noise_sae", "masked"])
    for name in ("nonlinear", "dense"):
        table[[name, f"{name}_low", f"{name}_high"]] = [0.1, 0.05, 0.15]
    assert {"noise_x", "noise_sae"} <= parameters(planted.fig15(table))
    assert {"other"} <= parameters(planted.planted_recovered(table[table["masked"] == 0]))
    step = next(p for p in planted.fig15(table).to_dict()["params"] if p["name"] == "noise_x")["bind"]["step"]
    assert step == pytest.approx(0.1)


def test_every_power_law_and_order_of_masking_has_its_curve() -> None:
    d, per, share = 16, 5, 0.125
    curves = sweeps.random_curves(d, per, share, (0.0, 1.5), seed=2)
    dictionary = synthetic.random_dictionary(80, d, 2)
    for exponent, case in ((0.0, "equal frequencies"), (1.5, "exponent 1.5")):
        p = synthetic.power_law_frequencies(80, share * d, exponent)
        variance = synthetic.law_moments("exponential", p).variance
        for order in synthetic.ORDERS:
            known = masking.masked_curve(dictionary, variance, synthetic.mask_order(p, order, 2), sweeps.FRACTIONS)
            found = curves[(curves["case"] == case) & (curves["order"] == order)]
            assert found[known.columns].to_numpy() == pytest.approx(known.to_numpy())
    assert len(curves) == 2 * 3 * 13 and curves["masked"].max() == 1


def test_half_of_25_features_per_dimension_is_masked_in_each_case() -> None:
    found = sweeps.half_masked(d=8, n=3, seed=1).set_index("case")
    dictionary, kept = synthetic.random_dictionary(200, 8, 1), torch.arange(200) >= 100
    cases = {"equal frequencies, L0 1": (0, 1), "equal frequencies, L0 20": (0, 20)}
    cases |= {"power law 1.5, L0 1": (1.5, 1), "power law 1.5, L0 5": (1.5, 5)}
    assert list(found.index) == list(cases)
    for case, (exponent, l0) in cases.items():
        p = synthetic.power_law_frequencies(200, l0, exponent)
        exact = masking.masked_fvu(dictionary, synthetic.law_moments("exponential", p).variance, kept)[1]
        drawn = masking.simulated_fvu_nonlinear(dictionary, "exponential", p, kept, n=3, seed=1)
        assert found.loc[case].tolist() == pytest.approx([exact, drawn.value, drawn.low, drawn.high])


def test_a_sweep_changes_one_property_at_a_time() -> None:
    d = 16
    table = sweeps.bend_sweep(d=d, seed=1)
    settings = table.groupby("property", sort=False)["setting"].apply(list)
    assert list(settings) == [
        ["0.5", "1", "2", "4", "8", "25"],
        ["0", "0.5", "1", "1.5", "2"],
        ["0.25", "2.5", "25"],
        ["0", "0.3", "0.6", "0.9", "0.99"],
        ["0", "0.3", "0.6", "0.9", "0.99"],
    ]
    assert table["position"].tolist() == list(range(len(table)))

    def known(dictionary: torch.Tensor, variance: torch.Tensor, order: torch.Tensor) -> list[float]:
        bend = masking.bend(masking.masked_curve(dictionary, variance, order, sweeps.FRACTIONS))
        return [bend, masking.mean_leverage(dictionary, variance)]

    crowded, even = synthetic.random_dictionary(25 * d, d, 1), torch.ones(25 * d)
    random = synthetic.mask_order(even, "random", 1)
    rows = table.set_index(["property", "setting"])[["bend", "leverage"]]
    few = synthetic.random_dictionary(4 * d, d, 1)
    expected = {
        ("features per dimension", "4"): known(
            few, torch.ones(4 * d), synthetic.mask_order(torch.ones(4 * d), "random", 1)
        )
    }
    law = synthetic.power_law_frequencies(25 * d, 2.5, 1.5)
    expected["concentration of the variance (exponent of the power law)", "1.5"] = known(crowded, law, random)
    expected["sparsity at equal variances (L0)", "25"] = known(crowded, even, random)
    clusters = synthetic.clustered_dictionary(25 * d, d, d // 2, 0.6, 1)
    together = clusters[torch.argsort(torch.arange(25 * d) % (d // 2), stable=True)]
    expected["cosine within clusters, masking features singly", "0.6"] = known(together, even, random)
    expected["cosine within clusters, masking whole clusters", "0.6"] = known(together, even, torch.arange(25 * d))
    for where, values in expected.items():
        assert rows.loc[where].tolist() == pytest.approx(values, rel=1e-5), where


def test_each_ingredient_is_added_to_the_latents_that_fire(sample) -> None:
    from dataclasses import replace

    from dm_utils.maths.weight_laws import empirical_moments

    silent = torch.cat([sample.dictionary, synthetic.random_dictionary(3, 16, 9)])
    indices, values = sample.weights.coalesce().indices(), sample.weights.coalesce().values()
    more = torch.sparse_coo_tensor(indices, values, (6000, 63)).coalesce()
    curves, bends = sweeps.ingredient_curves(replace(sample, weights=more, dictionary=silent), seed=1)
    moments = empirical_moments(sample.weights)
    order = synthetic.mask_order(moments.probability, "rarest first", 1)
    directions, even = synthetic.random_dictionary(60, 16, 1), torch.ones(60)
    closed = dict(
        zip(
            sweeps.CASES,
            ((directions, even), (directions, moments.variance), (sample.dictionary, moments.variance)),
            strict=False,
        )
    )
    some = bends[bends["order"] == "rarest first"].set_index("case")
    for case, (dictionary, variance) in closed.items():
        known = masking.masked_curve(dictionary, variance, order, sweeps.FRACTIONS)
        found = curves[(curves["case"] == case) & (curves["order"] == "rarest first")]
        assert found[known.columns].to_numpy() == pytest.approx(known.to_numpy(), abs=1e-6)
        assert some.loc[case, ["bend", "bend_low", "bend_high"]].tolist() == pytest.approx([masking.bend(known)] * 3)
    for case, weights in ((sweeps.CASES[3], masking.shuffled(sample.weights, 1)), (sweeps.CASES[4], sample.weights)):
        known, bent = masking.measured_curve(
            weights, sample.dictionary, sample.context, order, sweeps.FRACTIONS[1:-1:2]
        )
        found = curves[(curves["case"] == case) & (curves["order"] == "rarest first")]
        assert found[known.columns].to_numpy() == pytest.approx(known.to_numpy(), abs=1e-6)
        assert some.loc[case, ["bend", "bend_low", "bend_high"]].tolist() == pytest.approx(
            [bent.value, bent.low, bent.high]
        )
