r"""Certified encode: the codes of float32 at the price of a low-precision product.

A product in low precision bounds every pre-activation (`screen`); what the bound leaves in question is computed exactly:

1. *Recheck.* Each candidate's y·w_j is a float32 sum of d products, so it is within e = (d + 4) 2⁻²⁴ ‖y‖‖w_j‖ of the
   exact value (in any order of summation).
2. *Resolution.* A candidate further than e from the cut it must pass (its threshold; for TopK the k-th largest, whose
   own error counts, too) lies on the same side in exact arithmetic. The others are computed again in float64.
3. So the support is that of a float64 reference. A *tie* is a candidate that even so differs from the cut by at most
   2⁻²³ of their sizes: neighbours in float32, where another order of summation in float32 may choose otherwise.
   Ties are counted in `Codes.ties`; equal latents of the k-th rank are ties, and any of them may be returned.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.maths.codes import Active, Codes
from dm_utils.maths.encoder import Activation, Encoder, dense_active, float_codes, gathered
from dm_utils.maths.products import accumulates, emulated, exact_products
from dm_utils.maths.screen import LARGEST, Screen

log = logging.getLogger("dm_utils")

Precision = Literal["auto", "float32", "bfloat16", "int8"]
FORMATS: dict[Precision, torch.dtype] = {"bfloat16": torch.bfloat16, "int8": torch.int8}
GAIN = 1.1  # how much faster screened codes must be to be used
PROBE = 512  # tokens that decide it
LONG = 0.25  # seconds after which two runs decide: more would cost as much as they save
DENSE_SHARE = 1 / 8  # of the latents: with more groups in question, a dense product costs less than a recheck
BLOCK_BYTES = {"cpu": 2**23, "cuda": 2**31}  # of bounds at once: a CPU's caches; enough to fill a GPU
ROWS = {"cpu": (512, 4096), "cuda": (1024, 65536)}  # tokens per block: enough to share the packing of the weights
CACHED = 2**22  # float32 weights, 16 MiB
RESOLVED = 2**22  # float64 numbers gathered at once


class Candidates(NamedTuple):
    """Pre-activations in question: tokens in order, latents, and values as float64 computed in float32."""

    token: Int[Tensor, " candidate"]
    latent: Int[Tensor, " candidate"]
    z: Float[Tensor, " candidate"]


@torch.inference_mode()
def certified_codes(
    x: Float[Tensor, "token d"], encoder: Encoder, activation: Activation, precision: Precision = "auto"
) -> Codes:
    """Encode a block (Eqs. 1, 6, 8): screen in low precision, recheck in float32, resolve near ties in float64.

    Parameters
    ----------
    x : [token, d] on the encoder's device; float16 and bfloat16 are read as float32.
    precision : "bfloat16" and "int8" screen, "float32" is `float_codes`, "auto" times them once on this device, size and k.

    Returns
    -------
    Codes
        The support of a float64 reference (see the module), values within float32 rounding, `ties` counted. A block with
        too many candidates, or with numbers above 2³⁰, is encoded densely in float32, and so is every block on a machine
        whose products do not accumulate as the bound assumes (`products`); that is said once.

    Raises
    ------
    ValueError : x does not fit the encoder or holds NaN or Inf (the first token is named); an unknown precision.
    """
    check_precision(precision)
    encoder.inputs(x[:0])  # refuses what does not fit
    _check_finite(x)
    if precision == "auto":
        precision = faster(x, encoder, activation)
    if precision == "float32":
        return float_codes(x, encoder, activation)
    screen = screen_of(encoder, activation, FORMATS[precision])
    fewest, most = ROWS[x.device.type]
    step = min(max(BLOCK_BYTES[x.device.type] // (2 * screen.matrix.shape[1]), fewest), most)
    found, ties, candidates = [], 0, 0
    with exact_products(x.device):
        for block in x.split(step):
            y = encoder.inputs(block)
            checked = _rechecked(y, encoder, activation, screen)
            if checked is None:
                found.append(dense_active(y, encoder, activation))
                continue
            active, tied = _active(y, checked, encoder, activation)
            found.append(active)
            ties, candidates = ties + tied, candidates + len(checked.z)
    return gathered(found, step, len(x), ties, candidates)


def check_precision(precision: str) -> None:
    """Raise ValueError for a precision that there is not."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}; allowed are {', '.join(map(repr, get_args(Precision)))}")


def screen_of(encoder: Encoder, activation: Activation, dtype: torch.dtype = torch.bfloat16) -> Screen:
    """The encoder's low-precision copy for an activation, made once and kept with the encoder."""
    if encoder.cache.get("activation") is not activation:
        encoder.cache.clear()
        encoder.cache["activation"] = activation
    if dtype not in encoder.cache:
        beta = encoder.b_enc.double() if encoder.scale is None else encoder.b_enc.double() * encoder.scale.double()
        encoder.cache[dtype] = Screen.of(encoder.W_enc, beta - activation.threshold, encoder.scale, dtype, activation.k)
    return encoder.cache[dtype]


def _rechecked(y: Tensor, encoder: Encoder, activation: Activation, screen: Screen) -> Candidates | None:
    """The candidates of one block with their float32 pre-activations; None where it must be read densely."""
    refusal = screen.refusal or ("numbers above 2^30" if len(y) and y.abs().max() > LARGEST else None)
    if refusal:
        say_once(f"{refusal}: codes from a dense float32 product")
        return None
    found = screen.candidates(y, activation.k, int(DENSE_SHARE * screen.matrix.shape[1] * len(y)) + 64)
    if found is None:
        say_once("too many latents in question: codes from a dense float32 product")
        return None
    return Candidates(*found, _affine(listed_products(y, encoder.rows, *found), found[1], encoder))


def _active(y: Tensor, found: Candidates, encoder: Encoder, activation: Activation) -> tuple[Active, int]:
    """The active among the candidates, in float64 where float32 cannot tell, and the number of ties."""
    threshold, k = torch.as_tensor(activation.threshold, device=y.device), activation.k
    if k is None:
        cut, pick = threshold.expand(len(encoder.b_enc)).index_select(0, found.latent), None
    else:
        kth, pick = _largest(found.token, found.z, k, len(y))
        cut = kth.clamp_min(0).index_select(0, found.token)
    unsure = _unsure(y, found, cut, pick, encoder)
    z = found.z.index_copy(0, unsure, _resolved(y, found.token[unsure], found.latent[unsure], encoder))
    if pick is not None and len(unsure):
        _pick_again(found.token, z, unsure, activation.k, cut, pick)
    chosen = z > (cut if pick is None else 0)
    own, other = z[unsure], cut[unsure]
    tied = (own - other).abs() <= 2.0**-23 * torch.maximum(own.abs(), other.abs())
    if pick is not None:
        chosen &= pick
        tied &= ~pick[unsure] | (own != other)  # the k-th itself is no tie
    active = chosen.nonzero().squeeze(1)
    token, latent = found.token.index_select(0, active), found.latent.index_select(0, active)
    return (token, latent, activation.values(z.index_select(0, active), latent)), int(tied.sum())


def _pick_again(token: Tensor, z: Tensor, unsure: Tensor, k: int | None, cut: Tensor, pick: Tensor) -> None:
    """Choose the k largest again, in place, for the tokens that have a candidate whose value changed."""
    doubtful = torch.zeros(int(token[-1]) + 1, dtype=torch.bool, device=z.device)
    doubtful[token[unsure]] = True
    rows = doubtful.index_select(0, token).nonzero().squeeze(1)
    number = torch.cumsum(doubtful, 0).sub_(1)[token[rows]]
    kth, pick[rows] = _largest(number, z[rows], k or 1, int(doubtful.sum()))
    cut[rows] = kth.clamp_min(0)[number]


def _unsure(y: Tensor, found: Candidates, cut: Tensor, pick: Tensor | None, encoder: Encoder) -> Tensor:
    """The candidates whose float32 value may lie on the wrong side of their cut (2 of the module)."""
    unit = (y.shape[1] + 4) * 2.0**-24 * torch.linalg.vector_norm(y, dim=1).double()
    widest = unit * encoder.largest
    reach = widest if pick is None else 2 * widest
    near = ((found.z - cut).abs() <= reach.index_select(0, found.token)).nonzero().squeeze(1)  # most are far off
    if pick is not None:  # a token is in doubt only where one that was left out comes near
        doubtful = torch.zeros(len(y), dtype=torch.bool, device=y.device)
        doubtful[found.token[near[~pick[near] | (cut[near] == 0)]]] = True
        return near[doubtful[found.token[near]]]
    latent = found.latent[near]
    error = _scaled(unit[found.token[near]] * encoder.norms[latent], latent, encoder)
    return near[((found.z[near] - cut[near]).abs() <= error) & (error > 0)]


def _largest(token: Tensor, z: Tensor, k: int, n_token: int) -> tuple[Tensor, Tensor]:
    """Each token's k-th largest candidate (−∞ where there are fewer), and whether a candidate is among the k."""
    count = torch.bincount(token, minlength=n_token)
    place = torch.arange(len(z), device=z.device) - (torch.cumsum(count, 0) - count).index_select(0, token)
    padded = z.new_full((n_token, max(int(count.max()), k) if n_token else k), -torch.inf)
    flat = token * padded.shape[1] + place
    padded.view(-1)[flat] = z
    best, index = torch.topk(padded, k, dim=1, sorted=False)
    first = torch.zeros_like(padded, dtype=torch.bool).scatter_(1, index, True)
    return best.amin(1), first.view(-1).index_select(0, flat)


def listed_products(
    y: Float[Tensor, "token d"],
    rows: Float[Tensor, "latent d"],
    token: Int[Tensor, " candidate"],
    latent: Int[Tensor, " candidate"],
) -> Float[Tensor, " candidate"]:
    """y_t · row_j for listed pairs, tokens in order; no row is copied. Rows beyond a cache are read in order, once; tokens stay in it."""
    if rows.numel() <= CACHED:
        return _sampled(y, rows, token, latent)
    latent, order = torch.sort(latent)
    dots = _sampled(rows, y, latent, token.index_select(0, order))
    return torch.empty_like(dots).index_copy_(0, order, dots)


def _sampled(left: Tensor, right: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """left[row] · right[column] for pairs sorted by row."""
    start = torch.zeros(len(left) + 1, dtype=torch.int64, device=left.device)
    torch.cumsum(torch.bincount(row, minlength=len(left)), 0, out=start[1:])
    shape = (len(left), len(right))
    _hush()
    pattern = torch.sparse_csr_tensor(start, column, left.new_zeros(len(row)), shape, check_invariants=False)
    return torch.sparse.sampled_addmm(pattern, left, right.T, beta=0.0).values()


@cache
def _hush() -> None:
    """Have PyTorch say now, unheard, what it says once per process: that CSR tensors are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.zeros(1, 1).to_sparse_csr()


def _resolved(y: Tensor, token: Tensor, latent: Tensor, encoder: Encoder) -> Tensor:
    """Pre-activations of listed pairs in float64."""
    parts = [
        (y[t].double() * encoder.rows[j].double()).sum(1)
        for t, j in zip(*(i.split(max(1, RESOLVED // y.shape[1])) for i in (token, latent)), strict=True)
    ]
    return _affine(torch.cat(parts), latent, encoder)


def _affine(dots: Tensor, latent: Tensor, encoder: Encoder) -> Tensor:
    return _scaled(dots.double() + encoder.b_enc.index_select(0, latent), latent, encoder)


def _scaled(values: Tensor, latent: Tensor, encoder: Encoder) -> Tensor:
    return values if encoder.scale is None else values * encoder.scale.index_select(0, latent)


def _check_finite(x: Tensor) -> None:
    if torch.isfinite(x.sum()):  # the cheap pass: a finite sum has finite terms
        return
    bad = (~torch.isfinite(x)).any(1).nonzero().squeeze(1)
    if len(bad):
        raise ValueError(f"x holds NaN or Inf in {len(bad)} tokens, first in token {int(bad[0])}; it has no codes")


_faster: dict[tuple[object, ...], Precision] = {}


def faster(x: Float[Tensor, "token d"], encoder: Encoder, activation: Activation) -> Precision:
    """Time each way once per device, size, k and number of threads, on the first tokens given; say which it is.

    Fewer than `PROBE` tokens are encoded in float32 and decide nothing. A format that is emulated, or whose products lose
    partial sums, is not timed; nor is int8 for TopK, whose cut lies two of its wider bounds below the k-th largest.
    """
    key = (x.device, *encoder.W_enc.shape, activation.k, torch.get_num_threads())
    if key not in _faster:
        screens = _native(x.device, encoder, activation) if len(x) >= PROBE else []
        if not screens:
            return "float32"
        names: list[Precision] = ["float32", *screens]
        taken = {name: _seconds(x[:PROBE], encoder, activation, name) for name in names}
        best = min(screens, key=taken.__getitem__)
        _faster[key] = best if taken["float32"] > GAIN * taken[best] else "float32"
        for name in {*screens} - {_faster[key]}:
            encoder.cache.pop(FORMATS[name], None)
        said = ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in taken.items())
        log.info("%d × %d on %s is encoded by %s: %s", *encoder.W_enc.shape, x.device, _faster[key], said)
    return _faster[key]


def _native(device: torch.device, encoder: Encoder, activation: Activation) -> list[Precision]:
    """The formats that may gain here."""
    names = [name for name in FORMATS if activation.k is None or name == "bfloat16"]
    asked = {name: (FORMATS[name], device, *encoder.W_enc.shape) for name in names}
    return [name for name in names if not emulated(*asked[name]) and accumulates(*asked[name])]


def _seconds(x: Tensor, encoder: Encoder, activation: Activation, precision: Precision) -> float:
    """The least of four runs, or of two where these take long; the first makes the screen."""
    taken: list[float] = []
    now = processor_clock(x.device)  # a code's counts are read by Python, so nothing is left running
    while len(taken) < 2 or (len(taken) < 4 and sum(taken) < LONG):
        start = now()
        certified_codes(x, encoder, activation, precision)
        taken.append(now() - start)
    return min(taken)


def processor_clock(device: torch.device) -> Callable[[], float]:
    """Seconds of this process on a CPU, which other work on the machine does not lengthen; plain time elsewhere."""
    return time.process_time if device.type == "cpu" else time.perf_counter


@cache
def say_once(message: str) -> None:
    """Log a warning, the same one only once."""
    log.warning(message)
