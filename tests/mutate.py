"""Plant faults in modules, one at a time, and see whether the tests notice: ``make mutate MODULE=maths/regression``.

A fault changes one place: a comparison, an operator, a constant, a condition, an argument, an element of a key; a call or a refusal
that goes (`faults.py`). The tests that concern a module run once without a fault, which tells the lines that each of them reaches;
then, for each fault, those that reach its line, the quickest first, until one fails. They run on a copy of the package, each time in a
process forked from one that has loaded the libraries. A survivor is a missing test, or code that could go, or a change that alters
nothing: say which.
"""

from __future__ import annotations

import compileall
import gc
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from faults import Fault, faults, plant

ROOT = Path(__file__).resolve().parents[1]
TESTS, PACKAGE = ROOT / "tests", "dm_utils"
SOURCE = ROOT / "src" / PACKAGE
LIBRARIES = (
    *("coverage", "torch", "pandas", "altair", "sae_lens", "transformer_lens", "scipy.stats", "sklearn.linear_model"),
    *("playwright.sync_api", "hypothesis.strategies", "anyio.pytest_plugin", "jaxtyping"),
)
OPTIONS = ["-x", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:random_order", "-n0"]
SURVIVED = "SURVIVED"
Reached = dict[str, tuple[float, list[int]]]  # of each test: its seconds, and the lines of the module that it runs


class Watch:
    """Notes of each test how long it takes and which lines of a module it runs."""

    def __init__(self, module: Path):
        import coverage

        self.module, self.seconds = str(module), dict[str, float]()
        self.coverage = coverage.Coverage(data_file=None, include=[self.module], config_file=False, messages=False)
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        """One test, its fixtures included."""
        self.coverage.switch_context(item.nodeid)
        started = time.monotonic()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.monotonic() - started
            self.coverage.switch_context("")

    def reached(self) -> Reached:
        """What was noted."""
        self.coverage.stop()
        lines: dict[str, list[int]] = {name: [] for name in self.seconds}
        for line, contexts in self.coverage.get_data().contexts_by_lineno(self.module).items():
            for name in set(contexts) & set(lines):
                lines[name].append(line)
        return {name: (self.seconds[name], lines[name]) for name in lines}


class Choose:
    """Runs chosen tests only, in their order."""

    def __init__(self, names: list[str]):
        self.order = {name: at for at, name in enumerate(names)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Drop the others."""
        items[:] = sorted(
            (item for item in items if item.nodeid in self.order), key=lambda item: self.order[item.nodeid]
        )


def concerned(module: Path, wide: bool) -> list[Path]:
    """The test files that import a module, those of its own floor where there are some; else those that import its importers.

    `wide`: all of these.
    """
    name = ".".join([PACKAGE, *module.with_suffix("").parts])
    tests = sorted(TESTS.rglob("test_*.py"))
    importers = [path for path in SOURCE.rglob("*.py") if _names(path, name)]
    above = [".".join([PACKAGE, *path.relative_to(SOURCE).with_suffix("").parts]) for path in importers]
    direct = [path for path in tests if _names(path, name)]
    further = [path for path in tests if path not in direct and any(_names(path, other) for other in above)]
    if wide:
        return direct + further
    for found in (direct, further):
        if found:
            return [path for path in found if path.relative_to(TESTS).parts[0] == module.parts[0]] or found
    return []


def _names(path: Path, module: str) -> bool:
    """Whether a file imports a module, or names it in the text that a process of its own runs."""
    folder, _, stem = module.rpartition(".")
    source = path.read_text()
    lines = (line.split(" import ")[-1] for line in source.splitlines() if f"from {folder} import" in line)
    return module in source or any(stem in line for line in lines)


def forked(work: Callable[[], int], limit: float) -> int | None:
    """What a process of its own returns for some work, silently; None where the time ran out."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            code = work()
        finally:
            os._exit(code)
    ends = time.monotonic() + limit
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def reach(module: Path, files: Iterable[Path], limit: float) -> Reached:
    """Run the tests on the module as it is. Raises RuntimeError where one fails."""
    with tempfile.NamedTemporaryFile(suffix=".json") as notes:

        def work() -> int:
            watch = Watch(module)
            code = pytest.main([*OPTIONS, *map(str, files)], plugins=[watch])
            Path(notes.name).write_text(json.dumps(watch.reached()))
            return int(code)

        code = forked(work, limit)
        found: Reached = json.loads(Path(notes.name).read_text() or "{}")
    if code != 0:
        last = f"; the last was {list(found)[-1]}" if found else ""
        raise RuntimeError(f"without any fault its tests {'take too long' if code is None else 'fail'}{last}")
    return found


def chosen(fault: Fault, reached: Reached, budget: float) -> list[str]:
    """The tests that reach a fault's line, the quickest first, as many as the budget of seconds allows and at least one."""
    there = sorted((seconds, name) for name, (seconds, lines) in reached.items() if fault.line in lines)
    there = there or sorted(
        (seconds, name) for name, (seconds, _) in reached.items()
    )  # only a process of its own gets there
    spent, names = 0.0, list[str]()
    for seconds, name in there:
        spent += seconds
        if names and spent > budget:
            break
        names.append(name)
    return names


def noticed(module: Path, source: str, fault: Fault, names: list[str], limit: float) -> bool:
    """Whether one of the tests fails with the fault in the module; a hang counts as failing."""
    files = list(dict.fromkeys(str(ROOT / name.split("::")[0]) for name in names))
    module.write_text(plant(source, fault))
    try:
        code = forked(lambda: int(pytest.main([*OPTIONS, *files], plugins=[Choose(names)])), limit)
    finally:
        module.write_text(source)
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise RuntimeError(f"the tests of line {fault.line} are not there any more: run it again")
    return code != 0


def copied(folder: Path) -> Path:
    """The package in a folder of its own, compiled, and first on the path of this process and of those that it starts."""
    shutil.copytree(SOURCE, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(folder / PACKAGE, quiet=2)
    sys.path[:0] = [str(folder), str(TESTS)]
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return folder / PACKAGE


def described(path: Path, fault: Fault) -> str:
    """A fault on one line, as a report has it: of long texts, where they part."""
    texts = [" ".join(text.split()) for text in (fault.before, fault.after)]
    apart = next((at for at, (one, other) in enumerate(zip(*texts, strict=False)) if one != other), 0)
    start = max(0, apart - 50) if len(texts[0]) > 110 else 0
    before, after = (text[start : start + 110] for text in texts)
    return f"{path}:{fault.line}  {before}  ->  {after}"


def examine(
    package: Path, path: Path, files: list[Path], n: int, seed: int, may: Callable[[str], bool], budget: float
) -> tuple[int, int]:
    """Plant a module's faults, of those that may be drawn, and print what became of each; how many, and how many were noticed."""
    module, source = package / path, (SOURCE / path).read_text()
    found = [fault for fault in faults(source) if may(described(path, fault))]
    drawn = random.Random(seed).sample(found, min(n, len(found)))
    if not drawn:
        return 0, 0
    if not files:
        raise RuntimeError("no test imports it; name some with --tests")
    started = time.monotonic()
    reached = reach(module, files, limit=1200)
    typer.echo(
        f"{path}: {len(found)} faults could be planted; {len(reached)} tests in {time.monotonic() - started:.0f} s"
    )
    compiled = module.parent / "__pycache__" / f"{module.stem}.{sys.implementation.cache_tag}.pyc"
    compiled.unlink(missing_ok=True)  # its stamp has whole seconds, and may stay the same from fault to fault
    count, started = 0, time.monotonic()
    for fault in sorted(drawn, key=lambda fault: fault.line):
        names = chosen(fault, reached, budget)
        known = noticed(module, source, fault, names, 60 + 5 * sum(reached[name][0] for name in names))
        count += known
        typer.echo(f"{'noticed ' if known else SURVIVED} {described(path, fault)}")
    typer.echo(
        f"{path}: {count} of {len(drawn)} noticed, {(time.monotonic() - started) / max(1, len(drawn)):.1f} s each"
    )
    return len(drawn), count


def main(
    modules: Annotated[list[str], typer.Argument(help="Below src/dm_utils, such as maths/regression.")],
    tests: Annotated[list[Path] | None, typer.Option(help="Test files, instead of those that import a module.")] = None,
    n: Annotated[int, typer.Option(min=1, help="How many faults of each module, drawn at random.")] = 20,
    seed: Annotated[int, typer.Option(help="Which ones are drawn.")] = 0,
    line: Annotated[int | None, typer.Option(help="Only the faults of this line.")] = None,
    again: Annotated[Path | None, typer.Option(exists=True, help="Only those that survived in this report.")] = None,
    new: Annotated[Path | None, typer.Option(exists=True, help="Only those that this report does not name.")] = None,
    wide: Annotated[
        bool, typer.Option(help="All tests that import a module or what imports it, on every floor.")
    ] = False,
    budget: Annotated[float, typer.Option(min=1, help="Seconds of tests that a fault may take.")] = 60,
) -> None:
    """Plant N faults in each module and print which of them the tests do not notice."""
    paths = [Path(name).with_suffix(".py") for name in modules]
    for path in paths:
        if not (SOURCE / path).is_file():
            raise typer.BadParameter(f"there is no {path} in src/{PACKAGE}", param_hint="MODULES")
    old = {row[9:] for row in new.read_text().splitlines()} if new else set[str]()
    failed = {row[9:] for row in again.read_text().splitlines() if row.startswith(SURVIVED)} if again else None

    def may(fault: str) -> bool:
        right = line is None or f":{line}  " in fault
        return right and fault not in old and (failed is None or fault in failed)

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: forks and threads do not mix
    for missing in [path for path in tests or [] if not path.exists()]:
        raise typer.BadParameter(f"there is no {missing}", param_hint="--tests")
    with tempfile.TemporaryDirectory() as folder:
        package = copied(Path(folder))
        for library in LIBRARIES:
            importlib.import_module(library)
        gc.freeze()  # the children need not look through all that once more
        planted = known = 0
        for path in paths:
            try:
                drawn, count = examine(package, path, tests or concerned(path, wide), n, seed, may, budget)
            except RuntimeError as error:
                typer.echo(f"{path}: {error}", err=True)
                continue
            planted, known = planted + drawn, known + count
    typer.echo(f"{known} of {planted} faults noticed")


if __name__ == "__main__":
    typer.run(main)
