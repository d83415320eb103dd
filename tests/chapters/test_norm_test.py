"""The norm prediction test: the Gaussian's closed form, both regressors, outliers and what explains them."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from dm_utils.chapters.s05_1_norm_test.experiment import (
    REGRESSORS,
    VECTORS,
    explain_outliers,
    joint_moments,
    norm_tests,
    outliers,
    planted,
    self_tests,
    without_largest,
)
from dm_utils.engine.store import Store
from dm_utils.maths.norm_theory import gaussian_norm_r2
from dm_utils.maths.regression import Design, probe
from dm_utils.maths.resampling import Split
from dm_utils.maths.synthetic import random_superposition


def table_of(values, regressor="from x"):
    return pd.DataFrame({"vector": "error", "regressor": regressor, "value": values, "sae_id": range(len(values))})


def test_outliers_follow_the_box_plot_rule_within_each_vector_and_regressor():
    table = pd.concat([table_of([0.8, 0.81, 0.82, 0.83, 0.84, -0.2]), table_of([0.1, 0.11, 0.12, 0.13], "from itself")])
    assert outliers(table)["value"].tolist() == [-0.2]
    assert outliers(table, reach=100.0).empty


def test_an_undefined_value_is_shown_among_the_outliers():
    assert outliers(table_of([0.8, 0.81, 0.82, 0.83, math.nan]))["sae_id"].tolist() == [4]


def test_planted_features_in_few_orthogonal_directions_pass_and_are_all_linear():
    """With fewer features than dimensions every part is a linear map of x, and nothing is left for the nonlinear one."""
    found = planted(0.5, d=64, n_latents=8, expected_l0=2.0, n_tokens=4000)
    assert found["x"]["from x"] == found["x"]["from itself"] > 0.5
    assert found["linear"]["from x"] == pytest.approx(found["error"]["from x"], abs=1e-3)


def test_what_is_planted_are_the_rarest_features():
    """Against the same sum, where how often each feature fires says which are absent, not its number."""
    truth = random_superposition(64, 16, 5000, 4.0, seed=3)
    fires = torch.bincount(truth.weights.values.indices()[1], minlength=64)
    absent = truth.dictionary.clone()
    absent[fires.argsort(descending=True)[:48]] = 0
    split = Split.random(torch.arange(5000) // 100, seed=3)
    error = truth.weights.superpose(absent)
    norm2 = error.double().square().sum(1)
    found = planted(0.25, d=16, n_latents=64, expected_l0=4.0, n_tokens=5000, seed=3)["error"]
    assert found["from itself"] == pytest.approx(probe(error, norm2, split).r2.value, abs=0.03)
    assert found["from x"] == pytest.approx(probe(truth.x, norm2, split).r2.value, abs=0.03)


def test_every_vector_of_the_test_is_its_map_of_z_about_its_own_mean():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 4, generator=rng, dtype=torch.float64) + torch.tensor([1.0, -2, 3, 0.5])
    sae_out = x.relu() * 0.7 - 0.4
    split = Split.random(torch.arange(3000) // 50)
    error = x - sae_out
    linear = Design(x, split).fit_map(lambda rows, _: error[rows])(x)
    vectors = dict(zip(VECTORS, (x, sae_out, error, linear, error - linear), strict=True))
    joint = joint_moments(x, sae_out, torch.stack([v.square().sum(1) for v in vectors.values()], 1), split, 700)
    z = torch.cat([x, sae_out], 1) - joint.mean
    for name, (to_v, mean) in joint.maps().items():
        torch.testing.assert_close(mean, vectors[name][split.fit].mean(0), rtol=0, atol=1e-9)
        torch.testing.assert_close(z @ to_v + mean, vectors[name], rtol=0, atol=1e-8)


def test_planted_absent_features_in_superposition_fail_the_test_although_they_are_features():
    found = planted(0.5, d=32, n_latents=256, expected_l0=8.0, n_tokens=6000)
    assert found["nonlinear"]["from x"] < 0.2 and found["nonlinear"]["from itself"] < 0.3 < found["x"]["from x"] + 0.2
    with pytest.raises(ValueError, match=r"absent is 1"):
        planted(1.0)


# --- on the lab ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refs(study):
    return study.saes(near_l0=16)[:3]


@pytest.fixture(scope="module")
def table(study, refs):
    return norm_tests(study, refs)


def test_every_sae_has_every_vector_and_regressor_and_x_stands_once_per_site(table, refs):
    assert set(table["vector"]) == set(VECTORS) and set(table["regressor"]) == set(REGRESSORS)
    counts = table.groupby("vector").size()
    assert counts["x"] == 2 and (counts.drop("x") == 2 * len(refs)).all()
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()


def test_from_x_is_the_studys_metric_and_from_itself_a_probe_on_the_vector(study, refs, table):
    ref, site = refs[0], study.site()
    mine = table[table["sae_id"] == ref.id].set_index(["vector", "regressor"])["value"]
    assert mine["nonlinear", "from x"] == study.measure([ref])["r2_nonlinear_norm"].item()
    parts = study.parts(ref)
    named = {"x": parts.x, "sae": parts.sae_out, "error": parts.sae_error}
    named |= {"linear": parts.linear_error, "nonlinear": parts.nonlinear_error}
    for name, v in named.items():
        slow = probe(v, v.double().square().sum(1), site.split, n_bootstrap=200).r2
        fast = self_tests(study, ref)[name]
        assert fast["r2"][:2] == pytest.approx([slow.value, slow.low], abs=2e-4), name


def test_the_gaussian_twin_is_the_closed_form_of_the_fitting_tokens(study, refs):
    site, v = study.site(), study.parts(refs[0]).sae_error
    v = v[site.split.fit].double()
    twin = self_tests(study, refs[0])["error"]["gaussian"]
    assert twin == pytest.approx(gaussian_norm_r2(v.mean(0), torch.cov(v.T, correction=0)), rel=1e-4)


def test_linear_error_of_full_rank_is_predicted_equally_from_x_and_from_itself(study, refs, table):
    """An invertible affine map spans the same functions, whatever its coefficients."""
    for ref in refs:
        own = self_tests(study, ref)["linear"]
        if own["rank"] == study.profile.d_model:
            mine = table[(table["sae_id"] == ref.id) & (table["vector"] == "linear")].set_index("regressor")["value"]
            assert mine["from x"] == pytest.approx(mine["from itself"], abs=1e-3)


def test_leaving_out_the_largest_tokens_is_a_probe_on_the_rest(study, refs):
    why = without_largest(study, refs[0], "x", share=0.01)
    site = study.site()
    norm2 = torch.from_numpy(study.token_scalars(refs[0])["x_norm2"]).double()
    keep = norm2 < norm2.topk(round(0.01 * len(norm2))).values.min()
    split = Split(site.split.fit[keep], site.split.group[keep])
    assert why["r2_without"].value == pytest.approx(probe(site.x[keep], norm2[keep], split, n_bootstrap=100).r2.value)
    assert 0 < why["share_of_variance"] < 1
    with pytest.raises(ValueError, match=r"share is 0\.7"):
        without_largest(study, refs[0], "x", share=0.7)


def test_outliers_are_explained_row_by_row(study, refs, table):
    found = table[(table["regressor"] == "from x") & table["vector"].isin(["x", "error"])].head(3)
    explained = explain_outliers(study, refs, found)
    assert len(explained) == 3 and explained[["share_of_variance", "r2_without"]].notna().all().all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_value_exactly_at_the_whiskers_end_is_no_outlier(sign):
    """Quartiles 1.25 and 3.75, so the whiskers reach 3.75 further."""
    inside = [0.0, 1.0, 2.0, 3.0, 4.0, 7.5]
    assert outliers(table_of([sign * value for value in inside])).empty
    assert len(outliers(table_of([sign * value for value in [*inside[:-1], 7.51]]))) == 1


def test_x_stands_once_per_site_without_the_columns_of_an_sae(study, refs):
    found = norm_tests(study, [*refs[:2], study.sae(layer=3, width=512)])
    x = found[found["vector"] == "x"]
    assert sorted(x["hook_name"]) == [f"blocks.{layer}.hook_resid_post" for layer in (3, 3, 4, 4)]
    assert x[["d_sae", "l0", "fvu", "dead_fraction"]].isna().all().all()
    others = found[found["vector"] != "x"]
    assert others[["d_sae", "l0", "fvu", "dead_fraction"]].notna().all().all()
    assert set(found["site"]) == {"resid"}
    assert set(others["architecture"]) == {ref.architecture for ref in refs[:2]} | {"topk"}
    assert others["sae_id"].nunique() == 3 and others[["hook_name", "layer"]].notna().all().all()
    twins = others.set_index("regressor")[["gaussian", "rank"]].notna()
    assert twins.loc["from itself"].all().all() and not twins.loc["from x"].any().any()


def test_each_outlier_is_explained_by_its_own_sae_and_vector(study, refs, table):
    own = table[table["sae_id"] == refs[1].id]
    rows = pd.concat([own[own["vector"] == "error"], table[table["vector"] == "x"]])
    explained = explain_outliers(study, refs, rows).set_index("vector")
    assert sorted(explained.index) == ["error", "x"], "from x only"
    for vector, ref in (("error", refs[1]), ("x", refs[0])):
        why = without_largest(study, ref, vector)
        assert explained.loc[vector, "share_of_variance"] == why["share_of_variance"]
        assert explained.loc[vector, "r2_without"] == why["r2_without"].value


def test_the_share_of_the_largest_tokens_is_of_the_squared_deviations(study, refs):
    norm2 = torch.from_numpy(study.token_scalars(refs[0])["error_norm2"]).double()
    n = round(0.02 * len(norm2))
    deviation = (norm2 - norm2.mean()).square()
    expected = float(deviation[norm2.argsort(descending=True)[:n]].sum() / deviation.sum())
    why = without_largest(study, refs[0], "error", share=0.02)
    assert why["share_of_variance"] == pytest.approx(expected, rel=1e-9)
    keep = norm2 < norm2.sort(descending=True).values[n - 1]
    site = study.site()
    split = Split(site.split.fit[keep], site.split.group[keep])
    again = probe(site.x[keep], norm2[keep], split, n_bootstrap=study.profile.n_bootstrap, seed=study.profile.seed).r2
    assert (why["r2_without"].low, why["r2_without"].high) == (again.low, again.high)
    for share in (0.0, 0.5):
        with pytest.raises(ValueError, match=r"strictly between 0 and 0\.5"):
            without_largest(study, refs[0], "error", share)


def test_an_sae_without_error_has_parts_of_rank_zero_and_no_twin(study, tmp_path):
    n, x = 600, torch.randn(600, 3, generator=torch.Generator().manual_seed(0))
    norm2 = x.square().sum(1).numpy()
    scalars = {f"{name}_norm2": norm2 if name in ("x", "sae") else 0 * norm2 for name in VECTORS}
    split = Split.random(torch.arange(n) // 20)
    exact = SimpleNamespace(
        profile=study.profile,
        store=Store(tmp_path),
        site=lambda *_: SimpleNamespace(x=x, split=split),
        token_scalars=lambda _: scalars,
        reconstructions=lambda _: [(slice(0, n), x, x)],
        result_key=lambda _: {},
    )
    found = self_tests(exact, SimpleNamespace(layer=0, component="resid"))
    for name in ("error", "linear", "nonlinear"):
        assert (found[name]["rank"], found[name]["gaussian"]) == (0, None)
    assert found["x"]["rank"] == found["sae"]["rank"] == 3 and found["x"]["gaussian"] is not None
