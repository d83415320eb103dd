r"""Low-precision products of this machine: whether they accumulate as the screen's bound assumes, and which are emulated.

What `screen` proves rests on a condition of the machine: a product in bfloat16 keeps its partial sums in float32, one in
int8 in int32. Not every kernel does. Without AVX512-VNNI, x86 adds int8 products in pairs of 16 bits, which saturate; a kernel
may round partial sums to bfloat16. So the machine is asked, with the very function that the screen calls, by products whose
result is known:

- :math:`a = (p, p, e)` and :math:`b = (q, -q, c)` are integers with :math:`a \cdot b = ec`, small enough for the output's format;
- every partial sum, in any order and any blocks, is an integer below 2²⁴, so float32 and int32 give exactly ec;
- p and q are large, so partial sums need up to 21 bits: whatever keeps fewer, or saturates, gives another number.

Once with all of :math:`pq > 0` first, once with signs and places shuffled, for one token, a few and many of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

ROWS = (1, 17, 512)  # tokens of a check: the kernels of a vector, of a tile's rest and of a block
COLUMNS = 512  # latents of a check, and the rest of the width by it
RACE = 16  # tokens of a race: where bfloat16 is emulated, more would take minutes
SLOW = 2  # times as slow as float32: no screen gains then
FEW_ROWS = 32  # that an int8 product on a GPU needs at least


def product(a: Tensor, b: Tensor) -> Tensor:
    """a · b as the screen reads it: in int32 for int8, in the operands' format otherwise."""
    if a.dtype != torch.int8:
        return a @ b
    if a.device.type == "cuda" and len(a) < FEW_ROWS:
        return torch._int_mm(torch.nn.functional.pad(a, (0, 0, 0, FEW_ROWS - len(a))), b)[: len(a)]
    return torch._int_mm(a, b)


@contextlib.contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Have products accumulate in float32 and read all of a float32, as the bounds assume; leaves the settings as found."""
    if device.type != "cuda":
        yield
        return
    matmul, precision = torch.backends.cuda.matmul, torch.get_float32_matmul_precision()
    reduced = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction = reduced
        torch.set_float32_matmul_precision(precision)


def accumulates(dtype: torch.dtype, device: torch.device, d: int, width: int) -> bool:
    """Whether products [token, d] × [d, width] accumulate as the bound assumes; asked once per size and threads.

    False, too, where there is no such product on the device.
    """
    return _accumulates(dtype, device, d, _columns(width), torch.get_num_threads())


def emulated(dtype: torch.dtype, device: torch.device, d: int, width: int) -> bool:
    """Whether a product of a few tokens is so much slower than in float32 that more of them need not be timed."""
    return _emulated(dtype, device, d, _columns(width), torch.get_num_threads())


def _columns(width: int) -> int:
    return width if width < 2 * COLUMNS else COLUMNS + width % COLUMNS


@cache
def _accumulates(dtype: torch.dtype, device: torch.device, d: int, width: int, _: int) -> bool:
    try:
        with exact_products(device):
            return all(_is_exact(dtype, device, (n, d, width), shuffled) for n in ROWS for shuffled in (False, True))
    except RuntimeError:
        return False


def _is_exact(dtype: torch.dtype, device: torch.device, shape: tuple[int, int, int], shuffled: bool) -> bool:
    """Whether one product is what it must be, to the last digit."""
    a, b, known = known_product(dtype, *shape, shuffled)
    return bool((product(a.to(device), b.to(device)).double().cpu() == known).all())


def known_product(dtype: torch.dtype, n: int, d: int, width: int, shuffled: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Operands [n, d] and [d, width] of a dtype, and their exact product (float64), as the module says."""
    rng, half = torch.Generator().manual_seed(0), (d - 1) // 2
    largest = 127 if dtype == torch.int8 else min(255, int((2.0**24 / d) ** 0.5))
    p, q = (
        torch.randint(1, largest + 1, (n, half), generator=rng),
        torch.randint(1, largest + 1, (half, width), generator=rng),
    )
    e, c = torch.randint(-15, 16, (n, 1), generator=rng), torch.randint(-15, 16, (1, width), generator=rng)
    if shuffled:
        q *= 2 * torch.randint(2, q.shape, generator=rng) - 1
    order = torch.randperm(d, generator=rng) if shuffled else torch.arange(d)
    a = torch.cat([p, p, e, e.new_zeros(n, d - 2 * half - 1)], 1).to(dtype)[:, order]
    b = torch.cat([q, -q, c, c.new_zeros(d - 2 * half - 1, width)]).to(dtype)[order]
    return a.contiguous(), b, (e * c).double()


@cache
def _emulated(dtype: torch.dtype, device: torch.device, d: int, width: int, _: int) -> bool:
    a, b, _known = known_product(dtype, RACE, d, width, True)
    low, full = (a.to(device), b.to(device)), (a.float().to(device), b.float().to(device))
    try:
        return min(_seconds(*low) for _ in range(3)) > SLOW * min(_seconds(*full) for _ in range(3))
    except RuntimeError:
        return True


def _seconds(a: Tensor, b: Tensor) -> float:
    """What a product takes: on a CPU of its own time, which no other program's work can lengthen."""
    clock = time.process_time if a.device.type == "cpu" else time.perf_counter
    start = clock()
    product(a, b)[0, 0].item()  # waits for a GPU
    return clock() - start
