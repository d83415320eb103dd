"""Every chapter on a model and SAEs of one's own, from one SAE on: it runs, or says in one sentence what it needs."""

import re

import pytest
from demo import ROOT
from small_world import parameters, write_world

from dm_utils.book.build import BuildError, execute

LABS_OWN = {
    "lab_model",
    "results",
    "profiles",
    "own_sae",
}  # about the lab, tables, profiles; with parameters of its own
NAMES = sorted({path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} - LABS_OWN)
SMALL = {
    "04_1_error_norms": {"n_points": 50},
    "05_2_saes_on_error": {
        "d_sae": 32,
        "k": 4,
        "learning_rates": [0.01],
        "n_seeds": 1,
        "max_steps": 200,
        "cool_down": 50,
        "patience": 60,
        "train_contexts": 60,
        "n_latents": 20,
    },
    "05_3_downstream": {"spliced_contexts": 8, "mixture_contexts": 4},
    "06_1_pursuit": {"pursuit_contexts": 40, "control_tokens": 256},
    "06_2_between_saes": {"neighbour_contexts": 40},
    "B_modelling": {"n_draws": 3},
    "C_synthetic": {"levels": [0.0, 0.1, 0.2], "masked": [0.0, 0.5]},
    "D_random_data": {"d": 24},
    "beyond_linear": {"hidden": [4, 8], "seeds": 2, "max_epochs": 2},
    "structure": {"n_tokens": 2000, "directions": 8, "atoms": 16},
    "repairs": {"rank": 4, "search_contexts": 60, "spliced_contexts": 4},
}


@pytest.fixture(
    scope="module", params=[((4,), (64,)), ((2, 8), (64,)), ((2, 8), (64, 128))], ids=["one SAE", "two", "four"]
)
def world(request, tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"), *request.param)


@pytest.mark.matrix
@pytest.mark.parametrize("name", NAMES)
def test_a_chapter_runs_or_says_in_one_sentence_what_it_needs(world, name, tmp_path, monkeypatch):
    monkeypatch.setenv("DM_STORE", str(world / "store"))
    monkeypatch.setenv("DM_TABLES", str(world / "tables"))
    target = tmp_path / f"{name}.ipynb"
    given = parameters(world, n_contexts=160) | SMALL.get(name, {})
    try:
        execute(ROOT / f"notebooks/{name}.ipynb", target, given)
    except BuildError as error:
        assert re.match(rf"{name} failed in cell \d+: ParameterError: ", str(error)), error
