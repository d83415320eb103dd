"""The excess kurtosis of a cloud along directions: independent components, random ones, and those of a dictionary."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.maths import jackknife
from dm_utils.maths.resampling import Estimate

COMPONENTS, RANDOM, DECODER = "independent components", "random directions", "the decoder's directions"
STEPS = 100  # of FastICA at most: on Gaussian data it has nothing to converge to


def independent_components(z: Float[Tensor, "token r"], seed: int = 0) -> Float[Tensor, "direction r"]:
    """Directions along which whitened data are least Gaussian and uncorrelated, by scikit-learn's FastICA (log cosh)."""
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    search = FastICA(whiten=False, max_iter=STEPS, tol=1e-3, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(z.numpy())
    return torch.from_numpy(search.components_)


def random_directions(n: int, r: int, seed: int = 0) -> Float[Tensor, "direction r"]:
    """Unit vectors, uniform on the sphere, float64."""
    drawn = torch.randn(n, r, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=1)


def excess_kurtosis(y: Float[Tensor, "token direction"], context: Int[Tensor, " token"]) -> Estimate:
    """The median over directions of E(y − ȳ)⁴ / (E(y − ȳ)²)² − 3: 0 for a Gaussian, large for what is mostly near zero.

    The interval is a jackknife over groups of contexts: resampled contexts repeat or lose the few largest values, which make
    the fourth moment, so a bootstrap of it would be off to one side. Raises ValueError with fewer than five contexts.
    """
    y, group = y.double() - y.double().mean(0), jackknife.groups(context)
    powers = torch.stack([y**power for power in (0, 1, 2, 3, 4)])  # [power, token, direction]
    parts = torch.stack(
        [powers[:, group == g].sum(1) for g in range(int(group.max()) + 1)], 1
    )  # [power, group, direction]
    whole = parts.sum(1, keepdim=True)
    n, first, *higher = torch.cat([whole, whole - parts], 1)
    mean, (second, third, fourth) = first / n, (power / n for power in higher)
    central = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
    value, low, high = jackknife.interval((central / (second - mean**2) ** 2 - 3).quantile(0.5, dim=1))
    return Estimate(float(value), float(low), float(high))
