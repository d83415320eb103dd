"""Section 5.2's tables and charts: rendered, with known answers."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dm_utils.chapters.s05_2_saes_on_error import charts, tables
from dm_utils.chapters.s05_2_saes_on_error.training import TARGETS
from dm_utils.engine.autointerp import Explanation, Scores, accuracy
from dm_utils.engine.text_windows import Activity, WindowPlan

GROUPS = ("not", "Q1", "Q2")


def scores(silent, weak, strong, texts=("a digit", None)):
    """Two latents with the same accuracies."""
    right = np.array([[silent, weak, strong]] * 2)
    return Scores(np.array([3, 5]), right, [Explanation(text) for text in texts], GROUPS, 1, 4)


def drawn(chart, **values):
    """The texts of a drawn chart and its number of marks of each kind, with parameters set to other values."""
    vl_convert = pytest.importorskip("vl_convert")
    spec = json.loads(json.dumps(chart.to_dict()).replace('"container"', "500"))
    for parameter in spec.get("params", []):
        parameter["value"] = values.pop(parameter["name"], parameter.get("value"))
    assert not values
    svg = vl_convert.vegalite_to_svg(spec, vl_version="6.4")
    return svg, re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_the_grid_names_the_rate_with_the_lowest_validation_fvu_and_warns_at_the_edge():
    tuned = {"linear": {1e-3: 0.5, 2e-3: 0.4, 4e-3: 0.6}, "nonlinear": {1e-3: 0.3, 2e-3: 0.4, 4e-3: 0.6}}
    plan = SimpleNamespace(learning_rates=(1e-3, 2e-3, 4e-3, 8e-3))
    experiment = SimpleNamespace(tuning=lambda target: tuned[target.split("_")[0]], plan=plan)
    grid = tables.grid(experiment)
    assert grid["Trained on"].tolist() == [charts.TARGET_NAMES[target] for target in TARGETS]
    assert grid["Taken"].tolist() == ["0.002", "0.001"] * 2 and grid["At an end"].tolist() == ["no", "yes"] * 2
    assert grid["0.004"].tolist() == [0.6] * 4 and grid["0.008"].isna().all()


def test_overfitting_is_validation_minus_training_at_the_end_of_each_run():
    curve = pd.DataFrame({"train_fvu": [0.9, 0.5], "validation_fvu": [0.1, 0.6]})
    other = curve.assign(validation_fvu=[0.1, 0.8])
    curves = pd.concat([curve.assign(target="linear", seed=0), other.assign(target="linear", seed=1)])
    assert tables.overfit(curves).to_dict() == {"LinearError": pytest.approx(0.2)}


def test_every_test_is_counted_and_its_accuracy_kept_apart():
    found = {("linear", tables.OWN): scores(1.0, 0.5, 0.9), ("nonlinear", tables.TWIN): scores(0.5, 0.1, 0.3)}
    counts = tables.tested(found)
    assert counts["Tested"].tolist() == [2, 2] and counts["Unanswered"].tolist() == [4, 4]
    balanced = tables.accuracies(found).set_index(["group", "part", "kind"])["value"]["balanced"]
    assert balanced["linear", tables.OWN] == pytest.approx((1.0 + 0.7) / 2)
    assert balanced["nonlinear", tables.TWIN] == pytest.approx((0.5 + 0.2) / 2)


def test_each_latent_comes_with_its_strongest_window_as_text():
    words = ["a", " b", " <script>"]
    row, latent = np.array([1, 8, 9]), np.array([3, 3, 5])
    activity = Activity(
        row,
        latent,
        np.array([1.0, 2.0, 1.0]),
        np.arange(12) % 3,
        np.repeat([0, 1, 2], 4),
        np.tile(np.arange(4), 3),
        WindowPlan(4),
    )
    activity.explains[:] = True
    own = {(part, tables.OWN): scores(1.0, 0.5, 0.9) for part in ("linear", "nonlinear")}
    found = tables.latents(own, {"linear": activity, "nonlinear": activity}, words)
    assert found["window"].tolist()[:2] == ["<< <script>>>a b <script>", "<script><<a>> b <script>"]
    assert found["balanced"].tolist() == [pytest.approx(0.85)] * 4
    assert found["explanation"][0] == "a digit" and pd.isna(found["explanation"][1])


def test_the_search_counts_the_latents_whose_explanation_matches():
    latents = pd.DataFrame(
        {
            "part": ["linear", "linear", "nonlinear"],
            "latent": [1, 2, 1],
            "explanation": ["a Digit", "a bracket", None],
            "window": "x",
            "balanced": [0.9, 0.7, 0.6],
            "active": 0.5,
            "silent": 0.5,
        }
    )
    assert "LinearError: 2 latents, balanced accuracy 0.800" in drawn(charts.explanation_browser(latents))[1]
    found = drawn(charts.explanation_browser(latents), query="digit")[1]
    assert "LinearError: 1 latents, balanced accuracy 0.900" in found and "NonlinearError" not in str(found)
    assert (
        "NonlinearError: 1 latents, balanced accuracy 0.600"
        in drawn(charts.explanation_browser(latents), query="no v")[1]
    )


def test_the_line_of_figure_7_joins_the_tenths_and_leaves_the_silent_windows_apart():
    table = accuracy(scores(1.0, 0.5, 0.9)).assign(part="linear", kind=tables.OWN)
    svg, texts = drawn(charts.accuracy_by_decile(table))
    assert {"not", "Q1", "Q2", "LinearError", tables.OWN} <= set(texts) and "balanced" not in texts
    points = re.findall('aria-roledescription="point"', svg)
    line = re.search(r'mark-line.*?<path[^>]* d="([^"]*)"', svg, re.S)[1]
    assert len(points) == 3 and len(re.findall("[ML]", line)) == 2


def test_loss_curves_draw_one_line_per_run_of_the_chosen_tokens():
    curve = pd.DataFrame({"step": [1, 2], "train_fvu": [0.9, 0.11], "validation_fvu": [0.9, 0.51]})
    runs = [curve.assign(target=target, seed=seed, lr=0.1) for target in TARGETS for seed in range(2)]
    svg, texts = drawn(charts.loss_curves(pd.concat(runs)))
    assert len(re.findall('aria-roledescription="line mark"', svg)) == 8 and "0.2" not in texts
    assert "0.2" in drawn(charts.loss_curves(pd.concat(runs)), tokens="training")[1]


def test_every_target_has_a_row_with_its_runs_and_its_tick():
    runs = pd.DataFrame(
        [{"target": t, "seed": s, "fvu": 0.5, "fvu_low": 0.4, "fvu_high": 0.6} for t in TARGETS for s in (0, 1)]
    )
    dense = pd.DataFrame({"target": TARGETS, "fvu": 0.7})
    svg, texts = drawn(charts.fvu_by_target(runs.assign(lr=0.1, converged=True), dense))
    assert set(charts.TARGET_NAMES.values()) <= set(texts) and texts.count("principal components") == 1
    assert (
        len(re.findall('aria-roledescription="point"', svg)) == 8
        and len(re.findall('roledescription="tick"', svg)) == 4
    )
