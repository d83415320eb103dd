"""Execute every chapter through papermill, once per content: a key of all that a result depends on stands beside it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import as_completed
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from dm_utils.base import secrets
from dm_utils.base.errors import BuildError, Stopped, require
from dm_utils.book import execution, parameters
from dm_utils.book.execution import Kernels
from dm_utils.book.layout import Layout, chapters
from dm_utils.engine.store import Store

FACE_ONLY = {
    f"book/{name}.py" for name in ("build", "cli", "execution", "layout", "site")
}  # what no chapter's result depends on
FACE_ONLY |= {"charts/static/draw_charts.js"}
RUNNING = ".running.ipynb"  # how the name of a copy ends while its chapter runs, after the process that runs it
LAST = {"results", "scoreboard"}  # pages about the other chapters' results, and about the published ones


def digest(*parts: bytes) -> str:
    """Return a short content hash."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def shared_key(layout: Layout) -> str:
    """Hash what every chapter's result depends on: the package, its tables, the lab's weights, the lock and the Python version.

    What only one chapter imports, its own folder, counts for that chapter alone.
    """
    found = source_files(layout.root / "src/dm_utils")
    common = [name for name in found if not name.startswith(("chapters/", "book/results/")) and name not in FACE_ONLY]
    contents = [name.encode() + found[name].read_bytes() for name in common]
    contents += [path.read_bytes() for path in sorted((layout.root / "benchmarks/results").glob("*.csv"))]
    lock = (layout.root / "requirements.lock").read_bytes()
    return digest(*contents, lock, f"{sys.version_info[:2]}".encode())


def source_files(folder: Path) -> dict[str, Path]:
    """The source under a folder, by relative name: code, scripts, styles, records and tables."""
    paths = [path for kind in ("*.py", "*.js", "*.css", "*.json", "*.csv") for path in sorted(folder.rglob(kind))]
    return {path.relative_to(folder).as_posix(): path for path in paths}


def own_folder(stem: str) -> str:
    """The folder of a chapter's own code: the notebook's name, with an s before a digit."""
    return f"s{stem}" if stem[0].isdigit() else stem


def chapter_key(notebook: Path, parameters: Mapping[str, Any], shared: str) -> str:
    """Hash what one chapter's result depends on; stored outputs do not count."""
    own = source_files(notebook.parents[1] / "src/dm_utils/chapters" / own_folder(notebook.stem))
    code = [name.encode() + path.read_bytes() for name, path in own.items()]
    cells = json.loads(notebook.read_text())["cells"]
    source = [(cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in cells]
    return digest(json.dumps([source, dict(parameters)], sort_keys=True).encode(), shared.encode(), *code)


@contextlib.contextmanager
def kernel_environment(tables: Path, store: Path, jobs: int) -> Iterator[None]:
    """Set what kernels inherit: where tables and results go, threads per chapter, no progress bars in the pages."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    fresh = {"DM_TABLES": str(tables), "DM_BOOK": "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": threads}
    fresh |= {"DM_STORE": os.environ.get("DM_STORE", str(store))}
    fresh |= dict.fromkeys(("NO_PROXY", "no_proxy"), secrets.loopback_is_direct())
    fresh |= {"TOKENIZERS_PARALLELISM": "false", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    # Threads that wait by spinning take the processor from each other wherever chapters, or anything else, share it.
    fresh |= {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    before = {name: os.environ.get(name) for name in fresh}
    os.environ.update(fresh)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def for_reading(notebook: dict[str, Any]) -> dict[str, Any]:
    """Fold the code away, except the parameters and what is tagged ``open``; forget this machine's paths and the time."""
    notebook["metadata"].pop("papermill", None)
    for cell in notebook["cells"]:
        cell["metadata"] = {"tags": cell["metadata"].get("tags", [])}
        settled = any("parameters" in tag or tag in ("open", "remove-cell") for tag in cell["metadata"]["tags"])
        if cell["cell_type"] == "code" and not settled:
            cell["metadata"]["tags"].append("hide-input")
    return notebook


def execute(
    notebook: Path,
    target: Path,
    values: Mapping[str, Any],
    bar: int = 0,
    kernels: Kernels | None = None,
    timeout: int | None = None,
) -> float:
    """Execute one notebook through papermill into ``target`` in one step; return the seconds that it took.

    Raises
    ------
    BuildError
        With the failing cell and its error; the partly executed copy stays beside the target for inspection.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, failed = target.with_suffix(f".{os.getpid()}{RUNNING}"), target.with_suffix(".failed.ipynb")
    options: dict[str, Any] = {"desc": notebook.stem, "position": bar, "leave": False, "mininterval": 1}
    start = time.monotonic()
    try:
        execution.run(notebook, fresh, values, kernels or Kernels(), progress_bar=options, execution_timeout=timeout)
        fresh.write_text(json.dumps(for_reading(json.loads(fresh.read_text())), indent=1, ensure_ascii=False))
        os.replace(fresh, target)
    except Stopped:
        raise
    except BuildError as error:
        if fresh.exists():
            os.replace(fresh, failed)
        raise BuildError(f"{notebook.stem} {error}\n(the copy with the whole traceback: {failed})") from None
    finally:
        fresh.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    return time.monotonic() - start


def sweep(layout: Layout) -> None:
    """Remove what killed runs left half-written; what belongs to a process that lives stays."""
    for path in layout.build.glob(f"*/*/*{RUNNING}"):
        owner = path.name.removesuffix(RUNNING).rpartition(".")[2]
        if not (owner.isdigit() and psutil.pid_exists(int(owner))):
            path.unlink(missing_ok=True)
    shutil.rmtree(layout.build / "marked", ignore_errors=True)
    Store(os.environ.get("DM_STORE", layout.store)).sweep()


def is_current(record: Path, key: str) -> bool:
    """Whether a chapter's stored copy has this key and everything that it wrote is still there."""
    try:
        stored = json.loads(record.read_text())
        files = [record.with_suffix(".ipynb"), *(record.parent / path for path in stored["tables"])]
        return stored["key"] == key and all(path.exists() for path in files)
    except (OSError, ValueError, KeyError):
        return False


def refresh(
    layout: Layout, name: str, given: Mapping[str, Any], shared: str, run: Callable[..., float], slots: list[int]
) -> str:
    """Execute a chapter unless its stored copy is current; return a line that says which."""
    notebook, target = layout.root / f"notebooks/{name}.ipynb", layout.executed / f"{name}.ipynb"
    record = target.with_suffix(".json")
    key = chapter_key(notebook, given, shared)
    if is_current(record, key):
        return f"{name}: unchanged"
    record.unlink(missing_ok=True)
    slot = slots.pop()
    try:
        seconds = run(notebook, target, given, slot)
    finally:
        slots.append(slot)
    written = [*layout.executed.glob(f"tables/{name}*.csv"), *layout.executed.glob(f"tables/{name}/*")]
    tables = [path.relative_to(layout.executed).as_posix() for path in written]
    fresh = record.with_suffix(".tmp")
    fresh.write_text(json.dumps({"key": key, "seconds": round(seconds, 1), "tables": tables}))
    os.replace(fresh, record)
    return f"{name}: executed in {seconds:.0f} s"


def shares(layout: Layout, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The parameters for each chapter: those of the given ones that it takes, read by its own types and checked.

    Raises
    ------
    ParameterError : a value that a chapter refuses, or a name that no chapter takes.
    """
    taken = {name: parameters.takes(layout.root / f"notebooks/{name}.ipynb") for name in chapters(layout)}
    for name in given:
        require(name, sorted({name for one in taken.values() for name in one.allowed}), "parameter")
    return {
        name: parameters.read(one, {key: value for key, value in given.items() if key in one.allowed})
        for name, one in taken.items()
    }


def execute_chapters(
    layout: Layout, given: Mapping[str, Any], jobs: int = 1, timeout: int | None = None
) -> dict[str, str]:
    """Bring every chapter's executed copy up to date; return those that failed, with one line each that says why.

    Parameters are checked for all chapters before the first one runs. A chapter that fails stops no other.
    """
    mine, shared, failed = shares(layout, given), shared_key(layout), {}
    sweep(layout)
    with (
        kernel_environment(layout.executed / "tables", layout.store, jobs),
        tqdm(total=len(mine), desc="chapters", unit="chapter", position=0) as overall,
        execution.workers(jobs) as (pool, kernels),
    ):
        run = partial(execute, kernels=kernels, timeout=timeout)
        work = partial(refresh, layout, run=run, slots=list(range(jobs, 0, -1)))
        for last in (False, True):
            key = digest(shared.encode(), results_key(layout).encode()) if last else shared
            names = [name for name in mine if (name in LAST) == last]
            pending = {pool.submit(work, name, mine[name], key): name for name in names}
            for done in as_completed(pending):
                try:
                    line = done.result()
                except BuildError as error:
                    line = failed[pending[done]] = str(error).splitlines()[0]
                overall.write(line)
                overall.update()
    return failed


def results_key(layout: Layout) -> str:
    """Hash what the pages of `LAST` show: the chapters' tables of this build, and the published files."""
    tables = [path for path in sorted((layout.executed / "tables").glob("*.csv")) if path.stem not in LAST]
    published = sorted((layout.root / "src/dm_utils/book/results").glob("*.parquet"))
    return digest(*(path.name.encode() + path.read_bytes() for path in [*tables, *published]))
