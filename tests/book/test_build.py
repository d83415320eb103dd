"""The build: chapters run once per content, failures stop with the cell, the list of chapters is one."""

import json
import os
from pathlib import Path

import nbformat
import pytest
from demo import ROOT, make_checkout
from nbformat.v4 import new_code_cell, new_notebook

from dm_utils.base.errors import BuildError
from dm_utils.book import build, site
from dm_utils.book.layout import Layout

COUNTING = (
    "import os, pathlib\n"
    "log = pathlib.Path(os.environ['DM_TABLES']) / 'demo.csv'\n"
    "log.parent.mkdir(parents=True, exist_ok=True)\n"
    "log.open('a').write('run\\n')"
)


def write(path: Path, *sources: str) -> Path:
    """Write a notebook with these code cells, the first one tagged as its parameters."""
    cells = [new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(sources)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    return path


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A checkout whose chapter counts how often it runs."""
    notebook = write(tmp_path / "counting.ipynb", "size = 1", COUNTING)
    checkout = make_checkout(tmp_path / "checkout", notebook)
    (checkout.root / "src").unlink()  # this chapter imports nothing, and nothing may change under it
    return checkout


def runs(layout: Layout) -> int:
    return len((layout.executed / "tables/demo.csv").read_text().splitlines())


def test_an_unchanged_chapter_is_not_executed_again(layout: Layout) -> None:
    build.execute_chapters(layout, {})
    build.execute_chapters(layout, {})
    assert runs(layout) == 1
    build.execute_chapters(layout, {"size": 2})
    assert runs(layout) == 2
    finished = json.loads((layout.executed / "demo.ipynb").read_text())
    assert str(layout.root) not in json.dumps(finished["metadata"]), "no path of this machine in what is published"


def test_a_lost_table_or_a_torn_record_makes_the_chapter_run_again(layout: Layout) -> None:
    build.execute_chapters(layout, {})
    (layout.executed / "tables/demo.csv").unlink()
    build.execute_chapters(layout, {})
    assert runs(layout) == 1  # the file is new, with one line
    (layout.executed / "demo.json").write_text("{")
    build.execute_chapters(layout, {})
    assert runs(layout) == 2


def test_the_key_follows_content_not_outputs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "x = 1", "x + 1")
    key = build.chapter_key(path, {}, "shared")
    book = nbformat.read(path, as_version=4)
    book.cells[1].outputs = [nbformat.v4.new_output("stream", text="2")]
    nbformat.write(book, path)
    assert build.chapter_key(path, {}, "shared") == key
    assert build.chapter_key(path, {"x": 2}, "shared") != key
    assert build.chapter_key(path, {}, "other") != key
    write(path, "x = 1", "x + 2")
    assert build.chapter_key(path, {}, "shared") != key


def test_the_shared_key_follows_the_package_the_weights_and_the_lock(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    weights = tmp_path / "src/dm_utils/lab/weights"
    weights.mkdir(parents=True)
    (tmp_path / "src/dm_utils/engine").mkdir()
    files = [tmp_path / "requirements.lock", tmp_path / "src/dm_utils/engine/study.py", weights / "manifest.json"]
    seen = set()
    for text in ("one", "two"):
        for path in files:
            path.write_text(text)
            seen.add(build.shared_key(layout) if all(file.exists() for file in files) else path.name)
    assert len(seen) == 6
    before = build.shared_key(layout)
    (tmp_path / "src/dm_utils/book").mkdir()
    (tmp_path / "src/dm_utils/book/cli.py").write_text("no chapter imports this")
    assert build.shared_key(layout) == before


@pytest.mark.parametrize(
    "name",
    [
        *(f"src/dm_utils/{name}" for name in ("lab/text.py", "lab/manifest.json", "lab/results/ladder.csv")),
        *(f"src/dm_utils/charts/static/{name}" for name in ("widget.js", "style.css")),
        "benchmarks/results/encode.csv",
    ],
)
def test_every_kind_of_source_is_in_the_shared_key(tmp_path: Path, name: str) -> None:
    (tmp_path / "requirements.lock").write_text("")
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    keys = [path.write_text(text) and build.shared_key(Layout(tmp_path)) for text in ("one", "two")]
    assert keys[0] != keys[1]


@pytest.mark.parametrize("name", ["chapters/own/findings.py", "book/results/one.json", "charts/static/draw_charts.js"])
def test_what_one_chapter_or_only_the_site_reads_is_not(tmp_path: Path, name: str) -> None:
    (tmp_path / "requirements.lock").write_text("")
    path = tmp_path / "src/dm_utils" / name
    path.parent.mkdir(parents=True)
    keys = [path.write_text(text) and build.shared_key(Layout(tmp_path)) for text in ("one", "two")]
    assert keys[0] == keys[1]


def test_a_failing_chapter_stops_with_its_cell_and_error(tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    path = write(tmp_path / "notebooks/bad.ipynb", "a = 1", "a / 0  # here")
    target = tmp_path / "out/bad.ipynb"
    with pytest.raises(
        BuildError, match=r"(?s)bad failed in cell 1: ZeroDivisionError: division by zero.*a / 0  # here"
    ):
        build.execute(path, target, {})
    assert not target.exists()
    assert (tmp_path / "out/bad.failed.ipynb").exists()


def test_code_is_folded_unless_it_is_tagged_open() -> None:
    tags = [[], ["open"], ["parameters"], ["remove-cell"]]
    cells = [new_code_cell("x", metadata={"tags": list(tag)}) for tag in tags]
    shown = build.for_reading(new_notebook(cells=cells))
    assert [cell["metadata"]["tags"] for cell in shown["cells"]] == [["hide-input"], *tags[1:]]


def test_kernels_get_threads_and_folders_and_nothing_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("DM_BOOK", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("DM_STORE", raising=False)
    with build.kernel_environment(tmp_path, tmp_path / "store", jobs=2):
        assert os.environ["OMP_NUM_THREADS"] == "2"
        assert os.environ["DM_TABLES"] == str(tmp_path)
        assert os.environ["DM_STORE"] == str(tmp_path / "store")
        assert os.environ["DM_BOOK"] == "1"
        assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "DM_BOOK" not in os.environ


def test_the_list_of_chapters_and_the_folder_must_agree(layout: Layout) -> None:
    write(layout.root / "notebooks/forgotten.ipynb", "x = 1")
    with pytest.raises(BuildError, match=r"only in the folder: \['forgotten'\]"):
        build.chapters(layout)


def test_the_books_own_list_agrees_with_its_folder() -> None:
    assert build.chapters(Layout(ROOT))


def test_outside_a_checkout_the_build_says_so(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="not inside a checkout"):
        Layout.find(start=tmp_path)
    assert Layout.find(start=ROOT / "src/dm_utils").root == ROOT


def test_staging_copies_what_changed_and_removes_what_is_gone(layout: Layout) -> None:
    (layout.executed / "tables").mkdir(parents=True)
    (layout.executed / "demo.ipynb").write_text("{}")
    (layout.executed / "tables/demo.csv").write_text("chapter\n")
    site.stage(layout)
    stale, kept = layout.source / "old.md", layout.source / "intro.md"
    stale.write_text("gone")
    before = kept.stat().st_mtime_ns
    site.stage(layout)
    assert not stale.exists()
    assert kept.stat().st_mtime_ns == before
    assert (layout.source / "_extra/tables/demo.csv").exists()
    assert not (layout.source / "_ext").exists()
