"""A machine is believed only if its products are exact where exactness is possible."""

from functools import partial

import pytest
import torch
from caches import forget
from careless import rounding_product, saturating_product, shifted_saturating_product, short_product
from torch import Tensor

from dm_utils.maths import products
from dm_utils.maths.products import accumulates, known_product
from dm_utils.maths.screen import Screen

CPU = torch.device("cpu")
SIZES = [(133, 512), (517, 300), (2309, 40)]


@pytest.fixture(autouse=True)
def ask_the_machine_again():
    """What was found of one product is not believed of another."""
    forget(products)
    yield
    forget(products)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("d", [1, 2, 6, 133, 2309, 9221])
def test_every_partial_sum_is_exact_in_float32_and_the_result_in_bfloat16(dtype, shuffled: bool, d: int):
    a, b, known = known_product(dtype, 3, d, 5, shuffled)
    assert a.dtype == b.dtype == dtype
    torch.testing.assert_close(a.double() @ b.double(), known, rtol=0, atol=0)
    if dtype == torch.bfloat16:
        assert float((a.double().abs() @ b.double().abs()).max()) < 2**24
    assert torch.equal(known.bfloat16().double(), known)


@pytest.mark.parametrize("d", [133, 2309])
def test_partial_sums_need_most_of_float32(d: int):
    a, b, _ = known_product(torch.bfloat16, 3, d, 5, False)
    assert float((a.double()[:, :, None] * b.double()).cumsum(1).max()) > 2**20


@pytest.mark.parametrize(("d", "width"), SIZES)
def test_sums_in_float32_are_believed_in_any_order(monkeypatch: pytest.MonkeyPatch, d: int, width: int):
    def backwards(a: Tensor, b: Tensor) -> Tensor:
        blocks = torch.arange(a.shape[1]).flip(0).split(48)
        return sum(a[:, terms].float() @ b[terms].float() for terms in blocks).to(a.dtype)

    monkeypatch.setattr(products, "product", backwards)
    assert accumulates(torch.bfloat16, CPU, d, width)


@pytest.mark.parametrize(("d", "width"), SIZES)
@pytest.mark.parametrize("block", [1, 16, 32, 64])
def test_partial_sums_rounded_to_bfloat16_are_found(monkeypatch: pytest.MonkeyPatch, d: int, width: int, block: int):
    monkeypatch.setattr(products, "product", partial(rounding_product, block=block))
    assert not accumulates(torch.bfloat16, CPU, d, width)


def test_two_halves_rounded_to_bfloat16_are_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(products, "product", partial(rounding_product, block=1155))
    assert not accumulates(torch.bfloat16, CPU, 2309, 64)


@pytest.mark.parametrize("bits", [8, 11, 16])
def test_short_accumulators_are_found(monkeypatch: pytest.MonkeyPatch, bits: int):
    monkeypatch.setattr(products, "product", partial(short_product, bits=bits))
    assert not accumulates(torch.bfloat16, CPU, 133, 64)


@pytest.mark.parametrize(("d", "width"), [(133, 512), (2309, 40)])
@pytest.mark.parametrize("saturating", [saturating_product, shifted_saturating_product])
def test_saturating_pairs_of_int8_are_found(monkeypatch: pytest.MonkeyPatch, saturating, d: int, width: int):
    if saturating is saturating_product:  # unshifted pairs reach 2 · 127², which 16 bits hold
        monkeypatch.setattr(products, "product", lambda a, b: saturating(2 * a.short(), b) // 2)
    else:
        monkeypatch.setattr(products, "product", saturating)
    assert not accumulates(torch.int8, CPU, d, width)


def test_a_product_that_there_is_not_is_not_believed(monkeypatch: pytest.MonkeyPatch):
    def missing(a: Tensor, b: Tensor) -> Tensor:
        raise RuntimeError("not implemented for this device")

    monkeypatch.setattr(products, "product", missing)
    assert not accumulates(torch.int8, CPU, 64, 64)
    assert products.emulated(torch.int8, CPU, 61, 67)


def test_the_machine_is_asked_once(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(products, "product", lambda a, b: asked.append(a.shape) or (a.float() @ b.float()))
    assert accumulates(torch.bfloat16, CPU, 133, 512) and accumulates(torch.bfloat16, CPU, 133, 512)
    assert asked == [(n, 133) for n in products.ROWS for _ in range(2)]


def test_a_screen_of_a_careless_machine_is_refused(careless_product: None):
    screen = Screen.of(torch.ones(64, 32), torch.zeros(32, dtype=torch.float64), None, torch.bfloat16)
    assert "do not keep their partial sums" in str(screen.refusal)


def test_a_careless_product_breaks_the_bound():
    """So the condition is needed: the same screen, read by a product that rounds, calls active latents inactive."""
    rng = torch.Generator().manual_seed(0)
    y, weights = torch.rand(64, 512, generator=rng).bfloat16(), torch.rand(512, 256, generator=rng).bfloat16()
    exact = y.double() @ weights.double()
    gamma = 520 * 2.0**-23 * y.double().norm(dim=1)[:, None] * weights.double().norm(dim=0)
    assert ((rounding_product(y, weights, 1).double() - exact).abs() > gamma + 2.0**-8 * exact).any()
