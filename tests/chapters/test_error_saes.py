"""SAEs on error parts: streams that must add up, training with known outcomes, the stopping rule, and the experiment."""

import inspect
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sae_lens import TopKTrainingSAEConfig
from stores import READ, sharing

from dm_utils.book.parameters import assigned_literals
from dm_utils.chapters.s05_2_saes_on_error import runs as error_sae_runs
from dm_utils.chapters.s05_2_saes_on_error import shipped as error_sae_shipped
from dm_utils.chapters.s05_2_saes_on_error import training as error_saes
from dm_utils.chapters.s05_2_saes_on_error.experiment import ErrorSaeStudy
from dm_utils.chapters.s05_2_saes_on_error.plan import TrainingPlan
from dm_utils.chapters.s05_2_saes_on_error.shipped import SHIPPED, precompute, recipe_source, restamp
from dm_utils.chapters.s05_2_saes_on_error.streams import (
    ErrorStream,
    GaussianStream,
    HeldStream,
    MeanCovariance,
    moments,
)
from dm_utils.chapters.s05_2_saes_on_error.training import (
    TARGETS,
    fvu,
    improvement,
    inference_arrays,
    inference_sae,
    set_rate,
    train,
)
from dm_utils.dictionaries.sparse_topk import SparseTopKTrainingSAE
from dm_utils.engine import sources
from dm_utils.engine import study as engine_study
from dm_utils.engine.store import Store
from dm_utils.engine.study import Study
from dm_utils.engine.text_windows import WindowPlan
from dm_utils.maths.regression import AffineMap
from dm_utils.world import corpus

PLAN = TrainingPlan(
    d_sae=32,
    k=2,
    learning_rates=(3e-3,),
    batch=256,
    max_steps=300,
    check_every=20,
    patience=100,
    warm_up=10,
    cool_down=60,
)


class Rows:
    """A stream of given rows."""

    def __init__(self, y):
        self.y = y

    def __len__(self):
        return len(self.y)

    def blocks(self, size):
        return ((slice(i, min(i + size, len(self))), self.y[i : i + size]) for i in range(0, len(self), size))

    def batches(self, size, seed):
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield self.y[torch.randint(len(self), (size,), generator=generator)]


def sparse_rows(n=6000, d=16, n_features=24, seed=0, scale=1.0, mean=0.0):
    """Two random non-negative features out of 24 per row, in 16 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(
        torch.randn(n_features, d, generator=torch.Generator().manual_seed(9)), dim=1
    )
    weights = torch.zeros(n, n_features)
    weights.scatter_(1, torch.rand(n, n_features, generator=generator).topk(2).indices, 1.0)
    return scale * (weights * (0.5 + torch.rand(n, n_features, generator=generator))) @ features + mean


@pytest.fixture(scope="module")
def sae():
    torch.manual_seed(0)
    weights = {
        "W_enc": torch.randn(6, 12),
        "b_enc": torch.zeros(12),
        "W_dec": torch.randn(12, 6),
        "b_dec": torch.randn(6),
    }
    return inference_sae({name: tensor.numpy() for name, tensor in weights.items()}, k=3)


@pytest.fixture(scope="module")
def error_map():
    return AffineMap(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)), torch.ones(6))


def streams(sae, error_map, n=1000):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(2))
    return x, ErrorStream(x, sae, error_map, "linear"), ErrorStream(x, sae, error_map, "nonlinear")


# --- streams ---------------------------------------------------------------------------------------------------------


def test_the_two_parts_add_up_to_the_error_whatever_the_block(sae, error_map):
    x, linear, nonlinear = streams(sae, error_map)
    for size in (7, 1000, 4096):
        total = torch.cat([a + b for (_, a), (_, b) in zip(linear.blocks(size), nonlinear.blocks(size), strict=True)])
        torch.testing.assert_close(total, x - sae(x))
    torch.testing.assert_close(
        torch.cat([rows for _, rows in linear.blocks(300)]), x @ error_map.coef + error_map.intercept
    )


def test_a_pass_of_batches_visits_every_row_once_in_an_order_that_the_seed_decides(sae, error_map):
    x, linear, _ = streams(sae, error_map)
    stream = linear.batches(100, seed=3)
    first, second = (torch.cat([next(stream) for _ in range(10)]) for _ in range(2))
    again = linear.batches(100, seed=3)
    whole = torch.cat([rows for _, rows in linear.blocks(len(x))])
    assert torch.equal(first, torch.cat([next(again) for _ in range(10)]))
    assert not torch.equal(first, second)
    for batch in (first, second):
        torch.testing.assert_close(batch.sort(dim=0).values, whole.sort(dim=0).values)


def test_rows_held_in_memory_are_those_of_the_stream_in_the_same_batches(sae, error_map):
    _, _, stream = streams(sae, error_map)
    held = HeldStream(stream, block=300)
    for (where, rows), (there, same) in zip(stream.blocks(64), held.blocks(64), strict=True):
        assert where == there
        torch.testing.assert_close(rows, same)
    for rows, same, _ in zip(stream.batches(300, seed=7), held.batches(300, seed=7), range(5), strict=False):
        torch.testing.assert_close(rows, same)


def test_wrong_parts_and_batches_are_refused_with_what_is_allowed(sae, error_map):
    x, linear, _ = streams(sae, error_map, 50)
    with pytest.raises(ValueError, match=r"'both'.*linear, nonlinear"):
        ErrorStream(x, sae, error_map, "both")
    with pytest.raises(ValueError, match=r"batch of 51 rows.*has 50"):
        next(linear.batches(51, 0))


def test_moments_are_those_of_numpy_and_refuse_nan_and_constants():
    y = sparse_rows(mean=1e3)
    found = moments(Rows(y), block=999)
    np.testing.assert_allclose(found.covariance, np.cov(y.double().T.numpy(), bias=True), atol=1e-8)
    np.testing.assert_allclose(found.mean, y.double().mean(0), rtol=1e-12)
    keep = torch.arange(len(y)) % 3 == 0
    torch.testing.assert_close(moments(Rows(y), keep, block=999).covariance, moments(Rows(y[keep])).covariance)
    assert float(found.standardise(y.double()).var(0, correction=0).sum()) == pytest.approx(16, rel=1e-6)
    y[17, 3] = torch.nan
    with pytest.raises(ValueError, match="error vectors 0 to 998"):
        moments(Rows(y), block=999)
    with pytest.raises(ValueError, match="nothing to train"):
        moments(Rows(torch.ones(100, 4)))


def test_the_gaussian_twin_has_the_moments_of_its_model_and_no_more_dimensions():
    assert moments(Rows(torch.randn(20_000, 4))).effective_dimensions == pytest.approx(4, abs=0.01)
    low_rank = sparse_rows()[:, :5] @ torch.randn(5, 16, generator=torch.Generator().manual_seed(4))
    like = moments(Rows(low_rank + 2.0))
    twin = GaussianStream(like, 200_000, seed=1)
    found = moments(twin)
    assert torch.linalg.matrix_rank(found.covariance, rtol=1e-5) == 5
    torch.testing.assert_close(found.mean, like.mean, atol=0.02, rtol=0)
    torch.testing.assert_close(found.covariance, like.covariance, atol=0.05, rtol=0.02)


def test_the_gaussian_twin_is_a_finite_sample_that_comes_back_every_pass():
    twin = GaussianStream(moments(Rows(sparse_rows())), 1000, seed=1)
    stream = twin.batches(250, seed=0)
    first, second = ([next(stream) for _ in range(4)] for _ in range(2))
    key = lambda rows: float(rows[0, 0])  # noqa: E731
    assert all(torch.equal(a, b) for a, b in zip(sorted(first, key=key), sorted(second, key=key), strict=True))
    assert not torch.equal(first[0], next(GaussianStream(moments(Rows(sparse_rows())), 1000, seed=2).batches(250, 0)))
    assert sum(len(rows) for _, rows in twin.blocks(300)) == 1000


# --- the stopping rule and the grid ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "curve, expected",
    [
        (np.full(10, 0.5), 0.0),
        (np.r_[np.full(5, 0.5), np.full(5, 0.4)], 0.2),
        (np.r_[np.full(90, 0.9), np.full(5, 0.5), np.full(5, 0.49)], 0.02),
        (np.r_[np.full(5, 0.5), np.full(5, 0.6)], -0.2),  # worse is no improvement
    ],
)
def test_the_rule_compares_the_last_window_with_the_one_before(curve, expected):
    assert improvement(curve, PLAN) == pytest.approx(expected)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"k": 33}, "k = 33: it must be at most the number of latents, d_sae = 32"),
        ({"learning_rates": ()}, "learning_rates"),
        ({"learning_rates": (0.0,)}, "learning_rates"),
        ({"learning_rates": ("1e-3",)}, "learning_rates"),
        ({"n_seeds": 0}, "n_seeds"),
        ({"patience": 200}, "patience = 200: it must be at most half of max_steps = 300"),
        ({"patience": 10}, "patience = 10: it must be a whole number of at least 20"),
        ({"cool_down": 10}, "cool_down = 10: .* of at least 20"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TrainingPlan(**{**vars(PLAN), **change})


@pytest.mark.parametrize(
    "best, tried",
    [(4, [2, 4, 8]), (8, [2, 4, 8, 16]), (16, [2, 4, 8, 16]), (1, [1, 2, 4, 8]), (2, [1, 2, 4, 8])],
)
def test_the_ladder_is_walked_until_the_best_rate_has_its_neighbours(best, tried):
    asked = []
    found = error_sae_runs.walk((1, 2, 4, 8, 16), lambda lr: asked.append(lr) or abs(np.log2(lr / best)))
    assert list(found) == tried and sorted(asked) == tried and min(found, key=found.get) == best
    assert error_sae_runs.walk((3,), lambda _: 0.5) == {3: 0.5}


# --- training --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run():
    return train(Rows(sparse_rows(scale=7.0, mean=3.0)), Rows(sparse_rows(seed=1, scale=7.0, mean=3.0)), PLAN, 3e-3, 0)


def test_sparse_features_are_learned_and_their_gaussian_twin_is_not(run):
    fresh = sparse_rows(seed=5, scale=7.0, mean=3.0)
    assert fvu(inference_sae(run.arrays, PLAN.k), fresh) < 0.15
    like = moments(Rows(sparse_rows(scale=7.0, mean=3.0)))
    twin = train(GaussianStream(like, 6000, 1), GaussianStream(like, 6000, 2), PLAN, 3e-3, 0)
    assert twin.validation_fvu > 0.3


def test_the_curve_is_the_held_out_fvu_in_any_units(run):
    assert list(run.curve) == ["step", "train_fvu", "validation_fvu"]
    last = run.curve["validation_fvu"].iloc[-1]
    assert fvu(inference_sae(run.arrays, PLAN.k), sparse_rows(seed=1, scale=7.0, mean=3.0)) == pytest.approx(
        last, abs=1e-5
    )
    short = TrainingPlan(**{**vars(PLAN), "max_steps": 40, "patience": 20, "cool_down": 20})
    plain = train(Rows(sparse_rows()), Rows(sparse_rows(seed=1)), short, 3e-3, 0)
    assert plain.curve["validation_fvu"].iloc[0] == pytest.approx(run.curve["validation_fvu"].iloc[0], rel=1e-3)


def test_every_run_takes_the_whole_budget_and_its_rate_falls_to_zero(monkeypatch):
    rates = []
    monkeypatch.setattr(error_saes, "set_rate", lambda trainer, lr: (rates.append(lr), set_rate(trainer, lr)))
    run = train(Rows(sparse_rows()), Rows(sparse_rows(seed=1)), PLAN, 3e-3, 0)
    assert run.steps == PLAN.max_steps + PLAN.cool_down
    np.testing.assert_allclose(rates, 3e-3 * np.arange(60, 0, -1) / 61)
    before_it = run.curve["validation_fvu"][run.curve["step"] <= PLAN.max_steps]
    assert run.improvement == improvement(before_it.to_numpy(), PLAN)


@pytest.mark.parametrize("rate", [0.0, 1e-3])
def test_a_rate_that_was_set_is_the_one_that_acts(monkeypatch, rate):
    """However long an SAE cools down at a rate of zero, it stays as it was."""
    monkeypatch.setattr(error_saes, "set_rate", lambda trainer, _: set_rate(trainer, rate))
    ends = []
    for cool_down in (20, 30):
        plan = TrainingPlan(**{**vars(PLAN), "max_steps": 40, "patience": 20, "cool_down": cool_down})
        ends.append(train(Rows(sparse_rows()), Rows(sparse_rows(seed=1)), plan, 3e-3, 0).arrays["W_dec"])
    assert np.array_equal(*ends) == (rate == 0)


def test_the_same_seed_gives_the_same_sae_and_leaves_the_global_generator_alone(run):
    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    again = train(Rows(sparse_rows(scale=7.0, mean=3.0)), Rows(sparse_rows(seed=1, scale=7.0, mean=3.0)), PLAN, 3e-3, 0)
    assert torch.equal(torch.rand(1), expected)
    pd.testing.assert_frame_equal(again.curve, run.curve)
    assert np.array_equal(again.arrays["W_dec"], run.arrays["W_dec"])


@pytest.fixture(scope="module")
def folded():
    """A training SAE whose every weight counts, with its rows, and what `inference_arrays` makes of it for their own units."""
    y, like = sparse_rows(scale=0.01, mean=-2.0), moments(Rows(sparse_rows(scale=0.01, mean=-2.0)))
    config = TopKTrainingSAEConfig(d_in=16, d_sae=PLAN.d_sae, k=PLAN.k, apply_b_dec_to_input=False)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        sae = SparseTopKTrainingSAE(config).eval()
        for weights in sae.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    return y, like, sae, inference_sae(inference_arrays(sae, like), PLAN.k)


def in_exact_arithmetic(y, like, sae):
    """Pre-activations of the trained SAE in the rows' units, float64 [row, latent], and what float32 may make of them.

    A sum of n products in float32 is off by at most n·2⁻²⁴ times the sum of their sizes; here n counts the d terms, those of the
    decoder's norm, and the few roundings of centring and folding.
    """
    w, b = sae.W_enc.double().detach(), sae.b_enc.double().detach()
    norm, mean = sae.W_dec.double().detach().norm(dim=1), like.mean.double()
    z = ((y.double() - mean) @ w + like.scale * b) * norm
    sizes = (y.double().abs() @ w.abs() + mean.abs() @ w.abs() + like.scale * b.abs()) * norm
    return z, (2 * y.shape[1] + 8) * 2.0**-24 * sizes


def test_inference_arrays_choose_the_latents_of_the_trained_sae_or_ones_that_rounding_cannot_tell_from_them(folded):
    y, like, trained, sae = folded
    z, slack = in_exact_arithmetic(y, like, trained)
    chosen = sae.encode(y) > 0
    kth = z.topk(PLAN.k, dim=1).values[:, -1:]
    slack = 2 * slack.max(dim=1, keepdim=True).values  # a latent and the k-th may both be off
    assert not (chosen & ((z < kth - slack) | (z < -slack))).any()
    assert not (~chosen & (z > kth + slack) & (z > slack)).any()
    tied = ((z - kth).abs() <= slack).sum(1) > 1
    assert tied.float().mean() < 0.5  # for most rows rounding leaves no choice


def test_inference_arrays_are_the_trained_sae_in_the_targets_units(folded):
    y, like, trained, sae = folded
    z, slack = in_exact_arithmetic(y, like, trained)
    chosen = sae.encode(y) > 0  # ties are left to the test above
    rows = trained.W_dec.double().detach() / trained.W_dec.double().detach().norm(dim=1, keepdim=True)
    b_dec = trained.b_dec.double().detach() * like.scale + like.mean
    wanted = (z * chosen) @ rows + b_dec
    allowed = (slack * chosen).sum(1, keepdim=True) + 2.0**-20 * (wanted.abs().max() + b_dec.abs().max())
    assert ((sae(y).double() - wanted).abs() <= allowed).all()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(32))


def test_a_rate_that_explodes_is_named():
    with pytest.raises(ValueError, match=r"no longer finite at step \d+ with learning rate 1e\+30"):
        train(Rows(sparse_rows()), Rows(sparse_rows(seed=1)), PLAN, 1e30, 0)


# --- the experiment on the lab ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def experiment(study, tmp_path_factory):
    plan = TrainingPlan(
        d_sae=64,
        k=4,
        learning_rates=(1e-3, 3e-3),
        n_seeds=2,
        batch=256,
        max_steps=60,
        check_every=10,
        patience=30,
        warm_up=5,
        cool_down=10,
    )
    return ErrorSaeStudy(
        study, study.sae(width=512), plan, train_contexts=24, shipped=Store(tmp_path_factory.mktemp("shipped"))
    )


@pytest.fixture(scope="module")
def untrained(experiment, tmp_path_factory):
    """The experiment's study as it was before anything was trained: with its text, activations and measurements."""
    experiment.table()
    store = sharing(experiment.study.store, tmp_path_factory.mktemp("untrained"), *READ, "sae", "error_map")
    return Study(experiment.study.profile, store)


def test_training_text_and_reported_text_share_no_token_position(experiment):
    study = experiment.study
    text = Study(study.profile.with_overrides(n_contexts=24 + experiment.train_contexts), study.store)
    assert torch.equal(text.contexts[:24], study.contexts)
    train_rows, test_rows = experiment.stream("linear", "train"), experiment.stream("linear")
    assert len(train_rows) == len(test_rows) == 24 * study.profile.kept_per_context
    assert torch.equal(torch.cat([test_rows.x, train_rows.x]), text.site().x)


def test_every_run_is_reported_with_an_interval_and_made_once(experiment, monkeypatch):
    table = experiment.table()
    assert list(table["target"].unique()) == list(TARGETS) and len(table) == 8
    assert ((table["fvu_low"] < table["fvu"]) & (table["fvu"] < table["fvu_high"])).all()
    assert table["lr"].isin([1e-3, 3e-3]).all()
    monkeypatch.setattr(error_sae_runs, "train", lambda *_: pytest.fail("trained again"))
    again = ErrorSaeStudy(experiment.study, experiment.ref, experiment.plan, 24, shipped=experiment.shipped)
    pd.testing.assert_frame_equal(again.table(), table)
    assert len(again.curves()) == 8 * (60 + 10) // 10


def test_the_reported_fvu_is_that_of_the_held_out_tokens(experiment):
    site, parts = experiment.study.site(), experiment.study.parts(experiment.ref)
    held_out = parts.nonlinear_error[~site.split.fit]
    assert experiment.fvu("nonlinear", 1).value == pytest.approx(
        fvu(experiment.sae("nonlinear", 1), held_out), abs=1e-5
    )
    seeds = [experiment.fvu("nonlinear", seed).value for seed in range(2)]
    assert experiment.fvu("nonlinear").value == pytest.approx(np.mean(seeds))
    gap = experiment.fvu_gap("nonlinear", "linear")
    assert gap.value == pytest.approx(experiment.fvu("nonlinear").value - experiment.fvu("linear").value)
    twins = experiment.fvu_gap("nonlinear_gaussian", "linear_gaussian")
    contrast = experiment.fvu_contrast(("nonlinear", "linear"), ("nonlinear_gaussian", "linear_gaussian"))
    assert contrast.value == pytest.approx(gap.value - twins.value) and contrast.low < contrast.value < contrast.high


def test_shipped_runs_are_used_when_the_recipe_matches_and_ignored_when_not(
    experiment, untrained, tmp_path, monkeypatch
):
    precompute(experiment, Store(tmp_path))
    monkeypatch.setattr(error_sae_runs, "train", lambda *_: pytest.fail("trained again"))
    shipped = ErrorSaeStudy(untrained, experiment.ref, experiment.plan, 24, shipped=Store(tmp_path))
    pd.testing.assert_frame_equal(shipped.table(), experiment.table())
    assert "shipped with the book" in shipped.provenance()
    assert experiment.provenance().startswith("8 of these 8 SAEs were trained")
    more_seeds = TrainingPlan(**{**vars(experiment.plan), "n_seeds": 1})
    fewer = ErrorSaeStudy(untrained, experiment.ref, more_seeds, 24, shipped=Store(tmp_path))
    assert len([fewer.run(*one) for one in fewer.runs()]) == 4
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "identity", lambda _: "another Python")
        assert "another version of this text" in shipped.provenance()
    other = TrainingPlan(**{**vars(experiment.plan), "k": 5})
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        ErrorSaeStudy(untrained, experiment.ref, other, 24, shipped=Store(tmp_path)).run("linear")


@pytest.mark.parametrize("change", [{"n_contexts": 25}, {"seed": 1}, {"skip": 63}])
def test_no_shipped_run_is_used_where_its_training_text_may_be_measured_on(experiment, tmp_path, monkeypatch, change):
    precompute(experiment, Store(tmp_path / "shipped"))
    monkeypatch.setattr(error_sae_runs, "train", lambda *_: pytest.fail("trained again"))
    for n_contexts in (24, 23):  # as many as it was trained beside, or fewer
        profile = experiment.study.profile.with_overrides(n_contexts=n_contexts)
        study = Study(profile, experiment.study.store)
        ErrorSaeStudy(study, experiment.ref, experiment.plan, 24, shipped=Store(tmp_path / "shipped")).run("linear")
    study = Study(experiment.study.profile.with_overrides(**change), experiment.study.store)
    other = ErrorSaeStudy(study, experiment.ref, experiment.plan, 24, shipped=Store(tmp_path / "shipped"))
    for lr in experiment.plan.learning_rates:
        assert other.from_shipped("error_sae", other.recipe("linear", lr=lr, seed=0)) is None
    assert other.from_shipped("error_sae_lr", other.recipe("linear")) is None


@pytest.fixture
def ship(experiment, untrained, tmp_path, monkeypatch):
    """Ship the experiment's runs, and make the experiment anew from them; whoever trains fails."""
    precompute(experiment, Store(tmp_path / "shipped"))
    monkeypatch.setattr(error_sae_runs, "train", lambda *_: pytest.fail("trained again"))
    return lambda: ErrorSaeStudy(untrained, experiment.ref, experiment.plan, 24, shipped=Store(tmp_path / "shipped"))


def changed(module, folder, monkeypatch, old, new):
    """Let the digest of sources see another text of one module."""
    path = sources.module_file(module)
    text = path.read_text(encoding="utf-8")
    assert old in text
    copy = folder / path.name
    copy.write_text(text.replace(old, new), encoding="utf-8")
    real = sources.module_file
    monkeypatch.setattr(sources, "module_file", lambda name: copy if name == module else real(name))


PART = "dm_utils.chapters.s05_2_saes_on_error"


@pytest.mark.parametrize(
    "module, old, new",
    [
        (f"{PART}.training", "dead_feature_window=200", "dead_feature_window=100"),
        (f"{PART}.streams", "torch.randperm(n_rows", "torch.randperm(1 * n_rows"),
        (f"{PART}.runs", "seed=1 + ROLES.index(role)", "seed=2 + ROLES.index(role)"),
        ("dm_utils.dictionaries.sparse_topk", "min(len(columns) / half, 1.0)", "1.0"),
    ],
)
def test_a_change_of_the_recipe_trains_again_and_says_so(ship, tmp_path, monkeypatch, caplog, module, old, new):
    ship().run("linear")
    changed(module, tmp_path, monkeypatch, old, new)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        ship().run("linear")
    assert "trained by other code" in caplog.text and "minutes" in caplog.text and "restamp" in caplog.text


@pytest.mark.parametrize(
    "module, old, new",
    [
        (f"{PART}.charts", "strokeWidth=1.5", "strokeWidth=2"),
        (f"{PART}.training", "Train one TopK SAE on a stream", "Train a TopK SAE on a stream"),
        (f"{PART}.experiment", "These {n} SAEs were trained beforehand", "All {n} SAEs were trained beforehand"),
        ("dm_utils.dictionaries.sparse_topk", "# Through .data: these rows", "# These rows"),
    ],
)
def test_a_change_of_a_chart_or_of_prose_trains_nothing(ship, tmp_path, monkeypatch, module, old, new):
    changed(module, tmp_path, monkeypatch, old, new)
    book = ship()
    assert len([book.run(*one) for one in book.runs()]) == 8


def test_restamping_needs_a_bit_identical_run_or_trust(experiment, tmp_path, monkeypatch):
    store = Store(tmp_path / "shipped")
    precompute(experiment, store)
    monkeypatch.setattr(error_sae_shipped, "recipe_source", lambda: "another")
    assert (
        ErrorSaeStudy(experiment.study, experiment.ref, experiment.plan, 24, shipped=store).from_shipped(
            "error_sae_lr", experiment.recipe("linear")
        )
        is None
    )
    assert restamp(experiment, store) == 4 + 8
    shipped = ErrorSaeStudy(experiment.study, experiment.ref, experiment.plan, 24, shipped=store)
    assert shipped.from_shipped("error_sae_lr", experiment.recipe("linear"))[0]["source"] == "another"
    other = lambda *_: ({}, {name: np.zeros(1) for name in ("W_enc", "b_enc", "W_dec", "b_dec")})  # noqa: E731
    monkeypatch.setattr(experiment, "train_run", other)
    with pytest.raises(ValueError, match=r"differs from the shipped one in W_dec, W_enc, b_dec, b_enc.*--trust"):
        restamp(experiment, store)
    assert restamp(experiment, store, trust=True) == 12
    with pytest.raises(ValueError, match=r"has no error_sae_lr for linear by this recipe.*train"):
        restamp(experiment, Store(tmp_path / "nothing"))


def of_the_book(store: Store | None = None) -> ErrorSaeStudy:
    """The experiment on the SAE whose runs are shipped."""
    study = Study("lab", store)
    (shipped,) = {json.loads(file.read_text())["key"]["sae"]["id"] for file in SHIPPED.glob("error_sae_lr/*.json")}
    return ErrorSaeStudy(study, next(ref for ref in study.saes() if ref.id == shipped))


def test_the_shipped_runs_carry_the_digest_of_todays_recipe():
    book = of_the_book()
    for target in TARGETS:
        assert book.shipped.load("error_sae_lr", book.recipe(target))[0]["source"] == recipe_source()


def test_the_books_runs_are_shipped_and_need_no_training_text(tmp_path, monkeypatch):
    monkeypatch.setattr(error_sae_runs, "train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(error_sae_runs, "Study", lambda *_: pytest.fail("read the training text"))
    book = of_the_book(Store(tmp_path))
    for target, seed in book.runs():
        run, weights = book.run(target, seed)
        if target in ("linear", "nonlinear"):  # the twins' count stands in the chapter
            assert run["improvement"] < book.plan.least_improvement, (target, seed)  # it has converged, by the rule
        assert min(book.plan.learning_rates) < run["lr"] < max(book.plan.learning_rates)
        assert weights["W_dec"].shape == (book.plan.d_sae, 128)


def test_a_change_of_the_maths_trains_what_a_study_keeps_again_and_nothing_that_is_shipped(
    experiment, tmp_path, monkeypatch
):
    precompute(experiment, Store(tmp_path / "shipped"))
    monkeypatch.setattr(error_sae_runs, "train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(engine_study, "source_digest", lambda _: "another")
    study = Study(experiment.study.profile, experiment.study.store)
    ErrorSaeStudy(study, experiment.ref, experiment.plan, 24, shipped=Store(tmp_path / "shipped")).run("linear")
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        ErrorSaeStudy(study, experiment.ref, experiment.plan, 24, shipped=Store(tmp_path / "none")).run("linear")


CHAPTER = Path(__file__).parents[2] / "notebooks" / "05_2_saes_on_error.ipynb"


def test_the_chapters_parameters_are_those_of_the_shipped_runs():
    notebook = json.loads(CHAPTER.read_text())
    cell = next(c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
    given, plan = assigned_literals("".join(cell["source"])), TrainingPlan()
    for name in ("d_sae", "k", "n_seeds", "max_steps"):
        assert given[name] == getattr(plan, name), name
    assert tuple(given["learning_rates"]) == plan.learning_rates
    assert (
        given["train_contexts"] == inspect.signature(error_sae_runs.ErrorSaeRuns).parameters["train_contexts"].default
    )


def test_a_dense_basis_is_the_principal_components_of_the_fitting_tokens_on_the_held_out_ones(experiment):
    fit, y = experiment.study.site().split.fit, experiment.study.parts(experiment.ref).linear_error.double()
    centred = (y - y[fit].mean(0)).numpy()
    basis = np.linalg.svd(centred[fit], full_matrices=False)[2][:4].T
    left, held_out = centred[~fit] - centred[~fit] @ basis @ basis.T, centred[~fit]
    expected = (left**2).sum() / ((held_out - held_out.mean(0)) ** 2).sum()
    found = experiment.dense_fvu("linear")
    assert found.value == pytest.approx(expected, rel=1e-5) and found.low < expected < found.high


def test_the_first_saes_code_is_a_code_of_the_linear_part(experiment):
    parts, held_out = experiment.study.parts(experiment.ref), ~experiment.study.site().split.fit
    b = experiment.study.error_map(experiment.ref).coef
    left = (parts.sae_error @ b)[held_out].square().sum()
    linear = parts.linear_error[held_out]
    expected = float(left / (linear - linear.mean(0)).square().sum())
    found = experiment.inherited_fvu()
    assert found.value == pytest.approx(expected, rel=1e-4) and found.low < expected < found.high


def test_activity_is_that_of_the_dense_encoder(experiment):
    plan = WindowPlan(window=16)
    activity, site = experiment.activity("nonlinear", plan), experiment.study.site()
    hidden = experiment.sae("nonlinear").encode(experiment.study.parts(experiment.ref).nonlinear_error)
    latent = int((hidden > 0).sum(0).argmax())
    window, position, value = activity.entries(latent)
    starts = torch.arange(24)[:, None] * 191 + torch.arange(191 // 16) * 16
    dense = hidden[(starts.flatten()[:, None] + torch.arange(16)).flatten(), latent].reshape(-1, 16)
    found = torch.zeros_like(dense)
    found[window, position] = torch.from_numpy(value)
    torch.testing.assert_close(found, dense, atol=1e-4, rtol=1e-4)
    assert torch.equal(torch.from_numpy(activity.tokens[0]), site.token_id[:16])


def test_unknown_targets_and_roles_are_named(experiment):
    with pytest.raises(ValueError, match=r"'both' for 'test'.*linear, nonlinear"):
        experiment.stream("both")
    with pytest.raises(ValueError, match=r"roles train, validation, test"):
        experiment.stream("linear", "dev")
    assert isinstance(experiment.moments("linear"), MeanCovariance)
