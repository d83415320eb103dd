"""Pictures of geometry: lengths and angles of the activation to scale, and how much of a turned atom's error is linear."""

import re

import pandas as pd
import pytest
import torch

from dm_utils.base.names import VECTOR_NAMES, VECTORS
from dm_utils.chapters.B_modelling import charts as modelling
from dm_utils.chapters.B_modelling import findings, tilt
from dm_utils.chapters.s03_notation import charts as notation
from dm_utils.chapters.s03_notation import to_scale
from dm_utils.chapters.s03_notation.findings import in_scale
from dm_utils.maths.decomposition import decompose

vl_convert = pytest.importorskip("vl_convert")


def svg(chart, **values):
    spec = chart.to_dict()
    for parameter in spec.get("params", []):
        parameter["value"] = values.get(parameter["name"], parameter.get("value"))
    return vl_convert.vegalite_to_svg(spec, vl_version="6.4")


def says(chart, **values):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg(chart, **values))


@pytest.fixture
def parts():
    """Sae(x), LinearError and NonlinearError of four tokens in seven dimensions."""
    generator = torch.Generator().manual_seed(0)
    return [scale * torch.randn(4, 7, generator=generator, dtype=torch.float64) for scale in (3, 0.7, 1)]


def test_every_length_is_true(parts):
    sae_out, linear, nonlinear = parts
    true = {"x": sum(parts), "sae": sae_out, "error": linear + nonlinear, "linear": linear, "nonlinear": nonlinear}
    table = to_scale.segments(*parts, list("abcd"))
    for name, vectors in true.items():
        mine = table[table["vector"] == VECTOR_NAMES[name]]
        drawn = ((mine["x2"] - mine["x1"]) ** 2 + (mine["y2"] - mine["y1"]) ** 2) ** 0.5
        assert drawn.tolist() == pytest.approx(vectors.norm(dim=1).tolist()) == mine["norm"].tolist()
    assert table["back"].unique().tolist() == [3, 2, 1, 0]


def test_the_two_triangles_keep_their_angles_and_lie_on_two_sides_of_the_error(parts):
    found = to_scale.corners(*parts)
    flat = {"sae": found["P"], "error": found["X"] - found["P"], "linear": found["Q"] - found["P"]}
    real = {"sae": parts[0], "error": parts[1] + parts[2], "linear": parts[1]}
    for a, b in (("sae", "error"), ("linear", "error")):
        cosine = torch.cosine_similarity(flat[a], flat[b])
        torch.testing.assert_close(cosine, torch.cosine_similarity(real[a], real[b]))
    side = flat["error"]
    turn = [side[:, 0] * v[:, 1] - side[:, 1] * v[:, 0] for v in (found["Q"] - found["P"], -found["P"])]
    assert (turn[0] * turn[1] < 0).all()


def test_the_table_of_angles_is_of_the_vectors_themselves():
    e = torch.eye(3)
    vectors = dict(zip(VECTORS, (2 * e[0], e[0] + e[1], e[0] - e[1], e[2], e[1]), strict=True))
    table = to_scale.angles(vectors).set_index("vector")
    assert table.loc["x", "angle with Sae(x), °"] == pytest.approx(45, abs=1e-3)
    assert table.loc["LinearError", "angle with NonlinearError, °"] == pytest.approx(90)
    assert table.loc["SaeError", "norm / ‖x‖"] == pytest.approx(0.5**0.5)
    assert "LinearError 50 %, NonlinearError 50 %, at 90° to each other" in in_scale(table.reset_index())


def test_the_picture_lists_the_norms_and_shows_the_token_of_the_slider(parts):
    chart = notation.to_scale(to_scale.segments(*parts, ["<b>", "b", "c", "d"]))
    norm = float(parts[0][3].norm())
    assert f"Sae(x) {norm:.2f}" in says(chart) and "the token: “d”" in says(chart)
    assert "the token: “&lt;b&gt;”" in says(chart, back=3)


@pytest.mark.parametrize("degrees", [-40, 15])
def test_the_share_that_is_linear_is_that_of_the_books_decomposition(degrees):
    table = tilt.tokens()
    for case, angles in tilt.FEATURES.items():
        x, weights = tilt.draw(angles)
        report = decompose(x, x - tilt.tilted_error(weights, degrees), n_bootstrap=100)
        r2 = table.loc[table["case"] == case, "r2"].iloc[0]
        assert report.r2_error_vector_weighted.value == pytest.approx(r2, abs=0.02)  # other tokens fit
        fvu = table.loc[table["case"] == case, "scale"].iloc[0] * (2 - 2 * torch.tensor(degrees).deg2rad().cos())
        assert report.fvu.value == pytest.approx(float(fvu), rel=0.1)


def test_independent_features_make_a_linear_error_and_crowded_ones_do_not():
    shares = tilt.tokens().groupby("case", sort=False)["r2"].first()
    assert shares.iloc[:2].tolist() == pytest.approx([1, 1]) and shares.iloc[2] < 0.9
    said = findings.tilted(shares.to_dict())
    assert "two features at a right angle and for two features at 60°" in said and "% for three features" in said


def test_the_slider_turns_the_atom_and_the_text_follows():
    table = pd.DataFrame(
        {"case": "two", "x1": [1.0, 0.0], "x2": [0.0, 1.0], "weight": [1.0, 0.0], "linear": [1.0, 0.0]}
    )
    chart = modelling.tilt(table.assign(r2=0.5, scale=1.0), {"two": (0.0, 90.0)})
    assert "FVU 0.000, of it linear in x: 50%" in says(chart, degrees=0)
    assert "FVU 1.000, of it linear in x: 50%" in says(chart, degrees=60)
