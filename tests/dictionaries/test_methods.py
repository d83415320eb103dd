"""Every method: its gradients are those of its loss, what it saves is what it computes, and its codes are right where known."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from sae_lens import SAE
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import TrainStepInput

from dm_utils.dictionaries import batchtopk, gated, gradient, jumprelu, matching_pursuit, matryoshka, top_afa
from dm_utils.dictionaries.feature_choice import choose_by_feature
from dm_utils.dictionaries.group_bias import group_rates
from dm_utils.dictionaries.itda import signed_pursuit
from dm_utils.dictionaries.methods import METHODS
from dm_utils.dictionaries.training import coefficients
from dm_utils.dictionaries.zipf import underused, zipf_rates
from dm_utils.maths.encoding import encode, prefer, reconstruct

D, WIDTH, L0, TOKENS = 8, 32, 4, 64
everything = pytest.mark.parametrize("name", METHODS)


def made(name: str, dtype: torch.dtype = torch.float32):
    """An untrained SAE, its decoder rows of length about 1, and what it reads."""
    torch.manual_seed(4)
    sae = METHODS[name].new(D, WIDTH, L0)
    x = torch.randn(TOKENS, D)
    if name == "itda":
        sae.train()
        for _ in range(8):  # until the dictionary is full
            loss_of(sae, torch.randn(TOKENS, D))
    else:
        sae.W_dec.data = torch.nn.functional.normalize(torch.randn(WIDTH, D), dim=1)
        sae.b_dec.data += 0.1
        if "W_enc" in dict(sae.named_parameters()):
            sae.W_enc.data = 1.1 * sae.W_dec.data.T.contiguous()
    return sae.to(dtype), x.to(dtype)


def loss_of(sae: Any, x: torch.Tensor) -> torch.Tensor:
    """The loss of a training step, with the same noise each time."""
    torch.manual_seed(5)
    return sae.training_forward_pass(TrainStepInput(x, coefficients(sae, 10_000), None, 10_000, False)).loss


@everything
def test_gradients_are_the_losss(name: str) -> None:
    sae, x = made(name, torch.float64)
    sae.train()
    if hasattr(sae, "usage"):
        sae.cfg.aux_loss_coefficient = 0.0  # its residual is a constant to the gradient, by design, and here never idle
    sae.loss_gradients = torch.randn_like(x)
    asked = [(key, value) for key, value in sae.named_parameters() if value.requires_grad and key != "threshold"]
    own = copy.deepcopy(sae)
    loss_of(own, x).backward()
    given = dict(own.named_parameters())
    for key, value in asked:
        direction, step = torch.randn_like(value), 1e-8
        ends = []
        for sign in (1, -1):
            moved = copy.deepcopy(sae)
            dict(moved.named_parameters())[key].data += sign * step * direction
            ends.append(float(loss_of(moved, x).detach()))
        slope = 0.0 if name == "itda" else (ends[0] - ends[1]) / (2 * step)  # ITDA moves no weight
        found = 0.0 if given[key].grad is None else float((given[key].grad * direction).sum())
        assert found == pytest.approx(slope, rel=1e-4, abs=1e-4), key


@everything
def test_what_is_saved_is_what_is_computed(name: str, tmp_path) -> None:
    sae, x = made(name)
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(0.4)
    if hasattr(sae, "thresholds"):
        sae.thresholds.fill_(0.4)
    sae.save_inference_model(tmp_path)
    saved = SAE.load_from_disk(tmp_path, dtype="float32")
    with torch.no_grad():
        if name in ("batchtopk", "matryoshka", "mutual_choice", "feature_choice"):
            hidden = (x @ sae.W_enc + sae.b_enc) * sae.W_dec.norm(dim=1)
            expected = (hidden * (hidden > 0.4)) @ (sae.W_dec / sae.W_dec.norm(dim=1)[:, None]) + sae.b_dec
        else:
            sae.eval()
            expected = sae.decode(sae.encode(x))
        torch.testing.assert_close(saved(x), expected, rtol=1e-4, atol=1e-5)


@everything
def test_the_engine_reads_its_codes(name: str, tmp_path) -> None:
    sae, x = made(name)
    sae.save_inference_model(tmp_path)
    saved = SAE.load_from_disk(tmp_path, dtype="float32").eval().requires_grad_(False)
    prefer(saved, "bfloat16")
    codes = encode(saved, x)
    dense = saved.encode(x)
    assert codes.values.dtype == torch.float32
    assert codes.l0.tolist() == (dense != 0).sum(1).tolist()
    torch.testing.assert_close(reconstruct(saved, x), saved.decode(dense), rtol=1e-4, atol=1e-5)


@everything
def test_saelens_knows_its_training_class(name: str) -> None:
    sae = METHODS[name].new(D, WIDTH, L0)
    found, config = get_sae_training_class(sae.cfg.architecture())
    assert isinstance(sae, found)
    assert isinstance(sae.cfg, config)


def with_identity(sae, bias: float = 0.0):
    """The SAE with one latent per dimension."""
    size = len(sae.b_dec)
    sae.W_dec.data = torch.eye(size)
    if "W_enc" in dict(sae.named_parameters()):
        sae.W_enc.data = torch.eye(size)
    sae.b_dec.data.fill_(bias)
    return sae


X = torch.tensor([[3.0, -4.0, 1.0, 0.5]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("topk", [3.0, 0.0, 1.0, 0.0]),
        ("gradient", [3.0, 0.0, 1.0, 0.0]),
        ("variational", [3.0, 0.0, 1.0, 0.0]),
        ("abstopk", [3.0, -4.0, 0.0, 0.0]),
        ("matching_pursuit", [3.0, 0.0, 1.0, 0.0]),
    ],
)
def test_two_latents_of_a_token(name: str, expected: list[float]) -> None:
    sae = with_identity(METHODS[name].new(4, 4, 2)).eval()
    assert sae.encode(X).to_dense().tolist() == [expected]


def test_topk_loss_is_what_two_latents_leave() -> None:
    sae = with_identity(METHODS["topk"].new(4, 4, 2))
    assert float(loss_of(sae, X).detach()) == pytest.approx(4.0**2 + 0.5**2)


def test_a_batchtopk_budget_falls_where_values_are_large() -> None:
    sae = with_identity(batchtopk.new(4, 4, 1))
    assert sae.encode(torch.tensor([[5.0, 4.0, 0, 0], [1.0, 0, 0, 0]])).tolist() == [[5.0, 4.0, 0, 0], [0.0, 0, 0, 0]]


def test_matryoshka_sums_the_losses_of_prefixes() -> None:
    sae = with_identity(matryoshka.new(32, 32, 32))
    x = torch.zeros(1, 32)
    x[0, 0], x[0, 31] = 2.0, 3.0  # the widths are 2, 4, 8, 16, 32: only the last holds latent 31
    assert float(loss_of(sae, x).detach()) == pytest.approx(4 * 9.0)


def test_a_jumprelu_target_is_met_or_paid_for() -> None:
    sae = with_identity(jumprelu.new(4, 4, 1))
    loss = sae.training_forward_pass(TrainStepInput(X, coefficients(sae, 10_000), None, 10_000, False)).losses
    assert float(loss["l0_loss"]) == pytest.approx(2 / 1 * (1 - 1) ** 2)  # thresholds of 1: only the 3 is above
    more = sae.training_forward_pass(TrainStepInput(X + 1, coefficients(sae, 10_000), None, 10_000, False)).losses
    assert float(more["l0_loss"]) == pytest.approx(2 / 1 * (3 - 1) ** 2)


def test_a_gate_closes_what_its_magnitude_would_pass() -> None:
    sae = with_identity(gated.new(4, 4, 2))
    sae.b_gate.data = torch.tensor([-3.5, 0.0, 0.0, 0.0])
    sae.b_mag.data = torch.tensor([0.0, 0.0, 10.0, 0.0])
    assert sae.encode(X).tolist() == [[0.0, 0.0, 11.0, 0.5]]


def test_the_gated_coefficient_rises_while_too_many_are_active() -> None:
    sae = with_identity(gated.new(4, 4, 1))
    loss_of(sae, X.abs())
    assert float(sae.log_gain) == pytest.approx(0.02)  # ln(4 / 1) is bounded to 1
    loss_of(sae, torch.tensor([[1.0, -1.0, -1.0, -1.0]]))
    assert float(sae.log_gain) == pytest.approx(0.02)  # one is active, as wanted


def test_a_gradient_can_choose_the_smaller_latent() -> None:
    sae = with_identity(gradient.new(4, 4, 1)).train()
    sae.loss_gradients = torch.tensor([[0.0, 0.0, 9.0, 0.0]])  # root mean square 4.5: z = 1 counts 1 + 2 times
    assert sae.encode(torch.tensor([[2.5, 0.0, 1.0, 0.0]])).tolist() == [[0.0, 0.0, 1.0, 0.0]]
    sae.cfg.beta = 0.0
    assert sae.encode(torch.tensor([[2.5, 0.0, 1.0, 0.0]])).tolist() == [[2.5, 0.0, 0.0, 0.0]]


def test_features_choose_their_tokens() -> None:
    z = torch.tensor([[1.0, 9.0], [2.0, 8.0], [3.0, 7.0], [-1.0, -2.0]])
    kept = choose_by_feature(z, 1.0)  # 1 · 4 tokens / 2 latents: 2 tokens each
    assert kept.tolist() == [[0.0, 9.0], [2.0, 8.0], [3.0, 0.0], [0.0, 0.0]]
    assert choose_by_feature(-z.abs(), 1.0).count_nonzero() == 0


def test_zipf_rates_fall_as_one_over_rank_and_sum_to_l0() -> None:
    rates = zipf_rates(1000, 2.0)
    assert float(rates.sum()) == pytest.approx(2.0, rel=1e-5)
    assert float(rates[0] / rates[9]) == pytest.approx(10.0, rel=1e-5)
    crowded = zipf_rates(10, 8.0)
    assert float(crowded.max()) <= 1
    assert float(crowded.sum()) == pytest.approx(8.0, rel=1e-5)


def test_underused_is_below_half_of_the_ranks_rate() -> None:
    expected = torch.tensor([0.4, 0.2, 0.1])
    assert underused(torch.tensor([0.09, 0.21, 0.3]), expected).tolist() == [False, False, False]
    assert underused(torch.tensor([0.04, 0.5, 0.09]), expected).tolist() == [True, False, True]


def test_group_rates_halve_from_group_to_group_and_sum_to_l0() -> None:
    rates = group_rates(64, 4.0, 4)
    assert float(rates.sum()) == pytest.approx(4.0, rel=1e-5)
    assert float(rates[0] / rates[16]) == pytest.approx(2.0, rel=1e-5)
    assert float(group_rates(64, 28.0, 4).max()) == 0.5
    with pytest.raises(ValueError, match="one half"):
        group_rates(10, 6.0, 2)


def test_biases_end_where_groups_fire_at_their_rates() -> None:
    torch.manual_seed(0)
    sae = METHODS["group_bias"].new(4, 64, 4)
    for _ in range(600):
        sae.adapt(torch.randn(4096, 64))
    rates = torch.special.ndtr(sae.bias)  # of a standard normal above −b
    torch.testing.assert_close(rates, sae.target, rtol=0.4, atol=0.0)


def test_a_bias_says_whether_a_latent_fires_and_takes_nothing_off_its_value(tmp_path) -> None:
    sae = with_identity(METHODS["group_bias"].new(4, 4, 1))
    sae.bias.copy_(torch.tensor([-2.5, 0.0, -2.5, 0.0]))
    x = torch.tensor([[3.0, 1.0, 2.0, -1.0]])
    assert sae.encode(x).tolist() == [[3.0, 1.0, 0.0, 0.0]]
    sae.save_inference_model(tmp_path)
    assert SAE.load_from_disk(tmp_path, dtype="float32").encode(x).tolist() == [[3.0, 1.0, 0.0, 0.0]]


def test_signed_pursuit_finds_orthogonal_atoms_with_their_signs() -> None:
    atoms = torch.eye(4)
    assert signed_pursuit(torch.tensor([[0.0, -3.0, 2.0, 1.0]]), atoms, 2).tolist() == [[0.0, -3.0, 2.0, 0.0]]


def test_itda_takes_up_what_it_cannot_express() -> None:
    sae = METHODS["itda"].new(4, 8, 1)
    known = torch.eye(4)[:2]
    sae.grow(known, torch.zeros(2, 4))
    assert int(sae.filled) == 2
    x = torch.tensor([[5.0, 0, 0, 0], [0, 0, -2.0, 0], [0, 0.1, 0, 0]])
    sae.grow(x, sae.decode(sae.encode(x)))
    assert int(sae.filled) == 3
    assert sae.W_dec[2].tolist() == [0.0, 0.0, -1.0, 0.0]


def test_top_afa_keeps_as_many_as_reach_the_norm() -> None:
    z = torch.tensor([[4.0, 3.0, 1.0, -9.0]]).expand(3, 4)
    kept = top_afa.norm_matching(z, torch.tensor([3.9, 5.0, 99.0]), at_most=4)
    assert (kept != 0).sum(1).tolist() == [1, 2, 3]


def test_a_variational_loss_has_half_the_square_of_the_mean() -> None:
    sae = with_identity(METHODS["variational"].new(4, 4, 2)).train()
    torch.manual_seed(0)
    losses = sae.training_forward_pass(TrainStepInput(X, {}, None, 0, False)).losses
    assert float(losses["kl_loss"]) == pytest.approx(0.01 * 0.5 * float(X.square().sum()))


def test_matching_pursuit_refits_what_an_oblique_atom_left() -> None:
    sae = matching_pursuit.new(2, 2, 2)
    sae.W_dec.data = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # x = (1, 1): ⟨x, d_2⟩ = 1.4 is largest; what is left, (0.16, −0.12), has ⟨·, d_1⟩ = 0.16
    torch.testing.assert_close(sae.encode(torch.tensor([[1.0, 1.0]])), torch.tensor([[0.16, 1.4]]))


@pytest.mark.parametrize("rescaled", [True, False])
def test_without_any_gradient_the_choice_is_topks(rescaled: bool) -> None:
    """Biases off zero and directions of unequal length: with gradients of zero, codes are those that the SAE has without them."""
    generator = torch.Generator().manual_seed(0)
    sae = gradient.new(6, 20, 3).train()
    sae.cfg.rescale_acts_by_decoder_norm = rescaled
    with torch.no_grad():
        for name, value in sae.named_parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * (1 if name.startswith("W") else 0.5))
        x = torch.randn(50, 6, generator=generator)
        plain = sae.encode_with_hidden_pre(x)
        sae.loss_gradients = torch.zeros_like(x)
        given = sae.encode_with_hidden_pre(x)
    for one, other in zip(given, plain, strict=True):
        torch.testing.assert_close(one, other.to_dense() if other.is_sparse else other)
