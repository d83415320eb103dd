"""Four thousand tokens in forty contexts, for tests of statistics per token: their split, and a seeded generator."""

import torch

from dm_utils.maths.resampling import Split

N, CONTEXTS = 4000, 40


def generator(seed: int = 0) -> torch.Generator:
    """Random numbers that are the same on every run."""
    return torch.Generator().manual_seed(seed)


def random_split() -> Split:
    """Tokens for fitting and tokens held out, each with its context."""
    return Split.random(torch.arange(N) * CONTEXTS // N, seed=1)
