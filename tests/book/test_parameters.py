"""Parameters: on both roads, each is accepted and used, or refused by name before anything runs or is written."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from demo import ROOT, make_checkout
from papermill.translators import PythonTranslator
from typer.testing import CliRunner

from dm_utils.base.errors import ROOM, LoadError, ParameterError, shown
from dm_utils.book.chapter import Chapter
from dm_utils.book.cli import app
from dm_utils.book.parameters import FIELDS, Takes, assignments, read, takes

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
N_SETS = 1000
TEXTS = [
    "0",
    "1",
    "2",
    "3",
    "5",
    "16",
    "64",
    "200",
    "-1",
    "-3",
    "1e9",
    "1e-9",
    "0.5",
    "0.9999999",
    ".inf",
    "-inf",
    "nan",
    "2.5",
]
TEXTS += [
    str(10**26),
    "9" * 5000,
    "true",
    "none",
    "null",
    "",
    " ",
    "x" * 5000,
    "[1",
    "[1, 2]",
    "[lab, lab]",
    "{a: 1}",
    "[]",
]
TEXTS += [
    "lab",
    "topk",
    "auto",
    "tpu",
    "cuda:7",
    "cuda:x",
    "token",
    "context",
    "float16",
    "../../x",
    "/",
    "~",
    "\0",
    "’",
    "\n",
]
TEXTS += [
    '__import__("os").getcwd()',
    "float('inf')",
    "<img src=x onerror=alert(1)>",
    "!!python/object:os.system x",
    "*a",
    "&a [*a]",
]
NAMES = [
    "layr",
    "profil",
    'x = open("f","w") #',
    "import os;",
    "In",
    "__builtins__",
    "lambda",
    "",
    "layer ",
    "néar",
    "a" * 400,
]
ONLY_CHAPTER = {"own_sae", "profiles", "results"}  # whose cell goes on to work


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """A name that could be a hub's is refused without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def start(notebook, values):
    """Run a chapter's cells up to its checks, as papermill would with these values; return its `Chapter`."""
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    declared = next("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    checks = next("".join(cell["source"]) for cell in cells if "dm.Chapter(" in "".join(cell["source"]))
    if notebook.stem in ONLY_CHAPTER:
        at = checks.index("dm.Chapter(")
        checks = checks[: checks.index("\n", at) + 1 if "\n" in checks[at:] else None]
    namespace = {"In": ["", declared]}
    exec(declared, namespace)
    injected = PythonTranslator.codify(values)
    namespace["In"].append(injected)
    exec(injected, namespace)
    exec(checks, namespace)
    return namespace["chapter"]


def verdict(run):
    """What a road makes of a set: what it returns, or the refusal's message. Any other error is a failure."""
    try:
        return run(), ""
    except (ParameterError, LoadError) as error:
        return None, str(error)


def test_a_thousand_sets_are_used_or_refused_by_name():
    draw, accepted, refused = random.Random(0), 0, 0
    for number in range(N_SETS):
        notebook = NOTEBOOKS[number % len(NOTEBOOKS)]
        chapter = takes(notebook)
        pool = [*sorted(chapter.declared)] * 3 + sorted(FIELDS | {"profile"}) + NAMES
        given = {draw.choice(pool): draw.choice(TEXTS) for _ in range(draw.choice([1, 1, 1, 2, 3]))}
        values, message = verdict(lambda given=given, chapter=chapter: read(chapter, given))
        if values is not None:
            started, message = verdict(lambda values=values, notebook=notebook: start(notebook, values))
            if started is not None:
                accepted += 1
                used(started, values, chapter)
                continue
        refused += 1
        named = [
            *given,
            *({*chapter.declared, "fit_fraction"} if given.keys() & {"n_contexts", "ctx_len"} else []),
        ]  # too few for a default
        found = any(name[:40] in message or shown(name)[1:40] in message for name in named)
        assert found, (notebook.stem, given, message)
        assert len(message) < 1500, "long values are cut"
    assert accepted > 50 and refused > 500, "both verdicts are tried"


def used(started, values, chapter):
    """What was accepted is what the chapter studies."""
    for name, value in values.items():
        assert name in chapter.allowed
        assert name in chapter.fixed or started.parameters[name] == value
        if name in FIELDS - {"releases"} - chapter.fixed.keys() and value is not None:
            assert getattr(started.profile, name) == value


CASES = [
    ("device", "tpu", "device = 'tpu': it must be 'auto'"),
    ("device", "cuda:7", "unknown device 'cuda:7'; allowed: auto, cpu"),
    ("seed", str(10**26), "seed = 1000"),
    ("d_model", "64", "d_model = 64: it must be 128, as the lab model has it"),
    ("fit_fraction", "0.9999999", "fit_fraction = 0.9999999: it must leave"),
    ("n_bootstrap", "1e9", "n_bootstrap = '1e9': it must be a whole number of resamples, from 100 to 100,000"),
    ("n_bootstrap", "1000000000", "n_bootstrap = 1000000000: it must be a whole number of resamples, from 100 to"),
    ("releases", "[lab, lab]", "releases = .*each once"),
    ("layer", "[1", r"layer = '\[1': it must be a whole number"),
    ("near_l0", ".inf", "near_l0 = '.inf': it must be a number above 0"),
    ("near_l0", "inf", "near_l0 = 'inf': it must be a number above 0"),
    ("profile", "../../x", "unknown profile '../../x'"),
    ('x = open("f","w") #', "1", "unknown parameter 'x = open"),
]


@pytest.mark.parametrize(("name", "text", "message"), CASES)
def test_a_bad_value_is_refused_before_papermill_sees_it(name, text, message):
    with pytest.raises(ParameterError, match=message):
        read(takes(ROOT / "notebooks/03_notation.ipynb"), {name: text})


def test_values_are_read_by_the_type_that_the_chapter_declares():
    source = "size = 1\nshare = 0.5\nname = 'a'\non = True\nsteps = [1, 2]\nmany: list[int] | None = None"
    chapter = Takes(assignments(source))
    texts = {
        "size": "2",
        "share": "1e-3",
        "name": "12",
        "on": "false",
        "steps": "[3]",
        "many": "[4, 5]",
        "layer": "None",
    }
    wanted = {"size": 2, "share": 0.001, "name": "12", "on": False, "steps": [3], "many": [4, 5], "layer": None}
    assert read(chapter, texts) == wanted
    for name, text, kind in (
        ("size", "2.5", "a whole number"),
        ("steps", "[a]", "a list of whole numbers"),
        ("on", "7", "true or false"),
    ):
        with pytest.raises(ParameterError, match=f"{name} = .*: it must be {kind}"):
            read(chapter, {name: text})


def injected_by_papermill(**values):
    """The globals of a notebook whose parameters papermill replaced."""
    cells = ["layer = None\nnear_l0 = None\nseed = None", PythonTranslator.codify(values)]
    namespace = {"In": cells}
    for source in cells:
        exec(source, namespace)
    return namespace


def test_an_infinity_hides_no_other_parameter():
    """papermill writes `float('inf')`, which is no literal; a misspelling and a seed stand in the same cell."""
    with pytest.raises(ParameterError, match=r"unknown parameter 'layr'.*Did you mean 'layer'"):
        Chapter("demo", injected_by_papermill(layr=5, seed=7, near_l0=float("inf")))
    with pytest.raises(ParameterError, match="near_l0 = inf: it must be a number above 0"):
        Chapter("demo", injected_by_papermill(seed=7, near_l0=float("inf")))
    assert Chapter("demo", injected_by_papermill(seed=7, near_l0=8.0)).profile.seed == 7


def test_a_name_that_is_code_is_refused_where_papermill_let_it_in():
    with pytest.raises(ParameterError, match=r"more than names and plain values: .*y = len"):
        Chapter("demo", injected_by_papermill(**{"y = len('abc') #": 1}))


def test_what_a_chapter_settles_itself_is_not_taken():
    lab = takes(ROOT / "notebooks/lab_model.ipynb")
    with pytest.raises(ParameterError, match="unknown parameter 'layer'"):
        read(lab, {"layer": "2"})
    assert read(lab, {"n_splice": "4"}) == {"n_splice": 4}


def test_a_long_value_is_cut():
    assert len(shown("x" * 10_000)) < ROOM + 30 and "10,002 characters" in shown("x" * 10_000)


END_TO_END = [
    (["-p", 'x = open("{0}/ran","w") #', "1"], "unknown parameter"),
    (["--profile", "../../{0}/x"], "unknown profile"),
    (["-p", "layer", "[1"], "layer = '[1'"),
    (["-p", "layer", "1", "-p", "layer", "2"], "layer: given more than once"),
]


@pytest.mark.parametrize(("words", "message"), END_TO_END)
def test_the_command_refuses_and_writes_nothing(words, message, tmp_path: Path, monkeypatch):
    layout = make_checkout(tmp_path / "checkout", ROOT / "notebooks/03_notation.ipynb")
    monkeypatch.chdir(layout.root)
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, ["chapter", "demo", *(word.replace("{0}", str(tmp_path)) for word in words)])
    assert done.exit_code and message in done.output and isinstance(done.exception, SystemExit)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_says_so_in_one_line_and_no_traceback():
    command = [sys.executable, "-m", "dm_utils.book.cli", "chapter", "03_notation", "-p", "layer", "[1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode and "layer = '[1'" in done.stderr and "Traceback" not in done.stderr
