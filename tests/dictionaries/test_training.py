"""The training loop: it learns what was planted, goes on after a kill as if nothing had happened, and refuses what is not a number."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sae_lens import SAE

from dm_utils.dictionaries import topk, training
from dm_utils.dictionaries.calibration import calibrate, mean_l0
from dm_utils.dictionaries.methods import METHODS
from dm_utils.dictionaries.training import Activations, Plan, fit, point_at_residuals

PLAN = Plan(steps=60, batch=128, lr=1e-2, warm_up=5, dead_after=20, revive_every=10, checkpoint_every=25)


def planted(n: int = 6000, d: int = 16, features: int = 24, k: int = 2) -> torch.Tensor:
    """Sums of k of a few directions, about a mean that is not zero."""
    generator = torch.Generator().manual_seed(1)
    atoms = torch.nn.functional.normalize(torch.randn(features, d, generator=generator), dim=1)
    chosen = torch.rand(n, features, generator=generator).topk(k).indices
    sizes = 1 + torch.rand(n, k, generator=generator)
    return (torch.einsum("nk,nkd->nd", sizes, atoms[chosen]) + 5.0).half()


def fvu(sae, x: torch.Tensor) -> float:
    """Of a reconstruction."""
    with torch.no_grad():
        return float((x - sae(x)).square().sum() / (x - x.mean(0)).square().sum())


@pytest.mark.parametrize("name", [name for name in METHODS if name != "variational"])
def test_a_planted_dictionary_is_learned_in_the_datas_own_units(name: str, tmp_path) -> None:
    x, method = planted(), METHODS[name]
    torch.manual_seed(0)
    sae = method.new(16, 32, 2)
    fit(sae, Activations(x, torch.randn(x.shape).half()), replace(PLAN, steps=160, batch=512), revive=method.revive)
    sae.save_inference_model(tmp_path)
    saved = SAE.load_from_disk(tmp_path, dtype="float32").eval()
    calibrate(saved, x.float(), 2)
    assert fvu(saved, x.float()) < 0.9  # the mean alone leaves 1, an untrained one more


@pytest.mark.parametrize("name", ["topk", "gated", "variational", "group_bias", "feature_choice", "itda"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(name: str, tmp_path, monkeypatch) -> None:
    x, ends = Activations(planted()), []
    for killed in (False, True):
        torch.manual_seed(0)
        folder = tmp_path / str(killed)
        if killed:
            with monkeypatch.context() as patch:
                patch.setattr(training, "save_checkpoint", dies_after(training.save_checkpoint))
                with pytest.raises(KeyboardInterrupt):
                    fit(METHODS[name].new(16, 32, 2), x, PLAN, folder, revive=True)
        torch.manual_seed(0)
        sae = METHODS[name].new(16, 32, 2)
        fit(sae, x, PLAN, folder, revive=True)
        ends.append(sae.state_dict())
    for key, value in ends[0].items():
        assert torch.equal(value, ends[1][key]), key


def dies_after(save):
    """A writer of checkpoints after which the process is gone."""

    def saved(*given) -> None:
        save(*given)
        raise KeyboardInterrupt

    return saved


def test_a_checkpoint_of_another_plan_is_refused(tmp_path) -> None:
    x = Activations(planted())
    fit(topk.new(16, 32, 2), x, PLAN, tmp_path)
    with pytest.raises(ValueError, match="another plan"):
        fit(topk.new(16, 32, 2), x, replace(PLAN, lr=1e-3), tmp_path)


def test_a_loss_that_is_not_a_number_names_its_step_and_rate() -> None:
    sae = topk.new(16, 32, 2)
    sae.W_dec.data[0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"step 0, with lr 0\.002"):
        fit(sae, Activations(planted()), PLAN)


def test_activations_that_do_not_vary_are_refused() -> None:
    with pytest.raises(ValueError, match="do not vary"):
        Activations(torch.ones(100, 4).half())


def test_batches_from_the_middle_are_those_of_the_whole() -> None:
    x = Activations(planted(500))
    whole, later = x.batches(128, seed=4), x.batches(128, seed=4, first=5)  # past the end of the first pass
    skipped = [next(whole)[0] for _ in range(6)][5]
    assert torch.equal(skipped, next(later)[0])


def test_the_rate_rises_and_falls_linearly_to_zero() -> None:
    plan = Plan(steps=100, warm_up=10, decay=0.5, lr=1.0)
    assert [plan.rate(step) for step in (0, 9, 50, 75, 100)] == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.0])


def test_a_dead_latent_is_pointed_at_what_is_missed() -> None:
    sae = METHODS["gated"].new(4, 8, 1)
    x = torch.eye(4)[:1].expand(16, 4)
    dead = torch.zeros(8, dtype=torch.bool)
    dead[3] = True
    point_at_residuals(sae, x, 2.0 * x, dead)
    torch.testing.assert_close(sae.W_dec[3], torch.eye(4)[0])
    assert bool((sae.encode(x)[:, 3] > 0).all())


def tie(sae) -> None:
    """Make atoms of unit norm, which encode as they decode."""
    sae.W_dec.data = torch.nn.functional.normalize(sae.W_dec.data, dim=1)
    sae.W_enc.data = sae.W_dec.data.T.contiguous()


@pytest.mark.parametrize("name", ["jumprelu", "gated", "group_bias", "feature_choice", "top_afa"])
def test_calibration_gives_the_wanted_l0(name: str, tmp_path) -> None:
    torch.manual_seed(0)
    sae = METHODS[name].new(16, 64, 8)
    if hasattr(sae, "thresholds"):
        sae.thresholds.fill_(0.01)
    if name == "group_bias":
        sae.bias.fill_(-1.0)
    if name == "top_afa":
        tie(sae)  # values whose norms are those of what they read
    sae.save_inference_model(tmp_path)
    saved, x = SAE.load_from_disk(tmp_path, dtype="float32"), torch.randn(2000, 16)
    calibrate(saved, x, 5.0)
    assert float((saved.encode(x) != 0).sum(1).float().mean()) == pytest.approx(5.0, rel=0.02)


def test_a_topk_sae_whose_places_stay_empty_gets_more_of_them(tmp_path) -> None:
    sae = METHODS["variational"].new(16, 64, 4)
    tie(sae)
    sae.b_enc.data -= 1.0  # a sixth of the pre-activations of a normal token is positive
    sae.save_inference_model(tmp_path)
    saved, x = SAE.load_from_disk(tmp_path, dtype="float32"), torch.randn(2000, 16)
    x[::2] = 0.0  # half of the tokens have none at all
    before = mean_l0(saved, x)
    assert calibrate(saved, x, 4.0) == saved.cfg.k > 4
    assert abs(mean_l0(saved, x) - 4.0) < abs(before - 4.0)


def test_a_full_topk_sae_stays_as_it_is(tmp_path) -> None:
    METHODS["topk"].new(16, 64, 4).save_inference_model(tmp_path)
    saved = SAE.load_from_disk(tmp_path, dtype="float32")
    assert calibrate(saved, torch.randn(500, 16), 4.0) == 0.0
    assert saved.cfg.k == 4


def test_the_share_of_the_norm_is_driven_to_the_wanted_l0() -> None:
    torch.manual_seed(0)
    sae = METHODS["top_afa"].new(16, 32, 2)
    fit(sae, Activations(planted()), replace(PLAN, steps=300, batch=512))
    assert float(sae.share) < 1.0
    x = planted().float()
    assert mean_l0(sae, x) == pytest.approx(2.0, rel=0.25)
    sae.share.fill_(1.0)
    assert mean_l0(sae, x) > 3.0  # what its paper's whole norm takes


def test_an_l0_out_of_reach_is_refused_and_nothing_changes(tmp_path) -> None:
    METHODS["jumprelu"].new(16, 64, 8).save_inference_model(tmp_path)
    saved, x = SAE.load_from_disk(tmp_path, dtype="float32"), torch.randn(200, 16)
    before = saved.threshold.clone()
    with pytest.raises(ValueError, match="out of reach"):
        calibrate(saved, x, 64.0)
    assert torch.equal(saved.threshold, before)


def test_a_folder_without_a_checkpoint_begins_at_the_first_step_and_in_training_mode(tmp_path, monkeypatch) -> None:
    ends, modes = [], []
    for folder in (None, tmp_path):
        torch.manual_seed(0)
        sae = topk.new(16, 32, 2).eval()
        own = sae.training_forward_pass
        monkeypatch.setattr(
            sae, "training_forward_pass", lambda given, sae=sae, own=own: modes.append(sae.training) or own(given)
        )
        fit(sae, Activations(planted(500)), replace(PLAN, steps=4, warm_up=0), folder)
        ends.append(sae.state_dict())
    assert modes == [True] * 8
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
