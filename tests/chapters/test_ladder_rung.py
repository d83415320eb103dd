"""A rung of the ladder from its text to its table, on a tiny scale, against independent computations."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from dm_utils.base.errors import ParameterError
from dm_utils.chapters.ladder import measure
from dm_utils.engine import ladder
from dm_utils.engine.store import Store
from dm_utils.engine.study import Study
from dm_utils.lab import pipeline
from dm_utils.lab.__main__ import main
from dm_utils.lab.ladder import fast_rung
from dm_utils.world.profiles import load_profile

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained rung of 32 dimensions."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("rung")
    pipeline.train(folder, fast_rung(32), workers=1)
    return folder


@pytest.fixture(scope="module")
def study(work: Path) -> Study:
    small = {"n_contexts": 24, "ctx_len": 64, "skip": 16, "n_bootstrap": 100, "batch": 8}
    profile = load_profile("lab", model=str(work / "model"), releases=str(work / "saes"), **small)
    return Study(profile, Store(work / "store"))


@pytest.fixture(scope="module")
def table(study: Study) -> pd.DataFrame:
    return ladder.with_differences(measure.measured(study))


def one(table: pd.DataFrame, quantity: str, seed: int = 0, width: float = 16.0, l0: float = 1 / 16) -> pd.Series:
    some = ladder.at(table[table["seed"] == seed], quantity, l0, width)
    assert len(some) == 1
    return some.iloc[0]


def test_a_rung_measures_every_question_for_every_seed(table: pd.DataFrame) -> None:
    for question in ladder.QUESTIONS:
        for seed in (0, 1):
            found = one(table, question.quantity, seed)
            assert found["low"] <= found["value"] <= found["high"], question.quantity


def test_pursuit_is_that_of_a_plain_reconstruction(study: Study, table: pd.DataFrame) -> None:
    ref = study.sae(width=512, near_l0=2)
    sae, site = study.load_sae(ref), study.site()
    held_out = ~site.split.fit
    codes = measure.pursuit_codes(site.x, sae, measure.encode(sae, site.x).l0)
    total = (site.x - site.x[site.split.fit].mean(0))[held_out].square().sum()
    gone = [
        (site.x - out)[held_out].double().square().sum() for out in (sae(site.x), codes.decode(sae.W_dec, sae.b_dec))
    ]
    assert one(table, "fvu_drop")["value"] == pytest.approx(float((gone[0] - gone[1]) / total), rel=0.02)
    assert one(table, "fvu_drop_relative")["value"] == pytest.approx(float(1 - gone[1] / gone[0]), rel=1e-3)


def test_ranks_and_directions_are_those_of_the_linear_map(study: Study, table: pd.DataFrame) -> None:
    """Against one float64 least squares of all fitting tokens."""
    parts, split = study.parts(study.sae(width=512, near_l0=2)), study.site().split
    fitted, held = (
        torch.linalg.lstsq(_affine(parts.x[split.fit]), parts.sae_error[split.fit].double()).solution,
        ~split.fit,
    )
    linear = _affine(parts.x[split.fit]) @ fitted
    directions = torch.linalg.svd(linear - linear.mean(0), full_matrices=False).Vh.T
    along = [(one[held].double() @ directions).var(0) for one in (parts.sae_error, parts.x)]
    assert one(table, "missed_share")["value"] == pytest.approx(
        float((along[0] > along[1] / 2).double().mean()), abs=1 / 32
    )
    missed = (parts.sae_error[held].double() - _affine(parts.x[held]) @ fitted) @ directions
    gained = (
        ((parts.sae_error[held].double() - parts.sae_error[split.fit].double().mean(0)) @ directions).square().sum(0)
    )
    gained = (gained - missed.square().sum(0)).cumsum(0)
    rank = 1 + int((gained / gained[-1] < 0.9).sum())
    assert one(table, "rank_90_share")["value"] == pytest.approx(rank / 32, abs=1 / 32)


def _affine(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], 1)


def test_what_a_small_sae_says_of_a_large_one_is_one_scalar(study: Study, table: pd.DataFrame) -> None:
    split = study.site().split
    small, large = (
        torch.from_numpy(study.token_scalars(study.sae(width=w, near_l0=2))["error_norm2"]).double() for w in (128, 512)
    )
    scalar = small[split.fit] @ large[split.fit] / small[split.fit].square().sum()
    y = large[~split.fit]
    r2 = 1 - (y - scalar * small[~split.fit]).square().sum() / (y - y.mean()).square().sum()
    assert one(table, "forecast")["value"] == pytest.approx(float(r2), abs=1e-6)


def test_what_is_recovered_beyond_its_share_is_the_difference(table: pd.DataFrame) -> None:
    for part in measure.PARTS:
        parts = (one(table, f"{name}_{part}")["value"] for name in ("ce_recovered", "share_variance"))
        assert one(table, f"ce_excess_{part}")["value"] == pytest.approx(next(parts) - next(parts), abs=1e-5)


def test_the_slope_is_that_of_a_line_through_two_widths(table: pd.DataFrame) -> None:
    narrow, wide = (one(table, "fvu_nonlinear", width=width)["value"] for width in (4.0, 16.0))
    assert one(table, "per_doubling")["value"] == pytest.approx((wide / narrow) ** 0.5 - 1, abs=1e-5)


def test_how_a_rung_was_made_is_read_from_its_folder(work: Path) -> None:
    made = measure.how_made(work)
    assert made["command"] == "make lab SIZE=32"
    assert made["model_tokens"] == fast_rung(32).model.tokens
    assert made["saes"] == len(fast_rung(32).suite)
    config = json.loads((work / "model/config.json").read_text())
    assert (config["hidden_size"], config["num_attention_heads"]) == (32, 1)


def test_measuring_again_replaces_the_rows_of_that_rung_alone(
    work: Path, study: Study, table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ladder.csv"
    ladder.write(file, pd.concat([table.assign(d=64, value=7.0), table.assign(value=7.0)]), {64: {}, 32: {}})
    monkeypatch.setattr(measure, "study_of", lambda _: study)
    measure.main(work, file)
    found, about = ladder.read(file)
    kept, replaced = (found.loc[(found["d"] == d) & (found["quantity"] == "fvu"), "value"] for d in (64, 32))
    assert (kept == 7).all() and not (replaced == 7).any()
    assert len(found[found["d"] == 64]) == len(found[found["d"] == 32]) > 0
    assert about == {32: measure.how_made(work), 64: {}}


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="holds no trained model"):
        measure.study_of(tmp_path)


def test_the_command_refuses_sizes_and_options_that_do_not_fit(tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    app.command()(main)
    for words, message in ((["--size", "48"], "multiple of 32"), (["--size", "64", "--install"], "rung of the ladder")):
        result = CliRunner().invoke(app, ["--work", str(tmp_path / "w"), *words])
        assert result.exit_code == 2
        assert message in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "w").exists()
