"""Products of machines that do not sum as they should."""

import torch
from torch import Tensor


def rounding_product(a: Tensor, b: Tensor, block: int = 32) -> Tensor:
    """Partial sums of `block` terms in float32, added up in bfloat16."""
    total = torch.zeros(len(a), b.shape[1], dtype=torch.bfloat16)
    for terms in torch.arange(a.shape[1]).split(block):
        total = (total.float() + a[:, terms].float() @ b[terms].float()).bfloat16()
    return total


def saturating_product(a: Tensor, b: Tensor) -> Tensor:
    """Pairs of products of int8 summed in 16 bits that saturate, as x86 without VNNI has it."""
    a, b = a.float(), b.float()
    if a.shape[1] % 2:
        a, b = torch.nn.functional.pad(a, (0, 1)), torch.nn.functional.pad(b, (0, 0, 0, 1))
    pairs = (a[:, i : i + 2] @ b[i : i + 2] for i in range(0, a.shape[1], 2))
    return sum(pair.clamp(-(2**15), 2**15 - 1) for pair in pairs).int()


def shifted_saturating_product(a: Tensor, b: Tensor) -> Tensor:
    """The same with a shifted to 0 … 255 first, whose sum is taken off at the end."""
    return saturating_product(a.short() + 128, b) - 128 * b.int().sum(0)


def short_product(a: Tensor, b: Tensor, bits: int = 12) -> Tensor:
    """Every partial sum kept to `bits` bits."""
    total = torch.zeros(len(a), b.shape[1])
    for i in range(a.shape[1]):
        mantissa, exponent = torch.frexp(total + a[:, i : i + 1].float() * b[i].float())
        total = torch.ldexp((mantissa * 2**bits).round() / 2**bits, exponent)
    return total.bfloat16()
