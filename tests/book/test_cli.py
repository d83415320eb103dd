"""The `dm` command: its parameters, its messages, and notebooks cleared for a commit."""

from pathlib import Path

import nbformat
import pytest
import typer
from nbformat.v4 import new_code_cell, new_notebook, new_output
from typer.testing import CliRunner

from dm_utils.book.cli import app, read_values

RUN = CliRunner()


def test_parameters_are_read_as_numbers_lists_and_text() -> None:
    words = [
        "-p",
        "layer",
        "2",
        "-p",
        "near_l0",
        "7.5",
        "-p",
        "profile",
        "lab",
        "-p",
        "widths",
        "[512,1024]",
        "-p",
        "fresh",
        "true",
    ]
    assert read_values(words) == {
        "layer": 2,
        "near_l0": 7.5,
        "profile": "lab",
        "widths": [512, 1024],
        "fresh": True,
    }


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


def test_a_notebook_is_cleared_for_a_commit(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    kept = new_code_cell("x = 1", metadata={"tags": ["parameters"], "collapsed": True}, execution_count=4)
    kept.outputs = [new_output("stream", name="stdout", text="private")]
    injected = new_code_cell("x = 2", metadata={"tags": ["injected-parameters"]})
    nbformat.write(new_notebook(cells=[kept, injected], metadata={"papermill": {"output_path": "/home/me"}}), path)
    assert RUN.invoke(app, ["clear", str(path)]).exit_code == 0
    book = nbformat.read(path, as_version=4)
    assert [cell.source for cell in book.cells] == ["x = 1"]
    assert book.cells[0].metadata == {"tags": ["parameters"]}
    assert "private" not in path.read_text() and "/home/me" not in path.read_text()
    assert book.cells[0].execution_count is None
