"""A run from text to report: it trains, is measured, is kept, and is not done twice; gradients are those of the model's loss."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from dm_utils.chapters.dictionaries import gradients, measure, rates, results, rules, runs
from dm_utils.chapters.dictionaries.runs import Run, Workshop, headline
from dm_utils.chapters.dictionaries.train import main
from dm_utils.dictionaries.methods import METHODS
from dm_utils.dictionaries.training import Activations, Plan
from dm_utils.engine.splice import Spliced
from dm_utils.engine.text_windows import WindowPlan
from dm_utils.lab import activations, weights_path
from dm_utils.lab import work as lab_work
from dm_utils.maths.resampling import Estimate
from dm_utils.world.profiles import load_profile

LAYER = load_profile("lab").layer
CONTEXTS = torch.from_numpy(np.random.default_rng(0).integers(4, 4096, (40, 64)))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder whose text is a few contexts of random tokens: enough for numbers, not for meaning."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "text").mkdir()
    for part in ("training", "evaluation"):
        np.save(folder / "text" / f"{part}.npy", CONTEXTS.numpy().astype(np.uint16))
    (folder / "text" / "report.json").write_text("{}")  # the text is there: none is gathered
    lab_work.prepare(folder, LAYER)
    return folder


@pytest.fixture(autouse=True)
def few_spliced_contexts(monkeypatch):
    """Most of a measurement's time is the model behind the SAE."""
    monkeypatch.setattr(measure, "SPLICED_CONTEXTS", 4)


def test_gradients_are_the_losss(work) -> None:
    bridge = activations.load_bridge(work / "model")
    found = gradients.loss_gradients(bridge, CONTEXTS[:2].numpy(), lab_work.hook_of(LAYER)).float()
    keep = activations.kept_positions(64)
    at, direction = keep.start + 5, torch.randn(128, generator=torch.Generator().manual_seed(0))

    def loss(step: float) -> float:
        def nudge(value, *, hook):
            value = value.clone()
            value[0, at] += step * direction
            return value

        logits = bridge.run_with_hooks(CONTEXTS[:2], fwd_hooks=[(lab_work.hook_of(LAYER), nudge)], return_type="logits")
        ends = logits[:, :-1].flatten(0, 1).double(), CONTEXTS[:2, 1:].flatten()
        return float(torch.nn.functional.cross_entropy(*ends, reduction="sum"))

    with torch.no_grad():
        slope = (loss(0.05) - loss(-0.05)) / 0.1
    assert float(found[5] @ direction) == pytest.approx(slope, rel=0.03)


@pytest.fixture
def few_windows(monkeypatch):
    """Token rules tested on as little text as there is here."""
    monkeypatch.setattr(rules, "PLAN", WindowPlan(window=8, n_deciles=2, per_decile=1, n_not=2))
    monkeypatch.setattr(rules, "LATENTS", 20)


@pytest.fixture
def shop(work, monkeypatch) -> Workshop:
    """Where runs are a few steps long."""
    monkeypatch.setattr(runs, "TuningPlan", tiny_tuning)
    return Workshop(work, LAYER, Plan(steps=6, batch=256, warm_up=1, dead_after=4), contexts=16)


@pytest.mark.parametrize("method", ["itda", "gradient", "sae_tuning"])
def test_a_run_is_trained_measured_and_kept(work, shop, method, monkeypatch) -> None:
    run = Run(method, 128, 4, 0)
    found = shop.do(run)
    assert 0 < found["fvu_nonlinear"] <= found["fvu"] * 1.01
    assert found["fvu_low"] <= found["fvu"] <= found["fvu_high"]
    assert found["linear_share"] == pytest.approx(1 - found["fvu_nonlinear"] / found["fvu"], rel=1e-3)
    monkeypatch.setattr(runs, "fit", None)  # nothing is trained again
    assert json.loads(json.dumps(shop.do(run))) == json.loads(json.dumps(found))
    assert not (work / "runs" / run.id / "checkpoint.safetensors").exists()


def tiny_tuning(seed: int):
    """A plan of one step."""
    from dm_utils.dictionaries.sae_tuning import TuningPlan

    return TuningPlan(steps=1, contexts=2, seed=seed)


def test_tuning_takes_topks_dictionary_and_rate(work, shop) -> None:
    rated = Workshop(work, LAYER, Plan(steps=6, batch=256), contexts=16, lrs={"topk": 0.02, "itda": 0.5})
    assert rated.plan_of(Run("sae_tuning", 128, 4, 1)).lr == 0.02
    assert rated.plan_of(Run("itda", 128, 4, 1)).lr == 0.5
    assert rated.plan_of(Run("gated", 128, 4, 1)).lr == Plan().lr
    saved = []
    for run in (Run("topk", 128, 4, 0), Run("sae_tuning", 128, 4, 0)):
        shop.do(run)  # kept where another test has made it
        saved.append((work / "runs" / run.id / "sae" / "sae_weights.safetensors").read_bytes())
    assert saved[0] == saved[1]


@pytest.mark.parametrize(("best", "tried"), [(3, [2, 3, 4]), (4, [2, 3, 4, 5]), (5, [2, 3, 4, 5]), (1, [1, 2, 3, 4])])
def test_a_ladder_is_walked_until_the_best_rate_has_worse_neighbours(best, tried) -> None:
    scores = rates.walk([1, 2, 3, 4, 5], lambda rate: abs(rate - best))
    assert list(scores) == tried
    assert min(scores, key=lambda rate: scores[rate]) == best


def test_rates_are_tried_once_and_broken_trainings_lose(work, monkeypatch) -> None:
    monkeypatch.setattr(rates, "LADDER", (1e-3, 1e-2, 1e30))
    plan = Plan(steps=4, batch=256, warm_up=1)
    found = rates.tuned(work, LAYER, METHODS["topk"], 128, 4, plan)
    assert found["best"] < 1e30
    assert {row["lr"]: row["fvu"] for row in rates.rows([found])}[1e30] == float("inf")
    monkeypatch.setattr(rates, "fit", None)  # nothing is trained again
    again = rates.tuned(work, LAYER, METHODS["topk"], 128, 4, plan)
    assert json.dumps(again) == json.dumps(found)  # as text: an L0 that is not a number equals itself


def test_token_rules_are_tested_once_and_again_when_other_things_are_asked(work, few_windows, monkeypatch) -> None:
    shop, run = (
        Workshop(work, LAYER, Plan(steps=6, batch=256, warm_up=1, dead_after=4), contexts=16),
        Run("topk", 128, 4, 0),
    )
    shop.do(run)
    found = shop.rules(run)
    assert 0 <= found["rules_low"] <= found["rules"] <= found["rules_high"] <= 1
    assert 0 < found["rules_tested"] <= 1
    with monkeypatch.context() as patch:
        patch.setattr(rules, "row", None)  # nothing is tested again
        assert shop.rules(run) == found
    monkeypatch.setattr(rules, "LATENTS", 10)
    monkeypatch.setattr(rules, "row", lambda *_: {"rules": 0.5})
    assert shop.rules(run) == {"rules": 0.5}


def test_the_command_trains_tests_and_writes_every_table(work, few_windows, monkeypatch) -> None:
    monkeypatch.setattr(rates, "LADDER", (1e-3, 1e-2))
    main(work, "topk,itda", "128", "4", 1, 20, 20, 256, LAYER, 16, 1, 2, False)
    table, about = results.read(work / "dictionaries.csv")
    assert (about["done"], about["wanted"], about["missing_methods"]) == (len(table), len(table), [])
    assert set(table.loc[table["rules"].notna(), "l0_wanted"]) == {4}
    longer, said = results.read(work / results.LONGER)
    assert said["longer"] == 2 and longer.loc[longer["method"] == "topk", "tokens"].unique().tolist() == [2 * 20 * 256]
    assert longer["l0_wanted"].tolist() == [4, 2, 8, 1, 16, 4]


def test_only_what_trains_alike_trains_again_on_more_tokens() -> None:
    found = headline(["topk", "itda", "top_afa_own", "sae_tuning"], 128, 4)
    assert [run.l0 for run in found if run.method == "topk"] == [4, 2, 8, 1, 16]
    assert [run.method for run in found if run.method != "topk"] == ["itda"]


def test_another_plan_is_another_run(work) -> None:
    run = Run("itda", 128, 4, 0)
    assert Workshop(work, LAYER, Plan(steps=7, batch=256), contexts=16).report(run) is None


def test_the_share_of_cross_entropy_recovered() -> None:
    losses = torch.tensor([[1.0, 1.0, 1.0, 1.0], [5.0, 5.0, 5.0, 5.0], [2.0, 2.0, 2.0, 2.0]])
    kl = torch.tensor([[0.0] * 4, [9.0] * 4, [0.5, 0.5, 1.5, 1.5]])
    spliced = Spliced(("original", "mean", "sae"), losses, kl, torch.tensor([0, 0, 1, 1]), torch.arange(4), 0.0)
    found = measure.recovered(spliced, 200, 0)
    assert found["ce_recovered"].value == pytest.approx(0.75)
    assert found["kl"].value == pytest.approx(1.0)
    assert isinstance(found["kl"], Estimate)


def test_a_missing_model_comes_from_the_package(work) -> None:
    shutil.rmtree(work / "model")
    (work / "model.json").unlink()
    lab_work.prepare(work, LAYER)
    assert (work / "model" / "model.safetensors").read_bytes() == (
        weights_path() / "model" / "model.safetensors"
    ).read_bytes()


def test_a_trial_depends_on_its_seed_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    training, held = Activations(torch.randn(600, 16, generator=generator)), torch.randn(400, 16, generator=generator)
    found = []
    for before, seed in ((1, 0), (2, 0), (2, 5)):
        torch.manual_seed(before)
        plan = Plan(steps=3, batch=64, warm_up=1, seed=seed)
        found.append(rates.tried(METHODS["topk"], training, held, plan, 32, 4))
    assert found[0] == found[1] != found[2]


def test_what_depends_on_the_number_of_steps_is_a_share_of_it() -> None:
    plan = rates.plan_of(512, 1000)
    assert (plan.steps, plan.batch, plan.warm_up, plan.dead_after, plan.revive_every) == (1000, 512, 40, 150, 50)
    short = rates.plan_of(512, 20)
    assert (short.warm_up, short.dead_after, short.revive_every) == (1, 10, 5)
