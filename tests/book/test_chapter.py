"""The Chapter: parameters are refused early and by name; results are kept, compared and written."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from demo import ROOT

from dm_utils.base.errors import ParameterError
from dm_utils.book.chapter import COLUMNS, Chapter
from dm_utils.book.paper import VALUES, comparison, relation
from dm_utils.book.parameters import assigned_literals

DECLARED = 'profile = "lab"\nlayer = None\nnear_l0 = None\nn_tokens = 40\nfine = 0.5'


def notebook(injected: str = "") -> dict[str, Any]:
    """The globals of a notebook after its parameters cell, and after what papermill injected."""
    cells = ["", DECLARED] + ([f"# Parameters\n{injected}"] if injected else [])
    namespace: dict[str, Any] = {"In": cells}
    for source in cells:
        exec(source, namespace)
    return namespace


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ("layer = 99", r"layer = 99: the lab model has layers 0 to 5; the nearest is 5"),
        ('profile = "gemma-9"', r"unknown profile 'gemma-9'.*Did you mean 'gemma-2-9b'"),
        ('profil = "lab"', r"unknown parameter 'profil'.*Did you mean 'profile'"),
        ('near_l0 = "x"', r"near_l0 = 'x'.*above 0"),
        ('n_tokens = "many"', r"n_tokens = 'many': it must be a whole number; the chapter's own value is 40"),
        ("fine = True", r"fine = True: it must be a number"),
        ("token_count = 3", r"unknown parameter 'token_count'"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(injected: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Chapter("demo", notebook(injected))


def test_right_parameters_reach_the_profile() -> None:
    chapter = Chapter("demo", notebook("layer = 2\nnear_l0 = 8\nsplit_by = 'context'\nfine = 1"))
    assert (chapter.profile.layer, chapter.profile.near_l0, chapter.profile.split_by) == (2, 8, "context")
    assert chapter.parameters["n_tokens"] == 40


def test_only_assignments_of_literals_count_as_parameters() -> None:
    assert assigned_literals("a = 1\nb: int = 2\nc = d = [1, 'x']") == {"a": 1, "b": 2, "c": [1, "x"], "d": [1, "x"]}
    assert assigned_literals("a = 1\nimport os") is None
    assert assigned_literals("a = open('x')") is None
    assert assigned_literals("%pip install this") is None


def test_a_wrong_parameter_costs_no_heavy_import() -> None:
    program = (
        "import sys, dm_utils as dm\n"
        "try:\n    dm.Chapter('x', {'profile': 'lab', 'layer': 99})\n"
        "except dm.ParameterError:\n"
        "    sys.exit(sum(name in sys.modules for name in ('torch', 'transformers', 'sae_lens', 'altair')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.fixture
def chapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chapter:
    """A chapter that writes into a temporary folder."""
    monkeypatch.setenv("DM_TABLES", str(tmp_path / "tables"))
    return Chapter("demo", notebook())


def test_no_progress_bar_reaches_a_page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from tqdm.auto import tqdm

    monkeypatch.setattr(tqdm, "__init__", tqdm.__init__)  # restored afterwards
    monkeypatch.setenv("DM_BOOK", "1")
    Chapter("demo", notebook())
    assert list(tqdm(range(3), disable=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_results_are_written_in_the_shared_columns(chapter: Chapter, tmp_path: Path) -> None:
    sae = SimpleNamespace(id="resid_3", hook_name="blocks.3.hook_resid_post", d_sae=512, l0=16.0)
    estimate = SimpleNamespace(value=0.4, low=0.38, high=0.42)
    chapter.record("r2_error_vector", estimate, figure="2", sae=sae, paper_value="s4.2.r2_error_vector")
    chapter.record("count", 3)
    chapter.download()
    table = pd.read_csv(tmp_path / "tables/demo.csv")
    assert table.columns.tolist() == COLUMNS
    first = table.iloc[0]
    assert (first["sae_id"], first["d_sae"], first["ci_low"], first["paper_value"]) == (
        "resid_3",
        512,
        0.38,
        "0.15..0.72",
    )
    assert math.isnan(table.iloc[1]["ci_low"])
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["demo.csv"]


def test_a_result_without_a_reported_value_stays_without_one(chapter: Chapter, tmp_path: Path) -> None:
    chapter.record("share", 0.5, paper_value=0.4)
    chapter.record("count", 3)
    chapter.download()
    assert pd.read_csv(tmp_path / "tables/demo.csv", dtype=str)["paper_value"].fillna("").tolist() == ["0.4", ""]


def test_a_table_is_recorded_row_by_row_with_its_intervals(chapter: Chapter) -> None:
    table = pd.DataFrame({"sae_id": ["a", "b"], "hook_name": "h", "d_sae": [1, 2], "l0": 8.0, "fvu": [0.2, 0.1]})
    chapter.record_table(table.assign(fvu_low=0.05, fvu_high=0.3), ["fvu"], figure="1")
    rows = chapter.results()
    assert rows["sae_id"].tolist() == ["a", "b"]
    assert rows[["value", "ci_low", "ci_high"]].to_numpy().tolist() == [[0.2, 0.05, 0.3], [0.1, 0.05, 0.3]]


def test_a_reported_value_that_the_paper_lacks_is_refused(chapter: Chapter) -> None:
    with pytest.raises(ParameterError, match=r"unknown reported value 's4.1.r2_error_nrm'.*'s4.1.r2_error_norm'"):
        chapter.record("x", 1.0, paper_value="s4.1.r2_error_nrm")


def test_nothing_to_compare_or_write_is_an_error(chapter: Chapter) -> None:
    with pytest.raises(ValueError, match="nothing to compare"):
        chapter.compare()
    with pytest.raises(ValueError, match="no results to write"):
        chapter.download()


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.2, 0.3, "inside"),
        (0.7, 0.8, "overlaps"),
        (0.8, 0.9, "higher"),
        (0.0, 0.1, "lower"),
        (math.nan, 1.0, "undefined"),
    ],
)
def test_an_interval_is_placed_against_a_range(low: float, high: float, word: str) -> None:
    assert relation(VALUES["s4.2.r2_error_vector"], low, high) == word


def test_many_results_for_one_reported_value_become_a_spread(chapter: Chapter) -> None:
    for value in (0.2, 0.6):
        chapter.record("r2_error_vector", value, figure="2", paper_value="s4.2.r2_error_vector")
    row = comparison(chapter.results()).iloc[0]
    assert row["This run"] == "0.200 to 0.600 over 2 results"
    assert (row["Paper"], row["This run is"]) == ("0.15 to 0.72", "inside")


def test_results_that_lie_differently_are_counted_not_blurred(chapter: Chapter) -> None:
    for value in (0.01, 0.02, 0.6):
        chapter.record("r2_error_vector", value, figure="2", paper_value="s4.2.r2_error_vector")
    assert comparison(chapter.results()).iloc[0]["This run is"] == "lower 2 of 3, inside 1 of 3"


def test_every_reported_range_is_ordered_and_placed() -> None:
    for key, value in VALUES.items():
        assert value.low <= value.high and value.where and value.says, key


def test_a_figure_needs_a_caption_and_an_alt_text(chapter: Chapter) -> None:
    with pytest.raises(ValueError, match="figure 2 of demo needs both"):
        chapter.figure(SimpleNamespace(), number="2", caption="A caption.", alt=" ")


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# The paper reports no number here: they compare statements, or ask what it did not.
PICTURES_ONLY = {"04_4_per_token", "05_3_downstream", "beyond_linear", "dictionaries", "repairs", "structure"}
# These follow no section of the paper, so they have nothing to compare.
OF_THE_BOOK = {
    "costs",
    "explorer",
    "intro",
    "lab_model",
    "own_sae",
    "profiles",
    "results",
    "scoreboard",
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_chapter_has_the_shape_of_a_chapter(path: Path) -> None:
    book = json.loads(path.read_text())
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in code]
    prose = "\n".join("".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "markdown")
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code), "committed without outputs"
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert sum(f'dm.Chapter("{path.stem}", globals()' in source for source in sources) == 1
    assert max(source.count("\n") + 1 for source in sources) <= 25, "a cell fits on a screen"
    assert not any(line.startswith("def ") for source in sources for line in source.splitlines()), (
        "functions live in dm_utils"
    )
    assert prose.startswith("# "), "the first cell is the title"
    calls = ["chapter.download()", "chapter.figure("]
    if path.stem not in OF_THE_BOOK:
        if path.stem not in PICTURES_ONLY:
            calls.append("chapter.compare()")
        assert "What was learned" in prose and "Try it" in prose
    for call in calls:
        assert any(call in source for source in sources), call
