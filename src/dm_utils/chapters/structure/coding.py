"""What a sparse code reaches: a dictionary learned for the very data, and codes by pursuit at an equal number of latents."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.maths.pursuit import gradient_pursuit, refit_weights

LEARNED, OWN = "learned for it", "the SAE's decoder"
PENALTY, BATCH = (
    0.2,
    512,
)  # of the sum of the weights while the dictionary is learned, where vectors have length 1 on average


def learned_dictionary(v: Float[Tensor, "token d"], n_atoms: int, seed: int = 0) -> Float[Tensor, "atom d"]:
    """Learn atoms with non-negative sparse weights for centred vectors, one pass of scikit-learn's online dictionary learning."""
    from sklearn.decomposition import MiniBatchDictionaryLearning
    from sklearn.exceptions import ConvergenceWarning

    search = MiniBatchDictionaryLearning(
        n_atoms, alpha=PENALTY, max_iter=1, batch_size=BATCH, fit_algorithm="cd", positive_code=True, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit((v / v.norm(dim=1).mean()).numpy())
    return torch.from_numpy(search.components_).float()


def left_over(v: Float[Tensor, "token d"], dictionary: Float[Tensor, "atom d"], l0: int) -> Float[Tensor, " token"]:
    """‖v − v̂‖² of each vector's best found sum of `l0` atoms with weights above zero: pursuit, then weights solved again."""
    codes = gradient_pursuit(v, dictionary, l0)
    codes = refit_weights(v, dictionary, codes, sweeps=20)
    return (v - codes.decode(dictionary)).double().square().sum(1)
