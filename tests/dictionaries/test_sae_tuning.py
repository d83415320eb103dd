"""SAE-Tuning: updates start at nothing, reach every linear layer, join the weights, and lower the loss through a frozen SAE."""

from __future__ import annotations

import pytest
import torch
from tiny_models import VOCABULARY, random_model

from dm_utils.dictionaries import topk
from dm_utils.dictionaries.sae_tuning import LowRank, TuningPlan, inserted, loss_through, low_rank, tune

CONTEXTS = torch.arange(16 * 12).reshape(16, 12) * 7 % VOCABULARY  # a rule that can be learned


@pytest.fixture
def model():
    return random_model("gemma2").eval()


def test_an_update_starts_at_nothing_and_has_its_rank() -> None:
    weight = torch.randn(6, 5)
    update = LowRank(weight, 2, 8.0)
    assert torch.equal(update(weight), weight)
    update.up.data.normal_()
    change = update(weight) - weight
    assert torch.linalg.matrix_rank(change) == 2
    torch.testing.assert_close(change, 4.0 * update.up @ update.down)


def test_updates_join_the_weights(model) -> None:
    with torch.no_grad(), low_rank(model, TuningPlan(rank=2)) as parameters:
        for parameter in parameters:
            parameter.add_(0.01)
        during = model(input_ids=CONTEXTS).logits
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=CONTEXTS).logits, during)
    assert not any("parametrizations" in name for name, _ in model.named_parameters())


def test_a_perfect_sae_changes_nothing_and_an_empty_one_does(model) -> None:
    block = model.model.layers[1]
    with torch.no_grad():
        plain = loss_through(model, CONTEXTS)
        with inserted(block, lambda x: x):
            assert torch.equal(loss_through(model, CONTEXTS), plain)
        with inserted(block, torch.zeros_like):
            assert abs(float(loss_through(model, CONTEXTS) - plain)) > 1e-3
        assert torch.equal(loss_through(model, CONTEXTS), plain)  # it is out again


def test_tuning_lowers_the_loss_through_the_sae_and_leaves_it_as_it_is(model) -> None:
    torch.manual_seed(0)
    sae = topk.new(32, 64, 8)
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    losses = tune(model, model.model.layers[1], sae, CONTEXTS, TuningPlan(steps=30, lr=3e-3, rank=4, alpha=8.0))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert all(torch.equal(value, before[name]) for name, value in sae.state_dict().items())


def test_a_loss_that_is_not_a_number_names_its_step(model) -> None:
    model.model.layers[0].mlp.up_proj.weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 0"):
        tune(model, model.model.layers[1], topk.new(32, 64, 8), CONTEXTS, TuningPlan(steps=2))


def test_only_the_updates_learn_and_they_start_at_the_size_of_a_weight(model) -> None:
    """A is drawn with variance 1 / in: of 400 × 50 numbers the deviation is known to half a percent, five times over."""
    torch.manual_seed(0)
    update = LowRank(torch.zeros(8, 400), 50, 1.0)
    assert float(update.down.std()) == pytest.approx(400**-0.5, rel=5 * (2 * 400 * 50) ** -0.5)
    with low_rank(model, TuningPlan(rank=2)) as parameters:
        learning = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        assert learning == {id(parameter) for parameter in parameters}
