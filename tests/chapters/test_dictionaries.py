"""The comparison of dictionaries: which runs are shown, TopK's curve, verdicts at their thresholds, and the table that ships."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dm_utils.base.errors import LoadError, ParameterError
from dm_utils.base.verdicts import DIFFERS, HOLDS, UNTESTABLE
from dm_utils.chapters.dictionaries import charts, experiment, findings, results
from dm_utils.chapters.dictionaries.findings import Claim
from dm_utils.chapters.dictionaries.runs import Run, order
from dm_utils.dictionaries.methods import METHODS

NOISE = 0.01


def run(method="topk", l0=16, seed=0, fvu=0.2, nonlinear=0.1, **other):
    """One row as training writes it, every other metric 0.5 with the same relative interval."""
    row = {"title": METHODS[method].title, "method": method, "d_sae": 512, "l0_wanted": l0, "seed": seed, "layer": 4}
    row |= {"tokens": 1000, "train_seconds": 2.0, "encode_flops": 8.0, "l0": float(l0), "dead_fraction": 0.0}
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


def test_a_method_on_the_curve_has_the_ratio_one() -> None:
    rows = experiment.select(table(run("abstopk", fvu=0.12, nonlinear=0.25 * 0.12**0.5)))
    found = experiment.against_curve(rows).iloc[0]
    assert found["ratio"] == pytest.approx(1.0)
    assert (found["low"], found["high"]) == pytest.approx((1 - NOISE, 1 + NOISE))
    assert found["ratio_l0"] == pytest.approx(0.12 / 0.16)


def test_beyond_the_curve_nothing_is_said() -> None:
    rows = experiment.select(table(run("abstopk", fvu=0.5, nonlinear=0.1)))
    against = experiment.against_curve(rows)
    assert np.isnan(against["ratio"].iloc[0])
    assert findings.ratios(against) == [None]
    assert "1 cannot be told" in findings.kind_sentence(against)


def test_seeds_that_lie_further_out_than_the_text_widen_the_interval() -> None:
    level = 0.25 * 0.12**0.5
    seeds = [run("abstopk", seed=s, fvu=0.12, nonlinear=level * f) for s, f in enumerate((0.9, 1.0, 1.1))]
    found = experiment.against_curve(experiment.select(table(*seeds))).iloc[0]
    assert (found["ratio"], found["low"], found["high"]) == pytest.approx((1.0, 0.9, 1.1))


@pytest.mark.parametrize(
    ("value", "low", "high", "moved"),
    [(0.9, 0.88, 0.949, True), (0.9, 0.88, 0.951, None), (1.0, 0.951, 1.049, False), (1.1, 1.051, 1.2, True)],
)
def test_a_method_moves_where_its_whole_interval_does(value, low, high, moved) -> None:
    assert findings.moved({"value": value, "low": low, "high": high}) is moved


def test_the_sentence_names_who_leaves_less_and_who_more() -> None:
    level = 0.25 * 0.12**0.5
    rows = table(run("abstopk", fvu=0.12, nonlinear=0.8 * level), run("gated", fvu=0.12, nonlinear=1.2 * level))
    against = experiment.against_curve(experiment.select(rows))
    said = findings.kind_sentence(against)
    assert "AbsTopK (80 % of it) leaves at equal FVU less" in said
    assert "Gated (120 % of it) leaves more" in said
    assert said.endswith(f"**{DIFFERS}**.")


@pytest.mark.parametrize(("fvu", "verdict"), [(0.16 * 0.97, HOLDS), (0.16 * 0.985, UNTESTABLE), (0.16 * 1.05, DIFFERS)])
def test_a_claim_is_judged_by_intervals_that_are_apart(fvu, verdict) -> None:
    methods = experiment.summary(experiment.select(table(run("abstopk", fvu=fvu))))
    assert findings.judged(Claim("abstopk", "better", "fvu"), methods) == verdict


def test_a_claim_about_a_method_that_did_not_run_is_untestable() -> None:
    methods = experiment.summary(experiment.select(table()))
    assert set(findings.claims(methods)["Verdict"]) == {UNTESTABLE}


def test_means_and_scatter_are_over_seeds() -> None:
    rows = experiment.select(table(run(seed=1, fvu=0.18), run(seed=2, fvu=0.20)))
    found = experiment.summary(rows).iloc[0]
    assert found["fvu"] == pytest.approx(0.18)
    assert found["fvu_sd"] == pytest.approx(0.02)
    assert found["seeds"] == 3


def test_prices_are_relative_to_topk() -> None:
    methods = experiment.summary(experiment.select(table(run("itda", fvu=0.3, train_seconds=0.5, encode_flops=128.0))))
    view = findings.prices(methods).set_index("Method")
    assert view.loc["ITDA", "training time, × TopK"] == pytest.approx(0.2, abs=0.06)
    assert view.loc["ITDA", "encode FLOPs, × TopK"] == 16.0
    assert "TopK leaves the least FVU" in findings.winner(methods)


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
    assert rows[rows["headline"]].empty  # AbsTopK has run at 16 only, and 8 is nearest to 10


def test_what_is_written_is_read_and_damage_is_named(tmp_path) -> None:
    file = tmp_path / "runs.csv"
    results.write(file, [run() | {"plan": {"steps": 3}}], {"command": "a, #b", "wanted": 2})
    found, about = results.read(file)
    assert about == {"command": "a, #b", "wanted": 2}
    assert found["fvu"].tolist() == [0.2]
    assert "plan" not in found
    file.write_text("nothing")
    with pytest.raises(LoadError, match="--ship"):
        results.read(file)


def test_what_matters_most_is_trained_first() -> None:
    found = list(order(["topk", "itda"], [64, 32], [16, 8], 2))
    assert found[:2] == [Run("topk", 64, 16, 0), Run("itda", 64, 16, 0)]
    assert [run.l0 for run in found[2:5]] == [8, 32, 64]
    assert {run.seed for run in found[5:10]} == {1}
    assert len(set(found)) == len(found)
    assert {(run.d_sae, run.l0) for run in found if run.method == "itda"} == {(64, 16), (64, 8), (32, 16), (32, 8)}


def test_the_shipped_table_is_one_that_the_chapter_can_say() -> None:
    shipped, about = results.read()
    rows = experiment.select(shipped)
    methods, against = experiment.summary(rows), experiment.against_curve(rows)
    assert set(shipped["method"]) <= set(METHODS)
    assert shipped["fvu_nonlinear"].le(shipped["fvu"] + 1e-9).all()
    assert f"{len(shipped)} of {about['wanted']} runs" in findings.what_ran(shipped, about)
    assert all(isinstance(line, str) and line for line in findings.lessons(methods, against))
    for chart in (
        charts.kind_and_size(methods, experiment.curve(rows)),
        charts.by_method(methods),
        charts.price(methods),
    ):
        assert chart.to_dict()


def test_another_profile_is_told_that_training_needs_text() -> None:
    assert findings.other_profile("lab") == ""
    assert "needs text" in findings.other_profile("gemma-2-2b")
