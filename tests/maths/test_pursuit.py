"""Specification of batched gradient pursuit (Section 6.1): known answers, oracles, a slow twin, the edges."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dm_utils.maths.pursuit import SparseCodes, gradient_pursuit, pursuit_codes, refit_weights


def coherent_problem(
    n_token: int = 24, d: int = 24, n_atom: int = 96, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Return tokens that are no sparse sum of the atoms, and unit atoms that share a direction, as decoders do."""
    rng = torch.Generator().manual_seed(seed)
    shared = 0.5 * torch.randn(1, d, generator=rng, dtype=dtype)
    dictionary = torch.nn.functional.normalize(torch.randn(n_atom, d, generator=rng, dtype=dtype) + shared, dim=1)
    return torch.randn(n_token, d, generator=rng, dtype=dtype) + 2 * shared, dictionary


def orthonormal_problem(
    n_token: int = 16, d: int = 32, active: int = 6, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, an orthonormal dictionary and the true non-negative codes ``[token, d]``."""
    rng = torch.Generator().manual_seed(seed)
    dictionary = torch.linalg.qr(torch.randn(d, d, generator=rng, dtype=torch.float64)).Q
    true_codes = torch.zeros(n_token, d, dtype=torch.float64)
    for row in true_codes:
        row[torch.randperm(d, generator=rng)[:active]] = 0.5 + torch.rand(active, generator=rng, dtype=torch.float64)
    return true_codes @ dictionary, dictionary, true_codes


def dense(codes: SparseCodes, n_atom: int) -> Tensor:
    """Return the codes with their zeros."""
    return codes.weights.new_zeros(len(codes.weights), n_atom).scatter_add_(1, codes.indices, codes.weights)


def dense_pursuit(x: Tensor, dictionary: Tensor, l0: int) -> Tensor:
    """Slow twin, straight from the definition: dense weights, three products with the dictionary per step."""
    weights = x.new_zeros(len(x), len(dictionary))
    support = torch.zeros_like(weights, dtype=torch.bool)
    for _ in range(l0):
        residual = x - weights @ dictionary
        correlations = residual @ dictionary.T
        best, atom = correlations.masked_fill(support, -torch.inf).max(1)
        go_on = best > torch.finfo(x.dtype).eps ** 0.5 * x.norm(dim=1)
        support[go_on, atom[go_on]] = True
        gradient = correlations * support * go_on[:, None]
        direction = gradient @ dictionary
        size = ((residual * direction).sum(1) / direction.square().sum(1)).nan_to_num(0)
        weights = (weights + size[:, None] * gradient).clamp(min=0)
    return weights


def squared_error(x: Tensor, dictionary: Tensor, codes: SparseCodes) -> Tensor:
    return (x - codes.decode(dictionary)).square().sum(1)


# Oracles


def test_agrees_with_the_dense_definition():
    x, dictionary = coherent_problem(n_token=64)
    for l0 in (1, 2, 5, 12):  # short of the steps at which an overshoot has to be halved, tested below
        sparse = dense(gradient_pursuit(x, dictionary, l0), len(dictionary))
        torch.testing.assert_close(sparse, dense_pursuit(x, dictionary, l0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_agrees_with_the_single_vector_version_of_transformer_lens(scale: float):
    oracle = pytest.importorskip("transformer_lens.tools.analysis.jacobian_lens_decomposition")
    x, dictionary = coherent_problem(dtype=torch.float32)
    x = scale * x
    codes = gradient_pursuit(x, dictionary, 15)
    for token in range(len(x)):
        expected = oracle.get_sparse_decomposition(x[token], dictionary, 15, algorithm="gradient_pursuit")
        n_selected = len(expected.selected_support)
        assert codes.indices[token, :n_selected].tolist() == expected.selected_support.tolist()
        reconstruction = codes.decode(dictionary)[token]
        torch.testing.assert_close(reconstruction, expected.reconstruction, rtol=1e-4, atol=1e-4 * scale)


def test_agrees_with_orthogonal_matching_pursuit_where_atoms_are_orthonormal():
    from sklearn.linear_model import OrthogonalMatchingPursuit

    x, dictionary, _ = orthonormal_problem()
    for l0 in (1, 3, 6):
        omp = OrthogonalMatchingPursuit(n_nonzero_coefs=l0, fit_intercept=False).fit(dictionary.T.numpy(), x.T.numpy())
        ours = dense(gradient_pursuit(x, dictionary, l0), len(dictionary))
        torch.testing.assert_close(ours, torch.from_numpy(omp.coef_), rtol=1e-9, atol=1e-12)


def test_one_step_is_the_projection_on_the_best_atom_of_any_dictionary():
    x, dictionary = coherent_problem()
    best = (x @ dictionary.T).max(1)
    codes = gradient_pursuit(x, dictionary, 1)
    torch.testing.assert_close(codes.indices[:, 0], best.indices)
    torch.testing.assert_close(codes.weights[:, 0], best.values)


def test_recovers_a_planted_code_exactly_on_an_orthonormal_dictionary():
    x, dictionary, true_codes = orthonormal_problem(active=6)
    codes = gradient_pursuit(x, dictionary, 6)
    torch.testing.assert_close(dense(codes, len(dictionary)), true_codes, rtol=1e-10, atol=1e-12)


# Behaviour


def test_the_error_never_rises_with_another_atom_even_where_clipping_overshoots():
    x, dictionary = coherent_problem(n_token=2000)
    unguarded = [(x - dense_pursuit(x, dictionary, l0) @ dictionary).square().sum(1) for l0 in range(12, 20)]
    guarded = [squared_error(x, dictionary, gradient_pursuit(x, dictionary, l0)) for l0 in range(12, 20)]
    assert any((after > 1.01 * before).any() for before, after in pairwise(unguarded))
    assert not any((after > before + 1e-12).any() for before, after in pairwise(guarded))


def test_each_token_gets_its_own_l0_as_if_it_were_alone():
    x, dictionary = coherent_problem()
    l0 = torch.arange(len(x)).flip(0) % 9
    codes = gradient_pursuit(x, dictionary, l0)
    assert codes.indices.shape == (len(x), 8)
    for token, steps in enumerate(l0.tolist()):
        alone = gradient_pursuit(x[token : token + 1], dictionary, steps)
        assert codes.indices[token, :steps].tolist() == alone.indices[0].tolist()
        torch.testing.assert_close(codes.weights[token, :steps], alone.weights[0])
        assert not codes.indices[token, steps:].any() and not codes.weights[token, steps:].any()


@pytest.mark.parametrize("batch_size", [1, 5, 24, 1000])
def test_the_batch_size_changes_nothing(batch_size: int):
    x, dictionary = coherent_problem()
    whole, parts = gradient_pursuit(x, dictionary, 10), gradient_pursuit(x, dictionary, 10, batch_size=batch_size)
    torch.testing.assert_close(parts.indices, whole.indices)
    torch.testing.assert_close(parts.weights, whole.weights)


def test_scaling_an_atom_scales_its_weight_inversely_and_nothing_else():
    x, dictionary = coherent_problem()
    scales = torch.logspace(-3, 3, len(dictionary), dtype=x.dtype)
    codes, scaled = gradient_pursuit(x, dictionary, 8), gradient_pursuit(x, dictionary * scales[:, None], 8)
    torch.testing.assert_close(scaled.indices, codes.indices)
    torch.testing.assert_close(scaled.weights * scales[codes.indices], codes.weights)
    torch.testing.assert_close(scaled.decode(dictionary * scales[:, None]), codes.decode(dictionary))


def test_one_product_with_the_dictionary_per_step_and_one_block_of_correlations():
    class Record(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.products, self.blocks = 0, set()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            self.products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm)
            if isinstance(result, Tensor) and result.numel() >= 32 * 512 and not result._is_view():
                self.blocks.add(result.untyped_storage().data_ptr())
            return result

    x, dictionary = coherent_problem(n_token=32, d=16, n_atom=512)
    with Record() as record:
        gradient_pursuit(x, dictionary, 9)
    assert record.products == 9
    assert len(record.blocks) == 1


def test_weights_are_never_negative_and_keep_their_dtype():
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        x, dictionary = coherent_problem()
        codes = gradient_pursuit(x.to(dtype), dictionary.to(dtype), 6)
        assert codes.weights.dtype == dtype and codes.indices.dtype == torch.int64
        assert (codes.weights >= 0).all()
        assert codes.decode(dictionary.to(dtype)).dtype == dtype


def test_the_bias_is_subtracted_before_and_added_after():
    x, dictionary, true_codes = orthonormal_problem()
    sae = SimpleNamespace(W_dec=dictionary, b_dec=torch.linspace(-5, 5, x.shape[1], dtype=x.dtype))
    codes = pursuit_codes(x + sae.b_dec, sae, 6)
    torch.testing.assert_close(dense(codes, len(dictionary)), true_codes, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(codes.decode(sae.W_dec, sae.b_dec), x + sae.b_dec)


def test_progress_counts_tokens(capsys: pytest.CaptureFixture[str]):
    x, dictionary = coherent_problem()
    gradient_pursuit(x, dictionary, 2, progress=True)
    assert f"{len(x)}/{len(x)}" in capsys.readouterr().err


# Better weights on the same atoms


def test_refitted_weights_solve_the_non_negative_least_squares_of_each_token():
    from scipy.optimize import nnls

    x, dictionary = coherent_problem()
    codes = gradient_pursuit(x, dictionary, 1 + torch.arange(len(x)) % 6)
    refitted = refit_weights(x, dictionary, codes, sweeps=300)
    assert torch.equal(refitted.indices, codes.indices)
    for token in range(len(x)):
        used = codes.weights[token] > 0
        best, _ = nnls(dictionary[codes.indices[token, used]].T.numpy(), x[token].numpy())
        torch.testing.assert_close(refitted.weights[token, used], torch.from_numpy(best), rtol=1e-6, atol=1e-8)
        assert not refitted.weights[token, ~used].any()


def test_refitting_never_raises_the_error_and_needs_no_unit_atoms():
    x, dictionary = coherent_problem()
    dictionary = dictionary * torch.logspace(-2, 2, len(dictionary), dtype=x.dtype)[:, None]
    codes = gradient_pursuit(x, dictionary, 10)
    before = squared_error(x, dictionary, codes)
    assert (squared_error(x, dictionary, refit_weights(x, dictionary, codes, sweeps=3)) <= before + 1e-12).all()


def test_refitting_codes_of_other_tokens_is_refused():
    x, dictionary = coherent_problem()
    with pytest.raises(ValueError, match=r"codes are .* for 3 tokens"):
        refit_weights(x[:3], dictionary, gradient_pursuit(x, dictionary, 2))


# Edges


def test_a_token_that_is_explained_stops_and_its_other_places_stay_empty():
    x, dictionary, true_codes = orthonormal_problem(active=3)
    codes = gradient_pursuit(x, dictionary, 20)
    assert codes.l0.tolist() == [3] * len(x)
    assert not codes.indices[:, 3:].any() and not codes.weights[:, 3:].any()
    torch.testing.assert_close(dense(codes, len(dictionary)), true_codes, rtol=1e-10, atol=1e-12)


def test_an_empty_place_does_not_block_atom_zero():
    dictionary = torch.eye(3)
    codes = gradient_pursuit(torch.tensor([[1.0, 0, 0], [1.0, 3.0, 2.0]]), dictionary, 3)
    assert codes.indices.tolist() == [[0, 0, 0], [1, 2, 0]]
    assert codes.weights.tolist() == [[1, 0, 0], [3, 2, 1]]


def test_a_zero_token_has_no_atoms():
    codes = gradient_pursuit(torch.zeros(2, 3), torch.eye(3), 2)
    assert codes.l0.tolist() == [0, 0] and not codes.decode(torch.eye(3)).any()


def test_a_token_opposite_to_every_atom_has_no_atoms():
    assert gradient_pursuit(-torch.ones(1, 3), torch.eye(3), 3).l0.tolist() == [0]


def test_duplicate_atoms_are_chosen_once_when_one_is_enough():
    dictionary = torch.tensor([[1.0, 0], [1.0, 0], [0, 1.0]])
    codes = gradient_pursuit(torch.tensor([[2.0, 1.0]]), dictionary, 3)
    assert codes.l0.tolist() == [2]
    torch.testing.assert_close(codes.decode(dictionary), torch.tensor([[2.0, 1.0]]))


def test_l0_zero_gives_no_columns_and_decodes_to_the_bias():
    codes = gradient_pursuit(torch.ones(2, 3), torch.eye(3), 0)
    assert codes.indices.shape == codes.weights.shape == (2, 0)
    torch.testing.assert_close(codes.decode(torch.eye(3), torch.full((3,), 7.0)), torch.full((2, 3), 7.0))


def test_no_tokens_give_no_codes():
    assert gradient_pursuit(torch.ones(0, 3), torch.eye(3), 2).indices.shape[0] == 0


def test_l0_above_the_dimension_stays_finite_and_explains_the_token():
    x, dictionary = coherent_problem(d=8, n_atom=32)
    dictionary = torch.cat([dictionary, -dictionary])  # any token is a non-negative sum of these
    codes = gradient_pursuit(x, dictionary, 64)
    assert torch.isfinite(codes.weights).all()
    assert (squared_error(x, dictionary, codes) < 1e-2 * x.square().sum(1)).all()


def test_an_atom_of_length_zero_is_never_chosen():
    dictionary = torch.tensor([[0.0, 0], [2.0, 0], [0, 0.5]])
    codes = gradient_pursuit(torch.tensor([[1.0, 1.0]]), dictionary, 3)
    assert codes.indices.tolist() == [[1, 2, 0]]
    torch.testing.assert_close(codes.weights, torch.tensor([[0.5, 2.0, 0.0]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"l0": 5}, "l0 runs from 5 to 5; allowed are 0 to 4"),
        ({"l0": -1}, "l0 runs from -1 to -1"),
        ({"l0": 1.5}, "l0 has dtype torch.float32; it must be an integer"),
        ({"l0": torch.tensor([1, 2, 3])}, r"l0 has shape \(3,\); give one integer, or one per token: \(2,\)"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"x": torch.ones(2, 5)}, r"x \(2, 5\) and dictionary \(4, 3\) must agree"),
        ({"x": torch.ones(3)}, r"x is torch.float32 of shape \(3,\); it must be a real matrix"),
        ({"x": torch.ones(2, 3, dtype=torch.int64)}, "x is torch.int64"),
        ({"x": torch.ones(2, 3, dtype=torch.float64)}, "x is torch.float64 on cpu but dictionary is torch.float32"),
        ({"x": torch.ones(2, 3, device="meta")}, "x is torch.float32 on meta but dictionary is torch.float32 on cpu"),
        ({"x": torch.tensor([[1.0, 1, 1], [1, torch.nan, 1]])}, "x holds NaN or Inf in 1 of 2 rows, first in row 1"),
        ({"dictionary": torch.full((4, 3), torch.inf)}, "dictionary holds NaN or Inf in 4 of 4 rows"),
    ],
)
def test_a_wrong_input_is_named(change: dict[str, object], message: str):
    arguments = {"x": torch.ones(2, 3), "dictionary": torch.ones(4, 3), "l0": 2} | change
    with pytest.raises(ValueError, match=message):
        gradient_pursuit(**arguments)  # type: ignore[arg-type]


def test_an_sae_without_a_fitting_decoder_is_named():
    with pytest.raises(ValueError, match="has no tensor b_dec"):
        pursuit_codes(torch.ones(2, 3), SimpleNamespace(W_dec=torch.eye(3)), 1)
    with pytest.raises(ValueError, match=r"b_dec has shape \(4,\)"):
        pursuit_codes(torch.ones(2, 3), SimpleNamespace(W_dec=torch.eye(3), b_dec=torch.ones(4)), 1)
