"""Which latents are active, where a pre-activation is exactly at the cut: SAELens' own encoders leave it out."""

import pytest
import torch
from test_encoder import CASES, lens_sae

from dm_utils.maths.codes import decode, dense_codes


def at_the_cut(architecture):
    """An SAE of four latents that reads four dimensions as they are."""
    sae = lens_sae(architecture, d_in=4, d_sae=4, **({"k": 3} if architecture == "topk" else {}))
    with torch.no_grad():
        for value in (sae.b_enc, sae.b_dec):
            value.zero_()
        sae.W_enc.copy_(torch.eye(4))
        sae.W_dec.copy_(torch.eye(4))
        if architecture == "jumprelu":
            sae.threshold.copy_(torch.tensor([0.5, 0.5, 0.0, 0.0]))
    return sae


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
def test_a_latent_exactly_at_its_cut_is_not_active(architecture):
    x = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.5, 0.75, 0.0, 1.0], [0.5, 0.5, 0.0, 0.0]])
    sae, codes = at_the_cut(architecture), dense_codes(at_the_cut(architecture), x)
    hidden = sae.encode(x)
    assert codes.l0.tolist() == (hidden != 0).sum(1).tolist()
    assert codes.l0.tolist() == {"topk": [0, 3, 2], "jumprelu": [0, 2, 0], "standard": [0, 3, 2]}[architecture]
    assert sorted(codes.values.tolist()) == sorted(hidden[hidden != 0].tolist())


@pytest.mark.parametrize("case", CASES)
def test_active_rows_alone_give_the_saes_own_reconstruction(case):
    sae = lens_sae(case.split()[0], **CASES[case])
    x = torch.randn(40, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(decode(sae, dense_codes(sae, x)), sae(x), rtol=1e-4, atol=1e-4)
