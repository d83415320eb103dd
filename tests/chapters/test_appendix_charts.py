"""Charts of Appendices A and E compile, keep their intervals, and colour parts by meaning."""

import numpy as np
import pandas as pd
import pytest
import torch

from dm_utils.base.names import PART_TITLES
from dm_utils.chapters.A_more_predictions import charts as predictions
from dm_utils.chapters.A_more_predictions.baselines import PREDICTORS, TARGETS, wide
from dm_utils.chapters.E_scaling import charts as scaling_pairs_charts
from dm_utils.chapters.E_scaling.experiment import SECOND
from dm_utils.charts import COLORS

WIDTHS = (512, 1024, 2048)


def with_ends(**values):
    return {
        f"{name}{end}": value + d for name, value in values.items() for end, d in (("", 0), ("_low", -1), ("_high", 1))
    }


@pytest.fixture
def predictors():
    metrics = {f"r2_{target}{form}": 0.5 for target in TARGETS for form in ("", "_binned")}
    rows = [
        {"sae_id": f"sae_{layer}", "hook_name": f"blocks.{layer}", "layer": layer, "d_sae": 512, "l0": 16}
        | {"predictor": name, **with_ends(**metrics)}
        for layer in (0, 1, 2)
        for name in PREDICTORS
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def decreases():
    rows = [
        {"small": small, "large": large, "power": power, "second": name}
        | with_ends(decrease=3.0 * small / large, fvu_one=0.1, fvu_two=0.09)
        for power in (2, 1)
        for small, large in ((512, 1024), (512, 2048), (1024, 2048))
        for name in SECOND
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def tokens():
    rng = np.random.default_rng(0)
    rows = [
        {"index": i, "token": "</script>", "position": i, "sae": f"{width:,} latents", "d_sae": width}
        | dict(zip(("error", "linear", "nonlinear"), rng.uniform(1, 2, 3), strict=True))
        for width in WIDTHS
        for i in range(20)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def means():
    rows = [
        {
            "sae_id": f"sae_{width}",
            "d_sae": width,
            "part": part,
            "value": 512 / width,
            "low": 0.9 * 512 / width,
            "high": 1.1,
        }
        for width in WIDTHS
        for part in PART_TITLES
    ]
    return pd.DataFrame(rows)


def compiled(chart):
    vl_convert = pytest.importorskip("vl_convert")
    return vl_convert.vegalite_to_vega(chart.to_dict())


def test_every_predictor_and_target_is_drawn_with_its_interval(predictors):
    chart = predictions.norm_predictors(predictors)
    data = pd.DataFrame(next(iter(chart.to_dict()["datasets"].values())))
    assert len(data) == 3 * len(PREDICTORS) * 4 and {"low", "high", "text"} <= set(data)
    assert compiled(chart)["marks"]


def test_wide_gives_a_column_per_predictor_and_target(predictors):
    frame, metrics = wide(predictors)
    assert len(frame) == 3 and len(metrics) == 2 * len(PREDICTORS)
    assert {f"{name}{end}" for name in metrics for end in ("", "_low", "_high")} <= set(frame)


def test_parts_have_the_colours_of_their_meaning(means):
    scale = predictions.part_means(means).to_dict()["layer"][0]["encoding"]["color"]["scale"]
    found = dict(zip(scale["domain"], scale["range"], strict=True))
    assert found["linear error"] == COLORS["linear"] and found["nonlinear error"] == COLORS["nonlinear"]


def test_relative_means_start_at_one(means):
    found = predictions.relative(means)
    assert (found[found["d_sae"] == 512]["value"] == 1).all()
    assert (found[found["d_sae"] == 2048]["value"] == 0.25).all()


def test_densities_are_shares_of_all_tokens():
    changes = {part: np.random.default_rng(0).normal(size=5000) for part in ("linear", "nonlinear")}
    chart = predictions.change_densities(changes).to_dict()
    rows = max(chart["datasets"].values(), key=len)
    share = pd.DataFrame(rows).groupby("part")["share"].sum()
    assert ((share > 0.99) & (share <= 1.0001)).all()


def test_every_chart_compiles(tokens, means, decreases):
    quadratic = pd.DataFrame({"small": [512], "large": [1024], "pair": ["512 → 1,024"], "fvu_one": 0.2, "fvu_two": 0.1})
    quadratic = quadratic.assign(ly=0.3, ny=0.5, xy=0.2, ll=0.5, nn=0.6, xx=0.3, ln=0.1, lx=0.0, nx=0.1)
    survival = pd.DataFrame([{"small": 512, "large": 1024} | with_ends(linear=0.3, nonlinear=0.9, cross=0.7)])
    table = pd.DataFrame({"token": ["a"], "count": [30], "mean": [1.0], "low": [0.5], "high": [2.0]})
    curve = pd.DataFrame([{"predictor": "a", "n_fit": n, "per_identity": 2.0} | with_ends(r2=0.5) for n in (10, 100)])
    built = [
        predictions.learning_lines(curve),
        predictions.part_lines(tokens),
        predictions.part_means(means),
        predictions.token_means(table),
        scaling_pairs_charts.pair_decreases(decreases, SECOND),
        scaling_pairs_charts.second_regressors(decreases, SECOND),
        scaling_pairs_charts.survival(survival),
        scaling_pairs_charts.guess_weights(quadratic),
    ]
    assert all(compiled(chart)["marks"] for chart in built)


def test_the_guess_of_the_page_is_the_fvu_of_the_guessed_vector():
    """If the larger error is 0.3 linear + 0.9 nonlinear, that guess leaves nothing; any other leaves its variance."""
    linear, nonlinear = torch.randn(2, 5000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    norm = lambda a, b: ((a * linear + b * nonlinear) ** 2).sum(1)  # noqa: E731
    target, l2, n2 = norm(0.3, 0.9), norm(1, 0), norm(0, 1)
    found = torch.cov(torch.stack([target, l2, n2, norm(1, 1) - l2 - n2]))
    rows = {"y": 0, "l": 1, "n": 2, "x": 3}
    names = {first + second: float(found[rows[first], rows[second]] / found[0, 0]) for first in rows for second in rows}
    guess = lambda a, b: eval(scaling_pairs_charts.GUESS.replace("datum.", ""), {**names, "wa": a, "wb": b})  # noqa: E731
    assert guess(0.3, 0.9) == pytest.approx(0, abs=1e-9)
    assert guess(1.0, 0.2) == pytest.approx(float((target - norm(1, 0.2)).var() / target.var()))
