"""Streams of error vectors to train an SAE on (Section 5.2): computed block by block, never stored.

A stream gives its rows two ways: `blocks`, once and in order, to measure; `batches`, for ever and shuffled, to train.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dm_utils.maths.encoding import reconstruct
from dm_utils.maths.regression import AffineMap
from dm_utils.maths.resampling import check_finite

if TYPE_CHECKING:
    from sae_lens import SAE

Part = Literal["linear", "nonlinear"]
ERROR_PARTS: tuple[Part, ...] = ("linear", "nonlinear")


class Stream(Protocol):
    """Rows [row, d] of float32 that can be walked through in order or drawn from for ever."""

    def __len__(self) -> int: ...

    def blocks(self, size: int) -> Iterator[tuple[slice, Float[Tensor, "row d"]]]: ...

    def batches(self, size: int, seed: int) -> Iterator[Float[Tensor, "row d"]]: ...


class ErrorStream:
    """LinearError(x) = x B* + c* or NonlinearError(x) = x − Sae(x) − LinearError(x) of stored activations (Eqs. 14, 15).

    Parameters
    ----------
    x : float [row, d]
        Activations; may be memory-mapped. Only one block at a time moves to the SAE's device.
    sae : SAE
        The SAE whose error it is.
    error_map : AffineMap
        Its fitted linear error.
    part : "linear" or "nonlinear"
    """

    def __init__(self, x: Float[Tensor, "row d"], sae: SAE[Any], error_map: AffineMap, part: Part):
        if part not in ERROR_PARTS:
            raise ValueError(f"part is {part!r}; the error has the parts {', '.join(ERROR_PARTS)}")
        self.x, self.sae, self.error_map, self.part = x, sae, error_map, part

    def __len__(self) -> int:
        return len(self.x)

    def _error(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        x = x.to(self.sae.W_dec.device)
        linear = self.error_map(x)
        return linear if self.part == "linear" else x - reconstruct(self.sae, x) - linear

    def blocks(self, size: int) -> Iterator[tuple[slice, Float[Tensor, "row d"]]]:
        """Every row once, in order: pairs of a slice and its rows."""
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            yield rows, self._error(self.x[rows])

    def batches(self, size: int, seed: int) -> Iterator[Float[Tensor, "row d"]]:
        """Endless batches; every pass visits the rows in a new random order and drops the last incomplete batch."""
        return (self._error(self.x[rows]) for rows in _shuffled(len(self), size, seed))


class HeldStream:
    """The rows of another stream, computed once and held in memory: the same rows and batches, sooner (small studies)."""

    def __init__(self, stream: Stream, block: int = 8192):
        self.rows = torch.cat([rows for _, rows in stream.blocks(block)])

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self, size: int) -> Iterator[tuple[slice, Float[Tensor, "row d"]]]:
        """Every row once, in order: pairs of a slice and its rows."""
        starts = range(0, len(self), size)
        return ((slice(start, min(start + size, len(self))), self.rows[start : start + size]) for start in starts)

    def batches(self, size: int, seed: int) -> Iterator[Float[Tensor, "row d"]]:
        """Endless batches, those of an `ErrorStream` with the same seed."""
        return (self.rows[rows] for rows in _shuffled(len(self), size, seed))


@dataclass(frozen=True)
class MeanCovariance:
    """Mean [d] and covariance [d, d] of a stream's rows, float64."""

    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]

    @property
    def scale(self) -> float:
        """Root mean variance of a dimension: rows divided by it have total variance d."""
        return float((self.covariance.diagonal().mean()).sqrt())

    @property
    def effective_dimensions(self) -> float:
        """(tr Σ)² / tr Σ²: d when all directions vary equally, 1 when one does."""
        return float(self.covariance.trace() ** 2 / self.covariance.square().sum())

    def standardise(self, rows: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        """Rows about the mean, divided by `scale`."""
        return (rows - self.mean.to(rows.device, rows.dtype)) / self.scale

    def principal(self, k: int) -> Float[Tensor, "d k"]:
        """The k orthonormal directions in which the rows vary most."""
        return self._eigen[1][:, -k:]

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.covariance)
        return values, vectors

    @property
    def factor(self) -> Float[Tensor, "d d"]:
        """F with F Fᵀ = covariance, whatever its rank."""
        values, vectors = self._eigen
        return vectors * values.clamp_min(0).sqrt()


def moments(stream: Stream, keep: Bool[Tensor, " row"] | None = None, block: int = 8192) -> MeanCovariance:
    """Mean and covariance of a stream, or of the rows that `keep` marks, accumulated in float64 about the mean.

    Raises
    ------
    ValueError
        If a row is not finite, or if all rows are the same, so that there is nothing to train on.
    """

    def blocks() -> Iterator[Float[Tensor, "row d"]]:
        for where, rows in stream.blocks(block):
            check_finite(rows, f"error vectors {where.start} to {where.stop - 1}")
            yield (rows if keep is None else rows[keep[where].to(rows.device)]).double()

    n = len(stream) if keep is None else int(keep.sum())
    mean = sum((rows.sum(0) for rows in blocks()), start=torch.zeros(())) / n
    gram = sum(((rows - mean).T @ (rows - mean) for rows in blocks()), start=torch.zeros(()))
    if not gram.diagonal().sum() > 0:
        raise ValueError("every error vector is the same: there is nothing to train an SAE on")
    return MeanCovariance(mean.cpu(), (gram / n).cpu())


class GaussianStream:
    """Gaussian vectors with given moments: the control that keeps a part's covariance and forgets everything else.

    A finite sample of `n_rows`, as many as the real stream has, so that both can be learned by heart equally well. Its
    rows are independent, so a batch needs no shuffling inside: chunk i is drawn from a seed and i whenever it is needed.
    """

    def __init__(self, like: MeanCovariance, n_rows: int, seed: int, device: torch.device | str = "cpu"):
        self.n_rows, self.seed, self.device = n_rows, seed, torch.device(device)
        self.mean = like.mean.to(self.device, torch.float32)
        self.factor = like.factor.to(self.device, torch.float32)

    def __len__(self) -> int:
        return self.n_rows

    def _chunk(self, index: int, n: int) -> Float[Tensor, "row d"]:
        state = int(np.random.SeedSequence([self.seed, index]).generate_state(1, np.uint64)[0] >> 1)
        generator = torch.Generator(self.device).manual_seed(state)
        noise = torch.randn(n, len(self.mean), generator=generator, device=self.device)
        return torch.addmm(self.mean, noise, self.factor.T)

    def blocks(self, size: int) -> Iterator[tuple[slice, Float[Tensor, "row d"]]]:
        """Every row once, in order: pairs of a slice and its rows. Another size is another sample."""
        for index, start in enumerate(range(0, len(self), size)):
            rows = slice(start, min(start + size, len(self)))
            yield rows, self._chunk(index, rows.stop - rows.start)

    def batches(self, size: int, seed: int) -> Iterator[Float[Tensor, "row d"]]:
        """Endless batches; every pass visits the complete chunks in a new random order."""
        _check_batch(size, len(self))
        generator = torch.Generator().manual_seed(seed)
        while True:
            for index in torch.randperm(len(self) // size, generator=generator).tolist():
                yield self._chunk(index, size)


def _shuffled(n_rows: int, size: int, seed: int) -> Iterator[Int[Tensor, " row"]]:
    """Row numbers of endless batches: each pass in a new random order, without its last incomplete batch."""
    _check_batch(size, n_rows)
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(n_rows, generator=generator)
        for start in range(0, n_rows - size + 1, size):
            yield order[start : start + size]


def _check_batch(size: int, n_rows: int) -> None:
    if not 1 <= size <= n_rows:
        raise ValueError(f"a batch of {size} rows was asked for; the stream has {n_rows}")
