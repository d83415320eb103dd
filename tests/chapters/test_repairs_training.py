"""The trained repairs: losses through the model, a channel beside an SAE, loops that resume and stop by name, runs that are kept."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.sae import TrainStepInput
from tiny_models import VOCABULARY, random_model
from typer.testing import CliRunner

from dm_utils.chapters.repairs import channel, runs, train, tuning
from dm_utils.chapters.repairs.runs import FROM_SCRATCH, SAME_SAE, Recipe, Run, Workshop, order
from dm_utils.dictionaries.training import Activations, Plan, fit
from dm_utils.lab import work as lab_work
from dm_utils.world.profiles import load_profile

LAYER = load_profile("lab").layer
D = 12


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- a channel beside an SAE -------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["batchtopk", "matryoshka"])
def test_a_closed_channel_is_the_sae_alone(base) -> None:
    torch.manual_seed(0)
    sae = channel.new(base, D, 32, 3, rank=2)
    given = TrainStepInput(normal(50, D), {}, None, 0, is_logging_step=False)
    with_channel, alone = sae.training_forward_pass(given), sae.__class__.__mro__[2].training_forward_pass(sae, given)
    torch.testing.assert_close(with_channel.sae_out, alone.sae_out)
    torch.testing.assert_close(with_channel.loss, alone.loss)


def test_the_sae_reads_and_reconstructs_what_the_channel_leaves() -> None:
    torch.manual_seed(0)
    sae, x = channel.new("batchtopk", D, 32, 3, rank=2), normal(50, D)
    sae.up.data = normal(2, D, seed=4)
    found = sae.training_forward_pass(TrainStepInput(x, {}, None, 0, is_logging_step=False))
    rest = x - sae.dense(x)
    codes, _ = sae.encode_with_hidden_pre(rest)
    torch.testing.assert_close(found.sae_out, sae.dense(x) + sae.decode(codes))
    assert float(found.losses["mse_loss"].detach()) == pytest.approx(
        float((x - found.sae_out).square().sum(-1).mean().detach()), rel=1e-5
    )


def test_a_trained_channel_takes_a_dense_direction_and_is_kept_apart(tmp_path) -> None:
    """One direction of x varies far more than the few latents can follow: the channel carries it."""
    direction = torch.nn.functional.normalize(normal(1, D, seed=1), dim=1)
    x = (normal(4000, D, seed=2) * 0.2 + normal(4000, 1, seed=3) * 5 * direction).half()
    torch.manual_seed(0)
    sae = channel.new("batchtopk", D, 16, 1, rank=1)
    fit(sae, Activations(x), Plan(steps=300, batch=256, lr=1e-2, warm_up=5))
    carried = (sae.dense(direction) @ direction.T).detach()
    assert 0.8 < float(carried) < 1.2
    sae.save_inference_model(tmp_path)
    names = dict(SAE.load_from_disk(tmp_path, dtype="float32").named_parameters())
    assert not {"down", "up"} & names.keys()


def test_rank_zero_is_no_channel() -> None:
    assert not hasattr(channel.new("batchtopk", D, 32, 3, rank=0), "down")


# --- through the model -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def through():
    model = random_model("llama").eval()
    return tuning.Through(model, model.model.layers[1])


CONTEXTS = torch.randint(0, VOCABULARY, (6, 30), generator=torch.Generator().manual_seed(0))


def test_x_itself_costs_nothing(through) -> None:
    mse, kl = through.terms(lambda x: x, CONTEXTS)
    assert float(mse) == 0 and abs(float(kl)) < 1e-6


def test_early_positions_are_left_as_they_are(through) -> None:
    """Only positions from `SKIP` on are replaced: a shift of one dimension there has its own square as MSE, and a KL above zero."""
    seen = {}

    def shifted(x):
        seen["n"] = len(x)
        return x + 2 * torch.eye(x.shape[1])[0]

    mse, kl = through.terms(shifted, CONTEXTS)
    assert float(mse) == pytest.approx(4.0) and float(kl) > 0
    assert seen["n"] == 6 * 29
    few = CONTEXTS[:, : tuning.SKIP + 2]
    early = through.terms(lambda x: torch.where(torch.arange(len(x))[:, None] % 17 < 15, x + 100, x), few)
    assert abs(float(early[1])) < 1e-6


def test_both_terms_count_alike(through) -> None:
    def nudged(x):
        return x + 0.1 * scale

    scale = torch.ones(1, requires_grad=True)
    mse, kl = (value for value in through.terms(nudged, CONTEXTS))
    loss = through.loss("kl", nudged, CONTEXTS)
    assert float(loss.detach()) == pytest.approx(float(mse.detach()), rel=1e-4)
    assert float(through.loss("mse", nudged, CONTEXTS).detach()) == pytest.approx(float(mse.detach()))
    expected = [torch.autograd.grad(term, scale, retain_graph=True)[0] for term in (mse, kl)]
    ratio = float((mse / kl).detach())
    found = torch.autograd.grad(loss, scale)[0]
    torch.testing.assert_close(found, 0.5 * (expected[0] + ratio * expected[1]), rtol=1e-3, atol=1e-6)


def test_an_adapter_starts_as_the_sae_and_leaves_it_alone() -> None:
    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, x):
            return x * self.factor

    adapter, x = tuning.Adapter(Half(), D, 3), normal(5, D)
    torch.testing.assert_close(adapter(x), 0.5 * x)
    assert {name for name, _ in adapter.named_parameters()} == {"down", "up"}


class Point(torch.nn.Module):
    """Two numbers to be moved."""

    def __init__(self):
        super().__init__()
        self.at = torch.nn.Parameter(torch.tensor([3.0, -2.0]))


def go(folder, steps, upto=None, point=None):
    """Descend on a loss that the contexts shake; stops at `upto` as if killed."""
    point, seen = point or Point(), []

    def loss(tokens):
        if len(seen) == upto:
            raise KeyboardInterrupt
        seen.append(tokens)
        return (point.at * tokens.float().mean()).square().sum() / VOCABULARY

    tuning.descend("point", point, loss, CONTEXTS, tuning.Descent(steps=steps, lr=0.1, checkpoint_every=3), folder)
    return point.at.detach()


def test_what_is_killed_goes_on_as_if_it_had_not_been(tmp_path) -> None:
    whole = go(tmp_path / "a", 8)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "b", 8, upto=5)
    torch.testing.assert_close(go(tmp_path / "b", 8), whole, rtol=0, atol=0)
    assert whole.norm() < Point().at.norm()


def test_a_loss_that_is_no_number_stops_by_name(tmp_path) -> None:
    with pytest.raises(FloatingPointError, match="boom: the loss is nan at step 0"):
        tuning.descend("boom", Point(), lambda _: torch.tensor(torch.nan), CONTEXTS, tuning.Descent(steps=2), tmp_path)


# --- runs --------------------------------------------------------------------------------------------------


def test_what_matters_most_is_trained_first_and_nothing_twice() -> None:
    found = list(order([512, 1024]))
    assert found[:2] == [Run("batchtopk", 512), Run("batchtopk_channel", 512)]
    assert len(set(found)) == len(found) == len(FROM_SCRATCH) + 2 * len(SAME_SAE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A work folder whose text is a few contexts of random tokens: enough for numbers, not for meaning."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "text").mkdir()
    contexts = np.random.default_rng(0).integers(4, 4096, (40, 64)).astype(np.uint16)
    for part in ("training", "evaluation"):
        np.save(folder / "text" / f"{part}.npy", contexts)
    (folder / "text" / "report.json").write_text("{}")
    lab_work.prepare(folder, LAYER)
    return folder


def shop(folder, study):
    """A workshop of few steps that measures with the tests' study."""
    recipe = Recipe(LAYER, int(load_profile("lab").near_l0), spliced=2)
    recipe = replace(recipe, dictionary=replace(recipe.dictionary, steps=4, batch=128, warm_up=1))
    recipe = replace(recipe, descent=replace(recipe.descent, steps=2, contexts=2), channel_rank=4)
    made = Workshop(folder, recipe)
    made.__dict__["study"] = study
    return made


@pytest.mark.parametrize("repair", ["boost", "batchtopk_channel", "adapter"])
def test_a_run_is_trained_measured_and_kept(folder, study, repair, monkeypatch) -> None:
    monkeypatch.setattr(runs, "calibrate", lambda *_: 0.0)  # 4 steps settle no threshold
    found = shop(folder, study).do(Run(repair, 512))
    assert found["fvu"] == pytest.approx(found["fvu_linear"] + found["fvu_nonlinear"])
    assert found["fvu_low"] <= found["fvu"] <= found["fvu_high"] and found["tokens"] > 0
    own = study.measure([study.sae(width=512)]).iloc[0]["fvu"]
    if repair in SAME_SAE:
        assert found["before_fvu"] == pytest.approx(own, rel=1e-3)
    monkeypatch.setattr(runs, "fit", None)  # nothing is trained again
    monkeypatch.setattr(tuning, "descend", None)
    assert json.loads(json.dumps(shop(folder, study).do(Run(repair, 512)))) == json.loads(json.dumps(found))


@pytest.mark.parametrize(("given", "named"), [(["--repairs", "bost"], "boost"), (["--widths", "5a"], "widths")])
def test_the_command_refuses_what_it_cannot_do_by_name(given, named, tmp_path, monkeypatch) -> None:
    import typer

    monkeypatch.setattr(lab_work, "prepare", lambda *_: None)
    app = typer.Typer()
    app.command()(train.main)
    found = CliRunner().invoke(app, [*given, "--work", str(tmp_path)])
    assert found.exit_code != 0 and named in f"{found.output}{found.exception}"
