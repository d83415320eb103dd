r"""When is the squared norm of a vector a linear function of the vector? (Appendices B.1, C.1 and C.2)

The model: unit feature vectors ``y_1 ... y_m`` (rows of ``dictionary``) and random weights ``w_1 ... w_m`` give

    x = sum_i w_i y_i,    T = ||x||^2,    and the probe predicts T by  a . x + c.

With independent weights the R^2 of the best probe has a closed form for *any* dictionary. Write ``m_i, s_i^2, k3_i, k4_i``
for the mean, variance, third and fourth cumulants of ``w_i`` and

    x_bar = sum_i m_i y_i,    C = sum_i s_i^2 y_i y_i^T,    t = sum_i k3_i y_i.

Then ``Cov(x, T) = 2 C x_bar + t``, so the best probe is ``a* = 2 x_bar + C^+ t`` and what it leaves unexplained is

    Var(T) - Var(a* . x) = 2 ||C||_F^2 + sum_i k4_i - t^T C^+ t,

the sum of three costs, none of which is negative: the *shape* of the weights (zero if and only if each weight takes at most
two values), the *interference* between features that are not orthogonal, and the *superposition* of more features than the
space can separate. Orthonormal features leave the first alone, which is the case of Appendix C.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.maths.regression import factorise
from dm_utils.maths.weight_laws import WeightMoments, ratio, slopes

UNIT_TOLERANCE = 1e-4


def orthonormal_r2(moments: WeightMoments, slope: Float[Tensor, " latent"] | None = None) -> float:
    """Squared correlation of b . w with ||x||^2 for orthonormal features and independent weights (rho^2 of Appendix C.1).

    Without ``slope`` the best one, ``Cov(w, w^2)/Var(w)``, is used and the result is the R^2 of the best affine probe,

        R^2 = sum_i Cov(w_i, w_i^2)^2 / Var(w_i)  /  sum_i Var(w_i^2).

    Raises ``ValueError`` if the norm or the prediction is constant.
    """
    b = slopes(moments).best if slope is None else slope.to(moments.mean)
    shared = (b * moments.covariance).sum()
    spread = (b**2 * moments.variance).sum() * moments.variance_of_square.sum()
    if spread <= 0:
        raise ValueError("the squared norm or its prediction does not vary: R^2 is undefined.")
    return float(shared**2 / spread)


def symbolic_r2(mgf, t):  # type: ignore[no-untyped-def]
    """Derive one latent's paper slope, best slope and R^2 with sympy from its moment generating function.

    Parameters
    ----------
    mgf : sympy expression
        E(exp(t w)), for example ``1 - p + p * exp(t)`` for a Bernoulli weight.
    t : sympy symbol

    Returns
    -------
    dict of sympy expressions
        ``paper``, ``best``, ``covariance`` (of w and w^2), ``variance``, ``variance_of_square`` and ``r2``.
    """
    import sympy as sp

    m1, m2, m3, m4 = (sp.simplify(sp.diff(mgf, t, k).subs(t, 0)) for k in range(1, 5))
    covariance, variance, of_square = (sp.factor(e) for e in (m3 - m1 * m2, m2 - m1**2, m4 - m2**2))
    r2 = sp.factor(sp.simplify(covariance**2 / (variance * of_square)))
    found = {
        "paper": sp.factor(m2 / m1),
        "best": sp.factor(sp.simplify(covariance / variance)),
        "covariance": covariance,
    }
    return found | {"variance": variance, "variance_of_square": of_square, "r2": r2}


@dataclass(frozen=True)
class NormProbe:
    """The best affine probe from x to ||x||^2 and where the rest of the variance goes (all in units of ||x||^4).

    ``explained + shape + interference + superposition`` is Var(||x||^2).
    """

    vector: Float[Tensor, " d"]
    explained: float
    shape: float
    interference: float
    superposition: float

    @property
    def variance(self) -> float:
        """Var(||x||^2)."""
        return self.explained + self.shape + self.interference + self.superposition

    @property
    def r2(self) -> float:
        """Share of Var(||x||^2) that the best affine probe explains."""
        return self.explained / self.variance


def _checked(dictionary: Tensor, moments: WeightMoments) -> Tensor:
    if dictionary.ndim != 2 or dictionary.shape[0] != moments.mean.shape[0]:
        expected = f"[{moments.mean.shape[0]}, d]"
        raise ValueError(f"the dictionary has shape {tuple(dictionary.shape)}; expected [latent, d] = {expected}.")
    rows = dictionary.double()
    if not torch.allclose(rows.norm(dim=1), rows.new_ones(()), atol=UNIT_TOLERANCE):
        raise ValueError("dictionary rows must be unit vectors: divide each by its norm and scale its weight by it.")
    return rows


def best_probe(dictionary: Float[Tensor, "latent d"], moments: WeightMoments) -> NormProbe:
    """Closed form of the best affine probe from x to ||x||^2 (Eq. 10 with x itself) for independent weights.

    Exact for every dictionary of unit vectors, orthogonal or not, also with more latents than dimensions. Raises
    ``ValueError`` if shapes disagree, if rows are not unit vectors, or if ||x||^2 does not vary.
    """
    y = _checked(dictionary, moments)
    variance, k3 = moments.variance.clamp_min(0.0), moments.third_cumulant
    covariance = y.T @ (variance[:, None] * y)  # [d, d]
    tilt = y.T @ k3  # [d]
    solved = factorise(covariance)[1](tilt[:, None])[:, 0]
    vector = 2 * (y.T @ moments.mean) + solved
    explained = float(vector @ covariance @ vector)
    interference = 2 * float(covariance.square().sum() - variance.square().sum())
    superposition = float(ratio(k3**2, variance).sum() - tilt @ solved)
    shape = float(moments.shape_cost.sum())
    probe = NormProbe(vector, explained, shape, max(interference, 0.0), max(superposition, 0.0))
    if probe.variance <= 0:
        raise ValueError("||x||^2 does not vary: R^2 is undefined.")
    return probe


def coherence(dictionary: Float[Tensor, "latent d"], block: int = 2048) -> float:
    """Largest absolute cosine between two different rows. Raises ``ValueError`` with fewer than two rows."""
    if dictionary.shape[0] < 2:
        raise ValueError("coherence compares pairs of latents: at least two are needed.")
    rows = torch.nn.functional.normalize(dictionary.double(), dim=1)
    largest = 0.0
    for start in range(0, rows.shape[0], block):
        cosines = (rows[start : start + block] @ rows.T).abs()
        cosines[torch.arange(cosines.shape[0]), torch.arange(start, start + cosines.shape[0])] = 0.0
        largest = max(largest, float(cosines.max()))
    return largest


def coherence_bound(moments: WeightMoments, mu: float) -> float:
    """Lower bound on the best probe's R^2 for any linearly independent features of coherence at most ``mu``.

    Equal to :func:`orthonormal_r2` at ``mu = 0``. With linear independence the superposition cost vanishes, interference is at
    most ``2 mu^2 ((sum s_i^2)^2 - sum s_i^4)``, and the explained part is at least
    ``(sqrt(S_0) - 2 mu sum_i |m_i| sqrt(sum s_i^2))^2`` where S_0 is its value for orthonormal features.
    Raises ``ValueError`` if ``mu`` is outside [0, 1].
    """
    if not 0 <= mu <= 1:
        raise ValueError(f"mu is {mu}; a coherence lies between 0 and 1.")
    variance = moments.variance.clamp_min(0.0)
    lost = moments.shape_cost.sum() + 2 * mu**2 * (variance.sum() ** 2 - variance.square().sum())
    kept = (
        ratio(moments.covariance**2, variance).sum().sqrt() - 2 * mu * moments.mean.abs().sum() * variance.sum().sqrt()
    )
    explained = kept.clamp_min(0.0) ** 2
    return float(ratio(explained, explained + lost))


def gaussian_norm_r2(mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]) -> float:
    """R^2 of the best affine probe from a Gaussian vector to its squared norm: 4 m'Cm / (4 m'Cm + 2 ||C||_F^2).

    The null model of the norm prediction test of Section 5.1: no sparse feature anywhere, only a mean and a covariance.
    Raises ``ValueError`` if the covariance is zero.
    """
    m, c = mean.double(), covariance.double()
    linear, quadratic = 4 * float(m @ c @ m), 2 * float(c.square().sum())
    if linear + quadratic <= 0:
        raise ValueError("the covariance is zero: the squared norm does not vary.")
    return linear / (linear + quadratic)
