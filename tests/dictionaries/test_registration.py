"""What only this package knows how to load is known to SAELens as soon as a study or `decompose_sae` is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

DOORS = ("decompose_sae", "Study")
CODE = """
import os, sys
import transformer_lens  # and SAELens' registry: once, before each door is tried in a process of its own
from sae_lens.registry import get_sae_class

for name in sys.argv[1:]:
    if not (child := os.fork()):
        import dm_utils
        getattr(dm_utils, name)
        print(name, get_sae_class("itda"), get_sae_class("top_afa"), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def said() -> str:
    """What processes that ask for one door each find in the registry."""
    return subprocess.run([sys.executable, "-c", CODE, *DOORS], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("name", DOORS)
def test_the_door_registers(name: str, said: str) -> None:
    (line,) = [line for line in said.splitlines() if line.startswith(name)]
    assert "ITDASAE" in line and "TopAFASAE" in line
