"""Charts say what the table says, keep every interval and carry no markup."""

import json
import re
import sys
from types import SimpleNamespace

import altair as alt
import IPython
import numpy as np
import pandas as pd
import pytest
import vl_convert

from dm_utils import charts
from dm_utils.charts import bundle as chart_bundle
from dm_utils.charts.marks import with_interval

METRICS = ["r2_error_norm", "r2_error_vector"]


def lightness(color: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.fixture
def table() -> pd.DataFrame:
    """Twelve SAEs whose metrics are planes over log2(width) and log2(L0)."""
    frame = pd.DataFrame([(d, k) for d in (512, 1024, 2048) for k in (4.0, 8.0, 16.0, 32.0)], columns=["d_sae", "l0"])
    frame = frame.assign(sae_id=[f"sae {i}" for i in range(12)], architecture="topk", component="resid", layer=3)
    for scale, metric in zip((0.02, 0.05), METRICS, strict=True):
        value = 1 - scale * np.log2(frame["d_sae"]) + 0.01 * np.log2(frame["l0"])
        frame = frame.assign(**{metric: value, f"{metric}_low": value - 0.01, f"{metric}_high": value + 0.01})
    return frame


def every_chart(table: pd.DataFrame) -> dict[str, alt.TopLevelMixin]:
    """One chart of each builder."""
    curve = pd.DataFrame(
        {"d_sae": [512, 1024], "part": "absent", "bottom": 0.1, "top": [0.3, 0.2], "extrapolated": [False, True]}
    )
    curve = curve.assign(top_low=curve["top"] - 0.01, top_high=curve["top"] + 0.01)
    points = pd.DataFrame({"d_sae": [512], "part": ["absent"], "value": [0.3], "low": [0.29], "high": [0.31]})
    pairs = pd.DataFrame({"small": [512], "large": [1024], "r2": [0.9], "r2_low": [0.88], "r2_high": [0.92]})
    values = pd.concat([table.assign(component=c, value=table["r2_error_norm"]) for c in ("x", "error")])
    values = values.assign(low=values["value"] - 0.01, high=values["value"] + 0.01)
    tokens = pd.DataFrame({"index": [0, 1], "token": ["</script>", "b"], "sae": "one", "error_norm2": [1.0, 2.0]})
    return {
        "width_l0_grid": charts.width_l0_grid(table, METRICS),
        "metric_by_width": charts.metric_by_width(table, METRICS),
        "metric_by_layer": charts.metric_by_layer(table, METRICS),
        "breakdown": charts.breakdown(points, curve),
        "pair_matrix": charts.pair_matrix(pairs),
        "violins": charts.violins(values, ["x", "error"]),
        "token_lines": charts.token_lines(tokens),
    }


def test_every_chart_is_valid_and_draws(table: pd.DataFrame) -> None:
    for name, chart in every_chart(table).items():
        picture = vl_convert.vegalite_to_svg(chart.to_json(), vl_version="6.4")
        assert re.search(r'class="mark-(symbol|rect|area|line|text)', picture), name


def test_interpolation_reproduces_a_plane_and_stays_inside_the_hull(table: pd.DataFrame) -> None:
    grid = charts.interpolate(table, "r2_error_norm", cells=10)
    assert len(grid) == 100
    middle = np.log2(np.sqrt(grid["x1"] * grid["x2"])), np.log2(np.sqrt(grid["y1"] * grid["y2"]))
    assert np.allclose(grid["value"], 1 - 0.02 * middle[0] + 0.01 * middle[1], atol=2e-4)
    corner = table[~((table["d_sae"] == 512) & (table["l0"] < 20))]
    assert len(charts.interpolate(corner, "r2_error_norm", cells=10)) < 100


def test_saes_on_one_line_are_drawn_without_a_heat_map(table: pd.DataFrame) -> None:
    assert charts.interpolate(table[table["d_sae"] == 512], "r2_error_norm").empty
    charts.width_l0_grid(table[table["d_sae"] == 512], METRICS).to_dict()


def test_intervals_are_drawn_and_told(table: pd.DataFrame) -> None:
    data = charts.tidy(table, METRICS)
    assert data.loc[0, "text"] == "0.840 [0.830, 0.850]"
    drawn = json.dumps(charts.metric_by_width(table, METRICS).to_dict()["layer"])
    assert '"low"' in drawn and '"high"' in drawn


def test_a_metric_that_the_table_lacks_is_named(table: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"no fvu_of_nothing; its columns are d_sae"):
        charts.tidy(table, ["fvu_of_nothing"])


def test_each_meaning_has_one_colour_that_both_themes_can_show() -> None:
    assert len(set(charts.COLORS.values())) == len(charts.COLORS)
    for name, color in charts.COLORS.items():
        for page in ("#ffffff", "#121212"):
            high, low = sorted((lightness(color), lightness(page)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 3, f"{name} cannot be seen on {page}"


def test_no_ink_is_fixed_to_one_theme(table: pd.DataFrame) -> None:
    config = charts.width_l0_grid(table, METRICS).to_dict()["config"]
    assert config["background"] == "transparent"
    for part in ("axis", "legend", "title", "text"):
        assert {value for key, value in config[part].items() if key.lower().endswith("color")} == {"currentColor"}


def test_html_for_notebooks_cannot_close_its_script_and_names_no_other_host() -> None:
    bundle = charts.render({"description": "a <b>", "data": {"values": ["</SCRIPT ><img onerror=x>", "<!--"]}})
    data = bundle["text/html"].split('type="application/json">', 1)[1].split("</script>", 1)[0]
    assert json.loads(data)["data"]["values"] == ["</SCRIPT ><img onerror=x>", "<!--"]
    assert "<" not in data
    assert 'aria-label="a &lt;b&gt;"' in bundle["text/html"]
    assert "http" not in bundle["text/html"]


def test_one_output_of_a_notebook_holds_the_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(user_ns={"In": [""]}, execution_count=0)
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.setattr(chart_bundle, "_bearer", None)
    monkeypatch.delenv("DM_BOOK", raising=False)

    def run(source: str, shown: int) -> list[bool]:
        shell.user_ns["In"].append(source)
        shell.execution_count += 1
        return ["DecompressionStream" in charts.render({})["text/html"] for _ in range(shown)]

    assert run("first", 2) == [True, False]
    assert run("second", 1) == [False]
    assert run("first", 2) == [True, False], "a cell that runs again keeps the bundle that it held"
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    assert run("third", 1) == [True], "Colab shows each output in a frame of its own"
    monkeypatch.setenv("DM_BOOK", "1")
    assert run("fourth", 1) == [False]


def test_an_interval_with_a_colour_of_its_own_shows_on_a_coloured_bar() -> None:
    rows = pd.DataFrame({"part": ["linear"], "value": [0.5], "low": [0.4], "high": [0.6]})
    base = alt.Chart(rows).encode(y="part:N", color=alt.value(charts.COLORS["linear"]))
    bar, rule = with_interval(base, alt.X("value:Q"), "bar", rule={"color": charts.INK}).layer
    assert bar.to_dict()["encoding"]["color"] == {"value": charts.COLORS["linear"]}
    assert rule.to_dict()["encoding"]["color"] == {"value": charts.INK}
