"""What CONTRIBUTING says was attacked is what the tests attack."""

import sys

import pytest
from demo import ROOT
from hostile import HOSTILE

sys.path += [str(ROOT / f"tests/{folder}") for folder in ("book", "engine")]

import test_parameters
import test_secrets
import test_store_attacks

LOGIN = 1  # the token that `hf auth login` keeps
FIGURES = {
    "sets of parameters": test_parameters.N_SETS,
    "corruptions": test_store_attacks.N_CORRUPTIONS,
    "writers of the store killed": test_store_attacks.N_KILLS,
    "hostile names": len(HOSTILE),
    "secrets": len(test_secrets.CANARIES) + LOGIN,
}


@pytest.mark.parametrize("attack", FIGURES)
def test_the_table_of_attacks_has_the_figures_of_the_tests(attack):
    rows = [line.split("|") for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if line.startswith("| ")]
    (row,) = [row for row in rows if row[1].strip().startswith(attack)]
    assert int(row[2]) == FIGURES[attack]
