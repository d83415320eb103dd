"""Seeds of the headline SAEs: which steps in width are apart in both, and what the shipped table holds."""

import shutil

import pandas as pd
import pytest

from dm_utils.base.errors import ParameterError
from dm_utils.chapters.lab_model import findings, seeds
from dm_utils.lab import suite, weights_path


def rows(wide: float, half: float = 0.01) -> pd.DataFrame:
    """Two widths of two seeds: 0.50 and 0.52 at the narrow one, `wide` and 0.02 more at the other, intervals of ± `half`."""
    values = [(512, 0, 0.5), (512, 1, 0.52), (1024, 0, wide), (1024, 1, wide + 0.02)]
    table = pd.DataFrame(values, columns=["d_sae", "seed", "value"]).assign(metric="fvu")
    return table.assign(low=table["value"] - half, high=table["value"] + half)


@pytest.mark.parametrize(("wide", "apart"), [(0.44, 1), (0.461, 0), (0.48, 0), (0.56, 1), (0.539, 0)])
def test_widths_are_apart_in_both_only_where_every_seed_and_interval_is(wide, apart):
    said = findings.over_seeds(rows(wide), "fvu")
    assert f"{apart} of 1 steps" in said
    assert "at most 0.0200 between seeds" in said and "0.0200 wide on average" in said


def test_a_folder_without_other_seeds_is_refused(tmp_path):
    shutil.copytree(weights_path() / "saes" / "resid_4_topk_512_l0_4", tmp_path / "resid_4_topk_512_l0_4")
    with pytest.raises(ParameterError, match="holds no SAE of another seed at layer 4"):
        seeds.measure(tmp_path)


def test_the_shipped_table_holds_two_more_seeds_of_every_headline_sae():
    table = seeds.shipped()
    assert sorted(table["sae_id"]) == sorted(spec.id for spec in suite.reseeded(3))
    assert (table["l0"] - 4).abs().max() < 0.4
    for metric in seeds.METRICS:
        assert (table[f"{metric}_low"] < table[metric]).all() and (table[metric] < table[f"{metric}_high"]).all()
