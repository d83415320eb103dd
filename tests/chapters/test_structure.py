"""Structure or noise: each test says what was planted and nothing in noise; an SAE's vectors are measured as they are."""

import math

import pandas as pd
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from dm_utils.base.errors import ParameterError
from dm_utils.chapters.structure import coding, components, experiment, findings, geometry, measures, planted, twins
from dm_utils.chapters.structure.measures import Sizes
from dm_utils.chapters.structure.planted import ACTIVE, CURVED, FEATURES, LOUD, NOISE, SHEET, SPARSE, D
from dm_utils.maths import synthetic

N, CONTEXTS = 20_000, 50
CONTEXT = torch.arange(N) * CONTEXTS // N
SMALL = Sizes(n_tokens=2000, directions=8, atoms=16, neighbours=6)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def laplace(*shape, seed=0):
    u = uniform(*shape, seed=seed) - 0.5
    return -u.sign() * (1 - 2 * u.abs()).log()


@pytest.fixture(scope="module")
def plants():
    """Every test on the planted clouds."""
    sizes = Sizes(planted.TOKENS, D, FEATURES, 20)
    found = {name: measures.measured(cloud, [ACTIVE], sizes, 200) for name, cloud in planted.clouds().items()}
    return pd.DataFrame([{"plant": name} | row for name, rows in found.items() for row in rows])


def of(plants, name):
    return plants[plants["plant"] == name]


# --- twins -------------------------------------------------------------------------------------------------


def test_a_gaussian_twin_has_the_mean_and_the_covariance():
    v = laplace(N, 4) @ normal(4, 4, seed=1) + 3
    twin = twins.gaussian_twin(v, torch.ones(N, dtype=torch.bool)).double()
    size = 5 * float(torch.cov(v.T).diagonal().max()) * (2 / N) ** 0.5  # five deviations of a sample's variance
    torch.testing.assert_close(torch.cov(twin.T), torch.cov(v.T), atol=size, rtol=0)
    torch.testing.assert_close(twin.mean(0), v.mean(0), atol=5 * float(v.std(0).max()) / N**0.5, rtol=0)


def test_an_elliptical_twin_keeps_each_whitened_length_and_no_direction():
    v = laplace(N, 4) @ normal(4, 4, seed=1) + 3
    moments = twins.Moments.of(v)
    z, other = (moments.whiten(some) for some in (v, twins.elliptical_twin(v, torch.ones(N, dtype=torch.bool), 7)))
    torch.testing.assert_close(other.norm(dim=1), z.norm(dim=1), rtol=1e-4, atol=1e-4)
    cosines = torch.nn.functional.cosine_similarity(z, other)
    assert float(cosines.mean().abs()) < 5 / (4 * N) ** 0.5  # of uniform directions the mean is 0, the variance 1 / 4


def test_an_elliptical_twin_has_the_kurtosis_that_its_lengths_give():
    length = 1 + uniform(N, 1, seed=3)
    v = length * torch.nn.functional.normalize(normal(N, 4), dim=1)
    r, ell = 4, length[:, 0]
    exact = 3 * (r * float((ell**4).mean()) / ((r + 2) * float((ell**2).mean()) ** 2) - 1)
    found = components.excess_kurtosis(v, CONTEXT)
    assert found.value == pytest.approx(exact, abs=5 * (24 / N) ** 0.5)


def test_what_does_not_vary_has_no_moments():
    with pytest.raises(ValueError, match="do not vary"):
        twins.Moments.of(torch.ones(10, 3))


def test_directions_without_variance_are_left_out():
    v = torch.cat([normal(100, 3), torch.ones(100, 2, dtype=torch.float64)], 1)
    moments = twins.Moments.of(v)
    assert moments.axes.shape == (5, 3)
    torch.testing.assert_close(moments.colour(moments.whiten(v)), v.float(), atol=1e-5, rtol=0)


# --- components --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("draw", "exact", "spread"), [(laplace, 3.0, 0.5), (uniform, -1.2, 0.05), (normal, 0.0, 0.1)])
def test_kurtosis_is_that_of_the_law(draw, exact, spread):
    found = components.excess_kurtosis(draw(N, 3) + 2, CONTEXT)
    assert found.value == pytest.approx(exact, abs=spread)
    assert found.low <= found.value <= found.high and found.high - found.low < 2 * spread


def test_kurtosis_is_the_median_over_directions():
    parts = torch.cat([laplace(N, 1), normal(N, 1), uniform(N, 1)], 1)
    each = [components.excess_kurtosis(parts[:, i : i + 1], CONTEXT).value for i in range(3)]
    assert components.excess_kurtosis(parts, CONTEXT).value == pytest.approx(sorted(each)[1])


def test_too_few_contexts_give_no_interval():
    with pytest.raises(ValueError, match="five or more"):
        components.excess_kurtosis(normal(40, 2), torch.arange(40) // 10)


def test_independent_sources_are_unmixed():
    moments = twins.Moments.of(v := laplace(N, 4) @ normal(4, 4, seed=1))
    mixing = moments.whiten(normal(4, 4, seed=1) + moments.mean)  # [source, whitened], nearly orthonormal up to scale
    found = components.independent_components(moments.whiten(v)) @ torch.nn.functional.normalize(mixing, dim=1).T
    strongest = found.abs().max(1)
    assert float(strongest.values.min()) > 0.98 and len(set(strongest.indices.tolist())) == 4


# --- sparse codes ------------------------------------------------------------------------------------------


def test_orthonormal_atoms_leave_all_but_the_largest_positive_weights():
    dictionary = synthetic.orthonormal_dictionary(6, 6)
    v = normal(50, 6).float()
    weights = (v @ dictionary.T).clamp_min(0)
    for l0 in (1, 2, 4):
        exact = v.square().sum(1) - weights.topk(l0).values.square().sum(1)
        torch.testing.assert_close(coding.left_over(v, dictionary, l0).float(), exact, atol=1e-4, rtol=1e-4)


def test_a_code_is_as_good_for_twice_the_vector():
    v, dictionary = normal(200, 8).float(), synthetic.random_dictionary(16, 8)
    torch.testing.assert_close(coding.left_over(2 * v, dictionary, 3), 4 * coding.left_over(v, dictionary, 3))


def test_a_learned_dictionary_holds_the_planted_features():
    cloud = planted.clouds()[SPARSE]
    learned = coding.learned_dictionary(cloud.v - cloud.v.mean(0), FEATURES)
    cosines = torch.nn.functional.normalize(learned, dim=1) @ cloud.dictionary.T
    nearest = cosines.max(0).values
    by_chance = (synthetic.random_dictionary(FEATURES, D, 9) @ cloud.dictionary.T).max(0).values
    assert float(nearest.median()) > 0.9 > float(by_chance.max())


# --- geometry ----------------------------------------------------------------------------------------------


def test_equal_directions_are_counted_by_the_participation_ratio():
    v = torch.cat([normal(N, 5), torch.zeros(N, 7, dtype=torch.float64)], 1)
    found = geometry.participation_ratio(v, CONTEXT)
    assert found.value == pytest.approx(5, abs=25 / N * 5)  # the sample's spectrum lowers it by about 5² / N
    assert found.low <= found.value <= found.high


def test_nearest_are_those_of_scikit_learn_and_never_of_the_same_context():
    v = normal(300, 3)
    distances, places = geometry.nearest(v, torch.arange(300), 3)
    expected, indices = NearestNeighbors(n_neighbors=4).fit(v.numpy()).kneighbors(v.numpy())
    torch.testing.assert_close(distances, torch.from_numpy(expected[:, 1:]), atol=1e-7, rtol=0)
    assert torch.equal(places, torch.from_numpy(indices[:, 1:]))
    context = torch.arange(300) // 100
    assert (context[geometry.nearest(v, context, 5)[1]] != context[:, None]).all()


@pytest.mark.parametrize("m", [2.0, 5.0, 20.0])
def test_ratios_of_a_law_give_its_dimension(m):
    ratio = uniform(N, seed=2) ** (-1 / m)  # P(r₂/r₁ > t) = t^−m
    found = geometry.intrinsic_dimension(torch.stack([torch.ones(N), ratio], 1), CONTEXT, 200)
    assert found.value == pytest.approx(m, rel=5 / (0.9 * N) ** 0.5)
    assert found.low < found.value < found.high


def test_copies_say_nothing_of_the_dimension():
    ratio = uniform(N, seed=2) ** (-1 / 3)
    distances = torch.stack([torch.ones(N), ratio], 1)
    distances[::4, 0] = 0.0
    alone = geometry.intrinsic_dimension(distances[distances[:, 0] > 0], CONTEXT[distances[:, 0] > 0], 50)
    assert geometry.intrinsic_dimension(distances, CONTEXT, 50).value == pytest.approx(alone.value)
    assert "copy" in str(geometry.intrinsic_dimension(torch.zeros(100, 2), torch.arange(100) // 10, 50))


def test_a_flat_sheet_lies_in_its_local_planes_and_noise_does_not():
    context = torch.arange(1000) // 50
    flat = normal(1000, 2) @ normal(2, 10, seed=1)
    noise = normal(1000, 10)
    places = {name: geometry.nearest(v, context, 8)[1] for name, v in (("flat", flat), ("noise", noise))}
    assert geometry.off_plane(flat, places["flat"], context, 2, 50).value < 1e-10
    assert geometry.off_plane(noise, places["noise"], context, 2, 50).low > 0.1
    assert geometry.off_plane(flat, places["flat"], context, 1, 50).low > 1e-5


# --- what was planted --------------------------------------------------------------------------------------


def test_sparse_features_are_found_by_every_test(plants):
    some = of(plants, SPARSE)
    assert findings.structure(some) == [True, True, True]
    oracle, learned = (findings.one(some, measures.CODING, case=case) for case in (coding.OWN, coding.LEARNED))
    twin = findings.one(some, measures.CODING, twins.GAUSSIAN, coding.LEARNED)
    assert oracle.high < learned.low and learned.high < twin.low
    features = findings.one(some, measures.KURTOSIS, case=components.DECODER)
    assert features.low > findings.one(some, measures.KURTOSIS, case=components.RANDOM).high


def test_fvu_is_about_the_held_out_mean(plants):
    cloud = planted.clouds()[SPARSE]
    fit, out = cloud.v[cloud.split.fit], cloud.v[~cloud.split.fit]
    left = coding.left_over(out - fit.mean(0), cloud.dictionary, ACTIVE).sum()
    exact = float(left / (out - out.mean(0)).double().square().sum())
    found = findings.one(of(plants, SPARSE), measures.CODING, case=coding.OWN)
    assert found.value == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("name", [NOISE, LOUD])
def test_noise_has_none_however_loud_it_is_at_times(plants, name):
    assert True not in findings.structure(of(plants, name))


def test_loudness_alone_has_kurtosis_in_every_direction(plants):
    loud = of(plants, LOUD)
    for case in (components.COMPONENTS, components.RANDOM):
        assert findings.one(loud, measures.KURTOSIS, case=case).low > 1
        assert abs(findings.one(loud, measures.KURTOSIS, twins.GAUSSIAN, case).value) < 0.3


def test_a_curved_sheet_has_its_dimension_and_passes_for_structure(plants):
    found = findings.one(of(plants, CURVED), measures.DIMENSION)
    assert found.value == pytest.approx(SHEET, rel=0.1)
    assert findings.structure(of(plants, CURVED))[2] is True


def test_twins_share_the_participation_ratio(plants):
    for _, some in plants.groupby("plant"):
        own, twin = (findings.one(some, measures.PARTICIPATION, kind) for kind in (twins.ITSELF, twins.GAUSSIAN))
        assert own.value == pytest.approx(twin.value, rel=0.05)


# --- a study -----------------------------------------------------------------------------------------------


def test_the_parts_of_a_sample_are_those_of_the_study(study):
    ref = study.sae()
    found, parts = experiment.sample(study, ref, SMALL), study.parts(ref)
    expected = {"x": parts.x, "sae": parts.sae_out, "linear": parts.linear_error, "nonlinear": parts.nonlinear_error}
    assert tuple(found.vectors) == experiment.SHOWN == tuple(expected)
    for name, v in expected.items():
        torch.testing.assert_close(found.vectors[name], v[found.rows], atol=1e-3, rtol=1e-3)
    assert len(found.rows) == SMALL.n_tokens == len(found.rows.unique())
    fit, group = found.split.fit, found.split.group
    assert not set(group[fit].tolist()) & set(group[~fit].tolist())


def test_a_study_is_measured_by_every_test_and_kept(study):
    table = experiment.by_vector(study, study.sae(), [1, 2], SMALL)
    assert table["vector"].unique().tolist() == list(experiment.SHOWN)
    assert table.groupby("vector").size().nunique() == 1
    assert not table[["value", "low", "high"]].isna().any().any()
    sae = table[table["vector"] == "sae"]
    left = findings.estimates(sae[(sae["test"] == measures.CODING) & (sae["case"] == coding.OWN)])
    assert left[0].high < left[1].low  # Sae(x) is a sparse sum of the decoder's directions, its twin is not
    assert experiment.by_vector(study, study.sae(), [2, 1], SMALL).equals(table)


def test_each_layer_has_its_like_sae_and_its_shape(study):
    table = experiment.by_layer(study, study.sae(), SMALL)
    assert table["layer"].tolist() == sorted(set(table["layer"])) and len(table) == study.profile.n_layers
    assert table[["d_sae", "architecture"]].drop_duplicates().shape[0] == 1
    for name in experiment.PREDICTORS:
        assert (table[f"{name}_low"] <= table[name]).all() and (table[name] <= table[f"{name}_high"]).all()


def test_the_order_of_layers_has_an_exact_p_value():
    rising = pd.DataFrame({name: [1.0, 2, 3, 5, 8, 9] for name in (*experiment.PREDICTORS, *experiment.TARGETS)})
    rising["participation"] *= -1
    found = experiment.over_layers(rising).set_index(["predictor", "target"])
    assert found.loc[("dimension", "fvu"), "rho"] == pytest.approx(1)
    assert found.loc[("participation", "fvu"), "rho"] == pytest.approx(-1)
    assert found["p"].to_numpy() == pytest.approx(2 / math.factorial(6))  # the order itself, and its reverse
    assert experiment.over_layers(rising[:3])["rho"].isna().all()


def test_l0s_lie_about_the_saes_own():
    assert experiment.l0s_near(4.0, 256) == [1, 4, 16]
    assert experiment.l0s_near(60.0, 100) == [15, 60, 100]
    assert experiment.l0s_near(1.0, 256) == [1, 4]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"n_tokens": 999}, "n_tokens"),
        ({"n_tokens": 1e4}, "n_tokens"),
        ({"directions": 1}, "directions"),
        ({"atoms": True}, "atoms"),
        ({"atoms": 10**6}, "atoms"),
        ({"neighbours": 2}, "neighbours"),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_name(given, named):
    with pytest.raises(ParameterError, match=named):
        Sizes(**({"n_tokens": 2000, "directions": 8, "atoms": 16, "neighbours": 6} | given))


@pytest.mark.parametrize("l0s", [[], 4, [4, 4], [0], [17], [1.5]])
def test_l0s_that_no_code_has_are_refused_by_name(l0s):
    with pytest.raises(ParameterError, match="l0s"):
        measures.check_l0s(l0s, 16)
    measures.check_l0s(None, 16)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("n_tokens", 1000, None), ("directions", 2, measures.MOST), ("atoms", 2, measures.MOST), ("neighbours", 3, 1000)],
)
def test_sizes_are_allowed_from_the_least_to_the_most(name, least, most):
    sizes = {"n_tokens": 2000, "directions": 8, "atoms": 16, "neighbours": 6}
    for value in (least, most or 10**9):
        assert getattr(Sizes(**(sizes | {name: value})), name) == value
    for value in (least - 1, *([most + 1] if most else [])):
        with pytest.raises(ParameterError, match=f"{name} = {value}"):
            Sizes(**(sizes | {name: value}))


def test_a_code_may_have_every_atom_and_no_more():
    measures.check_l0s([1, 16], 16)
    with pytest.raises(ParameterError, match="l0s = 17"):
        measures.check_l0s([17], 16)


def test_the_shape_of_a_layer_is_that_of_its_held_out_tokens(study):
    rows, split = experiment.drawn(study, 3, SMALL.n_tokens)
    assert torch.equal(rows, rows.sort().values) and len(rows.unique()) == SMALL.n_tokens
    p, out = study.profile, study.site(3).x[rows][~split.fit]
    context = split.group[~split.fit]
    distances, places = geometry.nearest(out, context, SMALL.neighbours)
    known = {"dimension": geometry.intrinsic_dimension(distances, context, p.n_bootstrap, p.seed)}
    known["off_plane"] = geometry.off_plane(out, places, context, 4, p.n_bootstrap, p.seed)
    known["participation"] = geometry.participation_ratio(out, context)
    assert experiment.shape(study, 3, 4, SMALL) == known
    most = geometry.off_plane(out, places, context, SMALL.neighbours - 1, p.n_bootstrap, p.seed)
    assert experiment.shape(study, 3, 50, SMALL)["off_plane"] == most, "k neighbours span at most k − 1 directions"


def test_the_spectra_are_shares_of_the_held_out_variance(study):
    ref = study.sae()
    table = experiment.spectra(study, ref, SMALL)
    assert set(table["kind"]) == {twins.ITSELF, twins.GAUSSIAN} and set(table["vector"]) == set(experiment.SHOWN)
    found = experiment.sample(study, ref, SMALL)
    values = torch.linalg.eigvalsh(torch.cov(found.vectors["x"][~found.split.fit].double().T, correction=0)).flip(0)
    mine = table[(table["vector"] == "x") & (table["kind"] == twins.ITSELF)]
    assert mine["direction"].tolist() == list(range(1, len(values) + 1))
    assert mine["share"].to_numpy() == pytest.approx((values.cumsum(0) / values.sum()).numpy(), abs=1e-6)


def test_like_saes_are_the_nearest_in_l0_at_each_layer():
    from types import SimpleNamespace

    def ref(layer, l0, d_sae=64, architecture="topk"):
        return SimpleNamespace(layer=layer, l0=l0, d_sae=d_sae, architecture=architecture)

    there = [
        ref(2, 4.0),
        ref(0, 9.0),
        ref(0, 3.0),
        ref(1, 4.0, d_sae=32),
        ref(1, 4.0, architecture="jumprelu"),
        ref(3, 20.0),
    ]
    study = SimpleNamespace(saes=lambda layer: there)
    assert experiment.like(study, there[0]) == [there[2], there[0], there[5]]


def test_four_layers_have_an_order_and_three_have_none():
    rising = pd.DataFrame({name: [1.0, 2, 3, 5] for name in (*experiment.PREDICTORS, *experiment.TARGETS)})
    found = experiment.over_layers(rising)
    assert len(found) == 6 and found["rho"].to_numpy() == pytest.approx(1)
    assert found["p"].to_numpy() == pytest.approx(2 / math.factorial(4)) and (found["n"] == 4).all()
    fewer = experiment.over_layers(rising[:3])
    assert fewer["p"].isna().all() and (fewer["n"] == 3).all()


def test_missing_numbers_are_written_as_none():
    rows = [{"l0": math.nan, "value": 1.0, "case": "x"}]
    assert experiment.plain(rows) == [{"l0": None, "value": 1.0, "case": "x"}]
