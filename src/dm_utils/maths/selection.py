"""Which atom has the largest inner product with each residual: pursuit's question, asked of a low-precision product.

The screen's bound (`screen`, 7) leaves a few atoms per residual in question; these are computed exactly in float32. Two
atoms *tie* where their inner products differ by at most d 2⁻²⁴ ‖r‖, what the order of summation may change.

The other way, correlations from k rows of the atoms' Gram matrix, costs about as much at 16 k atoms and k = 40 as
a product in int8, after 1.2 TFLOP for the matrix, which has 1 GiB there and 64 at 131 k: not taken.
"""

from __future__ import annotations

import logging

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.maths.certified import listed_products, processor_clock, say_once
from dm_utils.maths.products import emulated, exact_products
from dm_utils.maths.screen import LARGEST, Screen

log = logging.getLogger("dm_utils")

PROBE = 256  # residuals that decide the precision
ROWS = {"cpu": 512, "cuda": 16384}  # residuals per product
ROUNDINGS = 2.02  # of float32's products: of the one whose inner product is reached first, and of one that ties with it
MOST = 1 / 16  # of the atoms in question: with more, a dense product costs less
_fastest: dict[tuple[object, ...], torch.dtype | None] = {}


class Selector:
    """Selects among fixed unit atoms; `ties` counts the selections that another order of summation may change.

    `precision` is that of the screen; None reads a dense float32 product, "auto" times all three once per device and
    size on the first 256 residuals (fewer are read densely).
    """

    def __init__(self, units: Float[Tensor, "atom d"], precision: torch.dtype | str | None = "auto"):
        self.units, self.precision, self.ties = units, precision, 0
        self._screens: dict[torch.dtype, Screen] = {}
        self._block: Tensor | None = None

    def select(
        self, r: Float[Tensor, "token d"], chosen: Int[Tensor, "token some"]
    ) -> tuple[Float[Tensor, " token"], Int[Tensor, " token"], Float[Tensor, "token some"]]:
        """The largest inner product of each residual with an atom not yet chosen, the first such atom, and those with the chosen.

        −∞ and 0 where no such atom has a positive one.
        """
        precision, parts = self._decided(r, chosen), []
        step = ROWS[r.device.type] if precision else max(1, len(r))
        with exact_products(r.device):
            for rows, out in zip(r.split(step), chosen.split(step), strict=True):
                found = None if precision is None else self._screened(rows, out, precision)
                parts.append(self._dense(rows, out) if found is None else found)
        best, atom, own = (torch.cat([part[i] for part in parts]) if len(parts) > 1 else parts[0][i] for i in range(3))
        return best, atom, own

    def _dense(self, r: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same from every inner product, in one block that is used again."""
        if self._block is None or len(self._block) < len(r):
            self._block = r.new_empty(len(r), len(self.units))
        block = torch.mm(r, self.units.T, out=self._block[: len(r)])
        own = block.gather(1, chosen)
        best, atom = row_max(block.scatter_(1, chosen, -torch.inf))
        return best, atom, own

    def _screened(self, r: Tensor, chosen: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor] | None:
        """The same from a screen; None where it leaves too much in question."""
        if dtype not in self._screens:
            zero = torch.zeros(len(self.units), dtype=torch.float64, device=r.device)
            self._screens[dtype] = Screen.of(self.units.T, zero, None, dtype, k=1)
        refusal = self._screens[dtype].refusal
        if refusal:
            say_once(f"{refusal}: atoms are selected by a dense product")
        if refusal or not r.abs().max() <= LARGEST:
            return None
        size, rows = torch.linalg.vector_norm(r, dim=1), torch.arange(len(r), device=r.device)
        rounding = ROUNDINGS * (r.shape[1] + 8) * 2.0**-23 * size

        def reached(latent: Tensor) -> Tensor:
            return listed_products(r, self.units, rows, latent) - rounding

        most = int(MOST * len(self.units) * len(r)) + 64
        found = self._screens[dtype].candidates(r, 1, most, chosen, reached)
        if found is None:
            return None
        token, latent = found
        dots = listed_products(r, self.units, token, latent)
        best = dots.new_full((len(r),), -torch.inf).scatter_reduce_(0, token, dots, "amax")
        behind = best.index_select(0, token) - dots
        atom = torch.full_like(best, len(self.units), dtype=torch.int64)
        atom.scatter_reduce_(0, token, torch.where(behind == 0, latent, len(self.units)), "amin")
        near = behind <= r.shape[1] * 2.0**-24 * size.index_select(0, token)
        self.ties += int((torch.bincount(token[near], minlength=1) > 1).sum())
        own = listed_products(r, self.units, rows.repeat_interleave(chosen.shape[1]), chosen.flatten())
        return torch.where(best > 0, best, -torch.inf), torch.where(best > 0, atom, 0), own.view(chosen.shape)

    def _decided(self, r: Tensor, chosen: Tensor) -> torch.dtype | None:
        """The precision asked for, or the fastest here."""
        if r.dtype != torch.float32:
            return None
        if not isinstance(self.precision, str):
            return self.precision
        key = (r.device, *self.units.shape, torch.get_num_threads())
        if key not in _fastest:
            if len(r) < PROBE:
                return None
            native = [t for t in (torch.bfloat16, torch.int8) if not emulated(t, r.device, *self.units.T.shape)]
            choices = (None, *native)
            taken = {choice: self._seconds(r[:PROBE], chosen[:PROBE], choice) for choice in choices}
            _fastest[key] = min(taken, key=taken.__getitem__)
            said = ", ".join(f"{choice or 'dense'} {1e3 * seconds:.0f} ms" for choice, seconds in taken.items())
            log.info("pursuit selects among %d atoms on %s by %s: %s", len(self.units), r.device, _fastest[key], said)
        return _fastest[key]

    def _seconds(self, r: Tensor, chosen: Tensor, precision: torch.dtype | None) -> float:
        timed, taken, now = Selector(self.units, precision), [], processor_clock(r.device)
        for _ in range(3):
            start = now()
            timed.select(r, chosen)[0].sum().item()
            taken.append(now() - start)
        return min(taken)


def row_max(block: Float[Tensor, "token atom"]) -> tuple[Float[Tensor, " token"], Int[Tensor, " token"]]:
    """Return ``block.max(1)``, first by stretches of 64: only reductions without positions are vectorised on a CPU."""
    if block.shape[1] % 64:
        return tuple(block.max(1))  # type: ignore[return-value]
    stretches = block.view(len(block), -1, 64)
    first = stretches.amax(2).argmax(1)
    best, within = stretches[torch.arange(len(block), device=block.device), first].max(1)
    return best, first * 64 + within
