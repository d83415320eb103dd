"""The comparison of dictionaries: which runs are shown, TopK's curve, verdicts at their thresholds, and the table that ships."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dm_utils.base.errors import LoadError, ParameterError
from dm_utils.base.verdicts import DIFFERS, HOLDS, PARTLY, UNTESTABLE
from dm_utils.base.words import escape
from dm_utils.chapters.dictionaries import charts, claims, experiment, findings, results, views
from dm_utils.chapters.dictionaries.claims import Claim
from dm_utils.chapters.dictionaries.runs import Run, order
from dm_utils.dictionaries.methods import METHODS
from dm_utils.lab import tables

NOISE = 0.01


def run(method="topk", l0=16, seed=0, fvu=0.2, nonlinear=0.1, **other):
    """One row as training writes it, every other metric 0.5 with the same relative interval."""
    row = {"title": METHODS[method].title, "method": method, "d_sae": 512, "l0_wanted": l0, "seed": seed, "layer": 4}
    row |= {
        "tokens": 1000,
        "train_seconds": 2.0,
        "rules_tested": 1.0,
        "encode_flops": 8.0,
        "l0": float(l0),
        "dead_fraction": 0.0,
    }
    values = dict.fromkeys(experiment.METRICS, 0.5) | {"fvu": fvu, "fvu_nonlinear": nonlinear} | other
    for name, value in values.items():
        if name in experiment.METRICS:
            row |= {name: value, f"{name}_low": value * (1 - NOISE), f"{name}_high": value * (1 + NOISE)}
        else:
            row[name] = value
    return row


def table(*others):
    """TopK at three L0s, on a curve of power 1/2, and other runs."""
    curve = [run(l0=l0, fvu=fvu, nonlinear=0.25 * fvu**0.5) for l0, fvu in ((16, 0.16), (8, 0.25), (32, 0.09))]
    return pd.DataFrame([*curve, *others])


def repeated(method="topk", l0=16, fvu=0.16, nonlinear=0.1, spread=0.01, **other):
    """Three seeds about a mean, `spread` apart in everything that differs between methods."""
    factors = (1 - spread, 1.0, 1 + spread)
    return [run(method, l0, s, fvu * f, nonlinear * f, **other) for s, f in enumerate(factors)]


def seeded(*others):
    """TopK's curve of power 1/2 with three seeds at each L0, and other runs."""
    points = ((16, 0.16), (8, 0.25), (32, 0.09))
    return pd.DataFrame([*(r for l0, fvu in points for r in repeated("topk", l0, fvu, 0.25 * fvu**0.5)), *others])


def against(*others):
    """`experiment.against_curve` of the selected runs of `seeded`."""
    return experiment.against_curve(experiment.select(seeded(*others)))


def methods_of(*others):
    """`experiment.summary` of the selected runs of `seeded`."""
    return experiment.summary(experiment.select(seeded(*others)))


LEVEL = 0.25 * 0.12**0.5  # of the curve at an FVU of 0.12


def test_a_method_on_the_curve_has_the_ratio_one() -> None:
    rows = experiment.select(table(run("abstopk", fvu=0.12, nonlinear=LEVEL)))
    found = experiment.against_curve(rows).iloc[0]
    assert found["ratio"] == pytest.approx(1.0)
    assert (found["low"], found["high"]) == pytest.approx((1 - NOISE, 1 + NOISE))
    assert found["fvu_at_l0"] == pytest.approx(0.12 / 0.16)
    assert found["nonlinear_at_l0"] == pytest.approx((0.12 / 0.16) ** 0.5)


def test_topks_own_seeds_scatter_about_its_mean_curve() -> None:
    least, most = experiment.own_scatter(experiment.select(seeded()))
    assert (least, most) == pytest.approx((0.99**0.5, 1.01**0.5), rel=1e-3)  # FVU moves along a curve of power 1/2
    assert np.isnan(experiment.own_scatter(experiment.select(table()))).all()


def test_beyond_the_curve_nothing_is_said() -> None:
    rows = against(*repeated("abstopk", fvu=0.5))
    assert np.isnan(rows["ratio"].iloc[0])
    assert findings.moved(rows.iloc[0]) is None
    assert "of AbsTopK it cannot be told" in findings.kind_sentence(rows)


def row(ratio, low, high, least, most, seeds=3):
    """A row of `against_curve`; TopK's own seeds lie within 3 % of its curve."""
    given = {"title": "AbsTopK", "ratio": ratio, "low": low, "high": high, "least": least, "most": most, "seeds": seeds}
    return pd.Series(given | {"own_least": 0.97, "own_most": 1.03})


@pytest.mark.parametrize(
    ("given", "moved"),
    [
        (row(0.9, 0.88, 0.949, 0.89, 0.91), True),
        (row(0.9, 0.88, 0.951, 0.89, 0.91), None),  # the text crosses a limit
        (row(0.9, 0.88, 0.949, 0.82, 0.98), None),  # a seed among TopK's own
        (row(1.1, 1.051, 1.2, 1.04, 1.2), True),
        (row(1.1, 1.051, 1.2, 1.02, 1.2), None),
        (row(1.0, 0.951, 1.049, 0.96, 1.04), False),
        (row(1.0, 0.951, 1.049, 0.94, 1.04), None),  # a seed beyond the limit
        (row(0.9, 0.88, 0.949, 0.9, 0.9, seeds=1), None),  # one seed
    ],
)
def test_a_method_moves_where_text_and_seeds_say_so(given, moved) -> None:
    assert findings.moved(given) is moved


def test_the_sentence_names_who_leaves_less_and_who_more() -> None:
    rows = against(
        *repeated("abstopk", fvu=0.12, nonlinear=0.8 * LEVEL), *repeated("gated", fvu=0.12, nonlinear=1.2 * LEVEL)
    )
    said = findings.kind_sentence(rows)
    assert "AbsTopK (80 % of it) leaves at equal FVU less" in said
    assert "Gated (120 % of it) leaves more" in said
    assert said.endswith(f"**{DIFFERS}**.")


@pytest.mark.parametrize(("fvu", "verdict"), [(0.16 * 0.97, HOLDS), (0.16 * 0.985, UNTESTABLE), (0.16 * 1.05, DIFFERS)])
def test_a_claim_is_judged_by_intervals_that_are_apart(fvu, verdict) -> None:
    found = methods_of(*repeated("abstopk", fvu=fvu, spread=0.001))
    assert claims.judged(Claim("abstopk", "better", "fvu"), found) == verdict


@pytest.mark.parametrize("seeds", [repeated("abstopk", fvu=0.152, spread=0.06), [run("abstopk", fvu=0.14)]])
def test_a_claim_needs_seeds_that_are_apart(seeds) -> None:
    assert claims.judged(Claim("abstopk", "better", "fvu"), methods_of(*seeds)) == UNTESTABLE


def test_a_claim_at_another_l0_is_untestable_and_the_method_is_named() -> None:
    found = methods_of(*[r | {"l0": 20.0} for r in repeated("top_afa_own", fvu=0.1)])
    assert claims.judged(Claim("top_afa_own", "better", "fvu"), found) == UNTESTABLE
    assert f"{escape('top-AFA at its own L0')}, L0 20.0: the norm" in findings.l0_sentence(found)
    assert "Every method" in findings.l0_sentence(methods_of())


def test_dead_latents_are_judged_by_seeds_alone() -> None:
    found = methods_of(*[r | {"dead_fraction": 0.1 + 0.01 * s} for s, r in enumerate(repeated("abstopk"))])
    assert claims.judged(Claim("abstopk", "more dead", "dead_fraction", more=True), found) == HOLDS


def test_a_claim_about_a_method_that_did_not_run_is_untestable() -> None:
    assert set(claims.judge(methods_of())["Verdict"]) == {UNTESTABLE}


def test_a_larger_error_that_is_more_linear_is_called_gaming() -> None:
    shrunk = repeated("variational", fvu=0.4, nonlinear=0.05)
    assert [r.method for r in findings.gamed(methods_of(*shrunk))] == ["variational"]
    assert "Variational SAE (FVU nonlinear 0.050, FVU 0.400" in findings.gaming_sentence(methods_of(*shrunk))
    better = repeated("variational", fvu=0.1, nonlinear=0.05)
    assert findings.gamed(methods_of(*better)) == []


def test_what_tuning_does_is_said_where_it_is_apart() -> None:
    tuned = repeated("sae_tuning", ce_sae=0.4, spread=0.001)
    said = findings.tuning_sentence(methods_of(*tuned))
    assert "falls (0.500 → 0.400)" in said
    assert "FVU is not told apart" in said


def test_means_and_scatter_are_over_seeds() -> None:
    rows = experiment.select(table(run(seed=1, fvu=0.18), run(seed=2, fvu=0.20)))
    found = experiment.summary(rows).iloc[0]
    assert found["fvu"] == pytest.approx(0.18)
    assert found["fvu_sd"] == pytest.approx(0.02)
    assert (found["fvu_least"], found["fvu_most"], found["seeds"]) == (0.16, 0.20, 3)


def test_what_only_the_first_seed_has_counts_for_the_mean() -> None:
    second = run(seed=1) | {f"fvu_pursued{end}": np.nan for end in ("", "_low", "_high")}
    found = experiment.summary(experiment.select(table(second))).iloc[0]
    assert found["fvu_pursued"] == 0.5


def test_prices_are_relative_to_topk() -> None:
    found = methods_of(*repeated("itda", fvu=0.3, train_seconds=0.5, encode_flops=128.0))
    view = views.prices(found).set_index("Method")
    assert view.loc["ITDA", "training time, × TopK"] == pytest.approx(0.2, abs=0.06)
    assert view.loc["ITDA", "encode FLOPs, × TopK"] == 16.0
    assert "TopK leaves the least FVU, at 1 times" in findings.winner(found)


def test_a_winner_that_is_not_alone_is_not_called_alone() -> None:
    assert "not told apart from it: TopK" in findings.winner(methods_of(*repeated("abstopk", fvu=0.159)))


def test_other_sizes_stand_beside_the_headline() -> None:
    small = [r | {"d_sae": 256} for r in [*table().to_dict("records"), run("abstopk", fvu=0.12, nonlinear=0.8 * LEVEL)]]
    here = repeated("abstopk", fvu=0.12, nonlinear=0.8 * LEVEL)
    everywhere = experiment.sizes(seeded(*here, *small))
    view = views.sizes_view(everywhere)
    assert view.columns.tolist() == ["Method", "W 512, L0 16", "W 256, L0 16"]
    assert view["W 256, L0 16"].iloc[0].startswith("0.800")
    assert "at every other size that ran: AbsTopK" in findings.sizes_sentence(everywhere, against(*here))
    turned = everywhere.assign(ratio=everywhere["ratio"].where(everywhere["d_sae"] == 512, 1.2))
    assert "not at every one: AbsTopK" in findings.sizes_sentence(turned, against(*here))


def test_the_best_rate_is_said_to_end_the_ladder() -> None:
    rows = [
        ("TopK", 1e-3, 0.5, False),
        ("TopK", 2e-3, 0.4, True),
        ("Gated", 2e-3, 0.3, False),
        ("Gated", 4e-3, 0.2, True),
    ]
    rates = pd.DataFrame(rows, columns=["title", "lr", "fvu", "best"]).assign(l0=4.0)
    found = experiment.best_rates(rates.assign(method=rates["title"].str.lower()))
    assert found.set_index("method")["at_end"].to_dict() == {"topk": False, "gated": True}
    view = views.rates_view(found).set_index("Method")
    assert view.loc["Gated", "best"] == "0.004 (end of the ladder)"
    assert view.loc["TopK", "rates tried"] == "0.001, 0.002"


@pytest.mark.parametrize(("sparsest", "said"), [(0.3, "falls with FVU"), (0.05, "highest at an L0 of 8")])
def test_topks_own_curve_says_whether_a_sparser_code_has_less_nonlinear_error(sparsest, said) -> None:
    rows = experiment.select(table(run(l0=4, fvu=0.5, nonlinear=sparsest)))
    assert said in findings.curve_sentence(experiment.curve(rows))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": "abstop"}, "Did you mean 'abstopk'"),
        ({"width": 300}, "512 latents"),
        ({"seeds": 0}, "seeds = 0"),
        ({"near_l0": -1.0}, "near_l0 = -1.0"),
    ],
)
def test_a_bad_parameter_is_refused_by_name(given, message) -> None:
    with pytest.raises(ParameterError, match=message):
        experiment.select(table(run("abstopk")), **given)


def test_topks_curve_stays_whatever_is_chosen() -> None:
    rows = experiment.select(table(run("abstopk")), methods="abstopk", near_l0=10.0)
    assert experiment.curve(rows)["l0_wanted"].tolist() == [32, 16, 8]
    assert rows.loc[rows["headline"], "l0_wanted"].tolist() == [16]  # 8 is nearer to 10, but AbsTopK has run at 16 only


def test_what_is_written_is_read_and_damage_is_named(tmp_path) -> None:
    file = tmp_path / "runs.csv"
    tables.write(file, [run() | {"plan": {"steps": 3}}], {"command": "a, #b", "wanted": 2})
    found, about = results.read(file)
    assert about == {"command": "a, #b", "wanted": 2}
    assert found["fvu"].tolist() == [0.2]
    assert "plan" not in found
    file.write_text("nothing")
    with pytest.raises(LoadError, match="--ship"):
        results.read(file)


def rules_of(*means, spread=0.001):
    """TopK, whose latents rules say with 0.7, and others by name and accuracy."""
    return methods_of(*(r for name, mean in means for r in repeated(name, rules=mean, spread=spread)))


def test_token_rules_are_held_against_topks_and_against_rules_dealt_to_others() -> None:
    found = findings.rules_sentence(rules_of(("abstopk", 0.6), ("gated", 0.4), ("jumprelu", 0.501)))
    assert "said better: AbsTopK (0.60); worse: Gated (0.40); not told apart from TopK's: JumpReLU (0.50)" in found
    assert "100 % of those drawn" in found
    assert found.endswith(f"**{PARTLY}**.")
    assert "have not been tested" in findings.rules_sentence(methods_of().assign(rules=np.nan))


def both_budgets(short, long):
    """AbsTopK's ratio at both budgets, each relative interval `NOISE`."""
    usual = pd.DataFrame([*table().to_dict("records"), run("abstopk", fvu=0.12, nonlinear=short * LEVEL)])
    longer = pd.DataFrame([*table().to_dict("records"), run("abstopk", fvu=0.12, nonlinear=long * LEVEL)])
    return experiment.budgets(usual, longer.assign(tokens=4000))


@pytest.mark.parametrize(
    ("short", "long", "verdict"),
    [
        (0.8, 0.85, HOLDS),
        (1.0, 1.0, HOLDS),
        (1.2, 1.3, HOLDS),
        (0.8, 1.0, DIFFERS),
        (0.8, 1.2, DIFFERS),
        (0.8, 0.95, UNTESTABLE),
    ],
)
def test_a_budget_matters_where_a_method_changes_its_side_of_the_curve(short, long, verdict) -> None:
    said = findings.budget_sentence(both_budgets(short, long))
    assert said.startswith("With 4,000 tokens in the place of 1,000") and said.endswith(f"**{verdict}**.")
    assert ("AbsTopK (0.80 →" in said) is (verdict == DIFFERS)
    assert ("across a limit at one budget: AbsTopK" in said) is (verdict == UNTESTABLE)


def test_a_method_that_did_not_run_with_more_tokens_is_named() -> None:
    said = findings.budget_sentence(both_budgets(1.0, 1.0), ["AbsTopK", "<b>"])
    assert f"not run with so many: AbsTopK, {escape('<b>')}." in said


def test_what_ran_at_one_budget_alone_is_no_comparison() -> None:
    usual, longer = table(run("abstopk", fvu=0.12, nonlinear=LEVEL)), table()
    assert not len(experiment.budgets(usual, longer))
    assert UNTESTABLE in findings.budget_sentence(experiment.budgets(usual, longer))


def test_what_matters_most_is_trained_first() -> None:
    found = order(["topk", "itda"], [64, 32], [16, 8], 2)
    assert found[:2] == [Run("topk", 64, 16, 0), Run("itda", 64, 16, 0)]
    assert [run.l0 for run in found[2:6]] == [4, 8, 32, 64]
    assert {run.seed for run in found[6:12]} == {1}
    assert len(set(found)) == len(found)
    assert {(run.d_sae, run.l0) for run in found if run.method == "itda"} == {(64, 16), (64, 8), (32, 16)}


def test_a_method_that_sets_its_l0_runs_once_and_topk_reaches_there() -> None:
    found = order(["topk", "top_afa_own"], [512, 256], [4, 8], 3)
    assert [run for run in found if run.method == "top_afa_own"] == [Run("top_afa_own", 512, 4, 0)]
    assert Run("topk", 512, 128, 0) in found


def test_topk_has_a_curve_over_l0_at_every_width() -> None:
    found = order(["topk", "itda"], [512, 1024], [4, 8], 1)
    for width in (512, 1024):
        assert {run.l0 for run in found if run.method == "topk" and run.d_sae == width} == {1, 2, 4, 8, 16}


def test_the_shipped_table_is_one_that_the_chapter_can_say() -> None:
    shipped, about = results.read()
    rows = experiment.select(shipped)
    methods, beside = experiment.summary(rows), experiment.against_curve(rows)
    everywhere = experiment.sizes(shipped)
    budgets = experiment.budgets(shipped, results.read_longer()[0])
    assert set(shipped["method"]) <= set(METHODS)
    assert shipped["fvu_nonlinear"].le(shipped["fvu"] + 1e-9).all()
    assert f"{len(shipped)} of {about['wanted']} runs" in views.what_ran(shipped, about)
    assert all(isinstance(line, str) and line for line in findings.lessons(methods, beside, everywhere, budgets))
    for chart in (
        charts.kind_and_size(methods, experiment.curve(rows), rows),
        charts.beside_topk(beside, experiment.ratios(rows)),
        charts.by_method(methods, rows),
        charts.price(methods),
        charts.budget(budgets),
    ):
        assert chart.to_dict()


def test_shipped_runs_have_the_shipped_rates() -> None:
    shipped, _ = results.read()
    best = experiment.best_rates(results.read_rates()[0]).set_index("method")["lr"]
    rated = shipped[shipped["method"].isin(best.index)]
    assert rated["lr"].to_numpy() == pytest.approx(best[rated["method"]].to_numpy())


def test_another_profile_is_told_that_training_needs_text() -> None:
    assert views.other_profile("lab") == ""
    assert "needs text" in views.other_profile("gemma-2-2b")
