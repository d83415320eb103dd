"""Clouds whose structure is known because it was planted: on these the tests have to say what is there."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.chapters.structure.measures import Cloud
from dm_utils.chapters.structure.twins import gaussian_twin
from dm_utils.maths import synthetic
from dm_utils.maths.resampling import Split

D, TOKENS, CONTEXTS = 24, 6000, 60
FEATURES, ACTIVE = 48, 2  # twice as many features as dimensions, two of them in a token on average
SHEET = 3  # dimensions of the curved sheet
SPARSE, NOISE, LOUD, CURVED = "sparse features", "Gaussian noise", "Gaussian noise, loud and quiet", "a curved sheet"


def sheet(m: int, d: int, n: int, seed: int = 0) -> Float[Tensor, "token d"]:
    """A smooth sheet of m dimensions in d: random waves cos(ω · t + φ) of points t, uniform in a cube."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.rand(n, m, generator=generator)
    waves = 2 * torch.randn(m, d, generator=generator)
    return torch.cos(t @ waves + 2 * math.pi * torch.rand(d, generator=generator))


def clouds(seed: int = 0) -> dict[str, Cloud]:
    """The four planted clouds by name; the sparse one comes with the dictionary that made it."""
    split = Split.random(torch.arange(TOKENS) * CONTEXTS // TOKENS, seed=seed, by="context")
    sparse = synthetic.random_superposition(FEATURES, D, TOKENS, ACTIVE, exponent=0.0, seed=seed)
    everything = torch.ones_like(split.fit)
    noise = gaussian_twin(sparse.x, everything, seed + 1)
    loudness = torch.exp(0.5 * torch.randn(TOKENS, 1, generator=torch.Generator().manual_seed(seed + 2)))
    return {
        SPARSE: Cloud(sparse.x, split, sparse.dictionary, ACTIVE),
        NOISE: Cloud(noise, split),
        LOUD: Cloud((noise - noise.mean(0)) * loudness, split),
        CURVED: Cloud(sheet(SHEET, D, TOKENS, seed), split),
    }
