"""Where the space of inputs is large: least squares, pursuit and certified codes against slow twins, on problems that are searched for."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from dm_utils.maths.certified import certified_codes
from dm_utils.maths.encoder import Activation, Encoder
from dm_utils.maths.pursuit import gradient_pursuit
from dm_utils.maths.regression import Design
from dm_utils.maths.resampling import HeldOutSums, Split, held_out_mean

seeds = st.integers(0, 2**31)


def by_qr(x: np.ndarray, y: np.ndarray, fit: np.ndarray, intercept: bool) -> np.ndarray:
    """Predictions of least squares by a QR of the regressors themselves, columns scaled, in float64."""
    columns = np.column_stack([x, np.ones(len(x))]) if intercept else x
    columns = columns / np.abs(columns).max(0)
    q, r = np.linalg.qr(columns[fit])
    return columns @ np.linalg.solve(r, q.T @ y[fit])


@given(
    seed=seeds,
    scales=st.lists(st.integers(-6, 6), min_size=1, max_size=6),
    offset=st.floats(-1e3, 1e3),
    intercept=st.booleans(),
    block=st.integers(1, 200),
)
def test_least_squares_is_that_of_a_qr(
    seed: int, scales: list[int], offset: float, intercept: bool, block: int
) -> None:
    """Any units per column, any offset, any block. Sums of products about a shift lose (offset / deviation)² roundings at most."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((120, len(scales))) + offset) * 10.0 ** np.array(scales)
    y = rng.standard_normal((120, 2)) + 3
    fit = rng.permutation(120) < 73
    split = Split(torch.from_numpy(fit), torch.arange(120) // 10)
    design = Design(torch.from_numpy(x), split, intercept=intercept, block=block)
    found = design.fit_map(lambda rows, _: torch.from_numpy(y[rows]))(torch.from_numpy(x))
    assume(
        intercept or abs(offset) < 30
    )  # without one, columns of one offset are nearly parallel: any code loses digits
    assert design.rank == len(scales)
    np.testing.assert_allclose(found, by_qr(x, y, fit, intercept), rtol=0, atol=1e-6)


@given(seed=seeds, block=st.integers(1, 60), n_groups=st.integers(2, 9))
def test_sums_per_context_are_those_of_a_loop(seed: int, block: int, n_groups: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    group = torch.randint(n_groups, (60,), generator=rng)
    fit = torch.rand(60, generator=rng) < 0.5
    assume(len(torch.unique(group[~fit])) >= 2)
    split, values = Split(fit, group), torch.randn(60, 3, generator=rng)
    sums = HeldOutSums(split)
    for start in range(0, 60, block):
        rows = slice(start, min(start + block, 60))
        sums.add(rows, value=values[rows])
    for context in range(split.n_groups):
        here = (group == context) & ~fit
        assert sums.totals["n"][context].tolist() == [int(here.sum())]
        torch.testing.assert_close(sums.totals["value"][context], values[here].double().sum(0))
    mean = held_out_mean(values[:, 0], split, n_bootstrap=100)
    assert mean.value == pytest.approx(float(values[~fit, 0].double().mean()), abs=1e-12)
    assert mean.low <= mean.high


def pursued_slowly(x: Tensor, atoms: Tensor, l0: int) -> Tensor:
    """One token, dense weights, straight from the definition: add the best atom, step along the gradient, halve what overshoots."""
    weights, inside = torch.zeros(len(atoms), dtype=x.dtype), torch.zeros(len(atoms), dtype=torch.bool)
    for _ in range(l0):
        residual = x - weights @ atoms
        products = atoms @ residual
        best = products.masked_fill(inside, -torch.inf).argmax()
        if products[best] <= torch.finfo(x.dtype).eps ** 0.5 * x.norm() or inside[best]:
            break
        inside[best] = True
        gradient = products * inside
        step = gradient @ gradient / (gradient @ atoms).square().sum()
        for halving in range(21):
            moved = (weights + step / 2**halving * gradient).clamp(min=0)
            if (x - moved @ atoms).square().sum() <= residual.square().sum():
                weights = moved
                break
    return weights


@given(seed=seeds, d=st.integers(2, 12), n_atoms=st.integers(1, 30), l0=st.integers(0, 8), tilt=st.floats(0, 2))
def test_pursuit_is_its_definition_token_by_token(seed: int, d: int, n_atoms: int, l0: int, tilt: float) -> None:
    """Atoms of any coherence (a common direction of any strength), more or fewer than dimensions, overshoots and all."""
    rng = torch.Generator().manual_seed(seed)
    atoms = torch.randn(n_atoms, d, generator=rng, dtype=torch.float64) + tilt
    atoms = torch.nn.functional.normalize(atoms, dim=1)
    x = torch.randn(5, d, generator=rng, dtype=torch.float64)
    l0 = min(l0, n_atoms)
    found = gradient_pursuit(x, atoms, l0).decode(atoms)
    slow = torch.stack([pursued_slowly(token, atoms, l0) for token in x]) @ atoms
    torch.testing.assert_close(found, slow, rtol=1e-7, atol=1e-7)


@given(seed=seeds, d=st.integers(4, 40), k=st.integers(1, 12), scale=st.floats(1e-3, 1e3), kind=st.sampled_from("trj"))
def test_certified_codes_are_those_of_float64(seed: int, d: int, k: int, scale: float, kind: str) -> None:
    rng = torch.Generator().manual_seed(seed)
    x, weights = scale * torch.randn(20, d, generator=rng), torch.randn(d, 90, generator=rng)
    encoder = Encoder(weights, torch.randn(90, generator=rng), None, None)
    activation = {
        "t": Activation.topk(k),
        "r": Activation.relu(),
        "j": Activation.jumprelu(scale * torch.rand(90, generator=rng)),
    }[kind]
    z = x.double() @ weights.double() + encoder.b_enc.double()
    above = z > activation.threshold
    if activation.k is not None:
        above &= z >= z.topk(k, dim=1).values[:, -1:]
    code = certified_codes(x, encoder, activation, "bfloat16")
    token = torch.arange(20).repeat_interleave(code.l0)
    found = torch.zeros(20, 90, dtype=torch.bool)
    found[token, code.indices] = True
    assert torch.equal(found, above)
    torch.testing.assert_close(code.values.double(), z[token, code.indices], rtol=1e-4, atol=1e-4 * scale)
