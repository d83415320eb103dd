"""The study on the shipped lab: one pass, kept results, and the numbers of the long way round."""

import threading

import numpy as np
import pytest
import torch
from stores import READ, sharing

import dm_utils as dm
from dm_utils.base.errors import ParameterError
from dm_utils.engine import study as engine_study
from dm_utils.engine.store import Store
from dm_utils.engine.study import Study
from dm_utils.maths.encoding import encode
from dm_utils.maths.resampling import Estimate


@pytest.fixture(scope="module")
def ref(study):
    return study.sae(width=512)


def test_contexts_start_with_bos_and_are_the_same_twice(study):
    assert study.contexts.shape == (24, 256)
    assert (study.contexts[:, 0] == study.tokenizer.bos_token_id).all()
    again = Study(study.profile, Store(study.store.root / "other"))
    assert torch.equal(again.contexts, study.contexts)


def test_site_holds_the_models_own_activations(study):
    """Against Hugging Face's hidden states, without TransformerLens."""
    from transformers import AutoModelForCausalLM

    from dm_utils.world.models import model_path

    site = study.site(2)
    reference = AutoModelForCausalLM.from_pretrained(
        model_path(study.profile), attn_implementation="eager", dtype=torch.float32
    )
    with torch.inference_mode():
        hidden = reference(study.contexts[:2], output_hidden_states=True).hidden_states[3]
    kept = hidden[:, study.profile.skip : -1].flatten(0, 1)
    torch.testing.assert_close(site.x[: len(kept)], kept, rtol=1e-4, atol=1e-4)
    assert torch.equal(site.token_id[:191], study.contexts[0, 64:255])
    assert site.position[0] == 64
    assert site.context[191] == 1


def test_measure_equals_decompose_on_the_dense_reconstruction(study, ref):
    row = study.measure([ref]).iloc[0]
    site = study.site()
    dense = study.load_sae(ref)(site.x)
    report = dm.decompose(site.x, dense, split=site.split, n_bootstrap=200)
    for metric in (
        "fvu",
        "fvu_nonlinear",
        "r2_error_vector",
        "r2_error_vector_weighted",
        "r2_error_norm",
    ):
        found, expected = Estimate.read(row, metric), getattr(report, metric)
        assert found.value == pytest.approx(expected.value, abs=1e-5), metric
        assert found.low == pytest.approx(expected.low, abs=1e-4), metric


def test_token_scalars_and_parts_agree(study, ref):
    scalars, parts = study.token_scalars(ref), study.parts(ref)
    for name, vectors in (
        ("error_norm2", parts.sae_error),
        ("linear_norm2", parts.linear_error),
        ("nonlinear_norm2", parts.nonlinear_error),
        ("sae_norm2", parts.sae_out),
        ("x_norm2", parts.x),
    ):
        np.testing.assert_allclose(scalars[name], vectors.square().sum(-1), rtol=1e-3)
    np.testing.assert_allclose(scalars["l0"], encode(study.load_sae(ref), parts.x).l0)


def test_a_second_study_reads_what_the_first_kept(study, ref, monkeypatch):
    first = study.measure([ref])
    other = Study(study.profile, study.store)
    monkeypatch.setattr(other, "load_sae", lambda _: pytest.fail("measured again"))
    assert other.measure([ref]).equals(first)


def test_a_different_protocol_is_another_result(study, ref):
    other = Study(study.profile.with_overrides(split_by="context"), study.store)
    assert other.result_key(ref) != study.result_key(ref)


def test_several_sites_cost_one_run_of_the_model(study, tmp_path, monkeypatch):
    from dm_utils.world import models

    study = Study(study.profile, Store(tmp_path))  # whose sites no other test has collected

    calls = []
    run = models.activations
    monkeypatch.setattr(models, "activations", lambda *a: calls.append(a[2]) or run(*a))
    study.collect([(3, "resid"), (3, "mlp"), (5, "att")])
    assert calls == [["blocks.3.hook_mlp_out", "blocks.3.hook_resid_post", "blocks.5.attn.hook_z"]]
    assert study.site(5, "att").x.shape == (24 * 191, 128)


def test_selection(study):
    assert {r.layer for r in study.saes(layer="all")} == set(range(6))
    near = study.saes(near_l0=15, architecture="topk")
    assert [r.d_sae for r in near] == [512, 1024, 2048, 4096, 8192]
    assert {r.l0 for r in near} == {16.0}
    assert study.sae().id == "resid_4_topk_2048_l0_4"
    with pytest.raises(ParameterError, match="d_sae = 700: the SAEs here have 512"):
        study.saes(width=700)
    with pytest.raises(ParameterError, match=r"layer = 0: .* att SAEs at layers \[3, 4\]"):
        study.saes(layer=0, component="att")


def test_nan_in_a_reconstruction_names_the_site_and_the_tokens(study, ref, tmp_path, monkeypatch):
    other, broken = Study(study.profile, sharing(study.store, tmp_path, *READ)), study.load_sae(ref)
    broken.b_dec[3] = float("nan")
    monkeypatch.setattr(other, "load_sae", lambda _: broken)
    with pytest.raises(ValueError, match=rf"{ref.id}, tokens 0 to .*NaN or Inf"):
        other.measure([ref])


def test_out_of_memory_halves_the_block_and_the_numbers_stay(study, ref, tmp_path, monkeypatch):
    expected = study.measure([ref])

    def small(sae, x):
        if len(x) > 1000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(sae, x)

    monkeypatch.setattr(engine_study, "encode", small)
    other = Study(study.profile.with_overrides(block=4096), sharing(study.store, tmp_path, *READ))
    found = other.measure([ref])
    assert other.site().design.block == 512
    for metric in ("fvu", "fvu_nonlinear", "r2_error_norm", "l0"):
        assert found[metric].iloc[0] == pytest.approx(expected[metric].iloc[0], abs=1e-5)


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_a_dead_decoder_is_measured(study, ref, tmp_path, monkeypatch, bias):
    dead = study.load_sae(ref)
    dead.W_dec.zero_()
    dead.b_dec.fill_(bias)
    other = Study(study.profile, sharing(study.store, tmp_path, *READ))
    monkeypatch.setattr(other, "load_sae", lambda _: dead)
    row = other.measure([ref]).iloc[0]
    assert row.r2_error_vector == pytest.approx(1, abs=1e-5), "the error is x, moved"
    assert np.isnan(row.shrinkage) == (bias == 0)
    assert np.isnan(row.r2_sae_norm)


def test_the_released_protocol_is_computed_beside_the_texts_own(study, ref):
    """Against scikit-learn without an intercept, from position 1, and an FVU over every token."""
    from sklearn.linear_model import LinearRegression

    from dm_utils.engine.released import released_protocol

    table = released_protocol(study, ref).set_index(["skip", "intercept", "metric"])
    row = study.measure([ref]).iloc[0]
    for metric in ("fvu", "fvu_nonlinear", "r2_error_norm", "r2_error_vector"):
        assert table.value[64, True, metric] == pytest.approx(row[metric], abs=1e-6)
    other = Study(study.profile.with_overrides(skip=1), study.store)
    site, x = other.site(), other.site().x.double().numpy()
    error = x - study.load_sae(ref)(site.x).double().numpy()
    fit = site.split.fit.numpy()
    nonlinear = error - LinearRegression(fit_intercept=False).fit(x[fit], error[fit]).predict(x)
    expected = (nonlinear**2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert table.all_tokens[1, False, "fvu_nonlinear"] == pytest.approx(expected, rel=1e-4)
    norm = (error**2).sum(1)
    left = (norm - LinearRegression(fit_intercept=False).fit(x[fit], norm[fit]).predict(x))[~fit]
    expected = 1 - (left**2).sum() / ((norm[~fit] - norm[~fit].mean()) ** 2).sum()
    assert table.value[1, False, "r2_error_norm"] == pytest.approx(expected, abs=1e-4)
    assert table.all_tokens[64, True, "fvu"] == pytest.approx(row.fvu, rel=0.2)


def test_saes_are_loaded_one_ahead_and_the_numbers_are_those_of_each_alone(study, tmp_path, monkeypatch):
    refs = study.saes()[:3]
    tables, threads, load = {}, {}, study.load_sae
    for case, free in (("alone", 0), ("ahead", 10**12)):
        monkeypatch.setattr(engine_study, "available", lambda _, free=free: free)
        other, loaded = Study(study.profile, sharing(study.store, tmp_path / case, *READ)), []
        monkeypatch.setattr(
            other, "load_sae", lambda ref, loaded=loaded: loaded.append((ref, threading.current_thread())) or load(ref)
        )
        tables[case] = other.measure(refs)
        assert [ref for ref, _ in loaded] == refs
        threads[case] = [thread is threading.main_thread() for _, thread in loaded]
    assert tables["ahead"].equals(tables["alone"])
    assert threads == {"alone": [True, True, True], "ahead": [True, False, False]}


def test_an_sae_that_cannot_be_read_stops_at_its_turn(study, tmp_path, monkeypatch):
    refs, load = study.saes()[:2], study.load_sae
    other = Study(study.profile, sharing(study.store, tmp_path, *READ))

    def broken(ref):
        if ref == refs[1]:
            raise ParameterError(f"{ref.id} is cut short")
        return load(ref)

    monkeypatch.setattr(other, "load_sae", broken)
    with pytest.raises(ParameterError, match=f"{refs[1].id} is cut short"):
        other.measure(refs)
    kept = [other.store.holds("sae", other.result_key(ref), sources=("dm_utils.engine.study",)) for ref in refs]
    assert kept == [True, False]


@pytest.fixture(scope="module")
def other(study, tmp_path_factory):
    """The same world under another protocol."""
    changed = {"seed": 3, "fit_fraction": 0.5, "split_by": "context", "interval": "fit", "n_bootstrap": 150}
    return Study(study.profile.with_overrides(**changed), Store(tmp_path_factory.mktemp("protocol")))


def test_every_part_of_the_protocol_reaches_the_numbers(study, other, ref):
    from dm_utils.engine.released import released_protocol
    from dm_utils.maths.resampling import Split

    assert not torch.equal(other.contexts, study.contexts)
    site, row = other.site(), other.measure([ref]).iloc[0]
    split = Split.random(site.context, 0.5, 3, "context")
    assert torch.equal(site.split.fit, split.fit)
    report = dm.decompose(site.x, other.load_sae(ref)(site.x), split=split, n_bootstrap=150, seed=3, interval="fit")
    for metric in ("fvu", "fvu_nonlinear", "r2_error_vector", "r2_error_norm"):
        found, known = Estimate.read(row, metric), getattr(report, metric)
        ends = [found.value, found.low, found.high]
        assert ends == pytest.approx([known.value, known.low, known.high], abs=1e-4), metric
    table = released_protocol(other, ref).set_index(["skip", "intercept", "metric"])
    for metric in ("fvu", "fvu_nonlinear", "r2_error_norm", "r2_error_vector"):
        found, known = Estimate.read(table.loc[(64, True, metric)]), Estimate.read(row, metric)
        assert (found.value, found.low, found.high) == pytest.approx((known.value, known.low, known.high), abs=1e-6)


def test_without_an_intercept_the_intervals_follow_the_protocol_too(other, ref):
    from dm_utils.engine.released import released_protocol
    from dm_utils.maths.decomposition import Decomposer
    from dm_utils.maths.regression import Design

    site, sae = other.site(), other.load_sae(ref)
    decomposer = Decomposer(Design(site.x, site.split, intercept=False), n_bootstrap=150, seed=3, interval="fit")
    known = decomposer.run(lambda _, x: sae(x), name="by hand").metrics
    table = released_protocol(other, ref).set_index(["skip", "intercept", "metric"])
    for metric in ("fvu", "fvu_nonlinear", "r2_error_norm", "r2_error_vector"):
        found = table.loc[(64, False, metric)]
        ends = (known[metric].value, known[metric].low, known[metric].high)
        assert (found["value"], found["low"], found["high"]) == pytest.approx(ends, abs=1e-5)


def test_a_row_says_which_sae_it_is_and_what_its_codes_are(study, ref):
    row = study.measure([ref]).iloc[0]
    about = {"profile": "lab", "model": study.profile.title, "sae_id": ref.id, "sae_revision": ref.commit}
    about |= {"hook_name": ref.hook_name, "layer": 4, "component": "resid", "architecture": ref.architecture}
    about |= {"d_sae": 512, "l0_label": ref.l0}
    assert row[list(about)].to_dict() == about
    hidden = study.load_sae(ref).encode(study.site().x)
    assert row["l0"] == pytest.approx(float((hidden != 0).sum(1).double().mean()))
    assert row["dead_fraction"] == pytest.approx(1 - float((hidden != 0).any(0).float().mean()))
    assert 0 < row["dead_fraction"] < 1


def test_ties_are_counted_where_codes_are_certified_and_nowhere_else(study, ref):
    for precision, counted in (("float32", False), ("bfloat16", True)):
        one = Study(study.profile.with_overrides(precision=precision), study.store)
        assert ("ties" in one.measure([ref])) == counted


def test_an_sae_that_is_decoded_whole_is_measured_as_one_that_is_decoded_sparsely(study, ref, tmp_path, monkeypatch):
    expected = study.measure([ref])
    monkeypatch.setattr("dm_utils.engine.study.sparse_decode_applies", lambda _: False)
    found = Study(study.profile, Store(tmp_path)).measure([ref])
    for metric in ("fvu", "fvu_nonlinear", "r2_error_norm", "l0", "dead_fraction"):
        assert found[metric].item() == pytest.approx(expected[metric].item(), abs=1e-5), metric


def test_an_sae_is_loaded_ahead_where_four_times_its_weights_fit(study, ref, monkeypatch):
    weights = 2 * 4 * 512 * 128
    for free, room in ((4 * weights, False), (4 * weights + 1, True)):
        monkeypatch.setattr("dm_utils.engine.study.available", lambda _, free=free: free)
        assert study._has_room(ref) == room


def test_the_one_sae_is_the_nearest_in_width_and_then_in_l0(study):
    assert study.sae(width=1400).d_sae == 1024 and study.sae(width=1500).d_sae == 2048, "by the ratio of widths"
    assert study.sae(width=2048, near_l0=15).l0 == 16
    assert (study.sae(layer=3, component="mlp").component, study.sae(layer=3, component="mlp").layer) == ("mlp", 3)
    assert {ref.architecture for ref in study.saes(architecture="jumprelu")} == {"jumprelu"}
    assert {ref.d_sae for ref in study.saes(width=512)} == {512}
    assert {ref.layer for ref in study.saes()} == {4} and {ref.layer for ref in study.saes(layer=0)} == {0}


def test_the_contexts_so_far_go_when_all_are_there(study, tmp_path):
    from dm_utils.world import corpus

    again = Study(study.profile, Store(tmp_path))
    kept = again.store.full_key
    seen = []
    again.store.full_key = lambda key, sources: seen.append(dict(key)) or kept(key, sources)
    _ = again.contexts
    key = next(one for one in seen if "text" in one)
    assert not again.store.holds("contexts_so_far", key, sources=(corpus.__name__,))
    again.store.save("contexts_so_far", kept(key, (corpus.__name__,)), {}, None, by=(corpus.__name__,))
    assert torch.equal(Study(study.profile, again.store).contexts, again.contexts)
    assert not again.store.holds("contexts_so_far", key, sources=(corpus.__name__,))


def test_a_studys_width_fits_are_those_of_its_kept_norms(study):
    from dm_utils.engine.breakdown import fit_study, fit_widths

    refs, p = study.saes(near_l0=16, architecture="topk")[:3], study.profile
    scalars = [study.token_scalars(ref) for ref in refs]
    error, nonlinear = (
        torch.from_numpy(np.stack([some[name] for some in scalars])) for name in ("error_norm2", "nonlinear_norm2")
    )
    known = fit_widths(study.site().design, [ref.d_sae for ref in refs], error, nonlinear, p.n_bootstrap, p.seed)
    found = fit_study(study, refs)
    for name in ("fvu", "fvu_linear", "fvu_nonlinear"):
        assert getattr(found, name).constant == getattr(known, name).constant
    assert found.linear_lead == known.linear_lead
