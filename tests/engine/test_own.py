"""Your own model, SAE and text: one call, the same numbers as the book's engine, and wrong pairings refused."""

import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from demo import ROOT
from small_world import parameters, write_world
from tiny_models import boot
from typer.testing import CliRunner

import dm_utils as dm
from dm_utils.base.errors import ParameterError
from dm_utils.book.cli import app
from dm_utils.book.layout import Layout
from dm_utils.engine import own
from dm_utils.engine.study import Study
from dm_utils.lab import weights_path
from dm_utils.maths.resampling import Estimate
from dm_utils.world.models import activations
from dm_utils.world.profiles import load_profile

SAES, MODEL = weights_path() / "saes", weights_path() / "model"
NAME = "resid_4_topk_512_l0_16"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A text file: a few of this book's own modules."""
    path = tmp_path_factory.mktemp("texts") / "mine.txt"
    sources = [file.read_text() for file in sorted((ROOT / "src/dm_utils/lab").glob("*.py"))]
    path.write_text("\n\n".join(sources))
    return path


def test_it_gives_the_numbers_of_the_books_engine(study):
    ref = next(ref for ref in study.saes() if ref.id == NAME)
    report = dm.decompose_sae(study.model, ("lab", NAME), study.contexts, skip=64, n_bootstrap=200)
    row = study.measure([ref]).iloc[0]
    for metric in ("fvu", "fvu_nonlinear", "r2_error_vector", "r2_error_norm"):
        assert getattr(report, metric).value == pytest.approx(Estimate.read(row, metric).value, abs=1e-5), metric
        assert getattr(report, metric).low == pytest.approx(Estimate.read(row, metric).low, abs=1e-3), metric


def test_every_way_to_name_an_sae_and_a_text_gives_the_same(study, texts):
    options = {"ctx_len": 128, "n_bootstrap": 100}
    strings = [part for part in texts.read_text().split("\n\n") if part.strip()]
    sae = own.load_own_sae(SAES / NAME)
    reports = [
        dm.decompose_sae(study.model, sae, texts, **options),
        dm.decompose_sae(study.model, str(SAES / NAME), strings, **options),
        dm.decompose_sae(study.model, (str(SAES), NAME), str(texts), **options),
    ]
    assert len({str(report) for report in reports}) == 1
    assert torch.equal(reports[0].sae_error, reports[1].sae_error)


def test_a_model_folder_is_loaded_as_the_lab_is(study):
    model = own.load_own_model(MODEL, own.load_own_sae(SAES / NAME), "float32", "cpu")
    hook = "blocks.4.hook_resid_post"
    mine, labs = (next(activations(one, study.contexts[:2], [hook]))[hook] for one in (model, study.model))
    assert torch.equal(mine, labs)


@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated")
def test_a_hooked_transformer_serves_as_well():
    from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    torch.manual_seed(0)
    sizes = {"n_layers": 2, "d_model": 16, "n_ctx": 32, "d_head": 8, "n_heads": 2, "d_vocab": 50, "act_fn": "relu"}
    model = HookedTransformer(HookedTransformerConfig(**sizes, d_mlp=32, device="cpu"))
    sae = StandardSAE(StandardSAEConfig(d_in=16, d_sae=64, device="cpu"))
    sae.cfg.metadata.hook_name = "blocks.1.hook_resid_post"
    tokens = torch.randint(50, (12, 32))
    report = dm.decompose_sae(model, sae, tokens, skip=4, n_bootstrap=100)
    x = model.run_with_cache(tokens)[1]["blocks.1.hook_resid_post"][:, 4:-1].flatten(0, 1)
    torch.testing.assert_close(report.sae_error, x - sae(x))


def test_an_sae_of_attention_outputs_is_left_as_it_was(study):
    from sae_lens import SAE

    sae = SAE.load_from_disk(SAES / "att_3_topk_2048_l0_4")
    assert sae.hook_z_reshaping_mode
    report = dm.decompose_sae(study.model, sae, study.contexts, n_bootstrap=100)
    assert report.sae_error.shape[1] == sae.cfg.d_in == 128
    assert sae.hook_z_reshaping_mode


def test_weights_are_processed_as_the_sae_was_trained(tmp_path):
    boot("gpt2", tmp_path)
    hook, tokens = "blocks.2.hook_resid_post", torch.randint(97, (2, 16))
    for wanted, centred in (({"center_writing_weights": True}, True), ({}, False)):
        sae = SimpleNamespace(cfg=SimpleNamespace(metadata=SimpleNamespace(model_from_pretrained_kwargs=wanted)))
        model = own.load_own_model(str(tmp_path), sae, "float32", "cpu")
        mean = next(activations(model, tokens, [hook]))[hook].mean(-1).abs().max()
        assert (mean < 1e-5) == centred


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (
            "blocks.9.hook_resid_post",
            r"which .* with its 6 layers does not have; the nearest hook is 'blocks.5.hook_resid_p",
        ),
        ("blocks.4.hook_resid_pst", r"the nearest hook is 'blocks.4.hook_resid_post'"),
        ("model.layers.3", r"'model.layers.3', which .* does not have"),
        (
            "blocks.4.mlp.hook_post",
            r"vectors of 128 numbers.*gives 512; it fits at blocks.4.hook_resid_post, blocks.4.hook",
        ),
    ],
)
def test_an_sae_that_does_not_fit_is_refused_with_the_nearest_fit(study, hook, message):
    with pytest.raises(ParameterError, match=message):
        dm.decompose_sae(study.model, ("lab", NAME), study.contexts, hook_name=hook, anyway=True)


def test_an_sae_of_another_model_is_refused_unless_that_is_meant(study, tmp_path):
    model = boot("llama", tmp_path)
    with pytest.raises(
        ParameterError, match=r"128 numbers .*'dm-lab'\); 'blocks.3.hook_resid_post' of .* gives 32; no com"
    ):
        dm.decompose_sae(model, ("lab", "resid_3_topk_2048_l0_4"), study.contexts)
    sae = own.load_own_sae(("lab", NAME))
    sae.cfg.metadata.model_name = "gpt2-small"
    with pytest.raises(ParameterError, match=r"trained on 'gpt2-small', and the model is 'google/gemma-2-2b'.*anyway"):
        own.fitting_hook(study.model, sae, None, anyway=False, mine="google/gemma-2-2b")
    assert own.fitting_hook(study.model, sae, None, True, "google/gemma-2-2b") == "blocks.4.hook_resid_post"


def test_names_of_one_model_are_known_as_such():
    assert own.same_model("openai-community/gpt2", "gpt2-small")
    assert own.same_model("google/gemma-2-2b", "gemma-2-2b")
    assert not own.same_model("google/gemma-2-2b-it", "gemma-2-2b")
    snapshot = "/home/me/.cache/huggingface/hub/models--google--gemma-2-2b/snapshots/0a1b2c"
    assert own.same_model(snapshot, "gemma-2-2b")
    assert not own.same_model(snapshot, "gpt2-small")
    assert own.same_model(str(MODEL), "dm-lab"), "the name of a local folder tells nothing"


@pytest.mark.parametrize(
    ("sae", "texts", "message"),
    [
        (
            ("lab", "resid_4_topk_512_l0_15"),
            ["a"],
            r"unknown SAE of lab: .*one of 28; the nearest: 'resid_4_topk_512_l0_16'",
        ),
        (("gemma-scope-2b-pt-ress", "x"), ["a"], r"unknown SAE release .*the nearest: 'gemma-scope-2b-pt-res'"),
        (("gemma-scope-2b-pt-res", "layer_12/width_16k"), ["a"], r"the nearest: 'layer_12/width_16k/average_l0_"),
        ("no/such/folder", ["a"], r"sae = 'no/such/folder': no cfg.json there"),
        (3, ["a"], r"sae = 3: give a SAELens SAE"),
        (("lab", NAME), ["too short"], r"they fill 0 contexts of 512 tokens; give more text or a smaller ctx_len"),
        (("lab", NAME), "no-such.txt", r"texts = 'no-such.txt': no such file"),
        (("lab", NAME), torch.zeros(2, 8), r"tokens must be int \[context, ctx_len\]; given torch.float32 \(2, 8\)"),
        (("lab", NAME), torch.zeros(3, 20).long(), r"3 contexts keep 15 tokens each.*give at least 130"),
    ],
)
def test_what_cannot_be_used_is_named(study, sae, texts, message):
    with pytest.raises(ParameterError, match=message):
        dm.decompose_sae(study.model, sae, texts)


@pytest.mark.parametrize("given", [{"seed": -1}, {"n_bootstrap": 3}, {"skip": -1}, {"batch": 0}])
def test_sizes_are_refused_as_a_profiles_are(study, given):
    (name, value), *_ = given.items()
    with pytest.raises(ParameterError, match=f"{name} = {value}: it must be a whole number"):
        dm.decompose_sae(study.model, ("lab", NAME), study.contexts, **given)


def test_another_hook_than_the_saes_own_must_be_meant(study):
    with pytest.raises(ParameterError, match=r"the SAE was trained at 'blocks.4.hook_resid_post'; leave hook_name out"):
        dm.decompose_sae(study.model, ("lab", NAME), study.contexts, hook_name="blocks.2.hook_resid_post")


def test_an_sae_at_the_wrong_layer_is_noticed(study, caplog):
    with caplog.at_level(logging.WARNING, logger="dm_utils"):
        dm.decompose_sae(
            study.model,
            ("lab", NAME),
            study.contexts,
            hook_name="blocks.0.hook_resid_post",
            anyway=True,
            n_bootstrap=100,
        )
    assert "Does it belong to this model and hook?" in caplog.text


def test_a_profile_reads_the_sizes_of_your_model(tmp_path):
    boot("llama", tmp_path / "my-llama")
    profile = load_profile("lab", model=str(tmp_path / "my-llama"), n_contexts=64)
    assert (profile.name, profile.title, profile.n_layers, profile.d_model) == ("own", "my-llama", 4, 32)
    assert profile.layer == 3, "as deep as the lab's layer 4 of 6"
    assert load_profile("lab", model=str(tmp_path / "my-llama"), layer=1).layer == 1
    with pytest.raises(ParameterError, match=r"holds no config.json, so it is not a Hugging Face model folder"):
        load_profile("lab", model=str(tmp_path))


def test_a_profile_sorts_your_saes_by_what_they_say(tmp_path):
    for name in ("resid_1_topk_2048_l0_4", "mlp_3_topk_2048_l0_4"):
        shutil.copytree(SAES / name, tmp_path / name)
    profile = load_profile("lab", releases=str(tmp_path))
    assert profile.releases == {"mlp": (str(tmp_path),), "resid": (str(tmp_path),)}
    assert profile.layer == 1, "the nearest layer that has a residual SAE"
    with pytest.raises(ParameterError, match=r"releases = 3: it must be a mapping"):
        load_profile("lab", releases=3)


def test_a_chapter_runs_on_your_model_saes_and_text(tmp_path: Path, texts, monkeypatch):
    for name in (NAME, "resid_4_jumprelu_512_l0_16"):
        shutil.copytree(SAES / name, tmp_path / "saes" / name)
    shutil.copytree(MODEL, tmp_path / "my-model")
    monkeypatch.setenv("DM_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(ROOT)  # the checkout that holds the working directory is the one that runs
    monkeypatch.setattr(Layout, "build", property(lambda _: tmp_path / "build"))
    chosen = {"model": tmp_path / "my-model", "releases": tmp_path / "saes", "dataset": texts, "n_contexts": 24}
    words = [word for name, value in chosen.items() for word in ("-p", name, str(value))]
    done = CliRunner().invoke(app, ["chapter", "03_notation", *words])
    assert done.exit_code == 0, done.output
    table = (tmp_path / "build/runs/lab/tables/03_notation.csv").read_text()
    assert f",own,{tmp_path / 'my-model'}," in table and NAME in table
    assert (
        "This run: my&#45;model (profile `own`), layer 4, 24 contexts"
        in (tmp_path / "build/runs/lab/03_notation.ipynb").read_text()
    )


SERVE = """
import subprocess, sys, checkpoints
hub = checkpoints.serve(["gpt2-small"], near=True)
done = subprocess.run([sys.executable, "-c", sys.argv[1]], env=hub.environment(sys.argv[2]), capture_output=True, text=True)
hub.close()
sys.exit(print(done.stdout) if done.returncode == 0 else done.stderr)
"""
RELEASED = """
import miniature
import dm_utils as dm
from dm_utils.lab.text import evaluation_text

miniature.shrink()  # released SAEs at the size of the tests' checkpoints

texts = evaluation_text()[:200]
sae = ("gpt2-small-resid-post-v5-32k", "blocks.6.hook_resid_post")
report = dm.decompose_sae("openai-community/gpt2", sae, texts, ctx_len=64, n_bootstrap=100)
print(tuple(report.sae_error.shape), 0 < report.fvu_nonlinear.value <= report.fvu.value < 1)
"""


@pytest.mark.matrix
def test_a_hub_id_and_a_release_are_loaded_by_the_real_loaders(tmp_path):
    """From a hub on this machine, which serves GPT-2 and OpenAI's SAEs in their own formats."""
    command = [sys.executable, "-c", SERVE, RELEASED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\(\d+, 32\) True", done.stdout)


@pytest.mark.parametrize(("ks", "near"), [((4,), 4), ((1, 8), 8), ((1, 2, 24, 32), 2)])
def test_a_profile_reads_sites_l0_and_width_of_your_saes(tmp_path, ks, near):
    """The lab's own L0 of 4 and width of 2048 would name SAEs that are not there."""
    write_world(tmp_path, ks)
    profile = load_profile("lab", **parameters(tmp_path))
    assert profile.near_l0 == near
    assert (profile.width, profile.layer, list(profile.releases)) == (64, 2, ["resid"])
    assert Study(profile).sae().id == f"topk_{near}"
    assert load_profile("lab", **parameters(tmp_path, near_l0=3.0)).near_l0 == 3


def test_an_sae_of_your_own_with_a_nan_is_refused_by_the_name_of_its_part(study):
    sae = own.load_own_sae(SAES / NAME)
    sae.W_dec[3, 5] = float("nan")
    with pytest.raises(
        ParameterError, match=r"W_dec of the SAE 'blocks.4.hook_resid_post': 1 of \d+ values are NaN or"
    ):
        dm.decompose_sae(study.model, sae, study.contexts)
