"""Published results: what one machine computed and another shows, side by side with the paper."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from demo import ROOT, make_checkout
from nbformat.v4 import new_code_cell, new_notebook
from typer.testing import CliRunner

from dm_utils.base.errors import ParameterError
from dm_utils.book import build
from dm_utils.book import published as exports
from dm_utils.book.chapter import COLUMNS, Chapter
from dm_utils.book.cli import app
from dm_utils.chapters.results import charts as results_charts
from dm_utils.charts.dots import dots
from dm_utils.engine.store import Store
from dm_utils.engine.study import Study
from dm_utils.world.profiles import load_profile

RUN = CliRunner()
METRICS = ["fvu", "r2_error_norm", "r2_error_vector"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Real results of two small profiles, as a chapter writes them: the lab's own layer, and an earlier one."""
    root = tmp_path_factory.mktemp("machines")
    store, found = Store(root / "store"), {}
    with pytest.MonkeyPatch.context() as patch:
        for name, layer in (("lab", 4), ("lab-layer-2", 2)):
            found[name] = root / name / "tables"
            patch.setenv("DM_TABLES", str(found[name]))
            chapter = Chapter("04_1_error_norms", {"profile": "lab"})
            chapter.profile = load_profile("lab").with_overrides(name=name, layer=layer, n_contexts=16, n_bootstrap=200)
            study = Study(chapter.profile, store)
            study.collect([(2, "resid"), (4, "resid")])  # one run of the model serves both
            table = study.measure(study.saes(near_l0=16, architecture="topk")[:2])
            said = {"r2_error_norm": "s4.1.r2_error_norm", "r2_error_vector": "s4.2.r2_error_vector"}
            chapter.record_table(table, METRICS, figure="2", paper=said)
            chapter.record("tokens kept", 16 * 191.0, figure="set-up", paper_value="s4.n_tokens")
            chapter.download()
    return found


@pytest.fixture(scope="module")
def folder(tables, tmp_path_factory):
    """Both profiles, published by `dm export`."""
    folder = tmp_path_factory.mktemp("published")
    for name, written in tables.items():
        done = RUN.invoke(app, ["export", "--name", name, "--tables", str(written), "--to", str(folder)])
        assert done.exit_code == 0, done.output
        assert f"{name}.parquet" in done.output and "results of 1 chapters" in done.output
    return folder


def test_what_is_published_is_what_was_computed(tables, folder):
    found = {one.profile: one for one in exports.published(Path("no/tables"), folder)}
    assert found.keys() == tables.keys()
    for name, written in tables.items():
        before, after = pd.read_csv(written / "04_1_error_norms.csv"), found[name].rows
        assert after.columns.tolist() == COLUMNS
        for column in exports.NUMBERS:
            np.testing.assert_allclose(after[column], before[column], rtol=1e-7)
        assert after["sae_id"].tolist() == before["sae_id"].fillna("").tolist()
        assert after["paper_value"].tolist() == before["paper_value"].fillna("").tolist()
    values = [one.rows.query("metric == 'fvu'")["value"].iloc[0] for one in found.values()]
    assert values[0] != pytest.approx(values[1], rel=0.01), "two profiles, two results"


def test_profiles_stand_beside_the_paper(folder):
    found = exports.published(Path("no/tables"), folder)
    table = exports.side_by_side(found).set_index("Quantity")
    assert table.columns.tolist() == ["Paper", "lab", "lab-layer-2"]
    norm = table.loc["R² of the error norm (Eq. 10); Fig. 2"]
    lab = found[0].rows.query("metric == 'r2_error_norm'")["value"]
    assert norm["Paper"] == "0.7 to 0.95"
    assert norm["lab"] == f"{lab.min():.3f} to {lab.max():.3f} (2 results)"
    assert table.loc["tokens kept; set-up"].tolist() == ["247,000", "3,056", "3,056"]
    lines = exports.overview(found)
    assert lines["Profile"].tolist() == ["lab", "lab-layer-2"]
    assert lines["Results"].tolist() == [len(one.rows) for one in found]


def test_charts_hold_every_profile_and_let_the_reader_choose(folder):
    found = exports.published(Path("no/tables"), folder)
    spec = results_charts.across_widths(pd.concat([one.rows for one in found]), METRICS).to_dict()
    lists = {one["name"]: one["bind"]["options"] for one in spec["params"]}
    assert lists["profile"] == ["lab", "lab-layer-2"]
    assert len(lists["metric"]) == len(METRICS)
    (data,) = spec["datasets"].values()
    assert len(data) == sum(len(one.rows) - 1 for one in found)
    spec = dots(exports.reported_rows(found), "profile", band=True).to_dict()
    (data,) = spec["datasets"].values()
    assert {row["profile"] for row in data} == {"lab", "lab-layer-2"}
    assert {(row["paper_low"], row["paper_high"]) for row in data} == {(0.7, 0.95), (0.15, 0.72), (247_000, 247_000)}


def test_the_page_shows_the_published_profiles_beside_this_build(tables, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DM_RESULTS", str(folder))
    shown = tmp_path / "tables"
    shown.mkdir()
    rows = pd.read_csv(tables["lab"] / "04_1_error_norms.csv").query("metric != 'tokens kept'")
    rows.to_csv(shown / "04_1_error_norms.csv", index=False)
    with build.kernel_environment(shown, tmp_path / "store", jobs=1):
        build.execute(ROOT / "notebooks/results.ipynb", tmp_path / "results.ipynb", {"profile": "lab"})
    counts = pd.read_csv(shown / "results.csv").set_index("metric")["value"]
    assert counts["results of lab"] == len(rows), "this build's results replace the published ones"
    assert counts["results of lab-layer-2"] == len(pd.read_csv(tables["lab-layer-2"] / "04_1_error_norms.csv"))
    page = (tmp_path / "results.ipynb").read_text()
    assert "lab-layer-2" in page and "this build" in page


def test_parameters_that_were_given_are_published(tables, tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/a.csv").write_bytes((tables["lab"] / "04_1_error_norms.csv").read_bytes())
    cell = new_code_cell("# Parameters\nprofile = 'lab'\nlayer = 2\n", metadata={"tags": ["injected-parameters"]})
    for name in ("a.ipynb", "b.failed.ipynb"):
        (tmp_path / name).write_text(json.dumps(new_notebook(cells=[cell])))
        cell = new_code_cell("width = 1", metadata={"tags": ["injected-parameters"]})
    assert exports.read(exports.export(tmp_path / "tables", "mine", tmp_path)).made["parameters"] == {"layer": 2}


def test_what_is_no_result_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no results: run the chapters first"):
        exports.export(tmp_path, "lab", tmp_path)
    with pytest.raises(ParameterError, match=r"no results yet.*Run chapters first"):
        exports.published(tmp_path, tmp_path)
    pd.DataFrame([{"chapter": "a", "value": 1.0}], columns=COLUMNS).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ParameterError, match=r"'../x': a published profile's name has letters"):
        exports.export(tmp_path, "../x", tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"x.parquet is not a file of results .*`dm export`"):
        exports.published(tmp_path, tmp_path)
    table = pa.table({"a": [1]}).replace_schema_metadata({exports.HEADER: b'{"format": 1}'})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x.parquet is not a file of results .*another version.*`dm export`"):
        exports.published(tmp_path, tmp_path)
    assert RUN.invoke(app, ["export", "--tables", str(tmp_path / "none")]).exit_code == 1


def test_results_of_an_earlier_edition_stay_readable(tables, tmp_path):
    """Columns come and go; what took a large machine to compute must not be lost to that."""
    older = pd.read_csv(tables["lab"] / "04_1_error_norms.csv").drop(columns=["model_revision", "sae_revision"])
    (tmp_path / "tables").mkdir()
    older.to_csv(tmp_path / "tables/04_1_error_norms.csv", index=False)
    path = exports.export(tmp_path / "tables", "older", tmp_path)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["hook_name"]), path)
    rows = exports.read(path).rows
    assert rows.columns.tolist() == COLUMNS
    np.testing.assert_allclose(rows["value"], older["value"], rtol=1e-7)
    assert set(rows["model_revision"]) == set(rows["hook_name"]) == {""}


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("0.7..0.95", (0.7, 0.95)),
        ("247,000", (247_000, 247_000)),
        ("1", (1, 1)),
        ("", None),
        ("nan..nan", None),
        ("-0.1..-0.2", (-0.2, -0.1)),
    ],
)
def test_reported_values_are_read_back(text, ends):
    assert exports.paper_range(text) == ends


def test_the_page_of_results_runs_last_and_again_when_they_change(tmp_path):
    """It counts its own runs, and holds the chapter's table as it was when it ran."""
    layout = make_checkout(tmp_path / "checkout")
    (layout.root / "src").unlink()
    (layout.root / "src/dm_utils/book/results").mkdir(parents=True)
    toc = layout.root / "book/_toc.yml"
    toc.write_text(toc.read_text().replace("notebooks/demo", "notebooks/results\n      - file: notebooks/demo"))
    chapter = (
        "import os, pathlib\nhere = pathlib.Path(os.environ['DM_TABLES'])\nhere.mkdir(parents=True, exist_ok=True)\n"
    )
    sources = {
        "demo": chapter + "(here / 'demo.csv').write_text(f'size {size}')",
        "results": chapter + "(here / 'results.csv').open('a').write((here / 'demo.csv').read_text() + ';')",
    }
    for name, source in sources.items():
        cells = [new_code_cell("size = 1", metadata={"tags": ["parameters"]}), new_code_cell(source)]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        (layout.root / f"notebooks/{name}.ipynb").write_text(json.dumps(new_notebook(cells=cells, metadata=kernel)))
    log = layout.executed / "tables/results.csv"
    for _ in range(2):
        build.execute_chapters(layout, {})
    assert log.read_text() == "size 1;"
    (layout.root / "src/dm_utils/book/results/other.parquet").write_bytes(b"")
    build.execute_chapters(layout, {})
    assert log.read_text() == "size 1;size 1;"
    assert json.loads((layout.executed / "demo.json").read_text())["key"] == build.chapter_key(
        layout.root / "notebooks/demo.ipynb", {}, build.shared_key(layout)
    ), "a published file makes no chapter run again"
