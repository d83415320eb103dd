"""The norm prediction test on Sae(x), a sum of known vectors with known weights (Appendix C.2, Fig. 14).

``Sae(x) - b_dec = sum_i w_i y_i`` with y_i the unit decoder directions and w_i the latents in their units. The theory of
`maths.norm_theory` then says what the best probe should be, latent by latent, if latents were independent.
Intervals are delete-a-group jackknife intervals over contexts: the probe is fitted again without each group.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.engine.latent_sample import LatentSample
from dm_utils.maths import jackknife, masking, norm_theory
from dm_utils.maths.regression import factorise
from dm_utils.maths.resampling import Estimate
from dm_utils.maths.weight_laws import Slopes, WeightMoments, empirical_moments, slopes

READINGS = tuple(f.name for f in fields(Slopes))


@dataclass(frozen=True)
class Refits:
    """The probe a* of Eq. 21 on all tokens and without each group of contexts: the first axis is [1 + group]."""

    vector: Float[Tensor, "fit d"]
    gram: Float[Tensor, "fit d d"]
    cross: Float[Tensor, "fit d"]
    variance: Float[Tensor, " fit"]


def refit(sample: LatentSample, n_groups: int = jackknife.N_GROUPS) -> Refits:
    """Fit a* on centred moments, once per left-out group. Raises ``ValueError`` with fewer than five contexts."""
    norm2 = sample.sae_out.double().square().sum(1, keepdim=True)
    rows = torch.cat([sample.sae_out.double(), norm2, torch.ones_like(norm2)], dim=1)
    sums = jackknife.second_moments(rows, jackknife.groups(sample.context, n_groups))
    mean = sums[:, -1, :] / sums[:, -1:, -1]
    moments = (sums / sums[:, -1:, -1:] - mean[:, :, None] * mean[:, None, :])[:, :-1, :-1]
    gram, cross = moments[:, :-1, :-1], moments[:, :-1, -1]
    vector = torch.stack([factorise(g)[1](c[:, None])[:, 0] for g, c in zip(gram, cross, strict=True)])
    return Refits(vector, gram, cross, moments[:, -1, -1])


def latent_table(sample: LatentSample, refits: Refits) -> pd.DataFrame:
    """One row per latent that fires: its dot product with a* (Eq. 22), with interval, beside every reading of "average weight".

    Also ``independent``, the dot product that the theorem gives for independent latents with the same moments, and
    ``share``, the latent's share of the summed variance of all weights.
    """
    moments = empirical_moments(sample.weights)
    dots = refits.vector @ sample.dictionary.double().T
    value, low, high = jackknife.interval(dots)
    table = pd.DataFrame({"latent": np.arange(len(value)), "dot": value, "dot_low": low, "dot_high": high})
    for name in READINGS:
        table[name] = getattr(slopes(moments), name).numpy()
    theory = norm_theory.best_probe(sample.dictionary, moments)
    table["independent"] = (sample.dictionary.double() @ theory.vector).numpy()
    table["probability"] = moments.probability.numpy()
    table["share"] = (moments.variance / moments.variance.sum()).numpy()
    return table[table["probability"] > 0].reset_index(drop=True)


def which_mean(sample: LatentSample, refits: Refits) -> pd.DataFrame:
    """For every reading, how the dot products of Fig. 14 follow it and how well the sum that it defines predicts the norm.

    Returns
    -------
    DataFrame
        One row per reading: ``slope`` (through the origin) and ``correlation`` of the dot products on the reading, latents
        weighted by their variance, and ``r2``, the squared correlation of ``(sum_i reading_i y_i) . Sae(x)`` with the norm;
        each with its interval. ``a*`` itself is the last row.
    """
    moments = empirical_moments(sample.weights)
    dictionary, weight = sample.dictionary.double(), moments.variance
    dots = refits.vector @ dictionary.T
    rows = []
    for name in (*READINGS, "independent"):
        reading = _reading(sample, moments, name)
        total = (weight * reading * reading).sum()
        statistics = {
            "slope": (dots * weight * reading).sum(1) / total,
            "correlation": _weighted_correlation(dots, reading, weight),
            "r2": _r2_of_sum(refits, (dictionary.T @ reading)[None]),
        }
        rows.append({"reading": name} | _columns(statistics))
    return pd.DataFrame([*rows, {"reading": "a*"} | _columns({"r2": _r2_of_sum(refits, refits.vector)})])


def _reading(sample: LatentSample, moments: WeightMoments, name: str) -> Tensor:
    if name in READINGS:
        return getattr(slopes(moments), name)
    return sample.dictionary.double() @ norm_theory.best_probe(sample.dictionary, moments).vector


def _columns(statistics: dict[str, Tensor]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, values in statistics.items():
        value, low, high = (float(end) for end in jackknife.interval(values))
        found |= Estimate(value, low, high).columns(name)
    return found


def _weighted_correlation(dots: Tensor, reading: Tensor, weight: Tensor) -> Tensor:
    w = weight / weight.sum()
    a, b = dots - (w * dots).sum(1, keepdim=True), reading - (w * reading).sum()
    return (w * a * b).sum(1) / ((w * a * a).sum(1) * (w * b * b).sum()).sqrt()


def _r2_of_sum(refits: Refits, vector: Float[Tensor, "one d"]) -> Tensor:
    shared = (vector * refits.cross).sum(1)
    spread = ((refits.gram @ vector[..., None])[..., 0] * vector).sum(1) * refits.variance
    return shared**2 / spread


def split_r2(x: Float[Tensor, "token d"], context: Int[Tensor, " token"]) -> Estimate:
    """R^2 of predicting ||x||^2 from x, fitted on even rows and measured on odd ones, with a jackknife interval."""
    norm2 = x.double().square().sum(1, keepdim=True)
    rows = torch.cat([torch.ones_like(norm2), x.double(), norm2], dim=1)
    residual, spread = jackknife.held_out(*jackknife.halves(rows, jackknife.groups(context)), x.shape[1] + 1)
    value, low, high = jackknife.interval(1 - residual / spread)
    return Estimate(float(value), float(low), float(high))


def ladder(sample: LatentSample, x: Float[Tensor, "token d"], seed: int = 0) -> pd.DataFrame:
    """R^2 of the squared norm, step by step from the theory to the activations.

    Returns
    -------
    DataFrame
        ``step``, ``r2``, ``r2_low``, ``r2_high`` (equal for closed forms), ``kind`` ("closed form" or "measured").
    """
    moments = empirical_moments(sample.weights)
    exact = {
        "orthonormal latents, independent": norm_theory.orthonormal_r2(moments),
        "decoder's latents, independent": norm_theory.best_probe(sample.dictionary, moments).r2,
        "Gaussian with the mean and covariance of Sae(x)": _gaussian(sample.sae_out),
        "Gaussian with the mean and covariance of x": _gaussian(x),
    }
    independent = torch.sparse.mm(masking.shuffled(sample.weights, seed), sample.dictionary)
    measured = {
        "decoder's latents, shuffled over tokens": split_r2(independent, sample.context),
        "Sae(x)": split_r2(sample.sae_out, sample.context),
        "x": split_r2(x, sample.context),
    }
    rows = [{"step": k, **Estimate(v, v, v).columns("r2"), "kind": "closed form"} for k, v in exact.items()]
    rows += [{"step": k, **v.columns("r2"), "kind": "measured"} for k, v in measured.items()]
    order = [0, 1, 4, 5, 2, 6, 3]
    return pd.DataFrame(rows).iloc[order].reset_index(drop=True)


def _gaussian(x: Float[Tensor, "token d"]) -> float:
    return norm_theory.gaussian_norm_r2(x.double().mean(0), torch.cov(x.double().T))
