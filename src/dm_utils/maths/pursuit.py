"""Gradient pursuit: a stronger encoder for a frozen decoder (Section 6.1), batched and sparse.

Each token's code is two rows of k numbers, the atoms and their weights: a dense code (one weight per latent)
never exists. A step costs one product with the dictionary, in low precision where that is faster, which gives the atom to add
(`selection`); the rest reads at most k rows per token.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from dm_utils.maths.selection import Selector

BACKTRACK_HALVINGS = 20
"""How often a clipped step that would raise the error is halved before the token keeps its weights."""

CORRELATIONS_PER_BATCH = 2**26
"""Correlations (tokens x atoms) held at once when no batch size is given: 256 MiB in float32."""


class Decoder(Protocol):
    """What pursuit needs of an SAE: its dictionary ``[d_sae, d]`` and the bias ``[d]`` added after decoding."""

    W_dec: Tensor
    b_dec: Tensor


class SparseCodes(NamedTuple):
    """Codes of tokens, without their zeros: row t says that token t is a sum of weights times atoms.

    Unused places (a token that needs fewer than k atoms) hold index 0 and weight 0, so that a decode may read them.
    """

    indices: Int[Tensor, "token k"]
    weights: Float[Tensor, "token k"]

    @property
    def l0(self) -> Int[Tensor, " token"]:
        """Number of atoms with a weight above zero, per token."""
        return (self.weights > 0).sum(1)

    def decode(
        self, dictionary: Float[Tensor, "atom d"], bias: Float[Tensor, " d"] | None = None
    ) -> Float[Tensor, "token d"]:
        """Return the reconstruction of Eq. 2: the weighted sum of the rows of ``dictionary``, plus ``bias``."""
        summed = _weighted_sum(self.indices, self.weights.to(dictionary.dtype), dictionary)
        return summed if bias is None else summed + bias


@torch.no_grad()
def gradient_pursuit(
    x: Float[Tensor, "token d"],
    dictionary: Float[Tensor, "atom d"],
    l0: int | Int[Tensor, " token"],
    *,
    batch_size: int | None = None,
    progress: bool = False,
    precision: torch.dtype | str | None = "auto",
) -> SparseCodes:
    r"""Write each token as a non-negative sum of at most ``l0`` atoms of a fixed dictionary (Section 6.1).

    From support S = {} and weights w = 0, each of ``l0`` steps takes the residual :math:`r = x - D_S^T w`, adds to S
    the atom outside it with the largest inner product with r, and moves all weights of S along the gradient
    :math:`g = D_S r` by the step that is optimal before clipping at zero (Blumensath & Davies 2008; Smith 2024):

    .. math:: w \leftarrow \max(0, w + \alpha g), \qquad \alpha = \|g\|^2 / \|D_S^T g\|^2 .

    - Atoms are compared and moved as *unit* vectors and the weights are returned for the atoms as given. So the
      reconstruction depends on directions only: scaling an atom scales its weight inversely and changes nothing else.
      An atom of length zero is never chosen.
    - An atom whose weight is clipped stays in S, counts towards ``l0``, and may grow again.
    - Clipping may make a step overshoot; it is then halved until the error does not rise, so the error never does.
    - A token stops early when no atom outside S has an inner product above :math:`\sqrt\epsilon \|x\|` (eps of the
      dtype): nothing non-negative is left to gain. A zero token therefore has no atoms at all.

    A step costs 2 x token x d x atom operations, in low precision where `selection` finds that faster.

    Parameters
    ----------
    x
        Activations with the decoder's bias already subtracted. float16 and bfloat16 are computed in float32.
    dictionary
        Atoms as rows (an SAE's ``W_dec``); same dtype and device as ``x``.
    l0
        Steps: one number for all tokens, or an integer per token (the L0 that the encoder used). It may exceed d.
    batch_size
        Tokens at a time; by default so that a block of correlations holds 2**26 numbers. Does not change the result.
    progress
        Show a bar that counts tokens.
    precision
        Of the products that screen atoms (`selection.Selector`); does not change the result but at ties of float32.

    Returns
    -------
    SparseCodes
        ``indices`` int64 and ``weights`` (the dtype of ``x``), both ``[token, max(l0)]``, in order of selection.

    Raises
    ------
    ValueError
        Shapes, dtypes or devices that do not match, a value that is not finite, ``l0`` negative or above the number
        of atoms, a batch size below 1.
    """
    _check_arrays(x, dictionary)
    steps = _steps_per_token(l0, x, dictionary)
    order = torch.argsort(steps, descending=True, stable=True)  # alike lengths share a batch; the rest drop out of it
    width = int(steps.max()) if len(steps) else 0
    indices = torch.zeros(len(x), width, dtype=torch.int64, device=x.device)
    weights = torch.zeros(len(x), width, dtype=x.dtype, device=x.device)

    work = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    units, norms = _unit_atoms(dictionary.to(work))
    selector = Selector(units, precision)
    with tqdm(total=len(x), desc="gradient pursuit", unit="token", disable=not progress) as bar:
        for rows in order.split(_batch_size(batch_size, len(dictionary))) if width else ():
            found, unit_weights = _pursue_batch(x[rows].to(work), selector, steps[rows])
            indices[rows, : found.shape[1]] = found
            weights[rows, : found.shape[1]] = (unit_weights / norms[found]).to(x.dtype)
            bar.update(len(rows))
    return SparseCodes(indices, weights)


def pursuit_codes(
    x: Float[Tensor, "token d"], sae: Decoder, l0: int | Int[Tensor, " token"], **options: object
) -> SparseCodes:
    """Encode ``x`` on the frozen decoder of ``sae`` (Eq. 2): subtract ``b_dec``, then :func:`gradient_pursuit`.

    Decode with ``codes.decode(sae.W_dec, sae.b_dec)``. ``x`` is in the space in which the SAE decodes; parameters,
    result and errors are those of :func:`gradient_pursuit`.
    """
    for name in ("W_dec", "b_dec"):
        if not isinstance(getattr(sae, name, None), Tensor):
            raise ValueError(
                f"the SAE given ({type(sae).__name__}) has no tensor {name}; pursuit needs W_dec and b_dec"
            )
    if sae.b_dec.shape != x.shape[-1:]:
        raise ValueError(f"b_dec has shape {tuple(sae.b_dec.shape)}; x {tuple(x.shape)} needs {tuple(x.shape[-1:])}")
    return gradient_pursuit(x - sae.b_dec.detach().to(x.dtype), sae.W_dec.detach(), l0, **options)  # type: ignore[arg-type]


@torch.no_grad()
def refit_weights(
    x: Float[Tensor, "token d"],
    dictionary: Float[Tensor, "atom d"],
    codes: SparseCodes,
    *,
    sweeps: int = 50,
    block: int = 4096,
) -> SparseCodes:
    r"""Keep each token's atoms and give them their best non-negative weights, :math:`\min_{w \ge 0} \|x - D_S^T w\|^2`.

    Coordinate descent on the Gram matrix of each token's atoms, ``sweeps`` times through them; it starts from the weights
    given, so the error never rises. Each place keeps its index; unused places (weight 0) stay unused.

    Raises
    ------
    ValueError
        As :func:`gradient_pursuit`, or codes of another number of tokens.
    """
    _check_arrays(x, dictionary)
    if codes.indices.shape != codes.weights.shape or len(codes.indices) != len(x):
        raise ValueError(f"codes are {tuple(codes.indices.shape)} for {len(x)} tokens; give one row per token")
    refitted = codes.weights.clone()
    for rows in torch.arange(len(x), device=x.device).split(block):
        atoms = dictionary[codes.indices[rows]] * (codes.weights[rows] > 0)[..., None]  # [token, k, d]
        gram, target = atoms @ atoms.mT, torch.einsum("tkd,td->tk", atoms, x[rows])
        size = gram.diagonal(dim1=1, dim2=2).clone()
        size[size == 0] = torch.inf  # an unused place never moves
        weights = codes.weights[rows].clone()
        for _ in range(sweeps):
            for k in range(weights.shape[1]):
                slope = target[:, k] - (gram[:, k] * weights).sum(1)
                weights[:, k] = (weights[:, k] + slope / size[:, k]).clamp_min(0)
        refitted[rows] = weights
    return SparseCodes(codes.indices, refitted)


def _pursue_batch(x: Tensor, selector: Selector, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Pursue tokens sorted by falling ``steps`` on unit atoms; return support and weights ``[token, steps[0]]``."""
    units = selector.units
    n_token, width = len(x), int(steps[0])
    indices = torch.zeros(n_token, width, dtype=torch.int64, device=x.device)
    weights = x.new_zeros(n_token, width)
    residual = x.clone()
    threshold = torch.finfo(x.dtype).eps ** 0.5 * torch.linalg.vector_norm(x, dim=1)
    running = torch.ones(n_token, dtype=torch.bool, device=x.device)
    active_per_step = [int(n) for n in (steps[None] > torch.arange(width, device=x.device)[:, None]).sum(1)]

    for step, n in enumerate(active_per_step):
        chosen = indices[:n, :step]
        best, atom, own = selector.select(residual[:n], chosen)
        running[:n] &= best > threshold[:n]
        if not running[:n].any():
            break
        gradient = torch.cat([own, best[:, None]], 1)
        gradient = torch.where(running[:n, None], gradient, 0.0)
        indices[:n, step] = atom * running[:n]
        support = indices[:n, : step + 1].contiguous()
        weights[:n, : step + 1], residual[:n] = _projected_step(
            x[:n], units, support, weights[:n, : step + 1], gradient, residual[:n]
        )
    return indices, weights


def _projected_step(
    x: Tensor, units: Tensor, support: Tensor, weights: Tensor, gradient: Tensor, residual: Tensor
) -> tuple[Tensor, Tensor]:
    """Take one optimal gradient step on ``support``; where it must be clipped, halve it until the error does not rise."""
    direction = _weighted_sum(support, gradient, units)
    length = torch.linalg.vector_norm(direction, dim=1)
    size = torch.where(length > 0, torch.linalg.vector_norm(gradient, dim=1) / length, 0.0).square_()
    new_weights = torch.addcmul(weights, size[:, None], gradient)
    new_residual = torch.addcmul(residual, size[:, None], direction, value=-1)

    redo = (new_weights < 0).any(1).nonzero().squeeze(1)
    before = torch.linalg.vector_norm(residual[redo], dim=1)
    for halving in range(BACKTRACK_HALVINGS + 1):
        if not len(redo):
            break
        shrunk = size[redo, None] * 0.5**halving
        new_weights[redo] = torch.addcmul(weights[redo], shrunk, gradient[redo]).clamp_min_(0)
        new_residual[redo] = x[redo] - _weighted_sum(support[redo], new_weights[redo], units)
        worse = torch.linalg.vector_norm(new_residual[redo], dim=1) > before
        redo, before = redo[worse], before[worse]
    new_weights[redo], new_residual[redo] = weights[redo], residual[redo]
    return new_weights, new_residual


def _weighted_sum(indices: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
    """Return the sum over j of ``weights[t, j] * rows[indices[t, j]]``, gathering only the rows named."""
    if not indices.shape[1]:
        return rows.new_zeros(len(indices), rows.shape[1])
    return torch.nn.functional.embedding_bag(indices, rows, per_sample_weights=weights.contiguous(), mode="sum")


def _unit_atoms(dictionary: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit atoms and the norms divided by (1 for an atom of length zero, which stays zero)."""
    norms = torch.linalg.vector_norm(dictionary, dim=1)
    norms = torch.where(norms > 0, norms, 1.0)
    if ((norms - 1).abs() <= 8 * torch.finfo(norms.dtype).eps).all():
        return dictionary.contiguous(), torch.ones_like(norms)  # most decoders: no second copy
    return dictionary / norms[:, None], norms


def _batch_size(given: int | None, n_atom: int) -> int:
    if given is not None and given < 1:
        raise ValueError(f"batch_size is {given}; it must be at least 1, or None to choose by memory")
    return given or min(4096, max(32, CORRELATIONS_PER_BATCH // n_atom))


def _steps_per_token(l0: int | Tensor, x: Tensor, dictionary: Tensor) -> Tensor:
    """Return ``l0`` as an int64 tensor, one entry per token, after checking it."""
    steps = torch.as_tensor(l0, device=x.device)
    if steps.is_floating_point() or steps.is_complex() or steps.dtype == torch.bool:
        raise ValueError(f"l0 has dtype {steps.dtype}; it must be an integer or a tensor of integers")
    if steps.ndim > 1 or (steps.ndim == 1 and len(steps) != len(x)):
        raise ValueError(f"l0 has shape {tuple(steps.shape)}; give one integer, or one per token: ({len(x)},)")
    if steps.numel() and not 0 <= int(steps.min()) <= int(steps.max()) <= len(dictionary):
        raise ValueError(
            f"l0 runs from {int(steps.min())} to {int(steps.max())}; allowed are 0 to {len(dictionary)}, "
            "the number of atoms"
        )
    return steps.to(torch.int64).expand(len(x))


def _check_arrays(x: Tensor, dictionary: Tensor) -> None:
    """Raise ValueError unless ``x`` and ``dictionary`` are finite real matrices that fit together."""
    for name, array in (("x", x), ("dictionary", dictionary)):
        if array.ndim != 2 or not array.is_floating_point():
            raise ValueError(f"{name} is {array.dtype} of shape {tuple(array.shape)}; it must be a real matrix of rows")
    if x.shape[1] != dictionary.shape[1] or not len(dictionary):
        raise ValueError(f"x {tuple(x.shape)} and dictionary {tuple(dictionary.shape)} must agree in their columns")
    if (x.dtype, x.device) != (dictionary.dtype, dictionary.device):
        raise ValueError(
            f"x is {x.dtype} on {x.device} but dictionary is {dictionary.dtype} on {dictionary.device}; "
            "move one of them with .to(other)"
        )
    for name, array in (("x", x), ("dictionary", dictionary)):
        if torch.isfinite(array.sum()):  # the cheap pass: a finite sum has finite terms
            continue
        bad = (~torch.isfinite(array)).any(1).nonzero().squeeze(1)
        if len(bad):
            raise ValueError(f"{name} holds NaN or Inf in {len(bad)} of {len(array)} rows, first in row {int(bad[0])}")
