"""Repairs in closed form: least squares on the SAE's codes, on Sae(x) and on x itself, from moments of the fitting tokens alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import scipy.sparse
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dm_utils.maths.codes import Codes, decode, sparse_decode_applies
from dm_utils.maths.encoding import encode, reconstruct
from dm_utils.maths.reduced_rank import RankedMap
from dm_utils.maths.regression import AffineMap, Design, factorise

RIDGE = 1e-6  # of each latent's own square: latents that fire together on all fitting tokens share what they explain
WIDEST = 8192  # of codes that are refitted: their products are d_sae² numbers, in float64


class Coded:
    """One SAE on the tokens of a design, each block encoded once. `sparse`: Sae(x) is a plain sparse decode (Eq. 2)."""

    def __init__(self, sae: Any, design: Design):
        self.sae, self.design, self.sparse = sae, design, sparse_decode_applies(sae)
        self._codes: dict[int, Codes] = {}

    def codes(self, rows: slice, x: Float[Tensor, "token d"]) -> Codes:
        """The codes of a block of the site."""
        if rows.start not in self._codes:
            self._codes[rows.start] = encode(self.sae, x)
        return self._codes[rows.start]

    def reconstruct(self, rows: slice, x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """Sae(x) of a block of the site."""
        return decode(self.sae, self.codes(rows, x)) if self.sparse else reconstruct(self.sae, x)

    def values(self, codes: Codes) -> Float[Tensor, " active"]:
        """What the decoder's rows are multiplied by."""
        if getattr(self.sae.cfg, "rescale_acts_by_decoder_norm", False):
            return codes.values / self.sae.W_dec.norm(dim=-1)[codes.indices]
        return codes.values


@dataclass(frozen=True)
class Moments:
    """Σ over fitting tokens of the products of regressors (with the constant 1 as their last) with themselves and with the error."""

    gram: Float[Tensor, "regressor regressor"]
    cross: Float[Tensor, "regressor d"]

    def affine(self) -> AffineMap:
        """The least-squares affine map of the regressors to the error."""
        n = self.gram[-1, -1]
        mean, target = self.gram[-1, :-1] / n, self.cross[-1] / n
        solve = factorise(self._centred)[1]
        coef = solve(self.cross[:-1] - n * torch.outer(mean, target))
        return AffineMap(coef, target - mean @ coef)

    def ranked(self) -> RankedMap:
        """The best maps of every rank: those of `reduced_rank`, from the moments."""
        full, n = self.affine(), self.gram[-1, -1]
        values, vectors = torch.linalg.eigh(full.coef.T @ self._centred @ full.coef / n)
        return RankedMap(full, vectors.flip(1), values.flip(0).clamp_min(0), self.cross[-1] / n)

    @property
    def _centred(self) -> Float[Tensor, "regressor regressor"]:
        return self.gram[:-1, :-1] - torch.outer(self.gram[-1, :-1], self.gram[-1, :-1]) / self.gram[-1, -1]


@dataclass(frozen=True)
class Fits:
    """What least squares finds for one SAE: maps of x and of Sae(x) to the error, and changes of the decoder.

    `scale` [d_sae] multiplies the latents; `decoder` [d_sae, d] and `bias` [d] replace the SAE's. These are None where codes are not
    refitted: wider than `WIDEST`, or no plain sparse decode.
    """

    of_x: RankedMap
    of_sae: RankedMap
    scale: Float[Tensor, " d_sae"] | None
    decoder: Float[Tensor, "d_sae d"] | None
    bias: Float[Tensor, " d"] | None


def fit(coded: Coded) -> Fits:
    """Fit every repair in closed form on the fitting tokens, in one pass over them."""
    design, sae = coded.design, coded.sae
    refits = coded.sparse and sae.cfg.d_sae <= WIDEST
    moments: dict[str, Moments] = {}
    gram_z: Any = 0
    for rows, x in design.blocks():
        fits = design.split.fit[rows].to(x.device)
        out = coded.reconstruct(rows, x)[fits].double()
        error, one = x[fits].double() - out, torch.ones(int(fits.sum()), 1).to(out)
        for name, values in (("x", x[fits].double()), ("sae", out)):
            _add(moments, name, torch.cat([values, one], 1), error)
        if refits:
            z = _sparse(coded, coded.codes(rows, x), fits)
            gram_z = gram_z + z.T @ z
            cross = torch.from_numpy(z.T @ error.cpu().numpy())
            moments["z"] = Moments(torch.zeros(0), moments["z"].cross + cross if "z" in moments else cross)
    ranked = moments["x"].ranked(), moments["sae"].ranked()
    if not refits:
        return Fits(*ranked, None, None, None)
    z = Moments(torch.from_numpy(gram_z.toarray()), moments["z"].cross)
    z.gram.diagonal().mul_(1 + RIDGE)
    return Fits(*ranked, scales(z, sae.W_dec), *_refitted(z, sae))


def _add(moments: dict[str, Moments], name: str, values: Tensor, error: Tensor) -> None:
    gram, cross = (values.T @ values).cpu(), (values.T @ error).cpu()
    before = moments.get(name)
    moments[name] = Moments(gram, cross) if before is None else Moments(before.gram + gram, before.cross + cross)


def _sparse(coded: Coded, codes: Codes, fits: Tensor) -> Any:
    """The codes of the fitting tokens and the constant 1, as a sparse matrix [token, d_sae + 1], float64."""
    ends = [*codes.offsets.tolist(), len(codes.indices)]
    values = coded.values(codes).double().cpu().numpy()
    shape = (len(codes.offsets), coded.sae.cfg.d_sae)
    z = scipy.sparse.csr_matrix((values, codes.indices.cpu().numpy(), ends), shape)[fits.cpu().numpy()]
    return scipy.sparse.hstack([z, scipy.sparse.csr_matrix([[1.0]] * z.shape[0])]).tocsr()


def scales(z: Moments, dictionary: Float[Tensor, "d_sae d"]) -> Float[Tensor, " d_sae"]:
    """One factor per latent, by least squares: minimises Σ‖x − b_dec − Σ_j s_j z_j d_j‖². A latent that never fires keeps 1."""
    d = dictionary.detach().cpu().double()
    change = factorise(z.gram[:-1, :-1] * (d @ d.T))[1]((z.cross[:-1] * d).sum(1, keepdim=True))
    return (1 + change[:, 0]).to(dictionary)


def _refitted(z: Moments, sae: Any) -> tuple[Tensor, Tensor]:
    """The decoder and bias that reconstruct x best from the SAE's own codes; the row of a latent that never fires stays."""
    change = z.affine()
    return sae.W_dec.detach() + change.coef.to(sae.W_dec), sae.b_dec.detach() + change.intercept.to(sae.b_dec)


def weighted(
    codes: Codes, values: Tensor, dictionary: Float[Tensor, "d_sae d"], bias: Float[Tensor, " d"]
) -> Float[Tensor, "token d"]:
    """Σ_j z_j d_j + b of every token."""
    total = F.embedding_bag(codes.indices, dictionary, codes.offsets, mode="sum", per_sample_weights=values)
    return total + bias


def beside(fitted: AffineMap, added: AffineMap) -> AffineMap:
    """The best affine map of x to Sae(x) + a(x), given that to Sae(x): one added to the other, since a(x) is affine already."""
    return AffineMap(fitted.coef + added.coef, fitted.intercept + added.intercept)


def through(fitted: AffineMap, added: AffineMap) -> AffineMap:
    """The best affine map of x to Sae(x) + m(Sae(x)), given that to Sae(x): the same m behind it."""
    return AffineMap(fitted.coef + fitted.coef @ added.coef, fitted.intercept + added(fitted.intercept[None])[0])
