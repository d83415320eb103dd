"""SAEs of other training lengths, on a tiny scale: trained once, measured as any SAE, and fitted as Section 4.3 does."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from dm_utils.base.errors import ParameterError
from dm_utils.chapters.s04_3_dark_matter import experiment, lengths
from dm_utils.engine.breakdown import fit_study
from dm_utils.engine.store import Store
from dm_utils.engine.study import Study
from dm_utils.lab import pipeline, read_manifest, suite, weights_path
from dm_utils.maths.resampling import Estimate
from dm_utils.world.profiles import load_profile

pytestmark = pytest.mark.filterwarnings("ignore")
TINY = replace(pipeline.fast_lab(), suite=tuple(f"resid_1_topk_{width}_l0_4" for width in (32, 64, 128, 256)))
SHIPPED = "resid_4_topk_512_l0_4"
SHORT = replace(TINY, saes=replace(TINY.saes, steps=30))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny lab whose SAEs were trained for 60 steps, and again for 30."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("lab")
    pipeline.train(folder, TINY, workers=1)
    lengths.train(folder, SHORT)
    return folder


def study_of(work: Path, folder: Path) -> Study:
    small = {"n_contexts": 24, "ctx_len": 64, "skip": 16, "n_bootstrap": 100, "batch": 8, "near_l0": 4}
    profile = load_profile("lab", model=str(work / "model"), releases=str(folder / "saes"), **small)
    return Study(profile, Store(work / "store"))


@pytest.fixture(scope="module")
def studies(work: Path) -> dict[int, Study]:
    return {30: study_of(work, lengths.folder_of(work, 30)), 60: study_of(work, work)}


def times(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("saes/*/sae_weights.safetensors")}


def test_what_is_there_is_not_trained_again_and_the_labs_own_saes_are_left_alone(work):
    folder, own = lengths.folder_of(work, 30), times(work)
    before = times(folder)
    assert set(before) == set(TINY.suite) == set(own)
    (folder / "reports" / f"{TINY.suite[1]}.json").unlink()  # as if it had been stopped there
    lengths.train(work, SHORT)
    after = times(folder)
    assert {name for name in after if after[name] != before[name]} == {TINY.suite[1]}
    assert times(work) == own


def test_every_sae_has_a_row_with_what_it_was_trained_on(studies):
    saes, _ = lengths.measured(studies, TINY)
    assert saes["sae_id"].tolist() == [*TINY.suite, *TINY.suite]
    assert (saes["tokens"] == saes["steps"] * TINY.saes.batch_tokens).all()
    shorter, longer = (saes.loc[saes["steps"] == n, "fvu"].to_numpy() for n in (30, 60))
    assert (shorter > longer).all(), "half of the training leaves more unexplained"


def test_the_constant_is_that_of_section_4_3_at_each_length(studies):
    _, found = lengths.measured(studies, TINY)
    assert found["steps"].tolist() == [30, 60]
    for (_, row), study in zip(found.iterrows(), studies.values(), strict=True):
        fit = fit_study(study, experiment.suites(study, "topk")[4])
        assert Estimate.read(row, "constant").columns() == pytest.approx(fit.fvu.constant.columns(), abs=1e-6)
        assert Estimate.read(row, "level").columns() == pytest.approx(fit.fvu_nonlinear_level.level.columns(), abs=1e-6)
    short, own = found.iloc[0], found.iloc[1]
    assert short["change"] == pytest.approx(short["constant"] - own["constant"], abs=2e-6)
    assert short["change_low"] <= short["change"] <= short["change_high"]
    assert pd.isna(own["change"])


def test_a_length_without_the_widest_sae_has_rows_and_no_constant(studies, work, tmp_path):
    (tmp_path / "saes").mkdir()
    for name in TINY.suite[:3]:
        (tmp_path / "saes" / name).symlink_to(lengths.folder_of(work, 30) / "saes" / name)
    fewer = study_of(work, tmp_path)
    saes, found = lengths.measured(studies | {20: fewer}, TINY)
    assert saes["steps"].value_counts().to_dict() == {20: 3, 30: 4, 60: 4}
    assert found["steps"].tolist() == [30, 60]
    with pytest.raises(ParameterError, match="no length beside the recipe's has every width"):
        lengths.measured({20: fewer, 60: studies[60]}, TINY)


def test_the_command_replaces_both_tables(studies, work, tmp_path, monkeypatch):
    import typer

    files = tmp_path / "saes.csv", tmp_path / "constants.csv"
    for name, value in {"SAES": files[0], "CONSTANTS": files[1], "studies_of": lambda *_: studies}.items():
        monkeypatch.setattr(lengths, name, value)
    monkeypatch.setattr(pipeline, "LabRecipe", lambda: TINY)
    app = typer.Typer()
    app.command()(lengths.main)
    result = CliRunner().invoke(app, [str(work), "--no-train"], catch_exceptions=False)
    assert f"8 rows: {files[0]}" in result.output
    saes, constants = lengths.shipped()
    assert len(saes) == 8 and constants["steps"].tolist() == [30, 60] and constants["note"].map(type).eq(str).all()


def test_the_recipe_differs_from_the_labs_in_its_steps_alone():
    own, other = pipeline.LabRecipe(), lengths.recipe_at(77)
    assert other.saes.steps == 77 and replace(other.saes, steps=own.saes.steps) == own.saes
    widths = [suite.SaeSpec.from_id(name).d_sae for name in other.suite]
    assert set(other.suite) < set(own.suite) and widths == sorted(set(widths)) and len(widths) == 5


def test_a_folder_knows_which_lengths_have_saes(tmp_path):
    (tmp_path / "steps_7/reports").mkdir(parents=True)
    assert list(lengths.studies_of(tmp_path, 1600)) == [1600]
    shutil.copytree(weights_path() / "saes" / SHIPPED, tmp_path / "steps_7/saes" / SHIPPED)
    (tmp_path / "steps_7/reports/one.json").write_text("{}")
    found = lengths.studies_of(tmp_path, 1600)
    assert list(found) == [7, 1600]
    assert [len(lengths.series(study)) for study in found.values()] == [1, 5]


def test_the_shipped_tables_are_those_of_the_saes_that_ship():
    saes, constants = lengths.shipped()
    record = read_manifest()
    steps, batch = (record["recipe"]["saes"][name] for name in ("steps", "batch_tokens"))
    assert steps in set(constants["steps"]) and len(constants) > 1
    assert (saes["tokens"] == saes["steps"] * batch).all()
    for found in constants["steps"]:
        assert sorted(saes.loc[saes["steps"] == found, "sae_id"]) == sorted(lengths.recipe_at(found).suite)
    then = {report["id"]: report["fvu"] for report in record["saes"]}
    own = saes[saes["steps"] == steps]
    assert own["fvu"].to_numpy() == pytest.approx(own["sae_id"].map(then).to_numpy(), rel=0.05)  # on other tokens
    for name in ("fvu", "fvu_nonlinear"):
        assert saes[name].between(saes[f"{name}_low"], saes[f"{name}_high"]).all()
