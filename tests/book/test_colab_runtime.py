"""A chapter in a clean runtime that imitates Colab's. Minutes, and a package registry: `make test ARGS="-m colab"`."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import papermill
import pytest
from demo import ROOT

from dm_utils.book import colab

pytestmark = [pytest.mark.colab, pytest.mark.timeout(3000)]
PREINSTALLED = [
    "torch",
    "numpy<2.3",
    "pandas<3",
    "matplotlib",
    "ipykernel",
]  # as Colab: torch and numpy of its own choice
STUB = """\
class _Drive:
    def mount(self, *_):
        raise AssertionError("a notebook mounts nothing")


drive = _Drive()
"""


def run(*command: str | Path) -> str:
    """What a command prints; its failure is the test's."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with torch, numpy, ipykernel and `google.colab`, and nothing of the book."""
    folder = tmp_path_factory.mktemp("runtime")
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PREINSTALLED)
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (packages / "google/colab").mkdir(parents=True)
    (packages / "google/colab/__init__.py").write_text(STUB)
    kernel = folder / "share/jupyter/kernels/colab"
    kernel.mkdir(parents=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Colab", "language": "python"}))
    return python


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the repository's archive, laid out as GitHub does and served by this machine."""
    folder = tmp_path_factory.mktemp("archive")
    files = run("git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    with zipfile.ZipFile(folder / "main.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as pack:
        for name in filter(None, files):
            if (ROOT / name).is_file():
                pack.write(ROOT / name, f"dark-matter-book-main/{name}")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/main.zip"
        server.shutdown()


def fingerprint(python: Path) -> dict[str, str]:
    """The version and the digest of the list of files of the packages that are never touched."""
    program = (
        "import importlib.metadata as m, json\n"
        f"print(json.dumps([[n, m.version(n), m.distribution(n).read_text('RECORD')] for n in {colab.KEPT!r}]))"
    )
    found = json.loads(run(python, "-c", program))
    return {name: f"{version} {hashlib.sha256(files.encode()).hexdigest()}" for name, version, files in found}


def test_a_chapter_runs_from_its_launch_button(
    runtime: Path, archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = (ROOT / "notebooks/03_notation.ipynb").read_text()
    assert notebook.count(colab.ARCHIVE) == 1
    (tmp_path / "chapter.ipynb").write_text(notebook.replace(colab.ARCHIVE, archive))
    for name in [name for name in os.environ if name.startswith(("DM_", "PYTHONPATH", "VIRTUAL_ENV"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("JUPYTER_PATH", str(runtime.parents[1] / "share/jupyter"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the lab comes with the package
    before = fingerprint(runtime)
    papermill.execute_notebook(
        str(tmp_path / "chapter.ipynb"),
        str(tmp_path / "out.ipynb"),
        {"n_contexts": 24},
        kernel_name="colab",
        cwd=str(tmp_path),
        progress_bar=False,
    )
    assert fingerprint(runtime) == before
    said = (tmp_path / "out.ipynb").read_text()
    assert "No GPU. The default profile here is 'lab'" in said
    assert "restart the session" not in said
    installed = {one["name"] for one in json.loads(run(runtime, "-m", "pip", "list", "--format=json"))}
    assert "dm-utils" in installed
    assert not {"jupyter-book", "Sphinx", "myst-nb"} & installed, "no cell depends on Jupyter Book"
    rows = pd.read_csv(tmp_path / "tables/03_notation.csv")
    assert {"l0", "fvu"} <= set(rows["metric"])
