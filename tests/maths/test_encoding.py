"""The one door to codes: each SAE's precision, its encoder made once, and never an encoder of weights that changed."""

import copy

import pytest
import torch
from caches import forget
from test_encoder import lens_sae

from dm_utils.maths import encoding
from dm_utils.maths.codes import dense_codes
from dm_utils.maths.decomposition import decompose
from dm_utils.maths.encoding import encode, prefer, reconstruct

X = torch.randn(300, 16, generator=torch.Generator().manual_seed(1))


def sparse_sae(architecture, **settings):
    """A random SAE of 512 latents, 1 in 40 of them active: pre-activations have a deviation of 4 and must pass 8."""
    settings |= {"k": 12} if architecture == "topk" and "k" not in settings else {}
    sae = lens_sae(architecture, d_sae=512, **settings)
    with torch.no_grad():
        if architecture == "jumprelu":
            sae.threshold.abs_().add_(8)
        elif architecture == "gated":
            sae.b_gate.sub_(8)
            sae.b_mag.sub_(8)
        elif architecture == "standard":
            sae.b_enc.sub_(8)
    return sae


def same(left, right):
    """Whether two records of codes are equal to the last bit."""
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in ("indices", "values", "offsets"))


def support(code):
    """The active latents of each token, in order."""
    return [sorted(part.tolist()) for part in code.indices.tensor_split(code.offsets[1:].cpu())]


@pytest.fixture
def made(monkeypatch):
    """The SAEs that an encoder was made of, in order."""
    found, make = [], encoding.encoder_of
    monkeypatch.setattr(encoding, "encoder_of", lambda sae: found.append(sae) or make(sae))
    return found


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard", "gated"])
def test_float32_is_the_dense_product_bit_for_bit_and_what_an_sae_has_unless_told(architecture):
    sae = sparse_sae(architecture)
    assert same(encode(sae, X), dense_codes(sae, X))
    prefer(sae, "bfloat16")
    assert encode(sae, X).candidates > 0, "screened"
    prefer(sae, "float32")
    assert same(encode(sae, X), dense_codes(sae, X))


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard", "gated"])
def test_screened_codes_have_the_same_support_and_the_same_reconstruction(architecture):
    sae = sparse_sae(architecture)
    expected, out = encode(sae, X), reconstruct(sae, X)
    prefer(sae, "bfloat16")
    assert support(encode(sae, X)) == support(expected)
    sizes = (X.norm(dim=1).max(), sae.W_enc.norm(dim=0).max(), sae.W_dec.abs().max(), expected.l0.max())
    rounding = 2 * (16 + 4) * 2.0**-24 * float(torch.stack([size.float() for size in sizes]).prod())
    torch.testing.assert_close(reconstruct(sae, X), out, rtol=0, atol=rounding)


def test_the_encoder_is_made_once(made):
    sae = sparse_sae("jumprelu")
    prefer(sae, "bfloat16")
    encode(sae, X), encode(sae, X)
    assert len(made) == 1


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "threshold"])
def test_changed_weights_are_read_again(name, made):
    sae = sparse_sae("jumprelu")
    prefer(sae, "bfloat16")
    encode(sae, X)
    with torch.no_grad():
        getattr(sae, name).add_(0.5)
    assert support(encode(sae, X)) == support(dense_codes(sae, X))
    setattr(sae, name, torch.nn.Parameter(getattr(sae, name) * 1.5, requires_grad=False))
    assert support(encode(sae, X)) == support(dense_codes(sae, X))
    assert len(made) == 3


def test_another_k_is_read_again():
    sae = sparse_sae("topk", k=5)
    prefer(sae, "bfloat16")
    encode(sae, X)
    sae.cfg.k = 3
    assert support(encode(sae, X)) == support(dense_codes(sae, X))


def test_a_copy_has_no_precision_of_its_own():
    sae = sparse_sae("jumprelu")
    prefer(sae, "bfloat16")
    assert encode(copy.deepcopy(sae), X).candidates == 0


CANNOT = {
    "layer norm": {"normalize_activations": "layer_norm"},
    "another dtype": {"dtype": "bfloat16"},
    "inference mode": {},
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_cannot_be_certified_is_encoded_densely_and_that_is_said_once(case, caplog):
    forget(encoding)
    with torch.inference_mode(case == "inference mode"):
        sae = sparse_sae("jumprelu", **CANNOT[case])
    x = X.to(sae.W_enc.dtype)
    prefer(sae, "bfloat16")
    assert same(encode(sae, x), dense_codes(sae, x))
    encode(sae, x)
    assert caplog.text.count("it is encoded by a dense product") == 1


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="'float16'; allowed are 'auto', 'float32', 'bfloat16', 'int8'"):
        prefer(sparse_sae("jumprelu"), "float16")


def test_r2_does_not_depend_on_the_precision():
    """Values differ by float32 rounding, so R² does by less than 1e-6."""
    rng = torch.Generator().manual_seed(3)
    sae = lens_sae("topk", d_in=32, d_sae=4096, k=16)
    with torch.no_grad():
        sae.W_dec.copy_(torch.nn.functional.normalize(sae.W_dec, dim=1))
        sae.W_enc.copy_(sae.W_dec.T)
    x = torch.randn(1500, 32, generator=rng) * torch.linspace(0.2, 3, 32)
    groups, found = torch.arange(1500) // 30, {}
    for precision in ("float32", "bfloat16"):
        prefer(sae, precision)
        found[precision] = decompose(x, reconstruct(sae, x), groups=groups, n_bootstrap=100)
    for name in ("fvu", "fvu_nonlinear", "r2_error_vector", "r2_error_norm"):
        assert getattr(found["bfloat16"], name).value == pytest.approx(getattr(found["float32"], name).value, abs=1e-6)
