"""Section 5.2's chapter as a reader runs it, with a language model at an endpoint: honest about it, resumable, no secret kept."""

import json
import logging
import os
import re
import shutil
from pathlib import Path

import pytest
from chat_server import Server, completion
from papermill.translators import PythonTranslator
from stores import READ, sharing
from tqdm.auto import tqdm

from dm_utils.base.errors import ParameterError
from dm_utils.book import build
from dm_utils.engine.study import Study
from dm_utils.engine.text_windows import WindowPlan
from dm_utils.lab import weights_path
from dm_utils.world.profiles import load_profile

CHAPTER = Path(__file__).parents[2] / "notebooks/05_2_saes_on_error.ipynb"
KEY = "sk-secret-1234567890"
SMALL = {
    "n_contexts": 24,
    "n_bootstrap": 100,
    "train_contexts": 24,
    "window": 8,
    "d_sae": 64,
    "k": 4,
    "learning_rates": [0.004],
    "n_seeds": 1,
}
SMALL |= {"max_steps": 100, "patience": 50, "cool_down": 50, "n_latents": 3, "concurrency": 2, "endpoint_model": "tiny"}


def sensible(body, _):
    """One sentence to an explainer; to a scorer, as many decisions as there are excerpts."""
    system, user = (message["content"] for message in body["messages"])
    return completion(
        json.dumps([1, 0] * 5)[: 3 * len(user.splitlines()) - 1] + "]" if "The unit:" in system else "A word."
    )


def texts(notebook):
    """What each cell of an executed notebook shows."""
    cells = json.loads(notebook.read_text())["cells"]
    return [re.sub(r"&#(\d+);", lambda m: chr(int(m[1])), json.dumps(cell.get("outputs", []))) for cell in cells]


def place(shown, words):
    return next(i for i, text in enumerate(shown) if words in text)


def cells(values):
    """The chapter's cells in this process, one after the other, as papermill would give them these values."""
    names = {"In": [""]}
    for cell in json.loads(CHAPTER.read_text())["cells"]:
        if cell["cell_type"] == "code" and "remove-cell" not in cell["metadata"].get("tags", []):
            sources = ["".join(cell["source"])]
            if "parameters" in cell["metadata"].get("tags", []):
                sources.append(PythonTranslator.codify(values))
            for source in sources:
                names["In"].append(source)
                exec(source, names)


@pytest.fixture(scope="module")
def runs(study, tmp_path_factory):
    """The chapter executed, with a server that answers, and its cells again with one that only refuses; and what it was asked.

    On two SAEs, with the text and the activations of the tests' study.
    """
    folder = tmp_path_factory.mktemp("chapter")
    for name in ("resid_4_topk_512_l0_4", "resid_4_topk_512_l0_16"):
        shutil.copytree(weights_path() / "saes" / name, folder / "saes" / name)
    for n_contexts in (24, 24 + SMALL["train_contexts"]):
        Study(study.profile.with_overrides(n_contexts=n_contexts), study.store).site()
    sharing(study.store, folder / "store", *READ)
    servers, log = [], folder / "log.txt"
    handler = logging.FileHandler(log)
    logging.getLogger().addHandler(handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DM_OPENAI_API_KEY", KEY)
        patch.setenv("DM_STORE", str(folder / "store"))
        patch.setattr(tqdm, "__init__", tqdm.__init__)  # which a chapter of the book quietens
        for name, reply in (("first", sensible), ("again", lambda body, n: (500, {}, "out of order"))):
            servers.append(Server(reply, port=servers[0].http.server_port if servers else 0))
            values = SMALL | {"endpoint": servers[-1].url, "releases": str(folder / "saes")}
            with build.kernel_environment(folder / name, folder / "store", jobs=os.cpu_count() or 1):
                build.execute(CHAPTER, folder / f"{name}.ipynb", values) if name == "first" else cells(values)
            servers[-1].http.shutdown()
            servers[-1].http.server_close()
    logging.getLogger().removeHandler(handler)
    return folder, servers


def test_the_page_says_who_explained_and_the_cost_before_it_asks(runs):
    folder, (server, _) = runs
    shown = texts(folder / "first.ipynb")
    estimate = place(shown, "Before it starts")
    assert "Explained and scored by: the language model tiny" in shown[estimate]
    assert estimate < place(shown, "What was asked of the endpoint")
    assert "78 requests" in shown[estimate]  # 2 parts, 3 latents, 1 explanation and 12 questions of 10 windows each
    assert 13 <= len(server.bodies) <= 78 and len(server.bodies) % 13 == 0  # untestable latents are not asked about


def test_a_second_run_asks_nothing_that_was_answered(runs):
    folder, (first, second) = runs
    assert first.bodies and not second.bodies
    tables = [(folder / name / "05_2_saes_on_error.csv").read_text() for name in ("first", "again")]
    assert "accuracy by the language model tiny" in tables[0] and tables[0] == tables[1]


def test_the_key_is_sent_and_kept_nowhere(runs):
    folder, (server, _) = runs
    assert set(server.keys) == {f"Bearer {KEY}"}
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert {"first.ipynb", "log.txt"} <= {path.name for path in written}
    assert any("chat" in path.parts for path in written)
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_a_window_that_no_context_can_hold_is_refused_with_the_longest():
    profile = load_profile("lab")
    assert WindowPlan.of(profile, profile.kept_per_context).window == profile.kept_per_context
    with pytest.raises(ParameterError, match=r"window = 192.*191 kept tokens"):
        WindowPlan.of(profile, 192)
