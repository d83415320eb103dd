"""The power law with a constant, the horizontal fit and the break-down of Fig. 1."""

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

from dm_utils.engine.breakdown import asymptotic_gap, falling_parts, fit_widths, fvu_draws, level_parts
from dm_utils.maths.power_law import fit_power_law, profile_constant
from dm_utils.maths.regression import Design
from dm_utils.maths.resampling import Estimate, Split
from dm_utils.maths.scaling import Level, fit_level, fit_scaling, percentiles, scattered

WIDTHS = np.array([512, 1024, 2048, 4096, 8192])


def law(width, c, a, m):
    return c + a * (np.asarray(width) / 2048) ** -m


@pytest.mark.parametrize(("c", "a", "m"), [(0.1, 0.05, 0.5), (0.0, 0.2, 0.3), (0.15, 0.01, 2.0), (0.2, 0.1, 0.05)])
def test_an_exact_law_is_recovered(c, a, m):
    found = fit_power_law(WIDTHS, law(WIDTHS, c, a, m))
    assert found.reference == pytest.approx(2048)
    assert (found.constant, found.scale, found.exponent) == pytest.approx((c, a, m), abs=2e-4)
    assert found(np.array([1e6])) == pytest.approx(law(1e6, c, a, m), abs=2e-4)


def test_the_fit_is_the_best_of_many_starts_of_scipy():
    """Noisy values, some of which push a parameter onto its bound: no start of a local search finds a lower cost."""
    rng = np.random.default_rng(0)
    for _ in range(12):
        y = law(WIDTHS, 0.12, 0.05, 0.4) + rng.normal(0, 0.006, 5)
        found = fit_power_law(WIDTHS, y)
        cost = ((found(WIDTHS) - y) ** 2).sum()

        def residual(p, y=y):
            return p[0] + p[1] * (WIDTHS / 2048) ** -p[2] - y

        starts = [(c, a, m) for c in (0.01, 0.1) for a in (0.02, 0.1) for m in (0.05, 0.3, 1, 3)]
        bounds = ([0, 0, 0.01], [np.inf, np.inf, 4])
        best = min(2 * least_squares(residual, start, bounds=bounds, xtol=1e-14, ftol=1e-14).cost for start in starts)
        assert cost <= best * (1 + 1e-6) + 1e-15


def test_the_constant_is_never_negative():
    falling = 0.5 - 0.05 * np.arange(5)  # straight in log2(W): no floor in sight
    found = fit_scaling(WIDTHS, falling)
    assert found.law.constant == pytest.approx(0, abs=1e-9)
    assert "do not tell a floor" in found.note


def test_a_clear_floor_is_identified_and_a_flat_curve_is_said_to_be_flat():
    rng = np.random.default_rng(1)
    clear = fit_scaling(WIDTHS, law(WIDTHS, 0.1, 0.02, 1.0) + rng.normal(0, 1e-4, 5))
    assert clear.note == ""
    assert clear.constant.low < 0.1 < clear.constant.high
    assert np.abs(clear.leave_one_out - 0.1).max() < 0.01
    assert "flat" in fit_scaling(WIDTHS, np.full(5, 0.2) + 1e-4 * np.array([0, 1, -1, 1, 0])).note


@pytest.mark.parametrize(("constant", "said"), [(0.02, ""), (0.0, "do not tell a floor")])
def test_a_constant_well_below_the_smallest_value_is_identified_and_zero_is_not(constant, said):
    """An exact law leaves no scatter, so the interval is the constant: a third of the smallest value, or nothing."""
    found = fit_scaling(WIDTHS, law(WIDTHS, constant, 0.1, 0.8))
    assert found.constant.value == pytest.approx(constant, abs=2e-4)
    assert said in found.note and bool(said) == bool(found.note)


def test_three_saes_are_fitted_but_their_scatter_is_said_to_be_unknown():
    found = fit_scaling(WIDTHS[:3], law(WIDTHS[:3], 0.1, 0.05, 0.5))
    assert "as few SAEs" in found.note
    assert np.isnan(found.leave_one_out).all()


def test_intervals_of_the_constant_and_of_a_prediction_cover_the_truth():
    hits = {"constant": 0, "prediction": 0}
    rng = np.random.default_rng(7)
    for seed in range(40):
        y = law(WIDTHS, 0.1, 0.05, 0.6) * (1 + rng.normal(0, 0.01, 5))
        found = fit_scaling(WIDTHS, y, n_draws=100, seed=seed)
        at = percentiles(found.law([32768])[0], found.draws([32768]))
        hits["constant"] += found.constant.low <= 0.1 <= found.constant.high
        hits["prediction"] += at.low <= law(32768, 0.1, 0.05, 0.6) <= at.high
    assert min(hits.values()) >= 0.86 * 40


def test_a_horizontal_fit_says_whether_it_is_horizontal():
    rng = np.random.default_rng(2)
    flat = fit_level(WIDTHS, 0.1 + rng.normal(0, 0.001, 5))
    assert flat.horizontal
    assert flat.level.low < 0.1 < flat.level.high
    falling = fit_level(WIDTHS, 0.1 * (WIDTHS / 2048) ** -0.1 + rng.normal(0, 1e-4, 5))
    assert not falling.horizontal
    assert falling.per_doubling.value == pytest.approx(2**-0.1 - 1, abs=0.003)


def test_the_breakdown_is_the_papers_with_a_horizontal_fit():
    total = fit_scaling(WIDTHS, law(WIDTHS, 0.1, 0.05, 0.5))
    level = fit_level(WIDTHS, np.full(5, 0.07))
    assert asymptotic_gap(total, level).value == pytest.approx(0.03, abs=1e-3)
    parts = level_parts(total, level, [512, 8192, 65536]).set_index(["part", "d_sae"])
    for width in (512, 8192, 65536):
        assert parts.loc[("nonlinear", width), "top"] == pytest.approx(0.07)
        assert parts.loc[("linear", width), "top"] == pytest.approx(0.1, abs=1e-3)
        assert parts.loc[("absent", width), "top"] == pytest.approx(law(width, 0.1, 0.05, 0.5), abs=1e-3)
    assert parts["extrapolated"].groupby("d_sae").first().tolist() == [False, False, True]
    stacked = parts["bottom"].unstack(0)[["linear", "absent"]].to_numpy()
    assert np.allclose(stacked, parts["top"].unstack(0)[["nonlinear", "linear"]].to_numpy())


def test_no_linear_error_stays_when_the_law_ends_below_the_nonlinear_level():
    total = fit_scaling(WIDTHS, law(WIDTHS, 0.05, 0.1, 0.5))
    level = fit_level(WIDTHS, np.full(5, 0.09))
    assert asymptotic_gap(total, level).high < 0
    parts = level_parts(total, level, WIDTHS)
    linear = parts[parts["part"] == "linear"]
    assert (linear["top"] - linear["bottom"]).abs().max() < 1e-9


def test_a_falling_nonlinear_part_has_a_law_of_its_own_and_the_parts_add_up():
    linear, nonlinear = (fit_scaling(WIDTHS, law(WIDTHS, c, a, 0.5)) for c, a in ((0.04, 0.05), (0.08, 0.02)))
    at = [512, 8192, 65536]
    parts = falling_parts(linear, nonlinear, at).pivot(index="d_sae", columns="part", values="top")
    assert np.allclose(parts["nonlinear"], law(at, 0.08, 0.02, 0.5), atol=1e-3)
    assert np.allclose(parts["linear"], law(at, 0.12, 0.02, 0.5), atol=1e-3)
    assert np.allclose(parts["absent"], law(at, 0.12, 0.07, 0.5), atol=1e-3)


def test_draws_of_the_fvu_centre_on_the_engines_value_and_share_their_text():
    torch.manual_seed(0)
    x = torch.randn(4000, 6) * 2 + 1
    split = Split.random(torch.arange(40).repeat_interleave(100))
    design = Design(x, split, block=700)
    norm2 = torch.stack([(0.3 * torch.randn_like(x)).square().sum(-1), (x - x.mean(0)).square().sum(-1)])
    observed, draws = fvu_draws(design, norm2, n_bootstrap=300)
    held = x[~split.fit].double()
    total = (held - held.mean(0)).square().sum()
    assert observed[0] == pytest.approx(float(norm2[0][~split.fit].double().sum() / total), rel=1e-6)
    assert draws.shape == (300, 2)
    assert draws.mean(0) == pytest.approx(observed, rel=0.01)
    relative = draws.std(0) / observed
    assert relative[1] < 0.1 * relative[0]  # ‖x − mean‖² over itself hardly depends on the text


def test_two_widths_leave_the_constant_open():
    fit = fit_scaling([1024, 4096], [0.3, 0.2])
    np.testing.assert_allclose(fit.law([1024, 4096]), [0.3, 0.2])
    assert (fit.law.constant, fit.constant.low) == (0.0, pytest.approx(0.005, abs=0.006))
    assert 0.18 < fit.constant.high < 0.2 and "two widths" in fit.note
    np.testing.assert_allclose(fit.draws([1024, 4096])[:, 1], 0.2, rtol=1e-3)
    later = percentiles(
        fit.law([2**20])[0], fit.draws([2**20])
    )  # every one of those laws: from almost zero to almost 0.2
    assert later.low < 0.05 and later.high > 0.18


@pytest.mark.parametrize(
    ("width", "value", "message"),
    [
        ([512], [0.2], "at least 2 different widths"),
        ([512, 512], [0.2, 0.3], "at least 2 different widths"),
        ([512, 1024, 2048], [0.2, 0.1], "same length"),
        ([512, 1024, 2048], [0.2, np.nan, 0.1], "finite and positive"),
    ],
)
def test_unusable_input_is_refused(width, value, message):
    with pytest.raises(ValueError, match=message):
        fit_scaling(width, value)


def test_the_profile_of_the_constant_is_lowest_at_the_fit_and_ends_at_zero_and_the_smallest_value():
    y = law(WIDTHS, 0.1, 0.05, 0.5) + np.array([1, -1, 0, 1, -1]) * 5e-4
    found, profile = fit_power_law(WIDTHS, y), profile_constant(WIDTHS, y, n=201)
    best = profile.rms_residual.argmin()
    assert profile.law.constant[best] == pytest.approx(found.constant, abs=2e-3)
    assert profile.rms_residual[best] == pytest.approx(np.sqrt(((found(WIDTHS) - y) ** 2).mean()), rel=0.02)
    assert profile.law.constant[0] == 0
    assert profile.law.constant[-1] < y.min()


def test_fits_of_a_site_recover_planted_errors():
    """Four SAEs whose error has a part that halves with each doubling, a linear part that stays and a nonlinear part."""
    torch.manual_seed(0)
    x = torch.randn(6000, 8, dtype=torch.float64)
    design = Design(x, Split.random(torch.arange(60).repeat_interleave(100)))
    widths = [1024, 2048, 4096, 8192]
    shares = torch.tensor([0.2 * 2.0**-i + 0.1 for i in range(4)], dtype=torch.float64)
    norm2 = x.square().sum(-1)
    found = fit_widths(design, widths, shares[:, None] * norm2, 0.06 * norm2.expand(4, -1), n_bootstrap=200)
    assert found.fvu.law.exponent == pytest.approx(1, abs=0.02)
    assert found.fvu.constant.value == pytest.approx(0.1, abs=2e-3)
    assert found.fvu_nonlinear_level.level.value == pytest.approx(0.06, abs=1e-3)
    assert found.gap().value == pytest.approx(0.04, abs=1e-3)
    assert found.gap(falling=True).value == pytest.approx(0.04, abs=2e-3)
    tops = [found.breakdown(widths, falling)["top"].iloc[-1] for falling in (False, True)]
    assert tops == pytest.approx([found.fvu.value[-1]] * 2, abs=1e-3)
    assert found.linear_lead.value == pytest.approx(0.2 - 0.025, abs=1e-3)  # only the linear part falls
    assert found.fvu_nonlinear_level.horizontal
    assert not found.fvu_trend.horizontal


def test_percentiles_hold_the_middle_95_percent_and_the_value_itself():
    draws = np.arange(1001.0)
    assert (percentiles(500, draws).low, percentiles(500, draws).high) == (25, 975)
    assert percentiles(-1, draws).low == -1 and percentiles(2000, draws).high == 2000


def test_scatter_is_students_of_the_size_of_the_residuals():
    """Two parameters of six values leave four degrees of freedom, and a Student t with four has the variance 2."""
    value, fitted = np.array([1.0, 2, 3, 4, 5, 6]), np.array([1.5, 1.5, 3, 4, 5, 6])
    drawn = scattered(fitted, value, None, 2, 200_000, 0) - fitted
    sigma = np.sqrt(0.5 / 4)
    assert np.quantile(drawn, [0.25, 0.75]) == pytest.approx([-0.7407 * sigma, 0.7407 * sigma], rel=0.02)
    text = np.random.default_rng(1).normal(0, 1, (50, 6))
    assert scattered(fitted, value, value + text, 6, 50, 0) == pytest.approx(fitted + text), "no freedom, no scatter"
    some = scattered(fitted, value, value + text, 5, 50, 0) - fitted - text
    assert np.abs(some).max() > 0.1


@pytest.mark.parametrize(
    ("low", "high", "said"), [(-0.1, 0.0, True), (0.0, 0.1, True), (0.001, 0.1, False), (-0.1, -0.001, False)]
)
def test_a_slope_whose_interval_ends_at_zero_is_horizontal(low, high, said):
    level = Level(Estimate(0.1, 0.1, 0.1), Estimate((low + high) / 2, low, high), np.zeros(2))
    assert level.horizontal is said


def test_draws_without_a_column_per_sae_are_refused():
    with pytest.raises(ValueError, match=r"draws must be \[draw, 5\]"):
        fit_scaling(WIDTHS, law(WIDTHS, 0.1, 0.05, 0.5), np.ones((10, 4)))
    design = Design(torch.randn(100, 2), Split.random(torch.arange(100) // 10))
    with pytest.raises(ValueError, match=r"norm2 must be \[sae, 100\]"):
        fvu_draws(design, torch.ones(3, 99))


def test_the_ends_of_each_part_are_those_of_its_draws():
    rng = np.random.default_rng(3)
    draws = law(WIDTHS, 0.1, 0.05, 0.5) * (1 + rng.normal(0, 0.01, (400, 1)))
    total = fit_scaling(WIDTHS, law(WIDTHS, 0.1, 0.05, 0.5), draws)
    level = fit_level(WIDTHS, np.full(5, 0.07), np.full((400, 5), 0.07) * (1 + rng.normal(0, 0.01, (400, 1))))
    at = np.array([256.0, 1024, 16384])
    parts = level_parts(total, level, at).set_index(["part", "d_sae"])
    assert parts["extrapolated"].groupby("d_sae").first().tolist() == [True, False, True]
    for width in at:
        top = parts.loc[("nonlinear", width)]
        assert (top["top_low"], top["top_high"]) == (level.level.low, level.level.high)
        top, known = parts.loc[("absent", width)], percentiles(total.law([width])[0], total.draws([width])[:, 0])
        assert (top["top_low"], top["top_high"]) == pytest.approx((known.low, known.high))
        top, gaps = parts.loc[("linear", width)], np.maximum(total.draws.constant - level.draws, 0)
        known = percentiles(
            top["top"], np.minimum(level.draws + gaps, np.maximum(total.draws([width])[:, 0], level.draws))
        )
        assert (top["top_low"], top["top_high"]) == pytest.approx((known.low, known.high))
    falling = falling_parts(total, fit_scaling(WIDTHS, law(WIDTHS, 0.08, 0.02, 0.5), 0.7 * draws), at)
    assert (falling["top_low"] <= falling["top"]).all() and (falling["top"] <= falling["top_high"]).all()
    assert (falling["top_low"] < falling["top_high"]).all()


def test_every_fit_of_a_site_is_of_its_own_part():
    torch.manual_seed(0)
    x = torch.randn(3000, 4, dtype=torch.float64)
    design, widths = Design(x, Split.random(torch.arange(30).repeat_interleave(100))), [512, 4096, 1024, 2048]
    noise = 0.5 + torch.rand(3000, dtype=torch.float64)
    total = torch.tensor([0.4, 0.2, 0.3, 0.25])[:, None] * x.square().sum(1) * noise
    part = torch.tensor([0.2, 0.15, 0.18, 0.16])[:, None] * x.square().sum(1)
    found = fit_widths(design, widths, total, part, n_bootstrap=120, seed=4)
    (fvu, fvus), (own, owns) = fvu_draws(design, total, 120, 4), fvu_draws(design, part, 120, 4)
    known = {"fvu": (fvu, fvus), "fvu_linear": (fvu - own, fvus - owns), "fvu_nonlinear": (own, owns)}
    for name, (value, draws) in known.items():
        fit = getattr(found, name)
        assert fit.value == pytest.approx(value) and fit.width.tolist() == widths
        again = fit_scaling(widths, value, draws, seed=4 + {"fvu": 0, "fvu_linear": 20, "fvu_nonlinear": 10}[name])
        assert (fit.constant.low, fit.constant.high) == pytest.approx((again.constant.low, again.constant.high))
    assert found.fvu_trend.level.value == pytest.approx(fvu.mean())
    lead = (fvus - 2 * owns)[:, 0] - (fvus - 2 * owns)[:, 1]
    expected = percentiles((fvu - 2 * own)[0] - (fvu - 2 * own)[1], lead)
    assert (found.linear_lead.value, found.linear_lead.low) == pytest.approx((expected.value, expected.low))
