"""The rules of Appendix B's verdicts, at their thresholds."""

import pandas as pd
import pytest
from figures import figures

from dm_utils.chapters.B_modelling import findings
from dm_utils.chapters.B_modelling.charts import READINGS
from dm_utils.maths.resampling import Estimate


def test_agreement_allows_as_many_misses_as_chance_does():
    held, missed = {"exact": 0.5, "low": 0.4, "high": 0.6}, {"exact": 0.7, "low": 0.4, "high": 0.6}

    def word(misses: int) -> str:
        return findings.coverage(pd.DataFrame([held] * (20 - misses) + [missed] * misses))

    assert "16 of 20" in word(4) and word(4).endswith("**holds**.")
    assert word(5).endswith("**differs**.")


def readings(slope: float, r2: float, best: float = 0.8) -> pd.DataFrame:
    rows = [
        {"reading": name, "r2": 0.1, "correlation": 0.1, **Estimate(5.0, 4.9, 5.1).columns("slope")}
        for name in READINGS
    ]
    table = pd.DataFrame(rows).set_index("reading")
    table.loc["mean_active", ["slope", "slope_low", "slope_high", "r2"]] = [slope, slope - 0.01, slope + 0.01, r2]
    table.loc["a*", "r2"] = best
    return table.reset_index()


def test_dot_products_equal_an_average_if_its_slope_is_within_a_tenth_of_one():
    assert [findings.average_weight(readings(slope, 0.1)) for slope in (0.92, 1.08)] == ["holds", "holds"]
    assert [findings.average_weight(readings(slope, 0.1)) for slope in (0.88, 1.12)] == ["differs", "differs"]


def test_a_sum_is_nearly_the_best_probe_at_four_fifths_of_its_r2():
    assert findings.sum_of_latents(readings(1, 0.65)) == "holds"
    assert findings.sum_of_latents(readings(1, 0.63)) == "differs"


def test_only_averages_count_as_the_papers_reading():
    table = readings(1, 0.1)
    table.loc[table["reading"] == "best", "r2"] = 0.79
    assert findings.sum_of_latents(table) == "differs"


def ladder(crowd: float, x: tuple[float, float] = (0.87, 0.89), twin: float = 0.2) -> pd.DataFrame:
    names = ["ideal", "crowd", "shuffled", "real", "gaussian", "x", "gaussian x"]
    r2 = [0.9, crowd, crowd, 0.8, 0.1, sum(x) / 2, twin]
    return pd.DataFrame({"step": names, "r2": r2, "r2_low": [*r2[:5], x[0], twin], "r2_high": [*r2[:5], x[1], twin]})


def test_near_orthogonality_is_enough_at_four_fifths_of_the_ideal():
    assert findings.near_orthogonality_is_enough(ladder(0.73)) == "holds"
    assert findings.near_orthogonality_is_enough(ladder(0.71)) == "differs"


def test_x_is_more_than_a_gaussian_if_its_interval_lies_above():
    assert findings.beyond_a_gaussian(ladder(0.5, twin=0.86)) == "holds"
    assert findings.beyond_a_gaussian(ladder(0.5, twin=0.88)) == "untestable here"
    assert findings.beyond_a_gaussian(ladder(0.5, twin=0.90)) == "differs"


def test_what_latents_do_together_restores_or_costs():
    assert "restores 0.30" in findings.climb(ladder(0.5), 2048, 128)
    assert "costs 0.05" in findings.climb(ladder(0.85), 2048, 128)


def case(introduced: float, nonlinear: float) -> dict[str, Estimate]:
    values = {"introduced": introduced, "nonlinear": nonlinear}
    return {name: Estimate(value, value - 0.01, value + 0.01) for name, value in values.items()}


def test_one_counterexample_is_enough_against_a_bound_and_against_a_test():
    assert findings.bound([case(0.2, 0.2), case(0.1, 0.3)]) == "holds"
    assert findings.bound([case(0.1, 0.3), case(0.23, 0.2)]) == "differs"
    assert findings.only_features_pass(pd.DataFrame({"low": [0.1, 0.8]}), ladder(0.5)) == "holds"  # Sae(x) has 0.8
    assert findings.only_features_pass(pd.DataFrame({"low": [0.1, 0.81]}), ladder(0.5)) == "differs"


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.05, 0.09, "holds"), (0.11, 0.2, "differs"), (0.05, 0.2, "untestable here")]
)
def test_unpredictable_means_less_than_a_tenth(low, high, word):
    assert findings.unpredictable(Estimate((low + high) / 2, low, high)) == word


def test_the_difference_from_section_6_2_is_told_by_weighting_text_and_fit():
    rows = pd.DataFrame({"weighted": [0.19, 0.195], "mean": [0.198, 0.2]})
    words = findings.same_quantity(rows, Estimate(0.186, 0.18, 0.19), 0.0064)
    assert "there (+0.005)" in words and "over dimensions (+0.008)" in words and "finds 0.004 less" in words


def test_a_cosine_is_told_for_few_and_for_many_features():
    few, many = "half as many as dimensions", "4 per dimension"
    r2 = {(few, "mixed"): (0.99, 0.9), (many, "mixed"): (0.5, 0.2), (many, "all positive"): (0.51, 0.7)}
    rows = [
        {"crowding": crowding, "signs": signs, "cosine": cosine, "explained": value}
        for (crowding, signs), values in r2.items()
        for cosine, value in zip((0.0, 0.3), values, strict=True)
    ]
    table = pd.DataFrame(rows).assign(law="gamma", probability=0.01)
    other = table.assign(explained=0.123)
    grid = pd.concat([table, other.assign(law="poisson"), other.assign(probability=0.1)])
    said = findings.coherence_alone(grid, "gamma", 0.01)
    assert figures(said) == "0 0.3 1.0% 0.99 0.90 4 0.50 0.20 0.51 0.70"
    assert said.endswith("share makes up for it.")
    worse = table.assign(explained=table["explained"].where(table["cosine"] == 0, 0.1))
    assert findings.coherence_alone(worse, "gamma", 0.01).endswith("does not make up for it.")


def told() -> pd.DataFrame:
    """Readings that differ in which is nearest by correlation, slope and R²."""
    table = readings(1.04, 0.3).set_index("reading")
    table.loc[["paper", "best"], "correlation"] = [0.97, 0.9]
    table.loc["paper", "slope"], table.loc["best", "r2"] = 1.3, 0.7
    table.loc["a*", ["correlation", "slope"]] = 1.0
    table.loc["independent", ["correlation", "slope", "r2"]] = [0.99, 1.0, 0.75]
    return table.reset_index()


def test_the_nearest_readings_are_named_each_by_its_own_measure():
    said = findings.which_mean(told(), 2048)
    assert f"*{READINGS['paper']}* (0.97); their slope on it is 1.30" in said
    assert f"*{READINGS['mean_active']}* (slope 1.04, correlation 0.10)" in said
    assert f"by *{READINGS['best']}*, reaches R² = 0.70, the fitted a* 0.80" in said
    assert "independent latents 0.75" in said and "Over 2,048 latents" in said
    assert "average weight: **holds**" in said and "best probe: **differs**" in said


def test_the_climb_has_each_step_in_its_place():
    table = ladder(0.5).assign(r2=[0.9, 0.5, 0.45, 0.8, 0.1, 0.88, 0.2])
    assert figures(findings.climb(table, 2048, 128)) == "0.90 2048 128 0.50 0.45 0.80 0.30 0.10 0.20 0.88 holds"
    assert "costs 0.00" in findings.climb(ladder(0.8), 2048, 128), "what restores nothing costs nothing"


def test_each_claim_says_what_it_judged():
    rows = [("Poisson, λ = 1", 0.905, 0.9, 0.91, 0.73), ("other", 0.1, 0, 1, 0.1)]
    checks = pd.DataFrame(rows, columns=["case", "value", "low", "high", "printed"])
    gaussians = pd.DataFrame({"value": [0.1, 0.99], "low": [0.0, 0.98]})
    given = (checks, gaussians, told(), ladder(0.7), [case(0.1, 0.3), case(0.23, 0.2)], Estimate(0.3, 0.2, 0.4))
    found = findings.statements(*given)
    assert [figures(words) for words in found["This run"]] == [
        "0.905",
        "0.70 0.90",
        "5.00 1.04",
        "0.10 0.30",
        "0.99 0.80",
        "0.23 0.20",
        "0.300 0.200 0.400",
    ]
    assert found["Verdict"].tolist() == ["differs", "differs", "holds", "differs", "differs", "differs", "differs"]
    assert findings.poisson(checks.assign(printed=0.91)) == findings.poisson(checks.assign(printed=0.9)) == "holds"
    lines = findings.first(ladder(0.7), told())
    assert "**differs** here (R² 0.70 of 0.90)" in lines[1] and "from 0.70 to 0.80" in lines[1]
    assert "x scores 0.88, its Gaussian twin 0.20" in lines[2] and len(lines) == 4


def test_shrinkage_alone_would_show_a_cosine():
    given = {"nonlinear_error": Estimate(0.3, 0.2, 0.4), "independent_noise": Estimate(0.1, 0.0, 0.2)}
    assert figures(findings.nonlinear_from_sae("an SAE", given, 0.36)) == (
        "On an SAE 0.300 0.200 0.400 0.100 0.000 0.200 36% 0.80"
    )


def test_an_atoms_error_is_told_for_each_set_of_features():
    said = findings.tilted({"two": 1.0, "three": 0.75, "four": 1 - 1e-12})
    assert said.startswith("All of it is linear for two and for four, 75 % for three. The slider")
    assert findings.tilted({"three": 0.75}).startswith("All of it is linear for none of them, 75 % for three. The")
    assert findings.tilted({"two": 1.0}).startswith("All of it is linear for two. The slider")
