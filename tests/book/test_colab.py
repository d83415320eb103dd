"""Colab: what the first cell installs, what it never touches, and which profile it chooses."""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from demo import ROOT

from dm_utils.book import colab
from dm_utils.book.chapter import Chapter

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEEDS = ["altair<7,>=6", "numpy<3,>=2", "torch<3,>=2.6", 'jupyter-book<2; extra == "book"', "pandas<4,>=2.2"]
BOOK = ROOT / "_build/html/notebooks"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_starts_with_the_cell_for_colab(path: Path) -> None:
    code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert "".join(code[0]["source"]) == colab.CELL
    assert code[0]["metadata"]["tags"] == ["remove-cell"], "Colab shows it, the book does not"
    assert "parameters" in code[1]["metadata"]["tags"]
    if path.stem not in ("lab_model", "own_sae"):  # which are about the lab, whatever the profile
        assert re.search(r"^profile = None", "".join(code[1]["source"]), re.M)


def test_the_package_comes_from_the_books_repository() -> None:
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
    assert f"{repository['url']}/archive/refs/heads/{repository['branch']}.zip" == colab.ARCHIVE


def test_only_what_is_missing_or_out_of_range_is_asked_for() -> None:
    there = {"numpy": "2.0.2", "torch": "2.9.0+cu126", "pandas": "2.2.2", "altair": "5.5.0"}
    assert colab.unmet(NEEDS, there) == ["altair<7,>=6"]
    assert colab.unmet(NEEDS, {name: there[name] for name in ("numpy", "torch")}) == ["altair<7,>=6", "pandas<4,>=2.2"]
    assert colab.unmet(NEEDS, there | {"altair": "6.3.0"}) == []
    assert colab.pins(there) == ["torch==2.9.0+cu126", "numpy==2.0.2"]
    assert colab.pins({}) == []


@pytest.mark.parametrize("name", colab.KEPT)
def test_an_unusable_torch_or_numpy_is_refused_not_replaced(name: str) -> None:
    with pytest.raises(RuntimeError, match=rf"this runtime has {name} 1.9; the book needs {name}.*newer runtime"):
        colab.unmet(NEEDS, {"numpy": "2.1", "torch": "2.8", name: "1.9"})


def test_the_environment_of_the_tests_lacks_nothing() -> None:
    assert colab.unmet(metadata.requires("dm-utils") or [], colab.installed_versions()) == []


def test_a_package_replaced_while_loaded_asks_for_a_restart() -> None:
    before = {"pytest": "1.0", "numpy": "2.0", "no-such-package": "1.0"}
    assert colab.replaced_while_loaded(before, {"pytest": "2.0", "numpy": "2.0", "no-such-package": "2.0"}) == [
        "pytest"
    ]


@pytest.mark.parametrize(
    ("memory", "licensed", "profile"),
    [
        (None, True, "lab"),
        (4.0, True, "lab"),
        (15.8, False, "gpt2-small"),  # Colab's free GPU, no Hugging Face token
        (15.8, True, "gemma-2-2b"),
        (42.5, True, "llama-3.1-8b"),
        (141.0, True, "gemma-2-9b"),
        (141.0, False, "gpt2-small"),
    ],
)
def test_the_largest_profile_that_fits_is_chosen(memory: float | None, licensed: bool, profile: str) -> None:
    ram = 13.6 if memory is None or memory < 16 else 200.0
    assert colab.fitting_profile(memory and memory * 1e9, ram * 1e9, licensed) == profile


def test_the_runtime_is_told_its_profile_and_what_else_would_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(colab, "in_colab", lambda: True)
    monkeypatch.setattr(colab, "gpu", lambda: ("Tesla T4", 15.8e9))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setenv("DM_PROFILE", "")  # restored afterwards
    monkeypatch.delenv("DM_PROFILE")
    colab.prepare()
    assert os.environ["DM_PROFILE"] == "gpt2-small"
    said = capsys.readouterr().out
    assert "GPU: Tesla T4, 16 GB. The default profile here is 'gpt2-small'" in said
    assert "would fit: accept its licence" in said


def test_the_choice_holds_only_where_no_profile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DM_PROFILE", raising=False)
    assert Chapter("demo", {"profile": None}).profile.name == "lab"
    monkeypatch.setenv("DM_PROFILE", "gpt2-small")
    assert Chapter("demo", {"profile": None}).profile.name == "gpt2-small"
    assert Chapter("demo", {"profile": "gemma-2-2b"}).profile.name == "gemma-2-2b"


def test_outside_colab_nothing_happens() -> None:
    program = (
        "import sys\nfrom dm_utils import colab\ncolab.prepare()\n"
        "import os\nassert 'DM_PROFILE' not in os.environ\n"
        "assert not {'torch', 'numpy', 'packaging', 'huggingface_hub'} & sys.modules.keys()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DM_PROFILE"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not BOOK.exists(), reason="no built book: run `make book` first to test its launch buttons")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_chapters_launch_button_opens_its_notebook(path: Path) -> None:
    page = (BOOK / f"{path.stem}.html").read_text()
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"].removeprefix("https://")
    link = f"https://colab.research.google.com/{repository.replace('.com', '')}/blob/main/notebooks/{path.name}"
    assert f'href="{link}"' in page
    assert "colab.prepare" not in page
