"""Charts of Section 4, rendered: what they compute in the reader's browser has a known answer."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from dm_utils import charts as book_charts
from dm_utils.chapters.lab_model import charts as lab_model
from dm_utils.chapters.s03_notation import charts as notation
from dm_utils.chapters.s04_1_error_norms import charts as norms
from dm_utils.chapters.s04_2_error_vectors import charts as vectors
from dm_utils.chapters.s04_3_dark_matter import charts as dark_matter

vl_convert = pytest.importorskip("vl_convert")


def drawn(chart, **values):
    """The chart as SVG, with parameters set to other values than their defaults."""
    spec = json.loads(chart.to_json())
    for parameter in spec.get("params", []):
        if parameter["name"] in values:
            parameter["value"] = values.pop(parameter["name"])
    assert not values, f"no such parameter: {values}"
    spec = json.loads(json.dumps(spec).replace('"container"', "500"))
    return vl_convert.vegalite_to_svg(spec, vl_version="6.4")


def texts(chart, **values):
    """Every text of the drawn chart."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawn(chart, **values))


def test_the_scatter_shows_the_r2_of_the_tokens_of_the_chosen_sae():
    good = pd.DataFrame({"true": [1.0, 2, 3, 4], "predicted": [1.0, 2, 3, 4], "token": list("abcd"), "sae": "good"})
    fair = good.assign(predicted=[2.0, 1, 3, 4], sae="fair")
    chart = norms.probe_scatter(pd.concat([good, fair]))
    assert "R² of the 4 tokens shown or chosen: 1.00" in texts(chart)
    assert "R² of the 4 tokens shown or chosen: 0.60" in texts(chart, which="fair")  # 1 − 2/5


def test_rescaling_splits_what_is_left_by_the_closed_form():
    sae = pd.DataFrame([{"sae": "one", "x2": 1.2, "cross": 1.0, "sae2": 0.9, "nonlinear": 0.06}])
    chart = vectors.rescaling(sae)
    assert "left over 0.100, of it nonlinear 0.060 (60%)" in texts(chart)
    assert "left over 0.425, of it nonlinear 0.015 (4%)" in texts(chart, alpha=0.5)
    assert "left over 1.200, of it nonlinear 0.000 (0%)" in texts(chart, alpha=0)


def test_the_slider_reads_the_error_at_k():
    curves = pd.DataFrame({"architecture": "topk", "k": range(5), "left": [1, 0.5, 0.25, 0.125, 0.0625]})
    assert "0.125" in texts(notation.keep_k(curves), k=3)


def test_only_the_chosen_architecture_is_drawn():
    latents = pd.DataFrame(
        {"architecture": ["topk"] * 3 + ["jumprelu"] * 2, "rank": [1, 2, 3, 1, 2], "latent": range(5), "z": 1.0}
    ).assign(threshold=0.5, kept="kept")
    assert {"1", "2", "3"} <= set(texts(notation.latent_bars(latents)))
    assert "3" not in texts(notation.latent_bars(latents), architecture="jumprelu")


def test_the_slider_of_the_constant_starts_at_the_best_one():
    widths = np.array([512, 1024, 2048])
    rows = [(i, c, rms, w, c + 0.1) for i, (c, rms) in enumerate([(0.0, 0.3), (0.1, 0.1), (0.2, 0.2)]) for w in widths]
    curves = pd.DataFrame(rows, columns=["index", "constant", "rms", "d_sae", "fvu"])
    points = pd.DataFrame({"d_sae": widths, "value": 0.2, "low": 0.19, "high": 0.21})
    spec = json.loads(dark_matter.constant_slider(curves, points).to_json())
    [slider] = [parameter for parameter in spec["params"] if parameter["name"] == "at"]
    assert slider["value"] == 1
    assert slider["bind"]["max"] == 2
    says = json.loads(dark_matter.constant_slider(curves, points).to_json())["usermeta"]["sliders"]["at"]
    assert says == ["0.0000", "0.1000", "0.2000"]
    assert "constant c" in texts(dark_matter.constant_slider(curves, points))


def test_each_training_length_has_its_lines_and_its_constant():
    ends = {"fvu_low": 0.19, "fvu_high": 0.21, "fvu_nonlinear_low": 0.09, "fvu_nonlinear_high": 0.11}
    saes = pd.DataFrame({"sae_id": list("abcd"), "steps": [400, 400, 800, 800], "d_sae": [512, 1024] * 2, "l0": 4.0})
    saes = saes.assign(dead_fraction=0.1, fvu=0.2, fvu_nonlinear=0.1, **ends)
    found = pd.DataFrame({"steps": [400, 800], "dead_fraction": [0.25, 0.1], "constant": [0.15, 0.13]})
    chart = dark_matter.by_length(saes, found.assign(constant_low=0.1, constant_high=0.16))
    assert {"400", "800", "FVU", "FVU nonlinear (Eq. 12)", "constant c"} <= set(texts(chart))
    lines, floors = json.loads(chart.to_json())["concat"]
    spec = json.loads(chart.to_json())["datasets"]
    drawn_of = {part: spec[panel["data"]["name"]] for part, panel in (("lines", lines), ("floors", floors))}
    assert len(drawn_of["lines"]) == 8
    assert [(row["steps"], row["constant"]) for row in drawn_of["floors"]] == [(400, 0.15), (800, 0.13)]


def test_the_other_charts_draw_their_data():
    counts = pd.DataFrame({"architecture": ["topk", "jumprelu"], "active": [16, 12], "share": [1.0, 0.5]})
    assert {"topk", "jumprelu"} <= set(texts(notation.active_counts(counts)))
    dimensions = pd.DataFrame({"dimension": range(3), "share": [0.5, 0.3, 0.2], "r2": [0.1, 0.2, 0.3]})
    assert "R² of the dimension" in texts(vectors.dimension_scatter(dimensions))
    table = pd.DataFrame(
        {"sae_id": list("abc"), "d_sae": [512, 1024, 2048], "near_l0": 16, "norm_ratio": [0.9, 0.91, 0.92]}
    )
    table = table.assign(norm_ratio_low=table["norm_ratio"] - 0.01, norm_ratio_high=table["norm_ratio"] + 0.01)
    assert "‖Sae(x)‖ / ‖x‖" in texts(vectors.shrinkage_lines(table, ["norm_ratio"]))
    levels = pd.DataFrame([("trigrams", 4.0)], columns=["name", "nats"])
    losses = pd.DataFrame({"tokens": [0, 10], "nats": [8.0, 3.0]})
    assert "trigrams" in texts(lab_model.training_curve(losses, levels))
    spliced = table.assign(value=3.0, low=2.9, high=3.1)
    assert "trigrams" in texts(lab_model.spliced_losses(spliced, levels))


def test_the_breakdown_draws_only_what_is_chosen():
    """Layers with data of their own ignore a filter on the whole chart; each must carry it."""
    curve = pd.DataFrame({"d_sae": [512, 8192], "part": "absent", "bottom": 0.1, "top": [0.3, 0.2]})
    curve = curve.assign(top_low=0.1, top_high=0.3, extrapolated=False)
    points = pd.DataFrame({"d_sae": [512, 8192], "part": "absent", "value": [0.3, 0.2], "low": 0.1, "high": 0.3})
    both = [pd.concat([frame.assign(l0=4), frame.assign(l0=8), frame.assign(l0=8)]) for frame in (points, curve)]
    svg = drawn(book_charts.breakdown(*both, choose="l0"))
    assert len(re.findall(r'aria-roledescription="point"', svg)) == 2


def test_the_breakdown_names_its_areas_and_shows_its_bands_on_request():
    """The linear part has no height here, and says so; the fits' bands are drawn for who asks."""
    widths = [512, 1024, 2048, 4096, 8192]
    edges = {"nonlinear": (0.0, 0.1), "linear": (0.1, 0.1), "absent": (0.1, 0.2)}
    curve = pd.concat(
        [
            pd.DataFrame({"d_sae": widths, "part": part, "bottom": bottom, "top": top, "top_low": top, "top_high": top})
            for part, (bottom, top) in edges.items()
        ]
    ).assign(extrapolated=False)
    points = pd.DataFrame({"d_sae": widths, "part": "absent", "value": 0.2, "low": 0.19, "high": 0.21})
    chart = book_charts.breakdown(points, curve)
    assert {"nonlinear error", "linear error: none", "↙ absent features"} <= set(texts(chart))
    hidden, shown = (drawn(chart, bands=on).count('aria-roledescription="line mark"') for on in (False, True))
    assert shown == hidden + 2 * len(edges)


def test_the_breakdown_moves_with_the_slider_on_one_scale():
    """Each L0 shows its own SAEs under its own headline; heights can be compared, for the axis stays."""
    curve = pd.DataFrame({"d_sae": [512, 8192], "part": "absent", "bottom": 0.0, "extrapolated": False})
    heights = {16.0: 0.1, 4.0: 0.4}
    curves = pd.concat(
        [curve.assign(near_l0=near, top=top, top_low=top, top_high=top) for near, top in heights.items()]
    )
    points = curves.assign(value=curves["top"], low=curves["top"], high=curves["top"])
    slide = book_charts.Slide("near_l0", "L0 near", {16.0: "sixteen, less", 4.0: "four, more"}, 16.0)
    chart = book_charts.breakdown(points, curves, slide=slide)
    assert json.loads(chart.to_json())["usermeta"] == {"sliders": {"place": ["4", "16"]}}
    by_place = {place: texts(chart, place=place) for place in (0, 1)}
    assert "four, more" in by_place[0] and "sixteen, less" in by_place[1]
    assert "sixteen, less" in texts(chart), "the L0 to start with is the given one"
    axes = [[text for text in found if text.startswith("0.")] for found in by_place.values()]
    assert axes[0] == axes[1] and "0.4" in axes[0][-1]
    svg = drawn(chart, place=0)
    assert "0.4" in re.findall(r'aria-label="[^"]*width: 512[^"]*"', svg)[0]


def test_the_measured_heights_are_fvu_and_its_nonlinear_part():
    row = {"d_sae": 512, "fvu": 0.2, "fvu_low": 0.19, "fvu_high": 0.21}
    row |= {"fvu_nonlinear": 0.1, "fvu_nonlinear_low": 0.09, "fvu_nonlinear_high": 0.11}
    found = book_charts.measured_heights(pd.DataFrame([row])).set_index("part")
    assert found.loc["absent", ["low", "value", "high"]].tolist() == [0.19, 0.2, 0.21]
    assert found.loc["nonlinear", ["low", "value", "high"]].tolist() == [0.09, 0.1, 0.11]


def test_token_lines_keep_the_order_of_their_saes_and_draw_the_level():
    tokens = pd.DataFrame({"index": [0, 1] * 2, "token": list("abab"), "sae": ["512"] * 2 + ["1,024"] * 2})
    chart = book_charts.token_lines(tokens.assign(error_norm2=[1.0, 2, 3, 4]), level=("mean nonlinear error", 1.5))
    found = texts(chart)
    assert found.index("512") < found.index("1,024")
    assert "mean nonlinear error" in found
