"""Encoders as records: what SAELens' SAEs are made of, and their codes by dense float32 products."""

import pytest
import torch
from sae_lens import SAE
from test_certified import dense

from dm_utils.maths.codes import Codes
from dm_utils.maths.encoder import Activation, Encoder, encoder_of, float_codes


def lens_sae(architecture: str, **settings: object) -> SAE:
    """A SAELens SAE of random weights, every parameter off zero."""
    config = {"d_in": 16, "d_sae": 64, "dtype": "float32", "device": "cpu", "architecture": architecture}
    sae = SAE.from_dict(config | {"normalize_activations": "none", "metadata": {}} | settings)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in sae.named_parameters():
            value.copy_(torch.randn(value.shape, generator=rng) * (1 if name.startswith("W") else 0.3))
    return sae.eval().requires_grad_(False)


CASES = {
    "topk": {"k": 5},
    "topk ranked by the decoder's norms": {"k": 5, "rescale_acts_by_decoder_norm": True},
    "jumprelu": {},
    "jumprelu without b_dec": {"apply_b_dec_to_input": False},
    "standard": {},
    "gated": {},
}


@pytest.mark.parametrize("case", CASES)
def test_the_codes_are_those_of_the_sae_itself(case: str):
    sae = lens_sae(case.split()[0], **CASES[case])
    x = torch.randn(200, 16, generator=torch.Generator().manual_seed(1))
    made = encoder_of(sae)
    assert made is not None
    theirs = sae.encode(x)
    theirs = theirs.to_dense() if theirs.is_sparse else theirs
    torch.testing.assert_close(dense(float_codes(x, *made), 64), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"architecture": "jumprelu", "normalize_activations": "layer_norm"},
        {"architecture": "matching_pursuit", "residual_threshold": 0.1},
    ],
)
def test_an_encoder_that_is_no_affine_map_and_cut_is_not_described(settings: dict):
    assert encoder_of(lens_sae(**settings)) is None


def test_weights_of_another_dtype_are_converted_and_that_is_said(caplog: pytest.LogCaptureFixture):
    made = encoder_of(lens_sae("jumprelu").to(torch.bfloat16))
    assert made is not None and made[0].W_enc.dtype == torch.float32
    assert "encoded in float32" in caplog.text


def test_topk_gives_no_latent_at_or_below_zero_and_k_may_exceed_the_width():
    encoder = Encoder(torch.tensor([[1.0, -1.0, 0.0]]), torch.zeros(3))
    code = float_codes(torch.tensor([[2.0], [0.0]]), encoder, Activation.topk(7))
    assert (code.indices.tolist(), code.values.tolist(), code.l0.tolist()) == ([0], [2.0], [1, 0])


def test_a_negative_threshold_of_jumprelu_acts_as_zero():
    encoder = Encoder(torch.tensor([[1.0, -1.0]]), torch.zeros(2))
    activation = Activation.jumprelu(torch.tensor([-5.0, -5.0]))
    assert float_codes(torch.tensor([[2.0]]), encoder, activation).indices.tolist() == [0]


def test_no_tokens_have_no_codes():
    code = float_codes(torch.ones(0, 2), Encoder(torch.eye(2), torch.zeros(2)), Activation.relu())
    assert len(code.indices) == len(code.offsets) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b_enc": torch.zeros(4)}, r"b_enc is torch.float32 \(4,\).* needs torch.float32 \(3,\)"),
        ({"W_enc": torch.ones(2, 3).half()}, "W_enc is torch.float16"),
        ({"W_enc": torch.full((2, 3), torch.nan)}, "W_enc holds NaN or Inf"),
        ({"scale": torch.tensor([1.0, torch.inf, 1.0])}, "scale holds NaN or Inf"),
    ],
)
def test_an_encoder_that_does_not_fit_together_is_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Encoder(**{"W_enc": torch.ones(2, 3), "b_enc": torch.zeros(3)} | change)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(4, 3), r"x is torch.float32 \(4, 3\) .*reads \[token, 2\]"),
        (torch.ones(4, 2, dtype=torch.int64), "x is torch.int64"),
        (torch.ones(4, 2, dtype=torch.float64), "give x.float"),
        (torch.ones(4, 2, device="meta"), "on meta; the encoder reads"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(x: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        Encoder(torch.ones(2, 3), torch.zeros(3)).inputs(x)


def test_k_below_one_is_refused():
    with pytest.raises(ValueError, match="k is 0"):
        Activation.topk(0)


def test_the_record_says_how_many_latents_each_token_has():
    code = Codes(torch.tensor([3, 1, 2]), torch.ones(3), torch.tensor([0, 2, 2]))
    assert code.l0.tolist() == [2, 0, 1]
