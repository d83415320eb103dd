"""The house: folders as floors, each importing only what stands above it, no circles, a chapter and its notebook by one name."""

from __future__ import annotations

import ast
import json
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from demo import ROOT

from dm_utils.book.build import own_folder
from dm_utils.engine.sources import PACKAGE, imports

SOURCE = ROOT / "src" / PACKAGE
FLOORS = ("base", "maths", "dictionaries", "lab", "world", "engine", "charts", "chapters", "book")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def module_name(path: Path) -> str:
    """The name that imports a file of the package."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
INSIDE = sorted(name for name in MODULES if name.count("."))  # all but the package's own door


def floor(module: str) -> int:
    """How far down the list a module's folder stands."""
    return FLOORS.index(module.split(".")[1])


def test_the_package_is_its_floors_and_one_door() -> None:
    assert {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(FLOORS)
    assert [path.name for path in SOURCE.glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("module", INSIDE)
def test_a_module_imports_only_from_its_own_floor_and_those_above(module: str) -> None:
    below = {other for other in imports(module) if other != PACKAGE and floor(other) > floor(module)}
    assert not below, f"{module} imports {', '.join(sorted(below))}, which stand below it"


@pytest.mark.parametrize("module", [name for name in INSIDE if name.startswith(f"{PACKAGE}.chapters.")])
def test_a_chapter_imports_no_other_chapter(module: str) -> None:
    mine = module.split(".")[2]
    others = {
        other for other in imports(module) if other.split(".")[1:2] == ["chapters"] and other.split(".")[2:3] != [mine]
    }
    assert not others, f"what two chapters need moves up: {module} imports {', '.join(sorted(others))}"


def test_no_module_reaches_itself_through_its_imports() -> None:
    graph = {module: {other for other in imports(module) if other in MODULES} - {module} for module in INSIDE}
    list(TopologicalSorter(graph).static_order())  # CycleError names the circle


def test_base_knows_nothing_of_tensors() -> None:
    for name, path in MODULES.items():
        if name.startswith(f"{PACKAGE}.base"):
            nodes = list(ast.walk(ast.parse(path.read_text())))
            found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
            found |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
            assert not {module.split(".")[0] for module in found} & {
                "torch",
                "numpy",
                "sae_lens",
                "transformer_lens",
            }, name


def test_every_folder_of_a_chapter_has_its_notebook() -> None:
    folders = {path.name for path in (SOURCE / "chapters").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= {own_folder(path.stem) for path in NOTEBOOKS}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_no_other_chapters_folder(notebook: Path) -> None:
    cells = json.loads(notebook.read_text())["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    named = {part.split(".")[2] for part in source.split() if part.startswith(f"{PACKAGE}.chapters.")}
    assert named <= {own_folder(notebook.stem)}


def test_the_tests_stand_in_the_folders_of_what_they_test() -> None:
    here = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py")} - {"tests"}
    assert here <= {*FLOORS}
