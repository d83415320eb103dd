"""Chapters on the big profiles' miniature, loaded from a hub on this machine by the real loaders.

By default a few chapters run for each profile; `pytest -m matrix` runs every chapter for every profile (tens of minutes).
"""

import json
import os

import checkpoints
import pytest
from demo import ROOT

from dm_utils.build import execute, kernel_environment

PROFILES = ["gemma-2-2b", "llama-3.1-8b", "gpt2-small"]
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
SMALL = {  # what makes the costly chapters small; their own parameters
    "05_2_saes_on_error": {"d_sae": 64, "k": 2, "learning_rates": [0.004], "n_seeds": 2, "max_steps": 100}
    | {"patience": 25, "cool_down": 25, "n_contexts": 200, "train_contexts": 100},
    "B_modelling": {"n_draws": 2, "n_tokens": 2000},
    "C_synthetic": {"n_tokens": 2000},
    "D_random_data": {"n_tokens": 2000, "d": 40},
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
    """For each profile a hub that serves its world, with one cache and one store for all chapters."""
    hubs = {}

    def find(profile):
        if profile not in hubs:
            hubs[profile] = checkpoints.serve([profile]), tmp_path_factory.mktemp(profile)
        return hubs[profile]

    yield find
    for hub, _ in hubs.values():
        hub.close()


def run(name, profile, world, monkeypatch):
    """Execute a chapter through papermill as `dm chapter` does, in a kernel that knows only the local hub."""
    import miniature

    hub, folder = world(profile)
    startup = folder / "ipython/profile_default/startup"
    startup.mkdir(parents=True, exist_ok=True)
    (startup / "00-miniature.py").write_text("import miniature\n")
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
