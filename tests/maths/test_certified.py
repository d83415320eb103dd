"""Certified codes have the support of a float64 reference, and say what they could not tell apart."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dm_utils.maths import certified
from dm_utils.maths.certified import certified_codes
from dm_utils.maths.codes import Codes
from dm_utils.maths.encoder import Activation, Encoder, float_codes
from dm_utils.maths.products import accumulates


def reference(x: torch.Tensor, encoder: Encoder) -> torch.Tensor:
    """Pre-activations in float64."""
    z = encoder.inputs(x).double() @ encoder.W_enc.double() + encoder.b_enc.double()
    return z if encoder.scale is None else z * encoder.scale.double()


def active(z: torch.Tensor, activation: Activation) -> torch.Tensor:
    """The support of a float64 reference."""
    above = z > activation.threshold
    if activation.k is None or activation.k >= z.shape[1]:
        return above
    return above & (z >= torch.topk(z, activation.k, dim=1).values[:, -1:])


def dense(code: Codes, d_sae: int) -> torch.Tensor:
    """Codes as rows of latents."""
    found = torch.zeros(len(code.offsets), d_sae)
    found[torch.arange(len(code.offsets)).repeat_interleave(code.l0), code.indices] = code.values
    return found


def support(code, d_sae: int) -> torch.Tensor:
    found = torch.zeros(len(code.offsets), d_sae, dtype=torch.bool)
    found[torch.arange(len(code.offsets)).repeat_interleave(code.l0), code.indices] = True
    return found


def problem(seed: int, d: int = 48, n: int = 600, n_token: int = 64) -> tuple[torch.Tensor, Encoder]:
    rng = torch.Generator().manual_seed(seed)
    x, weights = torch.randn(n_token, d, generator=rng), torch.randn(d, n, generator=rng)
    offset = torch.randn(d, generator=rng) if seed % 2 else None
    scale = torch.rand(n, generator=rng) + 0.5 if seed % 3 == 0 else None
    return x, Encoder(weights, torch.randn(n, generator=rng), offset, scale)


def near_thresholds(x: torch.Tensor, encoder: Encoder, seed: int) -> torch.Tensor:
    """Thresholds within three float32 neighbours of each latent's fourth largest pre-activation."""
    rng = torch.Generator().manual_seed(seed)
    value = reference(x, encoder).topk(4, dim=0).values[3].float()
    return value * (1 + torch.randint(-3, 4, value.shape, generator=rng) * 2.0**-23)


@pytest.mark.parametrize("seed", range(12))
def test_thresholds_beside_pre_activations_are_decided_as_float64_decides(seed: int):
    x, encoder = problem(seed)
    activation = Activation.jumprelu(near_thresholds(x, encoder, seed))
    code = certified_codes(x, encoder, activation, "bfloat16")
    assert torch.equal(support(code, 600), active(reference(x, encoder), activation))
    assert code.candidates > 0 and code.ties >= 100, "a good part of the thresholds is a neighbour's distance away"


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("k", [1, 4, 40])
def test_the_largest_k_are_those_of_float64(seed: int, k: int):
    x, encoder = problem(seed)
    encoder.W_enc[:, 300:] = encoder.W_enc[:, :300] * (1 + 2.0**-23)  # every latent has a neighbour
    encoder.b_enc[300:] = encoder.b_enc[:300]
    if encoder.scale is not None:
        encoder.scale[300:] = encoder.scale[:300]
    activation = Activation.topk(k)
    code = certified_codes(x, encoder, activation, "bfloat16")
    assert torch.equal(support(code, 600), active(reference(x, encoder), activation))
    assert int(code.l0.max()) <= k


@pytest.mark.parametrize("activation", [Activation.topk(8), Activation.jumprelu(torch.full((600,), 15.0))])
def test_codes_are_those_of_the_slow_twin(activation: Activation):
    x, encoder = problem(3, n_token=700)
    fast, slow = certified_codes(x, encoder, activation, "bfloat16"), float_codes(x, encoder, activation)
    assert fast.candidates >= len(fast.indices) > 0 == slow.candidates
    torch.testing.assert_close(dense(fast, 600), dense(slow, 600), rtol=1e-5, atol=1e-5)
    assert torch.equal(fast.l0, slow.l0)


def test_what_equals_its_threshold_is_not_active():
    """Whole numbers, so that every product is exact: a token's own pre-activations are the thresholds; a ReLU's is zero."""
    rng = torch.Generator().manual_seed(0)
    x, weights = (
        torch.randint(-3, 4, (30, 8), generator=rng).float(),
        torch.randint(-3, 4, (8, 200), generator=rng).float(),
    )
    encoder = Encoder(weights, torch.zeros(200))
    z = x @ weights
    for activation in (Activation.relu(), Activation.jumprelu(z[0].clamp_min(1)), Activation.topk(200)):
        at = 0 if activation.k else activation.threshold
        assert (z == at).any()
        assert torch.equal(support(certified_codes(x, encoder, activation, "bfloat16"), 200), z > at)


def test_a_gated_encoder_is_a_threshold_too():
    x, encoder = problem(4)
    rng = torch.Generator().manual_seed(0)
    plain = Encoder(encoder.W_enc, torch.zeros(600))
    gate, r, magnitude = (torch.randn(600, generator=rng) * s - c for s, c in ((1, 15), (0.3, 0), (1, 12)))
    code = certified_codes(x, plain, Activation.gated(gate, r, magnitude), "bfloat16")
    z = x.double() @ plain.W_enc.double()
    wanted = (z + gate > 0) * (z * r.double().exp() + magnitude).clamp_min(0)
    torch.testing.assert_close(dense(code, 600).double(), wanted, rtol=1e-5, atol=1e-5)


def test_duplicate_latents_tie_and_one_of_them_is_returned():
    x, encoder = problem(5)
    encoder.W_enc[:, 300:], encoder.b_enc[300:] = encoder.W_enc[:, :300], encoder.b_enc[:300]
    code = certified_codes(x, encoder, Activation.topk(1), "bfloat16")
    assert (code.l0 == 1).all()
    best = reference(x, encoder)[:, :300].argmax(1)
    assert torch.equal(code.indices % 300, best)
    assert code.ties == len(x)


def test_distinct_numbers_do_not_tie():
    encoder = Encoder(torch.eye(8), torch.zeros(8))
    x = torch.tensor([[8.0, 7, 6, 5, 4, 3, 2, 1]])
    code = certified_codes(x, encoder, Activation.topk(3), "bfloat16")
    assert (sorted(code.indices.tolist()), code.ties) == ([0, 1, 2], 0)


@pytest.mark.parametrize("k", [None, 8])
def test_zero_tokens_have_the_codes_of_the_bias(k: int | None):
    _, encoder = problem(6)
    x = torch.zeros(64, 48) if encoder.offset is None else encoder.offset.repeat(64, 1)
    activation = Activation(2.5, k) if k is None else Activation.topk(k)
    code = certified_codes(x, encoder, activation, "bfloat16")
    assert torch.equal(support(code, 600), active(reference(x, encoder), activation))


def test_a_massive_dimension_keeps_the_support(caplog: pytest.LogCaptureFixture):
    x, encoder = problem(8)
    x[:, 7] = 1e3 * x[:, 7].abs()
    activation = Activation.topk(8)
    code = certified_codes(x, encoder, activation, "bfloat16")
    assert torch.equal(support(code, 600), active(reference(x, encoder), activation))


def test_where_nearly_all_are_active_the_product_is_dense_and_that_is_said_once(caplog: pytest.LogCaptureFixture):
    certified.say_once.cache_clear()
    x, encoder = problem(10)
    activation = Activation(-1e6)
    for _ in range(2):
        code = certified_codes(x, encoder, activation, "bfloat16")
    assert len(code.indices) == x.shape[0] * 600
    assert code.candidates == 0
    assert caplog.text.count("too many latents in question") == 1


@pytest.mark.parametrize("where", ["x", "weights"])
def test_numbers_that_could_overflow_are_encoded_densely(where: str, caplog: pytest.LogCaptureFixture):
    certified.say_once.cache_clear()
    x, encoder = problem(2)
    if where == "x":
        x *= 2.0**40
    else:
        encoder = Encoder(encoder.W_enc * 2.0**40, encoder.b_enc)
    code = certified_codes(x, encoder, Activation.topk(8), "bfloat16")
    torch.testing.assert_close(dense(code, 600), dense(float_codes(x, encoder, Activation.topk(8)), 600))
    assert "2^30" in caplog.text


@pytest.mark.parametrize("precision", ["auto", "bfloat16", "float32"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_token_that_is_not_finite_is_named(precision: str, value: float):
    x, encoder = problem(2)
    x[41, 3] = value
    with pytest.raises(ValueError, match="NaN or Inf in 1 tokens, first in token 41"):
        certified_codes(x, encoder, Activation.topk(8), precision)


def test_an_unknown_precision_is_refused():
    x, encoder = problem(2)
    with pytest.raises(ValueError, match="allowed are 'auto', 'float32', 'bfloat16', 'int8'"):
        certified_codes(x, encoder, Activation.topk(8), "fp4")


@pytest.mark.parametrize("n_token", [0, 1, 513, 5000])
def test_any_number_of_tokens_in_order(n_token: int):
    x, encoder = problem(2, d=8, n=4096, n_token=n_token)
    activation = Activation.jumprelu(torch.full((4096,), 9.0))
    code = certified_codes(x, encoder, activation, "bfloat16")
    assert len(code.offsets) == n_token
    assert torch.equal(support(code, 4096), active(reference(x, encoder), activation))


def test_half_precision_tokens_are_read_as_float32():
    x, encoder = problem(2)
    half = x.bfloat16()
    code = certified_codes(half, encoder, Activation.topk(8), "bfloat16")
    assert torch.equal(support(code, 600), active(reference(half.float(), encoder), Activation.topk(8)))


def test_auto_times_both_once_and_takes_the_faster(monkeypatch: pytest.MonkeyPatch):
    x, encoder = problem(2, n_token=1024)
    activation, asked = Activation.topk(8), []
    monkeypatch.setattr(certified, "_faster", {})
    monkeypatch.setattr(certified, "emulated", lambda *size: False)

    def seconds(few, encoder, activation, precision):
        asked.append((len(few), precision))
        return {"float32": 3.0, "bfloat16": 2.0}[precision]

    monkeypatch.setattr(certified, "_seconds", seconds)
    assert certified_codes(x, encoder, activation).candidates > 0
    timed = len(asked)
    assert {precision for _, precision in asked} == {"float32", "bfloat16"} and {n for n, _ in asked} == {
        certified.PROBE
    }
    certified_codes(x, encoder, activation)
    assert len(asked) == timed
    monkeypatch.setattr(certified, "_faster", {})
    monkeypatch.setattr(certified, "_seconds", lambda *a: {"float32": 2.0, "bfloat16": 3.0}[a[-1]])
    assert certified_codes(x, encoder, activation).candidates == 0


def test_auto_tries_int8_for_thresholds_and_keeps_the_copy_that_wins(monkeypatch: pytest.MonkeyPatch):
    x, encoder = problem(2, n_token=1024)
    activation, taken = Activation.jumprelu(torch.full((600,), 12.0)), {"float32": 3.0, "bfloat16": 2.0, "int8": 1.0}
    for name in ("emulated", "accumulates"):
        monkeypatch.setattr(certified, name, lambda *_, held=name == "accumulates": held)
    for loser, winner in (("bfloat16", "int8"), ("int8", "bfloat16")):
        monkeypatch.setattr(certified, "_faster", {})
        monkeypatch.setattr(certified, "_seconds", lambda *a, taken=taken: screens_made(a) or taken[a[-1]])
        assert certified.faster(x, encoder, activation) == winner
        assert certified.FORMATS[winner] in encoder.cache and certified.FORMATS[loser] not in encoder.cache
        taken |= {"int8": 2.5}


def screens_made(timed: tuple) -> None:
    """What timing a format leaves behind."""
    _, encoder, activation, name = timed
    if name in certified.FORMATS:
        certified.screen_of(encoder, activation, certified.FORMATS[name])


@pytest.mark.skipif(
    not accumulates(torch.int8, torch.device("cpu"), 48, 600),
    reason="int8 products saturate on this processor: refused",
)
@pytest.mark.parametrize("k", [None, 8])
@pytest.mark.parametrize("seed", range(4))
def test_an_int8_screen_has_the_support_of_float64_too(seed: int, k: int | None):
    x, encoder = problem(seed)
    activation = Activation(near_thresholds(x, encoder, seed)) if k is None else Activation.topk(k)
    code = certified_codes(x, encoder, activation, "int8")
    found, exact = support(code, 600), active(reference(x, encoder), activation)
    assert int((found != exact).sum()) <= 2 * code.ties


def test_auto_times_nothing_where_bfloat16_is_emulated(monkeypatch: pytest.MonkeyPatch):
    x, encoder = problem(2, n_token=1024)
    monkeypatch.setattr(certified, "_faster", {})
    monkeypatch.setattr(certified, "emulated", lambda *size: True)
    monkeypatch.setattr(certified, "_seconds", lambda *run: pytest.fail("timed"))
    assert certified_codes(x, encoder, Activation.topk(8)).candidates == 0


def test_where_products_do_not_accumulate_codes_are_dense_and_that_is_said(
    careless_product: None, caplog: pytest.LogCaptureFixture
):
    certified.say_once.cache_clear()
    x, encoder = problem(2)
    code = certified_codes(x, encoder, Activation.topk(8), "bfloat16")
    torch.testing.assert_close(dense(code, 600), dense(float_codes(x, encoder, Activation.topk(8)), 600))
    assert code.candidates == 0 and "products in bfloat16 do not keep their partial sums here" in caplog.text


def test_listed_products_are_the_same_in_either_order(monkeypatch: pytest.MonkeyPatch):
    rng = torch.Generator().manual_seed(0)
    y, rows = torch.randn(30, 65, generator=rng), torch.randn(40, 65, generator=rng)
    token, latent = (torch.rand(30, 40, generator=rng) < 0.2).nonzero(as_tuple=True)
    exact = (y[token].double() * rows[latent].double()).sum(1)
    for cached in (0, 2**22):
        monkeypatch.setattr(certified, "CACHED", cached)
        found = certified.listed_products(y, rows, token, latent).double()
        limit = 69 * 2.0**-24 * y.norm(dim=1)[token] * rows.norm(dim=1)[latent]
        assert ((found - exact).abs() <= limit).all()


@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_the_support_is_that_of_float64_on_processors_without_bfloat16(capability: str):
    """The kernels of processors without it, in a process of its own: oneDNN and torch choose theirs when they start."""
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    script = (
        "from test_certified import *\n"
        "for seed in range(2):\n"
        "    test_the_largest_k_are_those_of_float64(seed, 4)\n"
        "    test_thresholds_beside_pre_activations_are_decided_as_float64_decides(seed)\n"
        "from test_screen import *\n"
        "test_the_bound_is_never_violated(torch.bfloat16, 0)\n"
        "print(torch.backends.cpu.get_cpu_capability())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1].lower() == capability
