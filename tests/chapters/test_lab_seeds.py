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


def test_saes_that_say_their_seed_are_measured_and_those_that_say_none_are_not(tmp_path, monkeypatch):
    from dm_utils.engine.store import Store
    from dm_utils.engine.study import Study

    for name in ("resid_4_topk_512_l0_4", "resid_4_topk_512_l0_4_seed_1"):
        shutil.copytree(weights_path() / "saes" / "resid_4_topk_512_l0_4", tmp_path / name)
    small = {"n_contexts": 24, "n_bootstrap": 100}
    monkeypatch.setattr(
        seeds, "Study", lambda profile: Study(profile.with_overrides(**small), Store(tmp_path / "store"))
    )
    table = seeds.measure(tmp_path)
    assert table[["sae_id", "seed", "d_sae"]].to_numpy().tolist() == [["resid_4_topk_512_l0_4_seed_1", 1, 512]]
    ends = [f"{metric}{end}" for metric in seeds.METRICS for end in ("", "_low", "_high")]
    assert list(table.columns) == ["sae_id", "seed", "d_sae", "l0", "dead_fraction", *ends]
    assert (table[ends].round(6) == table[ends]).all().all() and table[ends].notna().all().all()


def test_the_shipped_saes_stand_beside_the_others_as_seed_zero():
    ends = {
        f"{metric}{end}": value for metric in seeds.METRICS for end, value in (("", 0.5), ("_low", 0.4), ("_high", 0.6))
    }
    headline = pd.DataFrame([{"sae_id": "a", "d_sae": 512} | ends])
    others = pd.DataFrame(
        [{"sae_id": "b", "seed": 2, "d_sae": 512} | {name: 2 * value for name, value in ends.items()}]
    )
    table = seeds.beside(headline, others)
    assert len(table) == 2 * len(seeds.METRICS) and set(table["metric"]) == set(seeds.METRICS)
    fvu = table[table["metric"] == "fvu"]
    assert fvu[["sae_id", "seed", "d_sae", "value", "low", "high"]].to_numpy().tolist() == [
        ["a", 0, 512, 0.5, 0.4, 0.6],
        ["b", 2, 512, 1.0, 0.8, 1.2],
    ]
