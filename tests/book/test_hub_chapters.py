"""Chapters on the big profiles' miniature, loaded from a hub on this machine by the real loaders.

By default one chapter runs on Gemma's, and `make test-slow` runs one on GPT-2's; `pytest -m matrix` runs every chapter for
every profile (tens of minutes).
"""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import checkpoints
import miniature
import pandas as pd
import pytest
import torch
from demo import ROOT

from dm_utils.book.build import execute, kernel_environment
from dm_utils.world.profiles import load_profile

PROFILES = ["gemma-2-2b", "llama-3.1-8b", "gpt2-small"]
LOADED = [*PROFILES, "gemma-3-1b"]
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
SMALL = {  # what makes the costly chapters small; their own parameters
    "05_2_saes_on_error": {"d_sae": 64, "k": 2, "learning_rates": [0.004], "n_seeds": 2, "max_steps": 200}
    | {"patience": 100, "cool_down": 100, "n_contexts": 200, "train_contexts": 100},
    "B_modelling": {"n_draws": 2, "n_tokens": 2000},
    "C_synthetic": {"n_tokens": 2000},
    "D_random_data": {"n_tokens": 2000, "d": 40},
    "beyond_linear": {"hidden": [4, 8], "seeds": 2, "max_epochs": 2},
    "structure": {"n_tokens": 2000, "directions": 8, "atoms": 16},
    "repairs": {"rank": 4, "search_contexts": 60, "spliced_contexts": 4},
    "lab_model": {"n_contexts": 64, "n_splice": 4, "n_bootstrap": 100},
}
FEWER = {  # the canonical SAEs, where a chapter studies every SAE of every layer and Gemma Scope has 832
    ("05_1_norm_test", "gemma-2-2b"): {
        "releases": {
            "resid": ["gemma-scope-2b-pt-res-canonical"],
            "mlp": ["gemma-scope-2b-pt-mlp-canonical"],
            "att": ["gemma-scope-2b-pt-att-canonical"],
        }
    }
}


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A hub that serves the world of some profiles (`near`: the SAEs of their own layer), with one cache and one store."""
    hubs = {}

    def find(*profiles, near=False):
        if (profiles, near) not in hubs:
            hubs[profiles, near] = checkpoints.serve(profiles, near), tmp_path_factory.mktemp(profiles[0])
        return hubs[profiles, near]

    yield find
    for hub, _ in hubs.values():
        hub.close()


def run(name, profile, world, monkeypatch, near=False):
    """Execute a chapter through papermill as `dm chapter` does, in a kernel that knows only the local hub."""
    hub, folder = world(*LOADED, near=True) if near else world(profile)
    startup = folder / "ipython/profile_default/startup"
    startup.mkdir(parents=True, exist_ok=True)
    (startup / "00-miniature.py").write_text("import miniature\n\nminiature.shrink()\n")
    environment = hub.environment(folder / "hf") | {"IPYTHONDIR": str(folder / "ipython")}
    for key in [key for key in os.environ if key.startswith("HF_")]:
        monkeypatch.delenv(key)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("DM_STORE", str(folder / "store"))
    values = {"profile": profile} if name in ("lab_model", "own_sae") else miniature.parameters(profile)
    target = folder / "runs" / f"{name}.ipynb"
    with kernel_environment(folder / "tables", folder / "store", jobs=os.cpu_count() or 1):
        execute(
            ROOT / "notebooks" / f"{name}.ipynb", target, values | SMALL.get(name, {}) | FEWER.get((name, profile), {})
        )
    return json.loads(target.read_text()), hub, folder


@pytest.mark.matrix
@pytest.mark.parametrize("name", CHAPTERS)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_chapter_runs_on_every_profile(profile, name, world, monkeypatch):
    book, _, folder = run(name, profile, world, monkeypatch)
    assert not [
        output for cell in book["cells"] for output in cell.get("outputs", []) if output["output_type"] == "error"
    ]
    assert (folder / "tables" / f"{name}.csv").exists()


QUICK = [("gemma-2-2b", "03_notation"), pytest.param("gpt2-small", "intro", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("profile", "name"), QUICK)
def test_a_chapter_runs_and_says_what_it_read(profile, name, world, monkeypatch):
    book, hub, folder = run(name, profile, world, monkeypatch, near=True)
    commits = {kind_and_name: repository.commit for kind_and_name, repository in hub.repositories.items()}
    model = load_profile(profile).model
    rows = pd.read_csv(folder / "tables" / f"{name}.csv")
    assert set(rows["model_revision"]) == {commits["models", model]}
    assert set(rows["dataset_revision"]) == {commits["datasets", "monology/pile-uncopyrighted"]}
    assert set(rows["sae_revision"].dropna()) <= set(commits.values()) and rows["sae_revision"].notna().any()
    last = str(book["cells"])
    assert f"Model: {model} at commit {commits['models', model][:12]}" in last
    assert all(sae_id in last for sae_id in rows["sae_id"].dropna())


LOADERS = """
import json, sys, traceback
import miniature, torch
from dm_utils import models, saes
from dm_utils.world.profiles import load_profile
from dm_utils.engine.study import Study

miniature.shrink()
x = 5 * torch.randn(64, 32, generator=torch.Generator().manual_seed(0))

def read(name):
    given = miniature.parameters(name)
    profile = load_profile(given.pop("profile"), **given)
    study, found = Study(profile), {}
    for component in profile.releases:
        ref = study.sae(component=component)
        row = study.measure([ref]).iloc[0]
        found[component] = {"ref": ref.__dict__, "commit": ref.commit, "out": saes.reconstruct(study.load_sae(ref), x).tolist()}
        found[component] |= {"fvu": row.fvu, "l0": row.l0, "rows": len(study.site(ref.layer, component).x)}
    return found

for name in sys.argv[1:]:
    try:
        print(json.dumps({"name": name, "found": read(name)}))
    except Exception:
        print(json.dumps({"name": name, "error": traceback.format_exc()}))
"""


@pytest.fixture(scope="session")
def loaded(world):
    """What the real loaders read of each profile, or their error, in one process that can reach the hub and nothing else."""
    hub, folder = world(*LOADED, near=True)
    environment = hub.environment(folder / "hf") | {"DM_STORE": str(folder / "store")}
    command = [sys.executable, "-c", LOADERS, *LOADED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return hub, {line.pop("name"): line for line in lines}


@pytest.mark.parametrize("profile", LOADED)
def test_the_real_loaders_read_every_component(profile, loaded):
    """Each release's format through SAELens' own loader, against the weights that were served, by Eqs. 1 to 9."""
    hub, read = loaded
    assert "error" not in read[profile], read[profile]["error"]
    found = read[profile]["found"]
    assert set(found) == {"resid", "mlp", "att"}
    x = 5 * torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    for component, one in found.items():
        ref = SimpleNamespace(**one["ref"])
        assert (ref.component, one["commit"]) == (component, hub.repositories["models", ref.repo].commit)
        assert one["rows"] == 40 * 55 and one["fvu"] > 0 and 1 <= one["l0"] <= ref.d_sae
        torch.testing.assert_close(torch.tensor(one["out"]), served(ref, x, profile), rtol=0.02, atol=0.02)


def served(ref, x, profile):
    """Sae(x) from the weights themselves: TopK inside a layer norm for GPT-2, JumpReLU for the others."""
    sae = checkpoints.random_sae(ref, checkpoints.KNOWN_SCALES[profile][ref.hook_name])
    if profile == "gpt2-small":
        mean = x.mean(1, keepdim=True)
        scale = (x - mean).std(1, keepdim=True)
        z = (x - mean) / (scale + 1e-5) @ sae["W_enc"]
        hidden = torch.where(z >= z.topk(32).values[:, -1:], z, 0).clamp_min(0)
        return (hidden @ sae["W_dec"]) * scale + mean
    if profile == "llama-3.1-8b":  # published in bfloat16
        sae = {name: value.bfloat16().float() if "W" in name else value for name, value in sae.items()}
    z = x @ sae["W_enc"]
    return torch.where(z > sae["threshold"], z, 0) @ sae["W_dec"]
