"""The `dm` command: its parameters, its messages, and notebooks cleared for a commit."""

import platform
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import typer
import yaml
from demo import ROOT, make_checkout
from nbformat.v4 import new_code_cell, new_notebook, new_output
from typer.testing import CliRunner

from dm_utils.book.cli import app, read_values
from dm_utils.engine.store import Store

RUN = CliRunner()


def test_parameters_are_read_as_they_were_given() -> None:
    words = ["-p", "layer", "2", "-p", "widths", "[512,1024]"]
    assert read_values(words) == {"layer": "2", "widths": "[512,1024]"}


def test_a_parameter_has_one_value() -> None:
    with pytest.raises(typer.BadParameter, match="layer: given more than once"):
        read_values(["-p", "layer", "2", "-p", "layer", "3"])


@pytest.mark.parametrize("words", [["-p", "layer"], ["--layer", "2", "x"], ["layer=2"]])
def test_anything_else_says_how_to_write_it(words: list[str]) -> None:
    with pytest.raises(typer.BadParameter, match="-p NAME VALUE"):
        read_values(words)


def test_an_unknown_chapter_lists_the_known_ones() -> None:
    result = RUN.invoke(app, ["chapter", "04_9_nothing"])
    assert result.exit_code == 1
    assert "04_9_nothing" in result.output and "04_2_error_vectors" in result.output


def test_every_profile_is_listed() -> None:
    output = RUN.invoke(app, ["profiles"]).output
    assert all(name in output for name in ("lab", "gpt2-small", "gemma-2-2b", "gemma-2-9b", "llama-3.1-8b"))


def test_notebooks_are_cleared_for_a_commit_as_the_hook_does_it(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    kept = new_code_cell("x = 1", metadata={"tags": ["parameters"], "collapsed": True}, execution_count=4)
    kept.outputs = [new_output("stream", name="stdout", text="private")]
    injected = new_code_cell("x = 2", metadata={"tags": ["injected-parameters"]})
    nbformat.write(new_notebook(cells=[kept, injected], metadata={"papermill": {"output_path": "/home/me"}}), path)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entry = next(hook["entry"] for hook in hooks if hook["id"] == "clear-outputs")
    program, *options = shlex.split(entry)
    subprocess.run([Path(sys.executable).with_name(Path(program).name), *options, path], check=True)
    book = nbformat.read(path, as_version=4)
    assert [cell.source for cell in book.cells] == ["x = 1"]
    assert book.cells[0].metadata == {"tags": ["parameters"]} and book.cells[0].id == kept.id
    assert "private" not in path.read_text() and "/home/me" not in path.read_text()
    assert book.cells[0].execution_count is None


def test_the_hook_changes_no_notebook_of_the_book(tmp_path: Path) -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    program, *options = shlex.split(next(hook["entry"] for hook in hooks if hook["id"] == "clear-outputs"))
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(path, tmp_path)
    copies = sorted(tmp_path.glob("*.ipynb"))
    subprocess.run([Path(sys.executable).with_name(Path(program).name), *options, *copies], check=True)
    assert [path.name for path in copies if path.read_bytes() != (ROOT / "notebooks" / path.name).read_bytes()] == []


def test_a_port_that_is_taken_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = make_checkout(tmp_path)
    (layout.html).mkdir(parents=True)
    (layout.html / "index.html").write_text("")
    monkeypatch.chdir(layout.root)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = RUN.invoke(app, ["serve", "--port", str(port)])
    assert result.exit_code == 1
    assert f"port {port} cannot be listened on" in result.output and f"--port {port + 1}" in result.output


@pytest.fixture
def kept(tmp_path: Path) -> Store:
    """A store with a good entry, one that is damaged, and the temporary file of a run that was killed."""
    store = Store(tmp_path / "store")
    by = ("dm_utils.base.words",)
    for name in ("good", "bad"):
        key = store.full_key({"sae": name}, by)
        store.save("measurements", key, {"value": 1}, {"rows": np.arange(1000.0)}, by)
    next(store.root.glob(f"measurements/{store.path('', key).stem}.*.safetensors")).write_bytes(b"x")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (store.root / f"measurements/.a.json~{platform.node()}~{dead.pid}~abc").write_bytes(b"0" * 5_000_000)
    return store


def test_the_store_is_listed_checked_and_pruned(kept: Store) -> None:
    where = ["--store", str(kept.root)]
    listed = RUN.invoke(app, ["store", "list", *where]).output
    assert (
        "good" in listed and "base.words" in listed and "2 entries" in listed and "5.0 MB of temporary files" in listed
    )
    checked = RUN.invoke(app, ["store", "check", *where])
    assert checked.exit_code == 1 and "1 of 2 entries are damaged" in checked.output
    before = sorted(kept.root.rglob("*"))
    assert "0 entries, 0.0 MB, would be removed" in RUN.invoke(app, ["store", "prune", "--dry-run", *where]).output
    assert sorted(kept.root.rglob("*")) == before
    assert "2 entries" in RUN.invoke(app, ["store", "prune", "--older-than", "0", *where]).output
    assert not [path for path in kept.root.rglob("*") if path.is_file()]


def test_a_store_that_is_a_file_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    result = RUN.invoke(app, ["store", "list", "--store", str(tmp_path / "store")])
    assert result.exit_code == 1 and "is a file" in result.output and "Traceback" not in result.output
