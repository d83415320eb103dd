"""The lab: its text, its recipe on a tiny scale, and the weights that ship."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from caches import forget
from safetensors.torch import load_file

from dm_utils import lab
from dm_utils.dictionaries import sparse_topk
from dm_utils.lab import activations, baselines, ladder, language_model, manifest, pipeline, sae_training, suite, text

pytestmark = pytest.mark.filterwarnings("ignore")
TINY = pipeline.fast_lab()


@pytest.fixture(autouse=True)
def one_thread():
    """Work this small is slower on two threads, and much slower when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def held_out() -> np.ndarray:
    """Contexts of the evaluation text in the shipped tokenizer."""
    return lab.pack(lab.evaluation_text(), lab.weights_path() / "model", 256)


# --- text ------------------------------------------------------------------------------------------------------------


def test_evaluation_text_is_the_same_twice_without_duplicates_and_large_enough(held_out):
    first = lab.evaluation_text()
    forget(text)
    assert lab.evaluation_text() == first
    assert len(set(first)) == len(first)
    assert held_out.size > 500_000


def test_evaluation_text_reads_help_topics_and_docstrings():
    documents = lab.evaluation_text()
    assert any("operator" in document and "Boolean operations" in document for document in documents)
    assert any(document.startswith("Heap queue algorithm") for document in documents)


def test_training_text_shares_nothing_with_the_evaluation_text():
    held_out = set(lab.evaluation_text())
    training = lab.training_text("sae_lens", workers=1)
    assert len(training) > 100
    assert held_out.isdisjoint(training)


def test_a_backport_of_the_standard_library_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "evaluation_text", lambda: [" ".join(f"word{i}" for i in range(40))])
    monkeypatch.setattr(text.sysconfig, "get_paths", lambda: {"purelib": str(tmp_path)})
    shared = {n: " ".join(f"word{i}" for i in range(5, 5 + n)) for n in (15, 16, 25)}
    for n, words in shared.items():
        (tmp_path / f"backport{n}.py").write_text(f'"""Prefix {n}. {words} and an ending"""')
    assert lab.training_text(workers=1) == [f"Prefix 15. {shared[15]} and an ending"]


def test_docstrings_are_read_without_importing(tmp_path):
    file = tmp_path / "bomb.py"
    file.write_text(
        '"""Module text."""\nraise SystemExit\nclass A:\n    """Class text."""\n    def f(self):\n        "F."\n'
    )
    assert text.docstrings_of(file) == ["Module text.", "Class text.", "F."]
    file.write_text("this is not python")
    assert text.docstrings_of(file) == []


def test_contexts_open_with_bos_and_decode_to_the_text():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(lab.weights_path() / "model")
    documents = ["Return the sum of a list.", "naïve ∑ </script> text"] * 40
    contexts = lab.pack(documents, tokenizer, 32)
    assert contexts.shape[1] == 32
    assert (contexts[:, 0] == tokenizer.bos_token_id).all()
    assert not (contexts[:, 1:] == tokenizer.bos_token_id).any()
    joined = "".join(document + text.SEPARATOR for document in documents)
    assert joined.startswith(tokenizer.decode(contexts[:, 1:].ravel().tolist()).rstrip("\ufffd"))


# --- n-gram baselines ------------------------------------------------------------------------------------------------


def test_ngrams_are_probabilities():
    contexts = np.random.default_rng(0).integers(3, 20, (60, 32)).astype(np.uint16)
    contexts[:, 0] = text.BOS_ID
    model = baselines.fit_ngrams(contexts, 20)
    probes = np.repeat(contexts[:1], 20, axis=0)
    probes[:, 9] = np.arange(20)
    assert np.exp(-model.nats(probes)[:, 8]).sum() == pytest.approx(1.0)
    assert np.exp(-model.unigram_nats(probes)[:, 8]).sum() == pytest.approx(1.0)


def test_trigram_learns_what_a_unigram_cannot():
    cycle = np.resize(np.arange(4, 10), 64)
    contexts = np.stack([np.concatenate([[text.BOS_ID], np.roll(cycle, -shift)]) for shift in range(60)])
    model = baselines.fit_ngrams(contexts, 16)
    assert np.median(model.nats(contexts)) < 0.01
    assert model.unigram_nats(contexts)[:, 1:].mean() == pytest.approx(np.log(6), abs=0.1)


# --- recipe ----------------------------------------------------------------------------------------------------------


def test_a_run_interrupted_halfway_ends_with_the_same_weights(tmp_path):
    contexts = np.random.default_rng(1).integers(4, 512, (64, 64)).astype(np.uint16)
    recipe = replace(TINY.model, tokens=12 * 8 * 64, checkpoint_steps=5)
    whole, log = language_model.train_model(contexts, recipe, tmp_path / "whole")
    language_model.train_model(contexts, recipe, tmp_path / "parts", stop_after=7)
    resumed, resumed_log = language_model.train_model(contexts, recipe, tmp_path / "parts")
    assert resumed_log["losses"] == log["losses"]
    for (name, one), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_a_checkpoint_of_another_recipe_is_refused_but_the_budget_may_change(tmp_path):
    contexts = np.full((16, 64), 5, dtype=np.uint16)
    recipe = replace(TINY.model, tokens=4 * 8 * 64)
    language_model.train_model(contexts, recipe, tmp_path, stop_after=2)
    with pytest.raises(ValueError, match="another recipe"):
        language_model.train_model(contexts, replace(recipe, peak_lr=1.0), tmp_path)
    _, log = language_model.train_model(contexts, replace(recipe, tokens=3 * 8 * 64), tmp_path)
    assert log["steps"] == 3
    assert log["budget_changes"] == [{"step": 2, "tokens_before": 4 * 8 * 64, "tokens_after": 3 * 8 * 64}]


def test_sparse_topk_has_the_loss_and_gradients_of_saelens():
    from sae_lens import TopKTrainingSAEConfig
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE

    torch.manual_seed(0)
    config = TopKTrainingSAEConfig(d_in=16, d_sae=96, k=4, apply_b_dec_to_input=False)
    dense, sparse = TopKTrainingSAE(config), sparse_topk.SparseTopKTrainingSAE(config)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    sparse.load_state_dict(dense.state_dict())
    x = torch.randn(64, 16)
    for dead in (torch.zeros(96, dtype=torch.bool), torch.arange(96) % 5 == 0, torch.arange(96) > 92):
        outputs = []
        for sae in (dense, sparse):
            sae.zero_grad()
            outputs.append(sae.training_forward_pass(TrainStepInput(x, {}, dead, 0, False)))
            outputs[-1].loss.backward()
        torch.testing.assert_close(outputs[0].loss, outputs[1].loss)
        torch.testing.assert_close(outputs[0].feature_acts, outputs[1].feature_acts.to_dense())
        for (name, one), other in zip(dense.named_parameters(), sparse.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_active_latents_fall_to_k_and_start_along_the_data(tmp_path):
    from sae_lens import TopKTrainingSAEConfig

    x = np.random.default_rng(0).normal(3.0, 1.0, (600, 8)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    recipe = replace(sae_training.SaeRecipe(), steps=20, batch_tokens=64, k_start=16)
    batches = activations.ActivationBatches(tmp_path / "x.npy", 64, 0)
    sae = sparse_topk.SparseTopKTrainingSAE(TopKTrainingSAEConfig(d_in=8, d_sae=32, k=2, apply_b_dec_to_input=False))
    sae_training.start_from_data(sae, batches, recipe)
    assert [sae.k_at(step) for step in (0, 5, 10, 19)] == [16, 6, 2, 2]
    centred = torch.from_numpy(x).float() - batches.mean
    cosines = torch.nn.functional.cosine_similarity(sae.W_dec[:, None], centred[None], dim=2)  # [latent, token]
    assert (cosines.max(1).values > 0.999).all()


def test_a_silent_latent_is_pointed_at_what_the_sae_misses():
    from sae_lens import TopKTrainingSAEConfig
    from sae_lens.saes.sae import TrainStepInput

    torch.manual_seed(0)
    sae = sparse_topk.SparseTopKTrainingSAE(
        TopKTrainingSAEConfig(d_in=8, d_sae=12, k=1, apply_b_dec_to_input=False, aux_loss_coefficient=0.0)
    )
    sae.resample_from, sae.resample_until, sae.resample_every = 3, 10, 3
    x = torch.randn(40, 8)
    dead = torch.zeros(12, dtype=torch.bool)
    dead[[2, 7]] = True
    for step, changes in ((2, False), (3, True), (4, False), (12, False)):
        before = sae.W_dec.clone()
        output = sae.training_forward_pass(TrainStepInput(x, {}, dead, step, False))
        output.loss.backward()
        changed = (sae.W_dec != before).any(1)
        assert torch.equal(changed, dead if changes else torch.zeros_like(dead))
        if changes:
            residual = torch.nn.functional.normalize(x - output.sae_out.detach(), dim=1)
            cosines = (sae.W_dec.detach()[dead] @ residual.T).max(1).values
            torch.testing.assert_close(cosines, torch.ones(2))


def test_calibration_reaches_the_wanted_l0():
    from sae_lens import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig

    torch.manual_seed(0)
    sae = JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(d_in=16, d_sae=64, jumprelu_init_threshold=0.1))
    x = torch.randn(4000, 16)
    sae_training.calibrate_thresholds(sae, x, 5.0)
    assert ((x @ sae.W_enc + sae.b_enc) > sae.threshold).sum(1).float().mean().item() == pytest.approx(5.0, abs=0.02)
    with pytest.raises(ValueError, match="out of reach"):
        sae_training.calibrate_thresholds(sae, x, 63.9)


def test_the_whole_recipe_runs_resumes_and_leaves_the_shipped_weights_alone(tmp_path):
    before = manifest.sha256(lab.weights_path() / manifest.MANIFEST)
    folder = pipeline.train_lab(tmp_path, TINY, workers=1)
    record = lab.verify(folder)
    assert [report["id"] for report in record["saes"]] == list(TINY.suite)
    assert record["model"]["evaluation"]["model_nats"] < np.log(512)
    sae_file = folder / "saes" / TINY.suite[0] / "sae_weights.safetensors"
    assert {value.dtype for value in load_file(sae_file).values()} == {torch.float16}
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "saes").rglob("*") if file.is_file()}
    (tmp_path / "reports" / f"{TINY.suite[2]}.json").unlink()
    pipeline.train_lab(tmp_path, TINY, workers=1)
    again = {file: file.stat().st_mtime_ns for file in times}
    assert {file.parent.name for file in times if times[file] != again[file]} == {TINY.suite[2]}
    assert lab.verify(folder)["files"] == record["files"]
    assert manifest.sha256(lab.weights_path() / manifest.MANIFEST) == before


def test_suite_has_28_saes_and_ids_can_be_read_back():
    specs = suite.full_suite()
    assert len({spec.id for spec in specs}) == 28
    assert [suite.SaeSpec.from_id(spec.id) for spec in specs] == list(specs)
    assert suite.SaeSpec.from_id("resid_4_topk_512_l0_8_seed_2").seed == 2
    with pytest.raises(ValueError, match="resid_3_gated_512_l0_8"):
        suite.SaeSpec.from_id("resid_3_gated_512_l0_8")


# --- ladder ----------------------------------------------------------------------------------------------------------


def test_the_ladder_at_the_labs_own_size_is_the_labs_own_recipe():
    recipe, whole = ladder.rung(128), pipeline.LabRecipe()
    assert replace(recipe, suite=whole.suite) == whole
    assert {spec for spec in ladder.specs(128) if spec.seed == 0} <= set(suite.full_suite())


def test_rungs_are_matched_in_l0_width_and_tokens_per_latent():
    for d in (*ladder.RUNGS, ladder.NEXT):
        recipe, specs = ladder.rung(d), ladder.specs(d)
        assert recipe.suite == tuple(spec.id for spec in specs)
        assert {spec.d_sae / d for spec in specs} == set(ladder.WIDTHS)
        assert {spec.l0 / d for spec in specs} == {share for share in ladder.L0_SHARES if share * d >= 2}
        assert {spec.seed for spec in specs} == set(range(ladder.SEEDS))
        assert recipe.saes.steps * recipe.saes.batch_tokens / d == 1600 * 16  # over W/d, the tokens per latent
        assert recipe.sae_contexts / d == pipeline.LabRecipe().sae_contexts / 128  # each token is seen as often
        assert recipe.model.tokens == pipeline.LabRecipe().model.tokens


def test_every_seed_of_an_sae_is_trained_before_the_next():
    ids = [(spec.d_sae, spec.l0) for spec in ladder.specs(64)]
    assert ids == sorted(ids, key=ids.index)


@pytest.mark.parametrize("size", [16, 48, 100])
def test_a_size_that_heads_do_not_divide_is_refused(size):
    with pytest.raises(ValueError, match=f"size = {size}: it must be a multiple of 32"):
        ladder.rung(size)


# --- manifest --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small weights folder with its manifest."""
    source = tmp_path / "source"
    (source / "model").mkdir(parents=True)
    (source / "model" / "config.json").write_text("{}")
    (source / "model" / "model.safetensors").write_bytes(b"weights")
    manifest.write_manifest(source, {"seed": 0})
    return source


def test_verification_names_the_missing_the_damaged_and_the_unknown_file(folder):
    assert manifest.verify(folder)["seed"] == 0
    (folder / "extra.txt").write_text("x")
    with pytest.raises(ValueError, match=r"extra\.txt"):
        manifest.verify(folder)
    (folder / "model" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"SHA-256.*model\.safetensors"):
        manifest.verify(folder)
    (folder / "model" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"model/config\.json"):
        manifest.verify(folder)


def test_installing_replaces_the_folder_and_refuses_damage(folder, tmp_path):
    target = tmp_path / "weights"
    target.mkdir()
    (target / "old.txt").write_text("old")
    manifest.install(folder, target)
    assert manifest.verify(target)["seed"] == 0
    assert not (target / "old.txt").exists()
    (folder / "model" / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json"):
        manifest.install(folder, target)
    assert (target / "model" / "config.json").read_text() == "{}"


def test_more_than_50_mb_is_refused(folder, monkeypatch):
    monkeypatch.setattr(manifest, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="may take"):
        manifest.write_manifest(folder, {})


# --- the weights that ship -------------------------------------------------------------------------------------------


def test_shipped_weights_are_whole_and_small():
    record = lab.verify()
    on_disk = sum(file.stat().st_size for file in lab.weights_path().rglob("*") if file.is_file())
    assert on_disk <= manifest.MAX_BYTES
    assert {report["id"] for report in record["saes"]} == {spec.id for spec in suite.full_suite()}


def test_shipped_model_beats_counting_on_text_it_never_saw(held_out):
    sample = held_out[::40]
    bridge = activations.load_bridge(lab.weights_path() / "model")
    with torch.no_grad():
        losses = [
            bridge(torch.from_numpy(rows.astype(np.int64)), return_type="loss").item()
            for rows in np.array_split(sample, 8)
        ]
    recorded = lab.read_manifest()["model"]["evaluation"]
    assert recorded["model_nats"] < recorded["trigram_nats"] - 0.5 < recorded["unigram_nats"] - 2
    assert np.mean(losses) == pytest.approx(recorded["model_nats"], abs=0.15)


def test_shipped_saes_are_healthy():
    assert pipeline.failed_health(lab.read_manifest()["saes"]) == []


def test_failed_health_finds_each_fault():
    good = {"id": "resid_3_topk_512_l0_8", "l0": 8.0, "dead_fraction": 0.0, "fvu": 0.3}
    wider = {"id": "resid_3_topk_1024_l0_8", "l0": 8.0, "dead_fraction": 0.0, "fvu": 0.2}
    assert pipeline.failed_health([good, wider]) == []
    for fault, word in (({"l0": 9.0}, "L0"), ({"dead_fraction": 0.3}, "dead"), ({"fvu": 0.31}, "FVU")):
        (problem,) = pipeline.failed_health([good, {**wider, **fault}])
        assert word in problem


def test_measured_health_of_shipped_saes_agrees_with_the_manifest(held_out):
    ids = [spec.id for spec in suite.full_suite() if spec.architecture == "jumprelu"]
    ids += ["resid_4_topk_8192_l0_4", "att_3_topk_2048_l0_4", "mlp_4_topk_2048_l0_4"]
    hooks = sorted({suite.SaeSpec.from_id(sae_id).hook_name for sae_id in ids})
    bridge = activations.load_bridge(lab.weights_path() / "model")
    batches = list(activations.site_activations(bridge, held_out[::60], hooks))
    reports = {report["id"]: report for report in lab.read_manifest()["saes"]}
    for sae_id in ids:
        spec = suite.SaeSpec.from_id(sae_id)
        x = torch.cat([batch[spec.hook_name] for batch in batches])
        measured = suite.health(lab.weights_path() / "saes" / sae_id, x)
        assert measured["l0"] == pytest.approx(spec.l0, rel=0.1), sae_id
        assert measured["fvu"] == pytest.approx(reports[sae_id]["fvu"], rel=0.15), sae_id
