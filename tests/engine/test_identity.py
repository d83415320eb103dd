"""A result is never served stale: whatever loading reads, and whatever code computes, is part of its identity."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from caches import forget
from demo import ROOT
from safetensors.torch import load_file, save_file
from small_world import parameters, write_model, write_sae, write_text, write_world

from dm_utils.engine import sources
from dm_utils.engine.store import Store
from dm_utils.engine.study import Study
from dm_utils.world import models, saes
from dm_utils.world.profiles import load_profile

# --- what is read --------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path):
    return write_world(tmp_path / "world")


def measured(root, store):
    study = Study(load_profile("lab", **parameters(root)), store)
    row = study.measure(study.saes()).iloc[0]
    return {name: float(row[name]) for name in ("l0", "fvu", "r2_error_norm")}


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def scale_weights(path):
    save_file({name: values * 1.5 for name, values in load_file(path).items()}, path, metadata={"format": "pt"})


def swap_words(path):
    """Exchange the numbers of two words."""
    found = json.loads(path.read_text())
    words = found["model"]["vocab"]
    words["w5"], words["w96"] = words["w96"], words["w5"]
    path.write_text(json.dumps(found))


CHANGES = {
    "the model's weights": lambda root: scale_weights(root / "model/model.safetensors"),
    "the model's config.json": lambda root: edit_json(root / "model/config.json", rms_norm_eps=0.5),
    "the tokenizer": lambda root: swap_words(root / "model/tokenizer.json"),
    "the SAE's weights": lambda root: write_sae(root / "saes/topk_4", seed=1),
    "the SAE's cfg.json": lambda root: edit_json(root / "saes/topk_4/cfg.json", k=2),
    "the text": lambda root: write_text(root / "mine.txt", seed=1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_what_is_read_is_seen_in_the_same_process_and_store(world, tmp_path, what):
    store = Store(tmp_path / "store")
    before = measured(world, store)
    assert measured(world, store) == before
    CHANGES[what](world)
    after = measured(world, store)
    assert after["fvu"] != before["fvu"], f"{what}: the old number was served"
    assert after == measured(world, Store(tmp_path / "fresh"))


def test_a_change_of_pytorch_model_bin_is_seen(world, tmp_path):
    shutil.rmtree(world / "model")
    write_model(world / "model", safe=False)
    store = Store(tmp_path / "store")
    before = measured(world, store)
    path = world / "model/pytorch_model.bin"
    torch.save({name: 1.5 * values for name, values in torch.load(path, weights_only=True).items()}, path)
    assert measured(world, store)["fvu"] != before["fvu"]


OPENED: list[str] = []


def test_every_file_that_loading_opens_is_part_of_an_identity(world):
    """Files that Python opens; safetensors maps weights by itself, which the tests above cover."""
    sys.addaudithook(lambda event, given: OPENED.append(str(given[0])) if event == "open" else None)
    profile = load_profile("lab", **parameters(world))
    (ref,) = saes.catalog(profile)
    before = {"model": models.identity(profile), "tokenizer": models.tokenizer_identity(profile)}
    OPENED.clear()
    models.load_model(profile)
    model_files = {Path(name) for name in OPENED if name.startswith(str(world / "model"))}
    OPENED.clear()
    models.load_tokenizer(profile)
    tokenizer_files = {Path(name) for name in OPENED if name.startswith(str(world / "model"))}
    OPENED.clear()
    saes.load_sae(ref)
    sae_files = {Path(name) for name in OPENED if name.startswith(str(world / "saes"))}
    assert {"config.json", "generation_config.json"} <= {path.name for path in model_files}
    assert tokenizer_files and {path.name for path in sae_files} >= {"cfg.json"}
    for kind, files in (("model", model_files), ("tokenizer", tokenizer_files)):
        identity = getattr(models, "identity" if kind == "model" else "tokenizer_identity")
        for path in files:
            path.write_bytes(path.read_bytes() + b" ")
            assert identity(profile) != before[kind], path.name
            before[kind] = identity(profile)
    for path in sae_files:
        path.write_bytes(path.read_bytes() + b" ")
        assert saes.catalog(profile)[0].commit != ref.commit, path.name


def test_files_that_only_describe_are_no_part_of_it(world):
    profile = load_profile("lab", **parameters(world))
    before = models.identity(profile)
    (world / "model/README.md").write_text("mine")
    assert models.identity(profile) == before


# --- what computes -------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the source that the digests are taken of."""
    root = tmp_path / "copy" / "dm_utils"
    shutil.copytree(ROOT / "src/dm_utils", root, ignore=shutil.ignore_patterns("weights", "results", "__pycache__"))
    (root / "lab/weights").symlink_to(ROOT / "src/dm_utils/lab/weights")
    monkeypatch.setattr(sources, "ROOT", root)
    forget(sources)
    yield root
    monkeypatch.undo()
    forget(sources)


def edit(root, path, old, new):
    text = (root / path).read_text()
    assert text.count(old) == 1, f"{path} holds {text.count(old)} times {old!r}"
    (root / path).write_text(text.replace(old, new))
    forget(sources)


def digests():
    names = {
        "measure": "engine.study",
        "contexts": "world.corpus",
        "loss": "engine.token_loss",
        "5.2": "chapters.s05_2_saes_on_error.runs",
        "norm test": "chapters.s05_1_norm_test.experiment",
    }
    return {name: sources.source_digest((f"dm_utils.{module}",)) for name, module in names.items()}


NATS_TO_BITS = (
    "engine/token_loss.py",
    "return torch.stack([functional.cross_entropy(",
    "return torch.stack([1.4427 * functional.cross_entropy(",
)
REVERSED = ("world/corpus.py", "*buffer[start : start + ctx_len - 1]]", "*buffer[start : start + ctx_len - 1][::-1]]")
DOUBLED = ("engine/study.py", "l0[rows] = code.l0.int().cpu()", "l0[rows] = 2 * code.l0.int().cpu()")


@pytest.mark.parametrize(
    ("change", "recomputed"),
    [
        (NATS_TO_BITS, {"loss"}),
        (REVERSED, {"measure", "contexts", "loss", "5.2", "norm test"}),
        (DOUBLED, {"measure", "loss", "5.2", "norm test"}),
        (("chapters/s05_2_saes_on_error/training.py", "import torch\n", "import torch\n\nCHANGED = 1\n"), {"5.2"}),
    ],
)
def test_a_change_of_code_changes_the_keys_of_what_it_computes(copy, change, recomputed):
    before = digests()
    edit(copy, *change)
    after = digests()
    assert {name for name in before if after[name] != before[name]} >= recomputed


def test_norm_theory_is_part_of_what_uses_it(copy):
    users = ("dm_utils.chapters.B_modelling.claims", "dm_utils.maths.norm_theory")
    before = [sources.source_digest((name,)) for name in users]
    edit(copy, "maths/norm_theory.py", "import torch\n", "import torch\n\nCHANGED = 1\n")
    assert all(sources.source_digest((name,)) != old for name, old in zip(users, before, strict=True))


def test_charts_findings_docstrings_and_comments_recompute_nothing(copy):
    before = digests()
    for path in ("charts/marks.py", "chapters/s05_1_norm_test/charts.py", "base/words.py", "engine/housekeeping.py"):
        (copy / path).write_text((copy / path).read_text() + "\n\nCHANGED = 1\n")
    for path in ("engine/study.py", "world/corpus.py", "maths/regression.py"):
        text = (copy / path).read_text()
        (copy / path).write_text(text.replace('"""', '"""Changed. ', 1) + "\n# a comment\n")
    forget(sources)
    assert digests() == before


RUN = """
import json, os, sys
import pandas, sae_lens, torch, transformer_lens  # dear and not the project's: once, and each run has them in a copy of this process

def run(parameters, store):
    from dm_utils.engine.store import Store
    from dm_utils.engine.study import Study
    from dm_utils.engine.token_loss import token_losses
    from dm_utils.world.profiles import load_profile

    study = Study(load_profile("lab", **parameters), Store(store))
    row = study.measure(study.saes()).iloc[0]
    found = {"l0": float(row.l0), "fvu": float(row.fvu), "loss": float(token_losses(study)["next"].mean())}
    print(json.dumps(found | {"first": study.contexts[0, 1:].tolist()}), flush=True)

for line in sys.stdin:
    if os.fork() == 0:
        run(*json.loads(line))
        os._exit(0)
    if os.wait()[1]:
        sys.exit("a run failed, as said above")
"""


@pytest.fixture
def run_copy(copy, world):
    """What the copy of the source, as it is now, makes of a store."""
    environment = os.environ | {"PYTHONPATH": str(copy.parent)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", RUN], env=environment, **pipes) as process:

        def run(store):
            process.stdin.write(json.dumps([parameters(world), str(store)]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()


def test_a_copy_of_the_source_with_another_meaning_gives_other_numbers_from_the_same_store(copy, run_copy, tmp_path):
    before = run_copy(tmp_path / "store")
    edit(copy, *NATS_TO_BITS)
    edit(copy, *DOUBLED)
    after = run_copy(tmp_path / "store")
    assert after["loss"] == pytest.approx(1.4427 * before["loss"])
    assert after["l0"] == 2 * before["l0"]
    edit(copy, *REVERSED)
    assert run_copy(tmp_path / "store")["first"] == before["first"][::-1]
