"""Regressions among per-context moments: equal to explicit least squares, with controls that behave as they must."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dm_utils.chapters.E_scaling.experiment import (
    BEYOND,
    PairStudy,
    beyond_table,
    decrease_table,
    pair_study,
    quadratic_table,
    redundancy_table,
    survival_table,
)
from dm_utils.chapters.s04_4_per_token.experiment import transfer
from dm_utils.maths.context_products import ContextProducts
from dm_utils.maths.resampling import Split

N, CONTEXTS = 6000, 60


@pytest.fixture
def split():
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))  # contexts need not be contiguous
    return Split.random((torch.arange(N) * CONTEXTS // N)[order], seed=1)


@pytest.fixture
def columns():
    """Squared norms where the larger SAE keeps all of the nonlinear part and a third of the linear part."""
    rng = np.random.default_rng(0)
    linear, nonlinear = rng.gamma(3, 2, N), rng.gamma(4, 1, N)
    values = {
        "error": linear + nonlinear,
        "linear": linear,
        "nonlinear": nonlinear,
        "noise": rng.normal(size=N),
        "larger": linear / 3 + nonlinear + 0.5 + 0.3 * rng.normal(size=N),
    }
    return {name: torch.from_numpy(value) for name, value in values.items()}


def held_out_fvu(columns, split, target, regressors, intercept):
    z = torch.stack([columns[name] for name in regressors] + [torch.ones(N).double()] * intercept, 1)
    y, fit = columns[target], split.fit
    residual = y - z @ torch.linalg.lstsq(z[fit], y[fit, None]).solution[:, 0]
    rest = y[~fit]
    return float((residual[~fit] ** 2).sum() / ((rest - rest.mean()) ** 2).sum())


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("regressors", [["error"], ["error", "nonlinear"], ["error", "nonlinear", "noise"]])
def test_fvu_equals_explicit_least_squares(columns, split, regressors, intercept):
    found = ContextProducts(columns, split).fvu("larger", regressors, intercept)
    assert found.value == pytest.approx(held_out_fvu(columns, split, "larger", regressors, intercept), rel=1e-9)
    assert found.low < found.value < found.high


def test_one_regressor_agrees_with_the_transfer_of_section_4_4(columns, split):
    found = ContextProducts(columns, split).fvu("larger", ["error"])
    other = transfer(torch.stack([columns["error"], columns["larger"]]), split)[0, 1].r2
    np.testing.assert_allclose(
        [1 - found.value, 1 - found.high, 1 - found.low], [other.value, other.low, other.high], atol=1e-9
    )


def test_a_kept_nonlinear_part_decreases_the_fvu_by_what_was_planted(columns, split):
    products = ContextProducts(columns, split)
    decrease = products.percent_decrease("larger", ["error"], ["nonlinear"])
    one, two = (held_out_fvu(columns, split, "larger", r, True) for r in (["error"], ["error", "nonlinear"]))
    assert decrease.value == pytest.approx(100 * (1 - two / one), rel=1e-9)
    assert decrease.low > 50


def test_without_a_cross_term_the_linear_part_helps_exactly_as_much(columns, split):
    """‖e‖² = ‖linear‖² + ‖nonlinear‖² makes the two second regressors span the same space."""
    products = ContextProducts(columns, split)
    nonlinear, linear = (products.percent_decrease("larger", ["error"], [part]) for part in ("nonlinear", "linear"))
    assert nonlinear.value == pytest.approx(linear.value, rel=1e-6)


def test_a_regressor_of_noise_does_not_help(columns, split):
    decrease = ContextProducts(columns, split).percent_decrease("larger", ["error"], ["noise"])
    assert abs(decrease.value) < 0.5 and decrease.low < 0.05


def test_a_repeated_regressor_changes_nothing(columns, split):
    products = ContextProducts(columns | {"again": 7 * columns["error"]}, split)
    assert products.percent_decrease("larger", ["error"], ["again"]).value == pytest.approx(0, abs=1e-9)


def test_coefficients_are_what_was_planted_and_inside_their_intervals(columns, split):
    found = ContextProducts(columns, split).coefficients("larger", ["linear", "nonlinear"])
    for name, planted in (("linear", 1 / 3), ("nonlinear", 1.0), ("intercept", 0.5)):
        assert found[name].low < planted < found[name].high
        assert found[name].value == pytest.approx(planted, abs=0.05)


def test_covariance_is_that_of_the_held_out_tokens(columns, split):
    names = ["larger", "linear", "nonlinear"]
    expected = torch.cov(torch.stack([columns[name][~split.fit] for name in names]), correction=0)
    torch.testing.assert_close(ContextProducts(columns, split).covariance(names), expected)


def test_bad_columns_are_named(columns, split):
    with pytest.raises(ValueError, match="column error must be"):
        ContextProducts({"error": torch.ones(3)}, split)
    with pytest.raises(ValueError, match="column error"):
        ContextProducts({"error": torch.full((N,), torch.nan)}, split)
    with pytest.raises(ValueError, match="no column nonlinaer"):
        ContextProducts(columns, split).fvu("larger", ["nonlinaer"])


@pytest.fixture
def planted(split):
    """Two SAEs: the larger keeps 0.3 of the smaller's linear and 0.9 of its nonlinear error, as vectors."""
    generator = torch.Generator().manual_seed(0)
    linear, nonlinear = torch.randn(2, N, 4, generator=generator, dtype=torch.float64)
    linear = linear * (1 + nonlinear[:, :1].abs())  # so that the cross term goes along with the parts
    nonlinear = nonlinear - 0.3 * linear
    norm2 = lambda v: (v * v).sum(1)  # noqa: E731
    parts = {"error": linear + nonlinear, "linear": linear, "nonlinear": nonlinear, "sae": torch.ones(N, 1)}
    columns = {f"{name} small": norm2(v) for name, v in parts.items()}
    columns["cross small"] = columns["error small"] - columns["linear small"] - columns["nonlinear small"]
    columns |= {"curve small": columns["error small"].sqrt(), "shuffled small": columns["nonlinear small"].flip(0)}
    columns |= {"error large": norm2(0.3 * linear + 0.9 * nonlinear), "x": torch.ones(N), "position": torch.arange(N)}
    refs = [SimpleNamespace(id=name, d_sae=d, l0=16.0) for name, d in (("small", 512), ("large", 1024))]
    return PairStudy(refs, 2, ContextProducts(columns, split))


def test_what_a_larger_sae_keeps_is_found_with_the_cross_term_and_biased_without(planted):
    row = survival_table(planted).iloc[0]
    np.testing.assert_allclose(
        row[["linear", "nonlinear", "cross", "intercept"]].astype(float), [0.09, 0.81, 0.27, 0], atol=1e-8
    )
    assert abs(survival_table(planted, cross=False).iloc[0]["linear"] - 0.09) > 0.05


def test_survival_needs_squared_norms(planted):
    with pytest.raises(ValueError, match="squared norms"):
        survival_table(PairStudy(planted.refs, 1, planted.products))


def test_the_pages_form_gives_the_planted_vectors_an_fvu_of_zero(planted):
    row = quadratic_table(planted).iloc[0]
    a, b, k = 0.09, 0.81, 0.27
    fvu = 1 - 2 * (a * row.ly + b * row.ny + k * row.xy) + a * a * row.ll + b * b * row.nn + k * k * row.xx
    assert fvu + 2 * (a * b * row.ln + a * k * row.lx + b * k * row.nx) == pytest.approx(0, abs=1e-9)


def test_decreases_name_their_regressors_and_leave_out_what_is_given(planted):
    table = decrease_table(planted).set_index("second")
    assert table.loc["nonlinear", "fvu_two"] <= table.loc["nonlinear", "fvu_one"]
    assert table.loc["x", "decrease"] == pytest.approx(0, abs=1e-6)  # a constant adds nothing to the intercept
    assert "linear" not in set(decrease_table(planted, given=["linear"])["second"])
    beyond = beyond_table(planted).iloc[0]
    alone = decrease_table(planted, given=["curve"]).set_index("second").loc["linear"]
    assert (
        beyond["linear_given_curve"] == alone["decrease"] and beyond["linear_given_curve_low"] == alone["decrease_low"]
    )


def test_pair_study_says_what_it_needs():
    ref = SimpleNamespace(id="a", hook_name="h", d_sae=512)
    with pytest.raises(ValueError, match="power = 3"):
        pair_study(None, [ref, ref], power=3)
    with pytest.raises(ValueError, match="at least two widths"):
        pair_study(None, [ref, ref])


@pytest.fixture
def site(split):
    """A study of two SAEs whose scalars are drawn, and those scalars."""
    rng = np.random.default_rng(7)
    names = ("x", "sae", "error", "linear", "nonlinear")
    scalars = {
        ref: {f"{name}_norm2": rng.gamma(3, 2, N).astype(np.float32) for name in names} for ref in ("wide", "narrow")
    }
    position = torch.arange(N) % 100
    study = SimpleNamespace(
        profile=SimpleNamespace(seed=0, n_bootstrap=100),
        site=lambda *_: SimpleNamespace(position=position, x=torch.zeros(N, 2), split=split),
        token_scalars=lambda ref: scalars[ref.id],
    )
    about = {"hook_name": "h", "layer": 1, "component": "resid", "l0": 4.0}
    refs = [SimpleNamespace(id=name, d_sae=width, **about) for name, width in (("wide", 1024), ("narrow", 512))]
    return study, refs, scalars, position


@pytest.mark.parametrize("power", [1, 2])
def test_a_pairs_columns_are_the_scalars_of_its_saes_at_its_power(site, monkeypatch, power):
    study, refs, scalars, position = site
    taken = []
    monkeypatch.setattr(
        "dm_utils.chapters.E_scaling.experiment.ContextProducts", lambda columns, *rest: taken.append((columns, rest))
    )
    assert [ref.id for ref in pair_study(study, refs, power).refs] == ["narrow", "wide"]
    (columns, (_, *protocol)) = taken[0]
    assert protocol == [100, 0]
    expected = {"position": position.numpy(), "x": scalars["wide"]["x_norm2"] ** (power / 2)}
    for name, found in scalars.items():
        expected |= {
            f"{part} {name}": found[f"{part}_norm2"] ** (power / 2) for part in ("error", "nonlinear", "linear", "sae")
        }
        expected[f"curve {name}"] = found["error_norm2"] ** (1 if power == 1 else 0.5)
        expected[f"cross {name}"] = found["error_norm2"] - found["linear_norm2"] - found["nonlinear_norm2"]
    for name, values in expected.items():
        np.testing.assert_allclose(columns[name], values, rtol=1e-4, atol=1e-4, err_msg=name)
    for name in scalars:
        shuffled, whole = columns[f"shuffled {name}"], columns[f"nonlinear {name}"]
        assert torch.equal(shuffled.sort().values, whole.sort().values) and not torch.equal(shuffled, whole)
    assert set(columns) == {*expected, "shuffled wide", "shuffled narrow"}


def test_pairs_go_from_each_width_to_each_larger_one(columns, split):
    refs = [SimpleNamespace(id=f"{d}{i}", d_sae=d) for d in (1, 2, 3) for i in (0, 1)]
    pairs = PairStudy(refs, 2, ContextProducts(columns, split)).pairs()
    assert {(small.d_sae, large.d_sae) for small, large in pairs} == {(1, 2), (1, 3), (2, 3)} and len(pairs) == 12


def test_saes_of_two_sites_make_no_pair():
    refs = [SimpleNamespace(id=f"{d}", hook_name=f"h{d}", d_sae=d) for d in (512, 1024)]
    with pytest.raises(ValueError, match="one site and at least two widths"):
        pair_study(None, refs)


def test_a_row_of_decreases_says_its_pair_and_both_fits(planted):
    products = planted.products
    for intercept in (True, False):
        table = decrease_table(planted, intercept)
        row = table.set_index("second").loc["sae"]
        about = {"small_id": "small", "large_id": "large", "small": 512, "large": 1024}
        about |= {"l0_small": 16.0, "l0_large": 16.0, "power": 2}
        assert row[list(about)].to_dict() == about
        one = products.fvu("error large", ["error small"], intercept)
        two = products.fvu("error large", ["error small", "sae small"], intercept)
        gain = products.percent_decrease("error large", ["error small"], ["sae small"], intercept)
        for name, estimate in (("fvu_one", one), ("fvu_two", two), ("decrease", gain)):
            assert row[[name, f"{name}_low", f"{name}_high"]].tolist() == [estimate.value, estimate.low, estimate.high]
        beyond = beyond_table(planted, intercept).iloc[0]
        given = decrease_table(planted, intercept, given=["linear"]).set_index("second").loc["nonlinear"]
        assert beyond["nonlinear_given_linear_high"] == given["decrease_high"]
    assert {"small", "large", *(f"{name}{end}" for name in BEYOND for end in ("", "_low", "_high"))} == set(
        beyond.index
    )


def test_the_nonlinear_norm_is_predicted_from_error_and_linear_norm(planted):
    refs = planted.refs[:1]
    row = redundancy_table(PairStudy(refs, 2, planted.products)).iloc[0]
    fvu = planted.products.fvu("nonlinear small", ["error small", "linear small"])
    assert (row["r2"], row["r2_low"], row["r2_high"]) == (1 - fvu.value, 1 - fvu.high, 1 - fvu.low)
    assert (row["sae_id"], row["d_sae"], row["power"]) == ("small", 512, 2)


def test_survival_says_its_pair_and_the_form_its_title(planted):
    row, form = survival_table(planted).iloc[0], quadratic_table(planted).iloc[0]
    assert row[["small_id", "large_id", "small", "large"]].tolist() == ["small", "large", 512, 1024]
    assert form[["small", "large", "pair"]].tolist() == [512, 1024, "512 → 1,024"]
    assert "cross" not in survival_table(planted, cross=False).columns
