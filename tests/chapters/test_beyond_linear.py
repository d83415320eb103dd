"""Beyond linear: networks find a planted function of x and nothing in noise; what is left is counted right; bad sizes are refused."""

import pandas as pd
import pytest
import torch

from dm_utils.base.errors import ParameterError
from dm_utils.chapters.beyond_linear import experiment, networks
from dm_utils.chapters.beyond_linear.experiment import ERROR, TWIN, Setting
from dm_utils.maths.regression import Design
from dm_utils.maths.resampling import Split

N, D, CONTEXTS = 12_000, 8, 60


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def split():
    return Split.random(torch.arange(N) * CONTEXTS // N, seed=1, by="context")


def planted(split, nonlinear):
    """A setting whose error is a linear map of x plus `nonlinear`."""
    x = normal(N, D, seed=11) @ normal(D, D, seed=1) + 3
    error = 0.3 * x @ normal(D, D, seed=2) + nonlinear(x)
    return Setting(x, error, split, Design(x, split).fit_map(lambda rows, _: error[rows]))


def left(found, **sizes):
    network = networks.train(found.whitened, found.nonlinear, found.split, **{"seed": 0, "max_epochs": 20} | sizes)
    return experiment.judged(found, network, found.nonlinear, 100, 0) | {"epochs": network.epochs}


def kink(x):
    """|x₀ − mean| in one direction: a function of x that no affine map sees and two rectified units are."""
    return (x[:, :1] - 3).abs() @ normal(1, D, seed=3)


def test_a_planted_function_of_x_is_found(split):
    found = left(planted(split, kink), hidden=32)
    assert found["left"].high < 0.1 and found["gain"].low > 0


def test_noise_of_the_same_covariance_is_not(split):
    setting = planted(split, kink)
    twin = setting.twin()
    covariance = [torch.cov(part[split.fit].T) for part in (setting.nonlinear, twin)]
    size = 5 * float(covariance[0].diagonal().max()) * (2 / int(split.fit.sum())) ** 0.5  # five deviations of a sample
    torch.testing.assert_close(*covariance, atol=size, rtol=0)
    network = networks.train(setting.whitened, twin, split, hidden=32, seed=0, max_epochs=5)
    assert experiment.judged(setting, network, twin, 100, 0)["gain"].value < 0.01


def test_a_network_that_finds_nothing_keeps_its_start_and_predicts_zero(split):
    z = normal(N, D)
    network = networks.train(z, normal(N, D, seed=5), split, hidden=64, seed=0, max_epochs=2)
    assert network.epochs == 0 and network.left == 1 and not network.prediction.any()


def test_what_is_left_is_that_of_the_prediction(split):
    setting = planted(split, kink)
    network = networks.Network(0.5 * setting.nonlinear, 0, 0.25, 1)
    found = experiment.judged(setting, network, setting.nonlinear, 100, 0)
    assert found["left"].value == pytest.approx(0.25)
    out = ~split.fit
    rest = 0.25 * float(setting.nonlinear[out].square().sum())
    for name, values in (("fvu_error", setting.error), ("fvu", setting.x)):
        total = float((values[out] - values[out].mean(0)).square().sum())
        assert found[name].value == pytest.approx(rest / total, rel=1e-4)
    assert found["gain"].value == pytest.approx(3 * found["fvu_error"].value)


def test_the_validation_contexts_train_nothing(split):
    """Altering the target there changes which epoch is kept at most, not the weights of the first one."""
    valid = networks.validation_tokens(split)
    assert 0 < valid.sum() < split.fit.sum() and not (valid & ~split.fit).any()
    assert not set(split.group[valid].tolist()) & set(split.group[split.fit & ~valid].tolist())
    z, target = normal(N, D), kink(normal(N, D) + 3)
    altered = torch.where(valid[:, None], 2 * target, target)
    first, second = (networks.train(z, t, split, hidden=8, seed=0, max_epochs=1) for t in (target, altered))
    assert first.epochs == second.epochs == 1
    torch.testing.assert_close(first.prediction, second.prediction)


def test_seeds_give_other_networks_and_the_same_seed_the_same(split):
    z, target = normal(N, D), kink(normal(N, D) + 3)
    once, again, other = (networks.train(z, target, split, hidden=8, seed=s, max_epochs=1) for s in (0, 0, 1))
    assert torch.equal(once.prediction, again.prediction) and not torch.equal(once.prediction, other.prediction)


def test_whitened_coordinates_are_uncorrelated_and_drop_what_does_not_vary(split):
    x = torch.cat([planted(split, kink).x, torch.ones(N, 1)], 1)
    z = networks.whitened(x, split.fit)
    assert z.shape == (N, D)
    torch.testing.assert_close(torch.cov(z[split.fit].T, correction=0), torch.eye(D), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"hidden": []}, "hidden"),
        ({"hidden": 16}, "hidden"),
        ({"hidden": [16, 16]}, "hidden"),
        ({"hidden": [0]}, "hidden"),
        ({"hidden": [1.5]}, "hidden"),
        ({"seeds": 0}, "seeds"),
        ({"max_epochs": True}, "max_epochs"),
    ],
)
def test_sizes_that_cannot_be_trained_are_refused_by_name(given, named):
    with pytest.raises(ParameterError, match=named):
        experiment.check_sizes(**({"hidden": [16], "seeds": 3, "max_epochs": 4} | given))


def test_one_fitting_context_cannot_stop_early():
    split = Split(torch.arange(30) < 10, torch.arange(30) // 10)
    with pytest.raises(ValueError, match="two or more"):
        networks.validation_tokens(split)


def test_a_study_is_measured_at_every_size_and_rank(study):
    ref = study.sae()
    table = experiment.by_size(study, ref, [4, 2], seeds=2, max_epochs=1)
    assert table.groupby("target")["hidden"].apply(list).to_dict() == {ERROR: [0, 2, 2, 4, 4], TWIN: [0, 2, 4]}
    affine = table[(table["target"] == ERROR) & (table["hidden"] == 0)].iloc[0]
    measured = study.measure([ref]).iloc[0]
    assert affine["fvu"] == pytest.approx(measured["fvu_nonlinear"], rel=1e-4)
    assert affine["fvu_error"] == pytest.approx(1 - measured["r2_error_vector_weighted"], rel=1e-4)
    ranks = experiment.by_rank(study, ref)
    ends = ranks.curve.set_index("rank")["fvu"]
    assert ends.iloc[-1] == pytest.approx(measured["fvu_nonlinear"], rel=1e-4)
    assert ends.iloc[0] <= measured["fvu"] * 1.001  # without the mean error
    assert len(ranks.spectrum) == study.profile.d_model and ranks.spectrum["share"].sum() == pytest.approx(1)
    assert isinstance(table, pd.DataFrame) and experiment.widths(table) == [2, 4]


@pytest.mark.parametrize(
    ("name", "most"), [("hidden", experiment.WIDEST), ("seeds", experiment.MOST), ("max_epochs", experiment.MOST)]
)
def test_sizes_are_allowed_from_one_up_to_the_largest(name, most):
    sizes = {"hidden": [16], "seeds": 3, "max_epochs": 4}
    for value in (1, most):
        experiment.check_sizes(**(sizes | {name: [value] if name == "hidden" else value}))
    with pytest.raises(ParameterError, match=f"{name} = {most + 1}"):
        experiment.check_sizes(**(sizes | {name: [most + 1] if name == "hidden" else most + 1}))


def test_a_sixth_of_the_fitting_contexts_validates_and_at_least_one():
    def of(n_fitting):
        """A split whose first contexts of ten tokens fit; two more are held out."""
        token = torch.arange(10 * n_fitting + 20)
        return Split(token < 10 * n_fitting, token // 10)

    valid = networks.validation_tokens(of(36))
    assert int(valid.sum()) == 60 and len(of(36).group[valid].unique()) == 6
    assert int(networks.validation_tokens(of(2)).sum()) == 10
    assert not torch.equal(valid, networks.validation_tokens(of(36), seed=1))


def test_a_network_has_the_parameters_of_its_two_layers(split):
    network = networks.train(normal(N, 5), normal(N, 3, seed=2), split, hidden=7, seed=0, max_epochs=1)
    assert network.n_parameters == (5 * 7 + 7) + (7 * 3 + 3)
    assert network.prediction.shape == (N, 3)


def test_a_row_of_a_network_holds_what_was_trained_on_its_target(study):
    ref, p = study.sae(), study.profile
    found = experiment.setting(study, ref)
    table = experiment.by_size(study, ref, [4, 2], seeds=2, max_epochs=1)
    for target, left in ((ERROR, found.nonlinear), (TWIN, found.twin(p.seed))):
        for seed in (0, 1) if target == ERROR else (0,):
            row = table[(table["target"] == target) & (table["hidden"] == 4) & (table["seed"] == seed)].iloc[0]
            network = networks.train(found.whitened, left, found.split, hidden=4, seed=p.seed + seed, max_epochs=1)
            assert row["n_parameters"] == network.n_parameters
            assert row["epochs"] == network.epochs
            assert row["left_of_validation"] == pytest.approx(network.left, rel=1e-6)
            for name, estimate in experiment.judged(found, network, left, p.n_bootstrap, p.seed).items():
                expected = [estimate.value, estimate.low, estimate.high]
                assert row[[name, f"{name}_low", f"{name}_high"]].tolist() == pytest.approx(expected, rel=1e-6)
    affine = table[table["hidden"] == 0]
    assert affine[["n_parameters", "epochs", "left_of_validation"]].drop_duplicates().to_numpy().tolist() == [[0, 0, 1]]


def test_ranks_are_told_with_their_estimates(study):
    from dm_utils.maths.reduced_rank import ByRank, ranked_map

    ref, p = study.sae(), study.profile
    found, design, error = experiment.by_rank(study, ref), study.site().design, experiment.errors(study, ref)
    ranked = ranked_map(design, lambda rows, x: error[rows])
    judge = ByRank(design, lambda rows, x: error[rows], ranked, p.n_bootstrap, p.seed)
    known = {f"rank_for_{percent}_percent": judge.rank_for(percent / 100) for percent in (50, 90, 99)}
    known |= {"missed_directions": judge.missed_directions(0.5), "missed_variance": judge.missed_variance(0.5)}
    assert found.estimates == known
    row, last = found.curve.iloc[3], found.spectrum.iloc[-1]
    assert (row["rank"], last["direction"]) == (3, p.d_model)
    assert row[["fvu", "fvu_low"]].tolist() == [judge.left(3, "x").value, judge.left(3, "x").low]
    assert row[["recovered", "recovered_high"]].tolist() == [judge.recovered(3).value, judge.recovered(3).high]
    assert last["unexplained"] == judge.unexplained(p.d_model - 1).value
    torch.testing.assert_close(torch.tensor(found.spectrum["share"]), ranked.variance / ranked.variance.sum())
