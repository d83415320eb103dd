"""Which of the project's own source determines a number: a module and all that it imports, however far.

A result's key holds the digest of its sources, so a change of what computes it is never served stale. Floors that cannot
change a number (words, charts, pages) are left out, and so are docstrings and comments.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = "dm_utils"
ROOT = Path(__file__).parents[1]
SILENT = ("base", "charts", "book")  # floors without numbers
PLUMBING = {
    "world.hub",
    "world.memory",
    "world.needs",
    "world.shapes",
    "engine.housekeeping",
    "engine.store",
    "engine.sources",
}  # what fetches and keeps, and cannot change a number
FACES = ("charts", "findings")  # of a chapter: what it draws and says


@cache
def source_digest(modules: tuple[str, ...]) -> str:
    """Hash the code of modules (full names) and of everything of the project that they import, lazily or for types too."""
    found = sorted(closure(modules))
    return hashlib.sha256(repr([(name, _code(name)) for name in found]).encode()).hexdigest()[:16]


def closure(modules: tuple[str, ...]) -> set[str]:
    """The modules, and those of the project that they import, directly or through others, as far as they make numbers."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [other for other in imports(name) if not is_silent(other)]
    return found


def is_silent(module: str) -> bool:
    """Whether a module of the project only words, draws or prints what others have computed."""
    floor, *rest = [*module.split(".")[1:], ""]
    face = floor == "chapters" and rest[-2:-1] and rest[-2] in FACES
    return floor in ("", *SILENT) or bool(face) or module.removeprefix(f"{PACKAGE}.") in PLUMBING


@cache
def imports(module: str) -> frozenset[str]:
    """The project's modules that a module names in any import, at its top, in a function, or under TYPE_CHECKING."""
    return frozenset(_imported(ast.parse(_path(module).read_text(encoding="utf-8"))))


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in below if module_file(name)]
            yield from modules
            if len(modules) < len(below):
                yield str(node.module)


@cache
def module_file(module: str) -> Path | None:
    """The file of a module of the project, or None where a name is not a module. Nothing is imported."""
    below = ROOT.joinpath(*module.split(".")[1:])
    return next((path for path in (below.with_suffix(".py"), below / "__init__.py") if path.is_file()), None)


def _path(module: str) -> Path:
    path = module_file(module)
    if path is None:
        raise ValueError(f"{module} is not a module of {PACKAGE}")
    return path


def recipe_digest(modules: tuple[str, ...]) -> str:
    """Hash the code of these modules alone, the same under every Python: the stamp of results that travel with the package.

    What is dear to compute again names its recipe module by module, so that no change elsewhere asks for it.
    """
    found = [(name, _plain(_tree(name))) for name in sorted(modules)]
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def _plain(node: Any) -> Any:
    """A syntax tree as lists and text; fields without a value, which differ from one Python to the next, are left out."""
    if isinstance(node, list):
        return [_plain(each) for each in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
    return [type(node).__name__, [(name, _plain(value)) for name, value in fields]]


@cache
def _code(module: str) -> str:
    return ast.dump(_tree(module))


def _tree(module: str) -> ast.Module:
    """A module's syntax tree without its docstrings; comments are not in it anyway."""
    tree = ast.parse(_path(module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree
