"""Plant faults in a module, one at a time, and see whether its tests notice: ``make mutants MODULE=maths/regression``.

Each fault changes one place of a function: a comparison, an operator, a constant, a condition, a keyword that is left out. The tests
run on a copy of the package in a process of its own; a fault that no test notices is printed with its line. A survivor is a missing
test, or code that could go, or a change that alters nothing: say which.
"""

from __future__ import annotations

import ast
import copy
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "dm_utils"
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot,
    ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
Fault = tuple[int, str, str, str]  # line, what stood there, what stands there now, the whole module


def faults(source: str) -> Iterator[Fault]:
    """Every fault that can be planted in a module's functions, each with the module that has it."""
    tree = ast.parse(source)
    for index, node in enumerate(ast.walk(tree)):
        for changed in _changes(node):
            mutant = copy.deepcopy(tree)
            _replace(mutant, index, changed)
            yield node.lineno, ast.unparse(node), ast.unparse(changed), ast.unparse(ast.fix_missing_locations(mutant))


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that may take a node's place."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield _with(node, ops=[SWAPS[type(op)]()])
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in SWAPS:
            yield _with(node, op=SWAPS[type(op)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool() as value):
            yield ast.copy_location(ast.Constant(not value), node)
        case ast.Constant(value=int() | float() as value):
            yield ast.copy_location(ast.Constant(value + 1), node)
        case ast.If(test=test):
            yield _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Call(keywords=[_, *_]):
            for keyword in node.keywords:
                yield _with(node, keywords=[other for other in node.keywords if other is not keyword])


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _replace(tree: ast.AST, index: int, new: ast.AST) -> None:
    old = next(node for at, node in enumerate(ast.walk(tree)) if at == index)
    old.__class__, old.__dict__ = new.__class__, {**new.__dict__}


def noticed(module: Path, mutant: str, tests: list[str], limit: int) -> bool:
    """Whether the tests fail on a copy of the package in which the module is the mutant; a hang counts as failing."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "dm_utils"
        shutil.copytree(SOURCE, package, copy_function=os.symlink)  # compiled modules too, but for the one that changes
        for compiled in (package / module.parent / "__pycache__").glob(f"{module.stem}.*"):
            compiled.unlink()
        (package / module).unlink()
        (package / module).write_text(mutant)
        child = os.fork()
        if child == 0:
            os.setsid()
            _run_tests(folder, tests)
        ends = time.monotonic() + limit
        while time.monotonic() < ends:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return status != 0
            time.sleep(0.05)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return True


def _run_tests(folder: str, tests: list[str]) -> None:
    """In the child: the copy comes before the installed package, here and in the tests' own processes."""
    import pytest

    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = folder
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    code = 1
    try:
        code = pytest.main(["-x", "-p", "no:cacheprovider", "-p", "no:randomly", *tests])
    finally:
        os._exit(int(code))


def default_tests(module: Path) -> list[str]:
    """The tests that mirror a module: its own file where there is one, else those of its floor."""
    own = ROOT / "tests" / module.parent / f"test_{module.stem}.py"
    return [str(own if own.is_file() else ROOT / "tests" / module.parts[0])]


def main(
    module: Annotated[str, typer.Argument(help="Below src/dm_utils, such as maths/regression.")],
    tests: Annotated[
        list[str] | None, typer.Option(help="Test files; by default those that mirror the module.")
    ] = None,
    n: Annotated[int, typer.Option(min=1, help="How many faults, drawn at random.")] = 30,
    seed: Annotated[int, typer.Option(help="Which ones are drawn.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="Seconds for the tests of one fault.")] = 300,
) -> None:
    """Plant N faults in a module and print those that its tests do not notice."""
    path = Path(module).with_suffix(".py")
    if not (SOURCE / path).is_file():
        raise typer.BadParameter(f"there is no {path} in src/dm_utils", param_hint="MODULE")
    chosen = tests or default_tests(path)
    source = (SOURCE / path).read_text()
    import pandas  # noqa: F401 - loaded once, before the processes that need them
    import torch  # noqa: F401

    if noticed(path, source, chosen, limit):
        raise typer.BadParameter(f"{', '.join(chosen)} fail without any fault", param_hint="--tests")
    found = list(faults(source))
    drawn = sorted(random.Random(seed).sample(found, min(n, len(found))), key=lambda fault: fault[0])
    survivors = 0
    for line, before, after, mutant in drawn:
        if not noticed(path, mutant, chosen, limit):
            survivors += 1
            typer.echo(f"{path}:{line}: {before.splitlines()[0][:100]}  ->  {after.splitlines()[0][:100]}")
    typer.echo(f"{len(drawn) - survivors} of {len(drawn)} faults noticed ({len(found)} could be planted)")


if __name__ == "__main__":
    typer.run(main)
