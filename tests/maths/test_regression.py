"""Least squares, splits and intervals, against closed forms and scikit-learn."""

import logging
import math

import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from dm_utils.maths import regression
from dm_utils.maths.regression import COLUMNS, Design, add_gram, factorise, probe, r2_of_prediction
from dm_utils.maths.resampling import Bootstrap, HeldOutSums, Split, runs


@pytest.fixture
def data():
    torch.manual_seed(1)
    x = torch.randn(4000, 12, dtype=torch.float64) * torch.linspace(0.01, 30, 12) + 5
    y = x @ torch.randn(12, 3, dtype=torch.float64) + torch.randn(4000, 3, dtype=torch.float64) + 2
    return x, y, Split.random(runs(4000, 40), seed=3)


@pytest.mark.parametrize("intercept", [True, False])
def test_map_agrees_with_scikit_learn(data, intercept):
    x, y, split = data
    ours = Design(x, split, intercept=intercept).fit_map(lambda rows, _: y[rows])
    theirs = LinearRegression(fit_intercept=intercept).fit(x[split.fit], y[split.fit])
    torch.testing.assert_close(ours.coef.T, torch.from_numpy(theirs.coef_), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(ours(x), torch.from_numpy(theirs.predict(x)), rtol=1e-6, atol=1e-8)


def test_probe_agrees_with_scikit_learn_r2(data):
    x, y, split = data
    ours = probe(x, y[:, 0], split)
    theirs = LinearRegression().fit(x[split.fit], y[split.fit, 0])
    expected = r2_score(y[~split.fit, 0], theirs.predict(x[~split.fit]))
    assert ours.r2.value == pytest.approx(expected, abs=1e-6)
    assert ours.r2.low < ours.r2.value < ours.r2.high


def test_shift_and_scale_of_x_change_nothing(data):
    x, y, split = data
    plain = Design(x, split).fit_map(lambda rows, _: y[rows])(x)
    moved_x = x * 1e-3 - 70
    moved = Design(moved_x, split).fit_map(lambda rows, _: y[rows])(moved_x)
    torch.testing.assert_close(moved, plain, rtol=1e-8, atol=1e-7)


def test_block_size_changes_nothing(data):
    x, y, split = data
    maps = [Design(x, split, block=b).fit_map(lambda rows, _: y[rows]) for b in (37, 1000, 4000)]
    for other in maps[1:]:
        torch.testing.assert_close(other.coef, maps[0].coef, rtol=0, atol=1e-9)


def test_rank_deficient_design_reports_its_rank_and_predicts(data):
    x, y, split = data
    doubled = torch.cat([x, x[:, :4] + x[:, 4:8], torch.ones(len(x), 1, dtype=x.dtype)], 1)
    design = Design(doubled, split)
    assert design.rank == 12
    expected = Design(x, split).fit_map(lambda rows, _: y[rows])(x)
    torch.testing.assert_close(design.fit_map(lambda rows, _: y[rows])(doubled), expected, rtol=1e-7, atol=1e-6)


def test_a_well_conditioned_design_needs_no_eigenvalues(data, monkeypatch):
    """They cost ten times a Cholesky factorisation."""
    monkeypatch.setattr(torch.linalg, "eigh", lambda *_: pytest.fail("eigenvalues"))
    assert Design(data[0], data[2]).rank == 12


def test_float32_duplicates_are_found():
    x = torch.randn(500, 8)
    gram = torch.cat([x, x[:, :1] + x[:, 1:2]], 1).double()
    assert factorise(gram.T @ gram)[0] == 8


@pytest.mark.parametrize(("share", "rank"), [(1e-3, 3), (1e-5, 3), (1e-9, 2)])
def test_nearly_parallel_columns_are_told_apart_down_to_rounding(share, rank):
    """Columns a, b, a + share c: their correlations' smallest eigenvalue is about share²/2, the tolerance 64 · 3 ε = 4e-14."""
    generator = torch.Generator().manual_seed(0)
    a, b, c = torch.randn(3, 3000, dtype=torch.float64, generator=generator)
    design = Design(torch.stack([a, b, a + share * c], 1), Split.random(runs(3000)))
    assert design.rank == rank
    if rank == 3:
        found = design.fit_map(lambda rows, _: c[rows, None])
        torch.testing.assert_close(found.coef[:, 0] * share, torch.tensor([-1.0, 0, 1]).double(), rtol=0, atol=1e-3)


def test_interval_covers_the_held_out_truth_about_95_percent_of_the_time():
    """Population R² of a known map is 1/(1 + σ²); contexts share noise, so token resampling would fail."""
    hits, truth = 0, 1 / (1 + 0.5)
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(2000) // 20
    split = Split(fit=torch.arange(2000) % 40 < 20, group=group)
    for seed in range(200):
        signal = torch.randn(2000, generator=generator, dtype=torch.float64)
        shared = torch.randn(100, generator=generator, dtype=torch.float64)[group]
        own = torch.randn(2000, generator=generator, dtype=torch.float64)
        y = signal + (0.25**0.5) * (shared + own)
        found = r2_of_prediction(y, signal, split, n_bootstrap=400, seed=seed)
        hits += found.low <= truth <= found.high
    assert 0.90 <= hits / 200 <= 0.99


def test_bootstrap_resamples_contexts_not_tokens():
    """Ten contexts, constant inside each: the interval is that of ten draws, however many tokens there are."""
    widths = []
    for tokens in (20, 200):
        group = torch.arange(10).repeat_interleave(tokens)
        split = Split(fit=torch.arange(10 * tokens) % 2 == 0, group=group)
        sums = HeldOutSums(split)
        sums.add(slice(0, len(group)), value=group.double())
        mean = Bootstrap(sums.totals, 2000).estimate(lambda s: s["value"][:, 0] / s["n"][:, 0])
        widths.append(mean.high - mean.low)
    assert widths[0] == pytest.approx(widths[1])
    assert widths[0] == pytest.approx(2 * 1.96 * 2.87 / math.sqrt(10), rel=0.1)


def test_split_is_seeded_and_has_the_paper_share():
    group = torch.arange(1000) // 10
    first, again, other = (Split.random(group, seed=s) for s in (0, 0, 1))
    assert torch.equal(first.fit, again.fit)
    assert not torch.equal(first.fit, other.fit)
    assert int(first.fit.sum()) == 608


@pytest.mark.parametrize("by", ["token", "context"])
def test_a_split_keeps_the_context_of_each_token(by):
    group = torch.arange(1000) // 10
    assert torch.equal(Split.random(group, by=by).group, group)


def test_split_by_context_keeps_a_context_on_one_side():
    group = torch.arange(1000) // 10
    split = Split.random(group, by="context")
    per_context = split.fit.view(100, 10)
    assert torch.equal(per_context.all(1), per_context.any(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.long(), "floating-point"),
        (lambda x: x[:, 0], "floating-point"),
        (lambda x: x[:-1], "tokens"),
        (lambda x: x.index_fill(0, torch.tensor([7]), math.nan), "NaN or Inf"),
        (lambda x: x.repeat(1, 300), "cannot determine"),
    ],
)
def test_bad_designs_are_refused(data, change, message):
    x, _, split = data
    with pytest.raises(ValueError, match=message):
        Design(change(x), split)


def test_bad_splits_are_refused():
    with pytest.raises(ValueError, match="'token' or 'context'"):
        Split.random(torch.arange(10), by="word")
    with pytest.raises(ValueError, match="between 0 and 1"):
        Split.random(torch.arange(10), fit_fraction=1.5)
    with pytest.raises(ValueError, match="at least 2"):
        Split(fit=torch.tensor([True, False]), group=torch.tensor([0, 0]))


def test_constant_target_is_undefined_with_a_reason(data):
    x, _, split = data
    found = probe(x, torch.full((len(x),), 16.0, dtype=x.dtype), split).r2
    assert math.isnan(found.value)
    assert "same for every token" in str(found)


# --- constant columns and inexact means ------------------------------------------------------------------


def as_on(device, monkeypatch):
    """Sum products as that device does: in float64 on a CPU, in x's own dtype on a GPU and on Apple's."""
    if device != "cpu":
        monkeypatch.setattr(regression, "product_dtype", lambda _, dtype: dtype)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("constant", [0.1, 7.1, 10000.1, -1e6 / 3])
def test_a_constant_column_changes_nothing(data, monkeypatch, constant, dtype, device):
    """The residue of centring it is noise; scaled to unit variance it would be a regressor with a huge coefficient."""
    as_on(device, monkeypatch)
    x, y, split = data
    x, y = x.to(dtype), (y + 100).to(dtype)
    column = torch.full((len(x), 1), constant, dtype=dtype)
    plain, padded = Design(x, split), Design(torch.cat([x, column], 1), split)
    found = padded.fit_map(lambda rows, _: y[rows])
    assert padded.rank == plain.rank == 12
    assert (found.coef[-1] == 0).all()
    torch.testing.assert_close(found.coef[:-1], plain.fit_map(lambda rows, _: y[rows]).coef, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_column_that_moves_less_than_its_mean_is_rounded_is_constant(data, monkeypatch, device):
    as_on(device, monkeypatch)
    x, _, split = data
    step = torch.tensor([7.1, 1000.0])
    jitter = torch.where(torch.rand(len(x), 2) < 0.5, step, torch.nextafter(step, torch.tensor(math.inf)))
    assert Design(torch.cat([x.float(), jitter], 1), split).rank == 12


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_small_signal_on_a_massive_mean_is_kept(data, monkeypatch, device):
    """Steps of float32 at 1e4 are 0.001: a column of deviation 0.1 there is information."""
    as_on(device, monkeypatch)
    x, _, split = data
    signal = torch.randn(len(x), dtype=torch.float64) * 0.1
    x = torch.cat([x.float(), (signal + 1e4)[:, None].float()], 1)
    assert probe(x, signal.float() + 50, split).r2.value > 0.999


def test_float32_sums_agree_with_float64_ones(data, monkeypatch):
    x, y, split = data
    x, y = x.float(), (y + 300).float()
    exact = Design(x, split).fit_map(lambda rows, _: y[rows])(x)
    as_on("gpu", monkeypatch)
    found = Design(x, split).fit_map(lambda rows, _: y[rows])(x)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-3 * float((y - y.mean(0)).std()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_taken_as_float32(data, dtype):
    x, _, split = data
    half = (x * 40).to(dtype)  # squares overflow float16
    y = (half.float() ** 2).sum(1)
    assert str(probe(half, y, split).r2) == str(probe(half.float(), y, split).r2)


# --- too little to measure with -----------------------------------------------------------------------------


def test_few_contexts_and_few_tokens_are_said_in_numbers(caplog):
    torch.manual_seed(0)
    x = torch.randn(60, 32)
    with caplog.at_level(logging.WARNING, logger="dm_utils"):
        probe(x, x[:, 0], Split.random(torch.arange(60) // 12))
    assert (
        "x: 5 contexts hold out tokens; 95 % intervals from so few cover the truth about 85 % of the time"
        in caplog.text
    )
    assert "36 tokens fit 32 coefficients" in caplog.text
    assert "by about 1600 %" in caplog.text
    caplog.clear()
    x = torch.randn(3000, 8)
    probe(x, x[:, 0], Split.random(runs(3000)))
    assert not caplog.text


# --- float32 products, float64 sums --------------------------------------------------------------------------


def test_a_cross_product_errs_by_no_more_than_one_chunk_of_float32_may():
    """A float32 sum of m products errs by at most m u Σ|x||y|, u = 2⁻²⁴; sums between chunks are float64."""
    torch.manual_seed(0)
    x, y = torch.randn(5 * regression.CHUNK + 7, 6) * 1e3, torch.randn(5 * regression.CHUNK + 7, 4) + 50
    found, exact = regression.cross_product(x, y), x.double().T @ y.double()
    sizes = x.double().abs().T @ y.double().abs()
    assert found.dtype == torch.float64
    assert ((found - exact).abs() <= regression.CHUNK * 2.0**-24 * sizes).all()


@pytest.mark.parametrize("massive", [1, 1e3])
def test_float32_targets_move_r2_by_less_than_a_millionth(massive):
    """The same numbers as float64 are summed in float64; one dimension may be a thousand times the others."""
    torch.manual_seed(0)
    x = torch.randn(20000, 24) @ torch.randn(24, 24) + 3
    x[:, 5] *= massive
    y = torch.nn.functional.normalize(x[:, :8], dim=1) + 0.3 * torch.randn(20000, 8)
    split = Split.random(runs(20000))
    design = Design(x, split)
    maps = [design.fit_map(lambda rows, _, y=target: y[rows]) for target in (y, y.double())]
    r2 = [r2_of_prediction(y[:, 0], m(x.double())[:, 0], split, n_bootstrap=2).value for m in maps]
    assert r2[0] == pytest.approx(r2[1], abs=1e-6)
    assert maps[0].coef.ne(maps[1].coef).any(), "two ways of summing"


def test_blocks_on_a_cpu_are_no_larger_than_its_allocator_uses_again():
    wide = Design(torch.randn(3000, 64), Split.random(runs(3000)), block=10**6)
    wide.x = wide._near = torch.empty(3000, 64).expand(-1, 64)
    assert [rows for rows, _ in wide.blocks()] == [slice(0, 3000)]
    step = regression.CPU_BYTES // (4 * 2**15)
    wide.x = wide._near = torch.zeros(1, 1).expand(3000, 2**15)
    assert [len(x) for _, x in wide.blocks()] == [step] * (3000 // step) + [3000 % step]


def test_x_stays_where_it_is_if_a_gpu_has_no_room(monkeypatch):
    x = torch.zeros(64, 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (x.nbytes * regression.RESIDENT - 1, 0))
    assert regression.resident(x, torch.device("cuda"), x.dtype) is x
    assert regression.resident(x, torch.device("cpu"), x.dtype) is x


@pytest.mark.parametrize("d", [3, COLUMNS, 2 * COLUMNS + 1])
def test_the_gram_matrix_summed_in_blocks_of_columns_is_the_whole_product(d: int):
    x = torch.randint(-9, 10, (40, d), generator=torch.Generator().manual_seed(0)).double()
    gram = torch.zeros(d, d, dtype=torch.float64)
    for half in x.split(20):
        add_gram(gram, half)
    assert torch.equal(gram.tril(), (x.T @ x).tril())


def test_wide_designs_are_fitted_as_by_qr():
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(1600, COLUMNS + 40, generator=rng, dtype=torch.float64) + 1
    y = x[:, :3] ** 2 + torch.randn(1600, 3, generator=rng, dtype=torch.float64)
    split = Split.random(torch.arange(1600) // 10)
    fitted = Design(x, split).fit_map(lambda rows, _: y[rows])
    design = torch.cat([x, torch.ones(1600, 1, dtype=torch.float64)], 1)[split.fit]
    known = torch.linalg.lstsq(design, y[split.fit]).solution
    torch.testing.assert_close(fitted.coef, known[:-1], rtol=1e-7, atol=1e-7)
