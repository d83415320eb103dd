"""What an untrained dictionary of each method is set to, and how those that steer their own L0 do it."""

from __future__ import annotations

import math

import pytest
import torch
from sae_lens.saes.sae import TrainStepInput

from dm_utils.dictionaries import itda, top_afa
from dm_utils.dictionaries.methods import METHODS

D, WIDTH, L0 = 8, 64, 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("topk", {"k": 4}),
        ("batchtopk", {"k": 4}),
        ("abstopk", {"k": 4}),
        ("gradient", {"k": 4}),
        ("gated", {"target_l0": 4.0, "l1_coefficient": 1.0, "decoder_init_norm": 1.0}),
        ("top_afa", {"k": 32, "target_l0": 4.0, "afa": 1 / 32, "use_sparse_activations": False}),
        ("top_afa_own", {"k": 8, "target_l0": 0.0, "afa": 1 / 32, "use_sparse_activations": False}),
        ("itda", {"max_iterations": 4, "threshold": 0.1, "per_batch": 16, "apply_b_dec_to_input": True}),
        ("matching_pursuit", {"max_iterations": 4}),
    ],
)
def test_an_untrained_dictionary_has_the_sizes_that_were_asked_for(name: str, expected: dict[str, object]) -> None:
    config = METHODS[name].new(D, WIDTH, L0).cfg
    assert {key: getattr(config, key) for key in expected} == expected
    assert (config.d_in, config.d_sae, config.dtype, config.device) == (D, WIDTH, "float32", "cpu")


def test_what_a_method_needs_is_in_the_list() -> None:
    """The flags that differ from a gradient method that compares at equal L0 on all tokens."""
    plain = METHODS["topk"]
    found = {
        name: {
            key: value
            for key, value in vars(method).items()
            if key not in ("name", "title", "new") and value != vars(plain)[key]
        }
        for name, method in METHODS.items()
    }
    assert {name: flags for name, flags in found.items() if flags} == {
        "gated": {"revive": True},
        "gradient": {"gradients": True},
        "top_afa_own": {"own_l0": True},
        "itda": {"pursuit": True, "tokens": 0.1, "rated": False},
        "matching_pursuit": {"revive": True, "pursuit": True},
        "sae_tuning": {"rated": False, "tunes": True},
    }
    assert METHODS["itda"].encode_flops(8, 64, 4) == 4 * plain.encode_flops(8, 64, 4) == 4 * 2 * 8 * 64
    assert plain.tokens == 1.0 and plain.rated


def step(sae, x: torch.Tensor):
    return sae.training_forward_pass(TrainStepInput(x, {}, None, 0, False))


def with_identity(sae):
    sae.W_dec.data, sae.W_enc.data = torch.eye(4), torch.eye(4)
    return sae


@pytest.mark.parametrize(
    ("wanted", "pace"),
    [(1, 1.0), (2, math.log(1.5)), (3, 0.0), (4, math.log(0.75))],
    ids=["far", "over", "met", "under"],
)
def test_the_share_of_the_norm_falls_while_too_many_are_active(wanted: int, pace: float) -> None:
    """Three latents reach the norm of the token; a step is at most e^0.02."""
    sae = with_identity(top_afa.new(4, 4, wanted))
    step(sae, torch.tensor([[3.0, 2.0, 2.0, 0.0]]))
    assert float(sae.share) == pytest.approx(math.exp(-0.02 * pace), abs=1e-7)


def test_the_papers_share_stays_and_few_latents_raise_it_by_no_more_than_a_step() -> None:
    own = with_identity(top_afa.new_own(4, 4, 1))
    step(own, torch.tensor([[3.0, 2.0, 2.0, 0.0]]))
    assert float(own.share) == 1.0
    few = with_identity(top_afa.new(4, 4, 4))
    step(few, torch.tensor([[-3.0, -2.0, 0.0, 0.0]]))
    assert float(few.share) == pytest.approx(math.exp(0.02))


def test_the_norms_loss_is_a_thirty_second_of_the_squared_gap() -> None:
    sae = with_identity(top_afa.new_own(4, 4, 1))
    losses = step(sae, torch.tensor([[3.0, -4.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0]])).losses
    assert float(losses["afa_loss"]) == pytest.approx(((3 - 5) ** 2 + 0) / 2 / 32)


def test_a_share_of_the_norm_is_what_inference_reaches() -> None:
    sae = with_identity(top_afa.new_own(4, 4, 1))
    config = top_afa.TopAFASAEConfig(d_in=4, d_sae=4, k=4, dtype="float32", device="cpu", apply_b_dec_to_input=False)
    config.rescale_acts_by_decoder_norm = True
    plain = top_afa.TopAFASAE(config)
    plain.W_enc.data, plain.W_dec.data = torch.eye(4), torch.diag(torch.tensor([1.0, 1.0, 1.0, 5.0]))
    x = torch.tensor([[3.0, 2.0, 1.0, 0.5]])  # of norm 3.77; 3 and 5 · 0.5 reach 3.91
    plain.b_dec.data.zero_()
    assert plain.encode(x).tolist() == [[3.0, 0.0, 0.0, 2.5]]
    plain.share.fill_(0.5)
    assert plain.encode(x).tolist() == [[3.0, 0.0, 0.0, 0.0]]
    assert sae.get_activation_fn()(x) is x and plain.get_activation_fn()(x) is x


def test_a_full_dictionary_of_activations_takes_no_more_and_a_token_well_expressed_none() -> None:
    sae = itda.new(2, 4, 2)
    x = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]])
    output = step(sae, x)
    assert int(sae.filled) == 2, "two basis vectors and two signed steps express every token"
    sae.grow(x, torch.zeros_like(x) + 1e-9)
    assert int(sae.filled) == 4, "nine tenths apart, but there is room for two"
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(4))
    assert output.loss.requires_grad and float(output.loss.detach()) == pytest.approx(0.0, abs=1e-9)
    state = dict(sae.state_dict())
    sae.process_state_dict_for_saving_inference(state)
    assert "filled" not in state


@pytest.mark.parametrize(("gap", "taken"), [(0.0999, 0), (0.1001, 1)])
def test_a_token_joins_where_its_direction_is_off_by_more_than_a_tenth(gap: float, taken: int) -> None:
    """‖u − v‖² = 2 − 2 cos for two directions."""
    sae = itda.new(2, 8, 1)
    angle = math.acos(1 - gap / 2)
    sae.grow(torch.tensor([[5.0, 0.0]]), 0.1 * torch.tensor([[math.cos(angle), math.sin(angle)]]))
    assert int(sae.filled) == taken
