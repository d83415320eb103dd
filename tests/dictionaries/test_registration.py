"""What only this package knows how to load is known to SAELens as soon as a study or `decompose_sae` is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = "import dm_utils as dm; dm.{name}; from sae_lens.registry import get_sae_class as find; print(find('itda'), find('top_afa'))"


@pytest.mark.parametrize("name", ["decompose_sae", "Study"])
def test_the_door_registers(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", CODE.format(name=name)], capture_output=True, text=True, check=False)
    assert "ITDASAE" in done.stdout, done.stderr
    assert "TopAFASAE" in done.stdout
