"""How features choose tokens and keep thresholds, how biases follow their groups' rates, and what is drawn in training alone."""

from __future__ import annotations

import pytest
import torch
from sae_lens.saes.sae import TrainStepInput

from dm_utils.dictionaries import feature_choice, group_bias, variational
from dm_utils.dictionaries.methods import METHODS
from dm_utils.dictionaries.zipf import MEMORY


def test_a_feature_chooses_its_share_of_the_tokens_and_at_least_one() -> None:
    z = torch.tensor([[5.0, 1.0], [4.0, 2.0], [3.0, 3.0], [2.0, -4.0]])
    for k, tokens in ((0.1, 1), (0.5, 1), (1.0, 2), (1.5, 3), (9.0, 4)):  # k · 4 / 2, rounded
        assert (feature_choice.choose_by_feature(z, k) != 0).sum(0).tolist() == [tokens, min(tokens, 3)], k


def test_a_threshold_starts_at_the_smallest_choice_and_follows_by_a_hundredth() -> None:
    sae = feature_choice.new(4, 3, 1)
    sae.update_topk_threshold(torch.tensor([[4.0, 0.0, 1.0], [2.0, 0.0, 0.0]]))
    assert sae.thresholds.tolist() == [2.0, 0.0, 1.0]
    sae.update_topk_threshold(torch.tensor([[0.0, 7.0, 3.0], [0.0, 0.0, 5.0]]))
    assert sae.thresholds.tolist() == pytest.approx([2.0, 7.0, 1.02])
    sae.fold_activation_norm_scaling_factor(4.0)
    assert sae.thresholds.tolist() == pytest.approx([0.5, 1.75, 0.255])


def test_a_bias_moves_towards_the_value_that_its_share_of_the_batch_exceeds() -> None:
    """Of four tokens a half, a quarter and none should fire: the third, the second and the first value decide."""
    sae = group_bias.new(4, 64, 4)
    sae.target, sae.bias = torch.tensor([0.5, 0.25, 0.0]), torch.tensor([1.0, 0.0, -2.0])
    sae.adapt(torch.tensor([[4.0, 4.0, 4.0], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0]]))
    assert sae.bias.tolist() == pytest.approx([1 - 0.3 * (2 + 1), 0 - 0.3 * (3 + 0), -2 - 0.3 * (4 - 2)])


def test_a_bias_decides_whether_a_latent_fires_and_not_how_much() -> None:
    sae = group_bias.new(4, 64, 4)
    sae.W_enc.data.zero_()
    sae.W_enc.data[:4, :4] = torch.eye(4)
    sae.bias[:4] = torch.tensor([-2.0, -3.0, 1.0, 1.0])
    codes, hidden = sae.encode_with_hidden_pre(torch.tensor([[3.0, 3.0, 0.5, -0.5]]))
    assert codes[0, :4].tolist() == [3.0, 0.0, 0.5, 0.0]  # 3 − 3 is not above zero; −0.5 + 1 is, and has no value
    assert hidden[0, :4].tolist() == [3.0, 3.0, 0.5, -0.5]
    config = sae.cfg
    assert (config.target_l0, config.groups, config.bias_rate, config.l1_coefficient) == (4.0, 8, 0.3, 0.0)
    assert config.apply_b_dec_to_input and not sae.b_enc.requires_grad


def test_rates_sum_to_l0_up_to_half_of_all_latents() -> None:
    assert group_bias.group_rates(16, 8.0, 4).tolist() == pytest.approx([0.5] * 16, abs=1e-6)
    rates = group_bias.group_rates(16, 7.0, 4)
    assert float(rates.sum()) == pytest.approx(7.0) and rates[::4].tolist() == pytest.approx(
        [0.5, 0.5, 0.5, 0.25], abs=1e-5
    )
    with pytest.raises(ValueError, match=r"an L0 of 8\.1 of 16 latents"):
        group_bias.group_rates(16, 8.1, 4)


def test_noise_of_one_is_drawn_in_training_alone() -> None:
    sae = METHODS["variational"].new(4, 512, 512)
    assert isinstance(sae, variational.VariationalTopKTrainingSAE)
    sae.W_dec.data = torch.nn.functional.normalize(
        torch.randn(512, 4, generator=torch.Generator().manual_seed(0)), dim=1
    )
    x = torch.zeros(200, 4)
    torch.manual_seed(0)
    codes, mean = sae.train().encode_with_hidden_pre(x)
    assert not mean.any() and float(codes.square().mean()) == pytest.approx(
        0.5, abs=0.02
    )  # the positive half of N(0, 1)
    assert not sae.eval().encode_with_hidden_pre(x)[0].to_dense().any()
    assert (sae.cfg.beta, sae.cfg.noise, sae.cfg.aux_loss_coefficient) == (0.01, 1.0, 0.0)


def test_usage_follows_how_often_each_latent_is_active() -> None:
    """Of 8 tokens, latent j is the positive part of dimension j: the average moves a hundredth of the way to its share."""
    sae = METHODS["mutual_choice"].new(4, 4, 2).train()
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(4))
        for value in (sae.b_enc, sae.b_dec):
            value.zero_()
    x = torch.zeros(8, 4)
    for dimension, tokens in enumerate((8, 4, 2, 0)):
        x[:tokens, dimension] = 1.0 + torch.arange(tokens) / 100
    before = sae.usage.rates.clone()
    given = TrainStepInput(sae_in=x, coefficients={}, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False)
    active = sae.training_forward_pass(given).feature_acts.detach() != 0
    assert active.sum(0).tolist() == [8, 4, 2, 0]
    expected = before + (1 - MEMORY) * (active.float().mean(0) - before)
    torch.testing.assert_close(sae.usage.rates, expected)
