"""Build the book: execute every chapter through papermill, then turn pages and executed chapters into a site."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

FACE_ONLY = {"book/build.py", "book/cli.py", "charts/static/draw_charts.js"}  # what no chapter's result depends on
LAST = {"results", "scoreboard"}  # pages about the other chapters' results, and about the published ones


class BuildError(RuntimeError):
    """The book cannot be built; the message says why and what to do."""


@dataclass(frozen=True)
class Layout:
    """Where everything is, from the root of the checkout and the profile that is built."""

    root: Path
    profile: str = "lab"

    @classmethod
    def find(cls, profile: str = "lab", start: Path | None = None) -> Layout:
        """Find the checkout that holds the working directory."""
        start = (start or Path.cwd()).resolve()
        for folder in (start, *start.parents):
            if (folder / "_config.yml").exists() and (folder / "book/_toc.yml").exists():
                return cls(folder, profile)
        raise BuildError(f"{start} is not inside a checkout of the book: no _config.yml and book/_toc.yml above it")

    @property
    def build(self) -> Path:
        """Everything that is generated."""
        return self.root / "_build"

    @property
    def executed(self) -> Path:
        """Executed copies of the chapters under this profile, their keys and their tables."""
        return self.build / "executed" / self.profile

    @property
    def store(self) -> Path:
        """Measurements that chapters share."""
        return self.build / "store"

    @property
    def source(self) -> Path:
        """What Sphinx reads: the book's pages and the executed chapters."""
        return self.build / "source"

    @property
    def html(self) -> Path:
        """The built site."""
        return self.build / "html"


def chapters(layout: Layout) -> list[str]:
    """Return the chapters in reading order, as ``book/_toc.yml`` lists them.

    Raises
    ------
    BuildError
        If the list and the folder of notebooks disagree.
    """
    toc = yaml.safe_load((layout.root / "book/_toc.yml").read_text())
    files = [toc["root"], *(entry["file"] for part in toc["parts"] for entry in part["chapters"])]
    listed = [name.removeprefix("notebooks/") for name in files if name.startswith("notebooks/")]
    present = {path.stem for path in (layout.root / "notebooks").glob("*.ipynb")}
    if set(listed) != present:
        raise BuildError(
            f"book/_toc.yml and notebooks/ disagree; only in the list: {sorted(set(listed) - present)}, "
            f"only in the folder: {sorted(present - set(listed))}"
        )
    return listed


def digest(*parts: bytes) -> str:
    """Return a short content hash."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def shared_key(layout: Layout) -> str:
    """Hash what every chapter's result depends on: the package, the lab's weights, the lock and the Python version.

    What only one chapter imports, its own folder, counts for that chapter alone.
    """
    found = source_files(layout.root / "src/dm_utils")
    common = [name for name in found if not name.startswith(("chapters/", "book/results/")) and name not in FACE_ONLY]
    contents = [name.encode() + found[name].read_bytes() for name in common]
    lock = (layout.root / "requirements.lock").read_bytes()
    return digest(*contents, lock, f"{sys.version_info[:2]}".encode())


def source_files(folder: Path) -> dict[str, Path]:
    """The source under a folder, by relative name: code, scripts, styles and records."""
    paths = [path for kind in ("*.py", "*.js", "*.css", "*.json") for path in sorted(folder.rglob(kind))]
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


def execute(notebook: Path, target: Path, parameters: Mapping[str, Any], bar: int = 0) -> float:
    """Execute one notebook through papermill into ``target`` in one step; return the seconds that it took.

    Raises
    ------
    BuildError
        With the failing cell and its error; the partly executed copy stays beside the target for inspection.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".running.ipynb")
    options: dict[str, Any] = {"kernel_name": "python3", "cwd": str(notebook.parents[1]), "start_timeout": 120}
    options["progress_bar"] = {"desc": notebook.stem, "position": bar, "leave": False, "mininterval": 1}
    options["extra_arguments"] = ["--IPKernelApp.log_level=ERROR"]
    start = time.monotonic()
    try:
        papermill.execute_notebook(str(notebook), str(fresh), dict(parameters), **options)
    except PapermillExecutionError as error:
        failed = target.with_suffix(".failed.ipynb")
        os.replace(fresh, failed)
        raise BuildError(
            f"{notebook.stem} failed in cell {error.cell_index}:\n\n{error.source}\n\n{error.ename}: {error.evalue}\n"
            f"(the copy with the whole traceback: {failed})"
        ) from None
    fresh.write_text(json.dumps(for_reading(json.loads(fresh.read_text())), indent=1, ensure_ascii=False))
    os.replace(fresh, target)
    return time.monotonic() - start


def is_current(record: Path, key: str) -> bool:
    """Whether a chapter's stored copy has this key and everything that it wrote is still there."""
    try:
        stored = json.loads(record.read_text())
        files = [record.with_suffix(".ipynb"), *(record.parent / path for path in stored["tables"])]
        return stored["key"] == key and all(path.exists() for path in files)
    except (OSError, ValueError, KeyError):
        return False


def refresh(layout: Layout, name: str, parameters: Mapping[str, Any], shared: str, slots: list[int]) -> str:
    """Execute a chapter unless its stored copy is current; return a line that says which."""
    notebook, target = layout.root / f"notebooks/{name}.ipynb", layout.executed / f"{name}.ipynb"
    record = target.with_suffix(".json")
    key = chapter_key(notebook, parameters, shared)
    if is_current(record, key):
        return f"{name}: unchanged"
    record.unlink(missing_ok=True)
    slot = slots.pop()
    seconds = execute(notebook, target, parameters, slot)
    slots.append(slot)
    written = [*layout.executed.glob(f"tables/{name}*.csv"), *layout.executed.glob(f"tables/{name}/*")]
    tables = [path.relative_to(layout.executed).as_posix() for path in written]
    fresh = record.with_suffix(".tmp")
    fresh.write_text(json.dumps({"key": key, "seconds": round(seconds, 1), "tables": tables}))
    os.replace(fresh, record)
    return f"{name}: executed in {seconds:.0f} s"


def execute_chapters(layout: Layout, parameters: Mapping[str, Any], jobs: int = 1) -> None:
    """Bring every chapter's executed copy up to date, with a bar for each running chapter and one for all."""
    names, shared = chapters(layout), shared_key(layout)
    slots = list(range(jobs, 0, -1))
    work = partial(refresh, layout, parameters=parameters, slots=slots)
    with (
        kernel_environment(layout.executed / "tables", layout.store, jobs),
        tqdm(total=len(names), desc="chapters", unit="chapter", position=0) as overall,
        ThreadPoolExecutor(jobs) as pool,
    ):
        try:
            for last in (False, True):
                key = digest(shared.encode(), results_key(layout).encode()) if last else shared
                pending = [pool.submit(work, name, shared=key) for name in names if (name in LAST) == last]
                for done in as_completed(pending):
                    overall.write(done.result())
                    overall.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def results_key(layout: Layout) -> str:
    """Hash what the pages of `LAST` show: the chapters' tables of this build, and the published files."""
    tables = [path for path in sorted((layout.executed / "tables").glob("*.csv")) if path.stem not in LAST]
    published = sorted((layout.root / "src/dm_utils/book/results").glob("*.json"))
    return digest(*(path.name.encode() + path.read_bytes() for path in [*tables, *published]))


def stage(layout: Layout) -> None:
    """Lay out what Sphinx reads, touching only what changed so that Sphinx rereads only that."""
    wanted = {path.relative_to(layout.root / "book"): path for path in sorted((layout.root / "book").rglob("*"))}
    wanted = {name: path for name, path in wanted.items() if path.is_file() and name.parts[0] != "_ext"}
    wanted |= {Path(f"notebooks/{name}.ipynb"): layout.executed / f"{name}.ipynb" for name in chapters(layout)}
    tables = [path for kind in ("*.csv", "*/*") for path in (layout.executed / "tables").glob(kind)]
    wanted |= {Path("_extra") / path.relative_to(layout.executed): path for path in tables}
    (layout.source / "_extra").mkdir(parents=True, exist_ok=True)
    for name, path in wanted.items():
        target = layout.source / name
        if not target.exists() or target.read_bytes() != path.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for path in [path for path in layout.source.rglob("*") if path.is_file()]:
        if path.relative_to(layout.source) not in wanted:
            path.unlink()


def build_site(layout: Layout) -> None:
    """Turn the staged pages into ``_build/html``; any warning stops the build."""
    stage(layout)
    config = [
        layout.root / "_config.yml",
        layout.root / "book/_toc.yml",
        layout.root / "src/dm_utils/charts/static/draw_charts.js",
        *sorted(path for name in ("_ext", "_templates") for path in (layout.root / "book" / name).rglob("*.*")),
    ]
    key, stamp = digest(*[path.read_bytes() for path in config]), layout.build / "site.key"
    if not stamp.exists() or stamp.read_text() != key:
        for folder in (layout.html, layout.build / ".doctrees"):
            shutil.rmtree(folder, ignore_errors=True)
    stamp.unlink(missing_ok=True)  # a build that fails leaves no stamp, so the next one starts afresh
    program = str(Path(sys.executable).with_name("jupyter-book"))
    command = [program, "build", str(layout.source), "--path-output", str(layout.root)]
    command += ["--config", str(layout.root / "_config.yml"), "--toc", str(layout.source / "_toc.yml")]
    command += ["-W", "--keep-going", "-n", "-q"]
    environment = {"DM_ASSETS": str(layout.build / "assets")} | os.environ
    if subprocess.run(command, cwd=layout.root, env=environment, check=False).returncode:
        raise BuildError("Sphinx reported warnings or errors, shown above; the book is built with warnings as errors")
    stamp.write_text(key)


def build_book(profile: str = "lab", parameters: Mapping[str, Any] | None = None, jobs: int = 1) -> Path:
    """Execute what changed, build the site and return its folder."""
    layout = Layout.find(profile)
    injected = dict(parameters or {}) | ({} if profile == "lab" else {"profile": profile})
    execute_chapters(layout, injected, jobs)
    build_site(layout)
    return layout.html
