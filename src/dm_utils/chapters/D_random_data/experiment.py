"""Why random vectors fail as a test: masked features of random, tilted and clustered dictionaries, and of a real SAE (App. D)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.engine.latent_sample import LatentSample
from dm_utils.maths import masking, synthetic
from dm_utils.maths.resampling import Estimate
from dm_utils.maths.weight_laws import empirical_moments

COSINES = (0.0, 0.3, 0.6, 0.9, 0.99)
FRACTIONS = tuple(i / 12 for i in range(13))
CASES = (
    "1. random directions, equal variances",
    "2. random directions, the SAE's variances",
    "3. the SAE's directions and variances",
    "4. … latents shuffled over tokens",
    "5. … latents as they fire together",
)


def random_curves(
    d: int, per_dimension: float, l0_share: float, exponents: Sequence[float], seed: int = 0
) -> pd.DataFrame:
    """Appendix D's curve for random vectors, one per power law of the firing frequencies and order of masking.

    ``l0_share`` is the expected L0 over d. Weights are Bernoulli times exponential; the exponent 0 is equal frequencies.
    """
    dictionary, frames = synthetic.random_dictionary(round(per_dimension * d), d, seed), []
    for exponent, order in product(exponents, synthetic.ORDERS):
        p = synthetic.power_law_frequencies(len(dictionary), l0_share * d, exponent)
        variance = synthetic.law_moments("exponential", p).variance
        curve = masking.masked_curve(dictionary, variance, synthetic.mask_order(p, order, seed), FRACTIONS)
        frames.append(curve.assign(case=f"exponent {exponent:g}" if exponent else "equal frequencies", order=order))
    return pd.concat(frames, ignore_index=True)


def half_masked(d: int = 40, n: int = 8, seed: int = 0) -> pd.DataFrame:
    """FVU_nonlinear with half of 25 d random features masked: closed form beside Monte Carlo, sparse and less sparse.

    Columns ``case, exact, value, low, high``.
    """
    dictionary, rows = synthetic.random_dictionary(25 * d, d, seed), []
    kept = masking.kept_after(torch.arange(25 * d), 0.5)
    for exponent, l0 in ((0.0, 1.0), (0.0, 20.0), (1.5, 1.0), (1.5, 5.0)):
        p = synthetic.power_law_frequencies(25 * d, l0, exponent)
        exact = masking.masked_fvu(dictionary, synthetic.law_moments("exponential", p).variance, kept)[1]
        found = masking.simulated_fvu_nonlinear(dictionary, "exponential", p, kept, n=n, seed=seed)
        name = f"power law {exponent:g}, L0 {l0:g}" if exponent else f"equal frequencies, L0 {l0:g}"
        rows.append({"case": name, "exact": exact, **found.columns()})
    return pd.DataFrame(rows)


def bend_sweep(d: int = 64, seed: int = 0) -> pd.DataFrame:
    """How bent the curve of randomly masked features is as one property of the dictionary or the weights changes.

    Returns columns for `charts.sweep`, and ``leverage``, the variance-weighted mean leverage.
    """
    rows = []
    for position, (prop, setting, dictionary, variance, whole) in enumerate(_cases(d, seed)):
        order = torch.arange(len(variance)) if whole else synthetic.mask_order(variance, "random", seed)
        bend = masking.bend(masking.masked_curve(dictionary, variance, order, FRACTIONS))
        lever = masking.mean_leverage(dictionary, variance)
        rows.append({"property": prop, "setting": setting, "position": position, "bend": bend, "leverage": lever})
    return pd.DataFrame(rows)


def _cases(d: int, seed: int) -> Iterator[tuple[str, str, Tensor, Tensor, bool]]:
    for per in (0.5, 1, 2, 4, 8, 25):
        dictionary = synthetic.random_dictionary(int(per * d), d, seed)
        yield "features per dimension", f"{per:g}", dictionary, torch.ones(len(dictionary)), False
    n = 25 * d
    crowded, even = synthetic.random_dictionary(n, d, seed), torch.ones(n)
    for exponent in (0.0, 0.5, 1.0, 1.5, 2.0):
        variance = synthetic.power_law_frequencies(n, 2.5, exponent)
        yield "concentration of the variance (exponent of the power law)", f"{exponent:g}", crowded, variance, False
    for l0 in (0.25, 2.5, 25.0):  # the weights' scale keeps p (1 - p) s^2 = 1: sparsity alone
        p = torch.full((n,), l0 / n)
        variance = synthetic.law_moments("bernoulli", p, (p * (1 - p)).rsqrt()).variance
        yield "sparsity at equal variances (L0)", f"{l0:g}", crowded, variance, False
    clusters = d // 2
    contiguous = torch.argsort(torch.arange(n) % clusters, stable=True)
    for whole, (cosine, dictionary) in product((False, True), [(c, _clusters(n, d, c, seed)) for c in COSINES]):
        name = "whole clusters" if whole else "features singly"
        yield f"cosine within clusters, masking {name}", f"{cosine:g}", dictionary[contiguous], even, whole


def _clusters(n: int, d: int, cosine: float, seed: int) -> Tensor:
    return synthetic.clustered_dictionary(n, d, d // 2, cosine, seed)


def ingredient_curves(
    sample: LatentSample, fractions: Sequence[float] = FRACTIONS, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """From random data to a real SAE's latents, one ingredient at a time: curves of FVU_nonlinear as latents are masked.

    The last two cases are least squares, held out, with intervals; the others are closed forms. Latents that never fire
    are left out of all of them.

    Returns
    -------
    curves, bends : DataFrame
        ``case, order`` with the columns of `masking.masked_curve`, and with ``bend, bend_low, bend_high``.
    """
    moments = empirical_moments(sample.weights)
    alive = moments.probability > 0
    weights = sample.weights.index_select(1, alive.nonzero()[:, 0]).coalesce()
    dictionary, variance = sample.dictionary[alive], moments.variance[alive]
    directions = synthetic.random_dictionary(len(dictionary), dictionary.shape[1], seed)
    closed: dict[str, tuple[Float[Tensor, "latent d"], Float[Tensor, " latent"]]] = {
        CASES[0]: (directions, torch.ones(len(variance), dtype=torch.float64)),
        CASES[1]: (directions, variance),
        CASES[2]: (dictionary, variance),
    }
    measured = {CASES[3]: masking.shuffled(weights, seed), CASES[4]: weights}
    curves, bends = [], []
    for order in synthetic.ORDERS:
        ranks = synthetic.mask_order(moments.probability[alive], order, seed)
        for case, (rows, spread) in closed.items():
            curve, where = masking.masked_curve(rows, spread, ranks, fractions), {"case": case, "order": order}
            curves.append(curve.assign(**where))
            value = masking.bend(curve)
            bends.append(where | Estimate(value, value, value).columns("bend"))
        for case, codes in measured.items():
            curve, bent = masking.measured_curve(codes, dictionary, sample.context, ranks, fractions[1:-1:2])
            curves.append(curve.assign(case=case, order=order))
            bends.append({"case": case, "order": order, **bent.columns("bend")})
    return pd.concat(curves, ignore_index=True), pd.DataFrame(bends)
