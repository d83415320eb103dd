r"""An upper bound of every pre-activation from one low-precision product, and which latents it leaves in question.

Let y be a token (float32), v a latent's weights (scaled), β = s b − θ, so that z − θ = y·v + β is the margin above the
latent's threshold. Hats are low-precision copies, :math:`\delta y = \hat y - y` and :math:`\delta v = \hat v - v` their
*measured* residuals, not the worst case of the format. u = 2⁻²³ is twice float32's rounding (products may truncate).

1. *Residuals.* :math:`\hat y\cdot\hat v - y\cdot v = \delta y\cdot v + \hat y\cdot\delta v`, so by Cauchy and Schwarz it
   is at most :math:`\|\delta y\|\|v\| + \|\hat y\|\|\delta v\|` in size.
2. *Accumulation.* A sum of K products in float32, in any order, is within γ Σ|terms| of the exact one, γ = (K + 8) u,
   and :math:`\sum_i |\hat y_i \hat v_i| \le \|\hat y\|\|\hat v\|`. That the machine's product does sum in float32 (and int8 in
   int32, without saturation) is a condition, not a fact: `products` asks it, and a screen where it fails is refused.
3. *In the product itself.* Five more columns carry the bound: with A ≥ ‖δy‖, C ≥ ‖ŷ‖, N ≥ (1 + 4γ)‖v‖ and
   M ≥ (1 + 4γ)(‖δv‖ + 2γ‖v̂‖), all rounded up, and β in three parts whose last is rounded up by 4γ|β|, one product gives
   P = ŷ·v̂ + AN + CM + β. By 1 and 2, as computed, P ≥ z − θ: **P is an upper bound of the margin.**
4. *Lower bound.* The same terms give z − θ ≥ P − 2(AN + CM + slack).
5. *Output rounding.* Rounding to the output's format is monotone and keeps signs. So z > θ implies that P as stored is
   not negative, and z − θ ≥ τ that it is at least τ rounded down: rounding costs the screen nothing.
6. *TopK.* k groups of latents whose largest P are at least t > 0 are k latents with P (1 + eps) ≥ t before rounding, so by 4
   the k-th largest z is at least τ = t (1 − eps) − 2 max_j(AN + CM + slack), and no latent with P < τ is among them.
7. *The largest.* Where only the largest z is asked for, the latent of the largest P is computed exactly first: the largest z is
   at least that one, which leaves half of the room that 4 leaves, and far fewer than half of the latents.

An int8 screen scales each token and latent to 127 and sums exactly in int32; 1 to 7 hold with its residuals.
Numbers above 2³⁰ in size are refused (`refusal`), so that nothing overflows; the slack 2⁻⁸⁰ covers flushed denormals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.maths import products

LARGEST_GROUP = 32  # latents at most whose largest bound is looked at first
GROUPS, GROUPS_PER_ACTIVE = (
    512,
    8,
)  # such groups: for thresholds, and for each of TopK's k (two of which rarely share one)
LARGEST, SLACK = 2.0**30, 2.0**-80
BITS = {2: torch.int16, 4: torch.int32}  # floats as integers: the same order from zero up, and faster to compare
CHUNK = 2**20  # weights that are converted at once
CACHED = 2**19  # int8 products that a CPU turns into bounds at once: 2 MiB, so that they stay in its cache


@dataclass(frozen=True, eq=False)
class Screen:
    """The low-precision copy of a set of weights, with its bound folded in as rows.

    `matrix` [d, latent] or [d + 5, latent], latents padded to a multiple of `group`; `extra` [5, latent] float32 holds N,
    M and the three parts of β; `unit` [latent] the step of int8 weights; `slack` the most that β was rounded up by.
    """

    matrix: Tensor
    extra: Float[Tensor, "5 latent"]
    slack: float
    n_latent: int
    group: int
    unit: Float[Tensor, " latent"] | None = None

    @classmethod
    def of(
        cls,
        weights: Float[Tensor, "d latent"],
        beta: Float[Tensor, " latent"],
        scale: Float[Tensor, " latent"] | None,
        dtype: torch.dtype,
        k: int | None = None,
    ) -> Screen:
        """Copy weights (times `scale`, per latent) into `dtype` and measure what that loses; `beta` is float64.

        `k` only sizes the groups.
        """
        d, n = weights.shape
        group = min(LARGEST_GROUP, max(1, n // (GROUPS if k is None else max(GROUPS_PER_ACTIVE * k, 64))))
        width = -(-n // group) * group
        integer = dtype == torch.int8
        kept = torch.float32 if integer else dtype
        matrix = torch.zeros(d if integer else d + 5, width, dtype=dtype, device=weights.device)
        norm, lost = (torch.zeros(width, dtype=torch.float64, device=weights.device) for _ in range(2))
        unit = torch.ones(width, device=weights.device) if integer else None
        step = max(1, CHUNK // d)
        for start in range(0, n, step):
            part = slice(start, min(start + step, n))
            v = weights[:, part] if scale is None else weights[:, part] * scale[part]
            if unit is not None:
                unit[part] = _unit(v.abs().amax(0))
                near = (v / unit[part]).round_()
                matrix[:, part], near = near.to(dtype), near * unit[part]
            else:
                matrix[:d, part] = near = v.to(dtype)
            norm[part], lost[part] = (one.square().sum(0).sqrt() for one in (v, near - v))  # a norm over rows is slower
        gamma = (d + 13) * 2.0**-23
        padded = torch.full((width,), -LARGEST, dtype=torch.float64, device=weights.device)
        padded[:n] = beta
        size = _up(norm * (1 + 4 * gamma), kept)
        loss = _up((lost + 2 * gamma * (norm + lost)) * (1 + 4 * gamma), kept)
        parts = _parts(padded, gamma, kept)
        extra = torch.stack([size, loss, *parts])
        if not integer:
            matrix[d:] = extra
        rounded = sum(part.double() for part in parts) - padded
        return cls(matrix, extra.float(), float(rounded[:n].max()), n, group, unit)

    @cached_property
    def refusal(self) -> str | None:
        """Why the bound does not hold here: weights so large that a product could overflow, or 2 fails on this machine."""
        if not self.extra[:, : self.n_latent].abs().max() <= LARGEST:
            return "numbers above 2^30"
        if not products.accumulates(self.matrix.dtype, self.matrix.device, *self.matrix.shape):
            return f"products in {str(self.matrix.dtype).removeprefix('torch.')} do not keep their partial sums here"
        return None

    def upper(
        self, y: Float[Tensor, "token d"]
    ) -> tuple[Int[Tensor, "token latent"], Float[Tensor, " token"], torch.dtype, Float[Tensor, " token"]]:
        """P of 3 for every token and latent as integers in its order, what 4 takes off it, P's own dtype, and the unit of both.

        An int8 screen gives both in units of the token.
        """
        unit = self.unit
        kept = self.matrix.dtype if unit is None else torch.float32
        step = None if unit is None else _unit(y.abs().amax(1, keepdim=True))
        near = y.to(kept) if step is None else (y / step).round_()
        lost = torch.linalg.vector_norm(near - y if step is None else torch.addcmul(y, near, step, value=-1), dim=1)
        gamma = 1 + 4 * (len(self.matrix) + 8) * 2.0**-23
        size = (torch.linalg.vector_norm(y, dim=1) + lost) * gamma
        extra = torch.stack([_up(lost * gamma, kept), _up(size, kept), *[torch.ones_like(y[:, 0], dtype=kept)] * 3], 1)
        if unit is None or step is None:
            bound = products.product(torch.cat([near, extra], 1), self.matrix)
        else:
            extra /= step
            bound = self._bounds(products.product(near.to(torch.int8), self.matrix), extra * (1 + 2.0**-20), unit)
        largest = self.extra[:2, : self.n_latent].amax(1)
        less = 2.02 * (extra[:, :2].float() @ largest + self.slack * extra[:, 2].float())
        scale = torch.ones_like(less) if step is None else step[:, 0]
        return bound.view(BITS[bound.element_size()]), less, bound.dtype, scale

    def _bounds(
        self, sums: Int[Tensor, "token latent"], extra: Float[Tensor, "token 5"], unit: Float[Tensor, " latent"]
    ) -> Float[Tensor, "token latent"]:
        """P of an int8 screen from its sums, in their memory: a second matrix of this size would cost more than the pass."""
        step = len(sums) if sums.device.type != "cpu" else max(1, CACHED // sums.shape[1])
        bound = sums.view(torch.float32)
        for whole, part, own in zip(sums.split(step), bound.split(step), extra.split(step), strict=True):
            part.copy_(whole.float().mul_(unit).addmm_(own, self.extra))
        return bound

    def candidates(
        self,
        y: Float[Tensor, "token d"],
        k: int | None,
        most: int,
        barred: Int[Tensor, "token some"] | None = None,
        reached: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor] | None:
        """Tokens and latents, in the order of the tokens, that may be active: above zero and among the k largest.

        None where they are in more than `most` groups; `barred` latents are left out. With k = 1, `reached` may give a lower
        bound of the margin of one latent per token, those of the largest P (7).
        """
        bits, less, dtype, step = self.upper(y)
        if barred is not None and barred.shape[1]:
            bits.scatter_(1, barred, torch.iinfo(bits.dtype).min)
        width = bits.shape[1]
        columns = width // self.group  # latents of one group lie `columns` apart
        best = bits.view(len(y), self.group, columns).amax(1)
        cut = self._reached(bits, best, reached, step, dtype) if reached else self._cut(best, less, dtype, k)
        group = (best >= cut[:, None]).view(-1).nonzero().squeeze(1)
        if len(group) > most:
            return None
        token = group // columns
        place = group + token * (width - columns)  # flat, of the group's first latent
        place = place[:, None] + torch.arange(0, width, columns, device=y.device)
        above = bits.view(-1).index_select(0, place.view(-1)).view_as(place) >= cut.index_select(0, token)[:, None]
        place = place.view(-1).index_select(0, above.view(-1).nonzero().squeeze(1))
        token = place // width
        return token, place - token * width

    def _reached(
        self, bits: Tensor, best: Tensor, reached: Callable[[Tensor], Tensor], step: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """What the latent of each token's largest P reaches, rounded down to an integer of P; zero where no P is above zero."""
        top, column = best.max(1)
        token = torch.arange(len(best), device=best.device)
        latent = bits.view(len(best), self.group, -1)[token, :, column].argmax(1) * best.shape[1] + column
        least = reached(torch.where(top > 0, latent, 0)) / step
        return _down(torch.where(top > 0, least, 0.0), dtype).view(best.dtype)

    @staticmethod
    def _cut(best: Tensor, less: Tensor, dtype: torch.dtype, k: int | None) -> Tensor:
        """The least P of an active latent: zero, or τ of 6, as the integers of P."""
        if k is None or k > best.shape[1]:
            return torch.zeros(len(best), dtype=best.dtype, device=best.device)
        kth = best.amax(1) if k == 1 else torch.topk(best, k, dim=1, sorted=False).values.amin(1)
        least = kth.clamp_min(0).view(dtype).float() * (1 - torch.finfo(dtype).eps) - less
        return _down(least, dtype).view(best.dtype)


def _unit(largest: Tensor) -> Tensor:
    """The step that brings the largest size to 127; 1 for nothing but zeros."""
    return torch.where(largest > 0, largest / 127, 1.0)


def _up(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round to `dtype`, never down."""
    return (values + 2 * torch.finfo(dtype).eps * values.abs()).to(dtype)


def _down(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round to `dtype`, never up; negative values to zero."""
    return (values.clamp_min(0) * (1 - 2 * torch.finfo(dtype).eps)).to(dtype)


def _parts(beta: Tensor, gamma: float, dtype: torch.dtype) -> list[Tensor]:
    """β as a sum of three numbers of `dtype`, rounded up by 4γ|β| and the slack."""
    high = beta.to(dtype)
    middle = (beta - high.double()).to(dtype)
    rest = beta - high.double() - middle.double()
    return [high, middle, _up(rest + 4 * gamma * beta.abs() + SLACK, dtype)]
