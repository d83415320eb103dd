"""The bound of a low-precision product: over the margin of every token and latent, whatever the numbers."""

import pytest
import torch

from dm_utils.maths.products import accumulates
from dm_utils.maths.screen import Screen

SATURATES = not accumulates(torch.int8, torch.device("cpu"), 133, 300)
saturating = pytest.mark.skipif(
    SATURATES, reason="int8 products saturate on this processor: refused, see test_products"
)
DTYPES = [torch.bfloat16, torch.float32, pytest.param(torch.int8, marks=saturating)]
KINDS = ["plain", "massive", "zeros", "duplicates", "scales", "tiny", "subnormal", "sparse", "rounding"]


def hard_case(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Tokens, weights, β (float64) and a scale or None, of a kind and a size that the seed decides."""
    rng = torch.Generator().manual_seed(seed)
    kind = KINDS[seed % len(KINDS)]
    d, n, t = (int(torch.randint(low, high, (1,), generator=rng)) for low, high in ((1, 200), (1, 300), (1, 24)))
    y, weights = torch.randn(t, d, generator=rng), torch.randn(d, n, generator=rng)
    beta = torch.randn(n, generator=rng, dtype=torch.float64) * 10 ** float(torch.randint(-4, 3, (1,), generator=rng))
    scale = torch.rand(n, generator=rng) * 3 if seed % 2 else None
    if kind == "massive":
        y[:, d // 2] *= 1e3
    if kind == "zeros":
        y[::2], weights[:, ::3] = 0, 0
    if kind == "duplicates":
        weights[:, n // 2 :] = weights[:, : n - n // 2]
    if kind == "scales":
        y *= 10 ** torch.randint(-6, 7, (t, 1), generator=rng).float()
        weights *= 10 ** torch.randint(-6, 7, (1, n), generator=rng).float()
    if kind == "tiny":
        beta *= 1e-12
    if kind == "subnormal":
        y, weights, beta = y * 1e-30, weights * 1e-12, beta * 1e-42
    if kind == "sparse":
        y *= torch.rand(t, d, generator=rng) < 0.1
    if kind == "rounding":  # every number just off half way between two of bfloat16, all errors one way
        y, weights = torch.full_like(y, 1 + 2.0**-8 + 2.0**-20), torch.full_like(weights, 1 + 2.0**-8 - 2.0**-20)
    return y, weights, beta, scale


def margins(y, weights, beta, scale):
    """z − θ in float64."""
    z = y.double() @ weights.double()
    return (z if scale is None else z * scale.double()) + beta


def bounds(screen, y, n):
    """P, and what 4 of the module takes off it, in float64 and in the units of the margin."""
    bits, less, dtype, unit = screen.upper(y)
    step = unit.double()[:, None]
    return bits.view(dtype).double()[:, :n] * step, less.double()[:, None] * step


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first", range(0, 360, 40))
def test_the_bound_is_never_violated(dtype: torch.dtype, first: int):
    for seed in range(first, first + 40):
        y, weights, beta, scale = hard_case(seed)
        screen, exact = Screen.of(weights, beta, scale, dtype), margins(y, weights, beta, scale)
        assert screen.refusal is None
        upper, less = bounds(screen, y, len(beta))
        assert (upper[exact > 0] >= 0).all(), f"seed {seed}: an active latent is screened out"
        eps = torch.finfo(torch.float32 if dtype == torch.int8 else dtype).eps
        assert (upper * (1 + eps * upper.sign()) >= exact - 1e-40).all(), f"seed {seed}: the bound is below the margin"
        lower = upper * (1 - eps * upper.sign()) - less
        assert (lower <= exact + 1e-40).all(), f"seed {seed}: the lower bound is above the margin"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [None, 1, 3, 10])
def test_every_active_latent_is_a_candidate(dtype: torch.dtype, k: int | None):
    for seed in range(200):
        y, weights, beta, scale = hard_case(seed)
        screen, exact = Screen.of(weights, beta, scale, dtype, k), margins(y, weights, beta, scale)
        found = screen.candidates(y, k, most=exact.numel())
        assert found is not None
        token, latent = found
        assert (token.diff() >= 0).all() and (latent < len(beta)).all()
        listed = torch.zeros_like(exact, dtype=torch.bool)
        listed[token, latent] = True
        assert int(listed.sum()) == len(token), "a pair is listed twice"
        wanted = exact > 0
        if k is not None and k < len(beta):
            wanted &= exact >= torch.topk(exact, k, dim=1).values[:, -1:]
        assert listed[wanted].all(), f"seed {seed}"


def candidate_mask(found: tuple[torch.Tensor, torch.Tensor] | None, like: torch.Tensor) -> torch.Tensor:
    assert found is not None
    return torch.zeros_like(like, dtype=torch.bool).index_put_(found, torch.tensor(True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_one_latent_reaches_leaves_fewer_in_question_and_always_the_largest(dtype: torch.dtype):
    before = after = 0
    for seed in range(200):
        y, weights, beta, scale = hard_case(seed)
        screen, exact = Screen.of(weights, beta, scale, dtype, k=1), margins(y, weights, beta, scale)

        def reached(latent: torch.Tensor, exact: torch.Tensor = exact) -> torch.Tensor:
            one = exact.gather(1, latent[:, None])[:, 0]
            return (one - 2.0**-22 * one.abs()).float()

        plain = candidate_mask(screen.candidates(y, 1, exact.numel()), exact)
        fewer = candidate_mask(screen.candidates(y, 1, exact.numel(), reached=reached), exact)
        largest = (exact > 0) & (exact == exact.amax(1, keepdim=True))
        assert fewer[largest].all(), f"seed {seed}"
        assert not (fewer & ~plain).any(), f"seed {seed}"
        before, after = before + int(plain.sum()), after + int(fewer.sum())
    assert after < before


def test_a_barred_latent_reaches_nothing():
    weights = torch.eye(4)[:, [0, 1, 2, 2]] * torch.tensor([9.0, 1.0, 0.5, 0.5])
    screen = Screen.of(weights, torch.zeros(4, dtype=torch.float64), None, torch.bfloat16, k=1)
    asked = []

    def reached(latent: torch.Tensor) -> torch.Tensor:
        asked.append(latent.tolist())
        return torch.tensor([1.0, 9.0])[: len(latent)]

    y, all_barred = torch.ones(2, 4), torch.arange(4).expand(2, 4).clone()
    all_barred[0] = 0
    found = screen.candidates(y, 1, 10**6, all_barred, reached)
    assert asked == [[1, 0]] and found is not None
    assert [one.tolist() for one in found] == [[0], [1]]


def test_few_latents_are_in_question_where_the_bound_is_tight():
    rng = torch.Generator().manual_seed(0)
    y, weights = torch.randn(64, 128, generator=rng), torch.randn(128, 4096, generator=rng)
    beta = torch.full((4096,), -3 * 128**0.5, dtype=torch.float64)
    found = Screen.of(weights, beta, None, torch.bfloat16).candidates(y, None, 10**9)
    assert found is not None
    active = int((margins(y, weights, beta, None) > 0).sum())
    assert active <= len(found[0]) < 1.3 * active


def test_the_bound_of_bfloat16_is_a_share_of_the_norms():
    rng = torch.Generator().manual_seed(0)
    y, weights = torch.randn(64, 512, generator=rng), torch.randn(512, 1024, generator=rng)
    beta = torch.full((1024,), 0.0, dtype=torch.float64)
    upper, _ = bounds(Screen.of(weights, beta, None, torch.bfloat16), y, 1024)
    sizes = y.norm(dim=1, keepdim=True) * weights.norm(dim=0)
    gap = (upper - margins(y, weights, beta, None)) / sizes
    assert (
        0.001 < float(gap.median()) < 0.005
    )  # 2 residuals of 2⁻⁸ / √12 to 2⁻⁹ / √3 of each number, and the roundings up


def test_barred_latents_are_left_out():
    rng = torch.Generator().manual_seed(0)
    y, weights = torch.randn(8, 32, generator=rng), torch.randn(32, 100, generator=rng)
    screen = Screen.of(weights, torch.zeros(100, dtype=torch.float64), None, torch.bfloat16, k=1)
    barred = (y @ weights).topk(2, dim=1).indices
    token, latent = screen.candidates(y, 1, 10**6, barred)
    assert not (latent[:, None] == barred[token]).any()
    third = (y @ weights).topk(3, dim=1).indices[:, 2]
    assert all(third[t] in latent[token == t] for t in range(8))


def test_too_many_in_question_are_refused():
    y, weights = torch.ones(4, 8), torch.ones(8, 64)
    screen = Screen.of(weights, torch.zeros(64, dtype=torch.float64), None, torch.bfloat16)
    assert screen.candidates(y, None, most=10) is None


def test_weights_that_could_overflow_are_refused():
    zero = torch.zeros(4, dtype=torch.float64)
    assert "2^30" in str(Screen.of(torch.full((8, 4), 2.0**100), zero, None, torch.bfloat16).refusal)
    assert "2^30" in str(Screen.of(torch.ones(8, 4), zero - 2.0**40, None, torch.bfloat16).refusal)
