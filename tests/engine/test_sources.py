"""Which code determines a number: what a module imports however it imports it, without what words or draws; docstrings do not count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dm_utils.engine import sources

NUMBERS = "def number():\n    return 1\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project of its own: a.py takes b.py at its top, c.py in a function, d.py for types, words of `base`."""
    files = {
        "maths/a.py": (
            '"""Of a."""\nimport numpy\nimport dm_utils.maths.b\nfrom dm_utils.base import words\n'
            "def f():\n    'Of f.'\n    from dm_utils.maths import c, missing\n    return c\n"
        ),
        "maths/b.py": NUMBERS,
        "maths/c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dm_utils.maths.d import number\n",
        "maths/d.py": NUMBERS,
        "maths/alone.py": NUMBERS,
        "maths/__init__.py": "",
        "base/words.py": NUMBERS,
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    _forget()
    yield tmp_path
    _forget()


def _forget() -> None:
    for one in (sources.source_digest, sources.imports, sources.module_file, sources._code):
        one.cache_clear()


def test_a_module_brings_all_that_it_imports_in_any_way(project: Path) -> None:
    names = {f"dm_utils.maths.{name}" for name in ("a", "b", "c", "d")}
    assert sources.closure(("dm_utils.maths.a",)) == names | {"dm_utils.maths"}
    assert sources.imports("dm_utils.maths.a") == {
        "dm_utils.maths.b",
        "dm_utils.maths.c",
        "dm_utils.maths",
        "dm_utils.base.words",
    }
    assert sources.closure(("dm_utils.base.words",)) == {"dm_utils.base.words"}, "what is named counts, silent or not"


def digests(change: Path, text: str) -> tuple[list[str], list[str]]:
    """Both digests of a.py before and after a file changes."""
    found = []
    for written in (change.read_text(), text):
        change.write_text(written)
        _forget()
        found.append([sources.source_digest(("dm_utils.maths.a",)), sources.recipe_digest(("dm_utils.maths.a",))])
    return found[0], found[1]


@pytest.mark.parametrize("name", ["b", "c", "d"])
def test_a_change_of_what_is_imported_is_another_digest_and_the_same_recipe(project: Path, name: str) -> None:
    path = project / f"maths/{name}.py"
    (source, recipe), (other, same) = digests(path, path.read_text() + "more = 2\n")
    assert source != other and recipe == same


@pytest.mark.parametrize("name", ["maths/alone.py", "base/words.py"])
def test_what_is_not_imported_or_only_words_counts_for_nothing(project: Path, name: str) -> None:
    before, after = digests(project / name, "more = 2\n")
    assert before == after


def test_docstrings_and_comments_count_for_nothing_and_code_does(project: Path) -> None:
    path = project / "maths/a.py"
    text = path.read_text()
    before, after = digests(path, text.replace('"""Of a."""', '"""Other."""  # why').replace("    'Of f.'\n", ""))
    assert before == after
    before, after = digests(path, text.replace("return c", "return 2"))
    assert before[0] != after[0] and before[1] != after[1]


def test_a_recipe_is_of_its_modules_in_any_order(project: Path) -> None:
    two = ("dm_utils.maths.a", "dm_utils.maths.b")
    assert sources.recipe_digest(two) == sources.recipe_digest(two[::-1]) != sources.recipe_digest(two[:1])
    assert sources.source_digest(two) == sources.source_digest(two[::-1])
    assert len(sources.recipe_digest(two)) == len(sources.source_digest(two)) == 16


def test_a_name_that_is_no_module_is_refused(project: Path) -> None:
    assert sources.module_file("dm_utils.maths") == project / "maths/__init__.py"
    assert sources.module_file("dm_utils.maths.e") is None
    with pytest.raises(ValueError, match=r"dm_utils\.maths\.e is not a module"):
        sources.imports("dm_utils.maths.e")


@pytest.mark.parametrize(
    ("module", "silent"),
    [
        ("dm_utils", True),
        ("dm_utils.base.words", True),
        ("dm_utils.charts", True),
        ("dm_utils.charts.marks", True),
        ("dm_utils.book.chapter", True),
        ("dm_utils.chapters.E_scaling.charts", True),
        ("dm_utils.chapters.E_scaling.findings", True),
        ("dm_utils.chapters.E_scaling.experiment", False),
        ("dm_utils.engine.findings", False),
        ("dm_utils.engine.store", True),
        ("dm_utils.world.hub", True),
        ("dm_utils.engine.study", False),
        ("dm_utils.maths.regression", False),
        ("dm_utils.world.models", False),
    ],
)
def test_what_words_draws_or_fetches_is_silent(module: str, silent: bool) -> None:
    assert sources.is_silent(module) == silent
