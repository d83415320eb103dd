"""Grids over properties of a dictionary, for the interactive figures of Appendix B. All closed forms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pandas as pd
import torch

from dm_utils.maths import norm_theory, synthetic
from dm_utils.maths.norm_theory import NormProbe

LAWS = {
    "gamma, shape 4": ("gamma", 4.0),
    "constant (Bernoulli)": ("bernoulli", 1.0),
    "lognormal, σ = 0.5": ("lognormal", 0.5),
    "Poisson count": ("poisson", 1.0),
    "exponential": ("exponential", 1.0),
}


CROWDING = {"4 per dimension": 4, "16 per dimension": 16, "half as many as dimensions": 0.5}
SIGNS = {"all positive": "same", "mixed": "mixed"}


def shares(probe: NormProbe) -> dict[str, float]:
    """Parts of Var ||x||^2 as shares that sum to one."""
    return {
        name: getattr(probe, name) / probe.variance for name in ("explained", "shape", "interference", "superposition")
    }


def cost_grid(
    probabilities: Sequence[float] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    cosines: Sequence[float] = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6),
    d: int = 48,
    seed: int = 0,
) -> pd.DataFrame:
    """Where the variance of ||x||^2 goes, for every law, crowding, cosine, sign of the cosines and firing probability.

    All features fire equally often and have the same law. `bound` is what the theorem's corollary promises for R² at the
    dictionary's coherence (`norm_theory.coherence_bound`); there is none for more features than dimensions. Returns columns for
    `charts.norm_costs` and `charts.probe_coherence`.
    """
    rows = []
    for (crowding, per), cosine, (signs, sign) in product(CROWDING.items(), cosines, SIGNS.items()):
        dictionary = synthetic.tilted_dictionary(int(per * d), d, cosine, sign, seed)
        apart = norm_theory.coherence(dictionary) if per <= 1 else None
        for (law, (family, shape)), p in product(LAWS.items(), probabilities):
            moments = synthetic.law_moments(family, torch.full((len(dictionary),), p), 1.0, shape)
            found = shares(norm_theory.best_probe(dictionary, moments))
            where = {"crowding": crowding, "cosine": cosine, "signs": signs, "law": law, "probability": p}
            bound = None if apart is None else norm_theory.coherence_bound(moments, apart)
            rows.append(where | found | {"bound": bound})
    return pd.DataFrame(rows)
