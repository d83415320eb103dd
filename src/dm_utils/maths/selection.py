"""Which atom has the largest inner product with each residual: pursuit's question, asked of a low-precision product.

The screen's bound (`screen`, 6 with k = 1) leaves a few atoms per residual in question; these are computed exactly in
float32. Two atoms *tie* where their inner products differ by at most d 2⁻²⁴ ‖r‖, what the order of summation may change.

The other way, updating correlations from rows of the Gram matrix of the atoms that moved, reads k rows of `atom` numbers
per token and step, and needs the matrix: it is cheaper only for k far below d, and 1 GiB at 16 k atoms is 64 at 131 k.
"""

from __future__ import annotations

import logging
import time

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.maths.certified import exact_products, listed_products
from dm_utils.maths.screen import LARGEST, Screen

log = logging.getLogger("dm_utils")

PROBE = 256  # residuals that decide the precision
ROWS = {"cpu": 512, "cuda": 16384}  # residuals per product
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

    def select(
        self, r: Float[Tensor, "token d"], barred: Int[Tensor, "token some"]
    ) -> tuple[Float[Tensor, " token"], Int[Tensor, " token"]]:
        """The largest inner product of each residual with an atom that is not barred, and the first such atom.

        −∞ and 0 where no such atom has a positive one.
        """
        precision = self._decided(r, barred)
        parts = []
        with exact_products(r.device):
            for rows, out in zip(r.split(ROWS[r.device.type]), barred.split(ROWS[r.device.type]), strict=True):
                found = None if precision is None else self._screened(rows, out, precision)
                parts.append(self._dense(rows, out) if found is None else found)
        best, atom = (torch.cat([part[i] for part in parts]) for i in (0, 1))
        return best, atom

    def products(
        self, r: Float[Tensor, "token d"], atoms: Int[Tensor, "token some"]
    ) -> Float[Tensor, "token some"]:
        """Inner products of each residual with its listed atoms."""
        if self.units.dtype != torch.float32:
            return torch.einsum("tkd,td->tk", self.units[atoms], r)
        token = torch.arange(len(r), device=r.device).repeat_interleave(atoms.shape[1])
        return listed_products(r, self.units, token, atoms.flatten()).view(atoms.shape)

    def _dense(self, r: Tensor, barred: Tensor) -> tuple[Tensor, Tensor]:
        best, atom = row_max((r @ self.units.T).scatter_(1, barred, -torch.inf))
        return best, atom

    def _screened(self, r: Tensor, barred: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """The same from a screen; None where it leaves too much in question."""
        if dtype not in self._screens:
            zero = torch.zeros(len(self.units), dtype=torch.float64, device=r.device)
            self._screens[dtype] = Screen.of(self.units.T, zero, None, dtype, k=1)
        if not r.abs().max() <= LARGEST:
            return None
        found = self._screens[dtype].candidates(r, 1, int(MOST * len(self.units) * len(r)) + 64, barred)
        if found is None:
            return None
        token, latent = found
        dots = listed_products(r, self.units, token, latent)
        best = dots.new_full((len(r),), -torch.inf).scatter_reduce_(0, token, dots, "amax")
        behind = best.index_select(0, token) - dots
        atom = torch.full_like(best, len(self.units), dtype=torch.int64)
        atom.scatter_reduce_(0, token, torch.where(behind == 0, latent, len(self.units)), "amin")
        near = behind <= len(r[0]) * 2.0**-24 * torch.linalg.vector_norm(r, dim=1).index_select(0, token)
        self.ties += int((torch.bincount(token[near], minlength=1) > 1).sum())
        return torch.where(best > 0, best, -torch.inf), torch.where(best > 0, atom, 0)

    def _decided(self, r: Tensor, barred: Tensor) -> torch.dtype | None:
        """The precision asked for, or the fastest here."""
        if r.dtype != torch.float32:
            return None
        if not isinstance(self.precision, str):
            return self.precision
        key = (r.device, *self.units.shape, torch.get_num_threads())
        if key not in _fastest:
            if len(r) < PROBE:
                return None
            choices = (None, torch.bfloat16, torch.int8)
            taken = {choice: self._seconds(r[:PROBE], barred[:PROBE], choice) for choice in choices}
            _fastest[key] = min(taken, key=taken.__getitem__)
            said = ", ".join(f"{choice or 'dense'} {1e3 * seconds:.0f} ms" for choice, seconds in taken.items())
            log.info("pursuit selects among %d atoms on %s by %s: %s", len(self.units), r.device, _fastest[key], said)
        return _fastest[key]

    def _seconds(self, r: Tensor, barred: Tensor, precision: torch.dtype | None) -> float:
        timed, taken = Selector(self.units, precision), []
        for _ in range(3):
            start = time.perf_counter()
            timed.select(r, barred)[0].sum().item()
            taken.append(time.perf_counter() - start)
        return min(taken)


def row_max(block: Float[Tensor, "token atom"]) -> tuple[Float[Tensor, " token"], Int[Tensor, " token"]]:
    """Return ``block.max(1)``, first by stretches of 64: only reductions without positions are vectorised on a CPU."""
    if block.shape[1] % 64:
        return tuple(block.max(1))  # type: ignore[return-value]
    stretches = block.view(len(block), -1, 64)
    first = stretches.amax(2).argmax(1)
    best, within = stretches[torch.arange(len(block), device=block.device), first].max(1)
    return best, first * 64 + within
