"""Run one notebook in a kernel of its own, so that it ends: by finishing, by an error, by a time limit, or by Ctrl-C.

Nothing that a kernel says reaches a file before the secrets are out of it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.execute import execute_notebook
from traitlets.config import Config

from dm_utils.base.errors import BuildError, Stopped, shown
from dm_utils.base.secrets import redact, redact_all
from dm_utils.book import parameters as checks

LATE = 300  # s after a cell's end within which its outputs must have arrived; a busy machine is slow with large ones


class Kernels:
    """The kernels that run now, so that all of them can be ended at once."""

    def __init__(self) -> None:
        self.running: dict[int, Any] = {}
        self.stopped = threading.Event()

    def add(self, manager: Any) -> None:
        """Note a kernel that was started; one that comes after the end is ended at once."""
        self.running[id(manager)] = manager
        if self.stopped.is_set():
            self.end(manager)

    def remove(self, manager: Any) -> None:
        """Forget a kernel that is gone."""
        self.running.pop(id(manager), None)

    @staticmethod
    def end(manager: Any) -> None:
        """Kill a kernel and what it started: a kernel leads a process group of its own."""
        process = getattr(manager.provisioner, "process", None)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if process is not None:
                os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()

    def stop(self) -> None:
        """End every kernel, and every one that is about to start."""
        self.stopped.set()
        for manager in list(self.running.values()):
            self.end(manager)


class Client(PapermillNotebookClient):
    """papermill's client with a register of kernels, secrets taken out of messages, and `exit()` as the failure it is."""

    def __init__(self, *given: Any, kernels: Kernels, **options: Any) -> None:
        super().__init__(*given, **options)
        self.kernels, self.at = kernels, 0

    def execute(self, **options: Any) -> Any:
        """Run the notebook unless the run was stopped before; the kernel is gone afterwards, however it ends."""
        if self.kernels.stopped.is_set():
            raise Stopped("stopped before it started")
        manager = self.km = self.create_kernel_manager()
        try:
            return super().execute(cleanup_kc=True, **options)
        finally:
            self.kernels.end(manager)
            self.kernels.remove(manager)

    def start_new_kernel(self, **options: Any) -> None:
        """Start the kernel and note it."""
        super().start_new_kernel(**options)
        self.kernels.add(self.km)

    def execute_cell(self, cell: Any, cell_index: int, **options: Any) -> Any:
        """Run one cell, remembering which."""
        self.at = cell_index
        return super().execute_cell(cell, cell_index, **options)

    async def _check_raise_for_error(self, cell: Any, cell_index: int, reply: Any) -> None:
        said = (reply or {}).get("content", {})
        asked = any(one.get("source") == "ask_exit" for one in said.get("payload", []))
        if asked or said.get("ename") == "SystemExit":
            raise BuildError(f"failed: cell {cell_index} left the kernel (`exit()`); a chapter runs to its end")
        await super()._check_raise_for_error(cell, cell_index, reply)

    def process_message(self, message: Any, *given: Any, **options: Any) -> Any:
        """Take the secrets out of what the kernel says before it becomes an output."""
        return super().process_message(message | {"content": redact_all(message["content"])}, *given, **options)


class Engine(NBClientEngine):
    """papermill's engine with the client above."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        """Run a notebook that papermill manages."""
        timeouts = {"timeout": options.get("execution_timeout"), "startup_timeout": options["start_timeout"]}
        timeouts |= {"iopub_timeout": LATE, "raise_on_iopub_timeout": True}  # by default, late outputs are lost
        given = {name: options[name] for name in ("kernels", "config", "extra_arguments")}
        client = Client(nb_man, kernel_name=kernel_name, **given, **timeouts)
        try:
            return client.execute()
        except DeadKernelError:
            raise BuildError(
                f"failed: the kernel died in cell {client.at}, perhaps for lack of memory: fewer n_contexts, a smaller batch or a "
                "narrower SAE need less (`dm profiles`)"
            ) from None
        except CellTimeoutError as error:
            if "IOPub" in str(error):
                raise BuildError(f"failed: the outputs of cell {client.at} did not arrive within {LATE} s") from None
            raise BuildError(f"failed: cell {client.at} took longer than {options['execution_timeout']} s") from None


papermill_engines.register("dm", Engine)


@contextlib.contextmanager
def workers(jobs: int) -> Iterator[tuple[ThreadPoolExecutor, Kernels]]:
    """Threads that run notebooks, and their kernels: all of them end with an interruption (Ctrl-C, SIGTERM) or an error.

    papermill changes the working directory of the whole process; threads that return to each other's leave it changed. It is put back.
    """
    kernels, before = Kernels(), None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.chdir("."), ThreadPoolExecutor(jobs) as pool:
            try:
                yield pool, kernels
            except BaseException:
                kernels.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def sockets() -> Iterator[Config]:
    """Channels of a kernel as files in a folder of its own: ports are chosen before they are taken, and can race."""
    with tempfile.TemporaryDirectory(prefix="dm-") as folder:
        yield Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/s"}})


@contextlib.contextmanager
def quiet_about(names: Collection[str]) -> Iterator[None]:
    """Without papermill's warning that a parameter is unknown, for these names: it does not know a profile's fields."""

    def said(record: logging.LogRecord) -> bool:
        return record.getMessage() not in {f"Passed unknown parameter: {name}" for name in names}

    log = logging.getLogger("papermill")
    log.addFilter(said)
    try:
        yield
    finally:
        log.removeFilter(said)


def run(notebook: Path, target: Path, parameters: Mapping[str, Any], kernels: Kernels, **options: Any) -> None:
    """Run a notebook into `target`, cell by cell.

    Raises
    ------
    BuildError : with the failing cell and its error, without secrets. `Stopped` where it was stopped from outside.
    """
    fixed = {"kernel_name": "python3", "cwd": str(notebook.parents[1]), "start_timeout": 120, "engine_name": "dm"}
    fixed["extra_arguments"] = ["--IPKernelApp.log_level=ERROR"]
    try:
        with sockets() as config, quiet_about(checks.takes(notebook).allowed):
            execute_notebook(
                str(notebook), str(target), dict(parameters), kernels=kernels, config=config, **fixed, **options
            )
    except PapermillExecutionError as error:
        said = redact(f"{error.ename}: {error.evalue}")
        raise BuildError(f"failed in cell {error.cell_index}: {said}\n\n{error.source}") from None
    except Exception as error:
        if kernels.stopped.is_set():
            raise Stopped("stopped") from None
        if isinstance(error, BuildError):
            raise
        raise BuildError(f"failed: {type(error).__name__}: {redact(shown(str(error)))}") from None
