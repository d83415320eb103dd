"""Canaries for every secret that the project can see: in no output, log or stored file, whatever servers and proxies do."""

import base64
import json
import logging
import os
import subprocess
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import nbformat
import pytest
from demo import ROOT
from hub import Fault, Hub, Repository
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dm_utils.base import secrets
from dm_utils.base.errors import BuildError, ParameterError
from dm_utils.book import build
from dm_utils.book.chapter import Discreet
from dm_utils.book.parameters import read, takes

CANARIES = {name: f"canary/{name.lower()}+'\"é{number}" for number, name in enumerate(secrets.NAMES)}
CANARIES["HF_TOKEN"] = "hf_canaryToken0123456789"  # goes into a header, as hub tokens do
NAME = "someone/something"


def spellings(value):
    """A secret in clear and in the codes that survive a look: URL, JSON, Python's repr, hex, base64."""
    coded = base64.b64encode(value.encode()).decode().rstrip("=")
    quoted = urllib.parse.quote(value, safe="")
    return {value, quoted, json.dumps(value)[1:-1], repr(value)[1:-1], value.encode().hex(), coded}


def leaks(*texts):
    """The secrets that texts hold, in any spelling."""
    whole = "\n".join(texts)
    return {name for name, value in CANARIES.items() if any(one[:-1] in whole for one in spellings(value))}


def files(folder):
    """Everything that is stored below a folder, names included."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in paths] + [path.read_bytes().decode("utf-8", "replace") for path in paths]


@pytest.fixture
def canaries(monkeypatch, tmp_path):
    """Every secret set to a value of its own, and a token as `hf auth login` keeps it."""
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return CANARIES


@pytest.fixture
def echoing():
    """A hub that says the token back in its refusals."""
    hub = Hub({("models", NAME): Repository({"config.json": b"{}"})})
    hub.faults.append(Fault("echo", ".*"))
    yield hub
    hub.close()


def write(root, *sources):
    """A notebook with these cells after its parameters."""
    (root / "notebooks").mkdir(parents=True)
    cells = [new_markdown_cell("# Demo"), new_code_cell("layer = None", metadata={"tags": ["parameters"]})]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    book = new_notebook(cells=[*cells, *map(new_code_cell, sources)], metadata=kernel)
    nbformat.write(book, root / "notebooks/demo.ipynb")
    return root / "notebooks/demo.ipynb"


SAYING = """import base64, json, logging, os, sys, urllib.parse, warnings
import ipywidgets
from IPython.display import HTML, display
for name in {names!r}:
    value = os.environ[name]
    print("in clear:", value); print(repr(value), json.dumps(value), value.encode().hex(), urllib.parse.quote(value, safe=""))
    print("Basic", base64.b64encode(value.encode()).decode(), file=sys.stderr)
    warnings.warn(value); logging.getLogger("dm_utils").warning("said %s", value)
    display(HTML(f"<b title='{{value}}'>"), {{"key": [value]}}, ipywidgets.Text(value=value))
raise RuntimeError(" ".join(os.environ[name] for name in {names!r}))"""


def test_nothing_that_a_kernel_says_stores_a_secret(canaries, tmp_path, capfd):
    notebook = write(tmp_path / "checkout", SAYING.format(names=sorted(CANARIES)))
    with pytest.raises(BuildError) as caught:
        build.execute(notebook, tmp_path / "out/demo.ipynb", {})
    stored = files(tmp_path / "out")
    assert any("in clear: [HF_TOKEN]" in text for text in stored), "the harness ran"
    assert leaks(*stored, str(caught.value), *capfd.readouterr()) == set()


FETCHING = f"from dm_utils import hub\nhub.WAITS = (0.01,)\nhub.fetch({NAME!r}, None, ['*.json'])"


def test_a_hub_that_echoes_the_token_gets_it_into_no_file(canaries, echoing, tmp_path, monkeypatch, capfd):
    for name, value in echoing.environment(tmp_path / "hf").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_TOKEN", CANARIES["HF_TOKEN"])
    chapter = "import dm_utils as dm\nchapter = dm.Chapter('demo', globals())"
    notebook = write(tmp_path / "checkout", chapter, FETCHING)
    with pytest.raises(BuildError, match=NAME) as caught:
        build.execute(notebook, tmp_path / "out/demo.ipynb", {})
    assert leaks(*files(tmp_path / "out"), str(caught.value), *capfd.readouterr()) == set()
    assert echoing.requests, "the token was sent, and said back"

    command = [sys.executable, "-m", "papermill", str(notebook), str(tmp_path / "out/raw.ipynb")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    raw = (tmp_path / "out/raw.ipynb").read_text()
    assert done.returncode and "LoadError" in raw and "[HF_TOKEN]" in raw
    assert leaks(raw, done.stdout, done.stderr) == set(), "papermill by itself, without `dm`"


class Recorder(BaseHTTPRequestHandler):
    """A proxy that notes what passes in clear."""

    seen: list[str]

    def do_GET(self):
        self.seen.append(f"{self.command} {self.path} {self.headers}")
        self.send_error(502)

    do_HEAD = do_POST = do_CONNECT = do_GET

    def log_message(self, *_):
        """Keep the test's output clean."""


@pytest.fixture
def proxy(monkeypatch):
    """What goes through a proxy that the environment names for everything."""
    seen: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Proxy", (Recorder,), {"seen": seen}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield seen
    server.shutdown()
    server.server_close()


def test_what_is_meant_for_this_machine_passes_no_proxy(canaries, echoing, proxy, tmp_path, monkeypatch):
    for name, value in echoing.environment(tmp_path / "hf").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_TOKEN", CANARIES["HF_TOKEN"])
    notebook = write(tmp_path / "checkout", FETCHING)
    with build.kernel_environment(tmp_path / "tables", tmp_path / "store", jobs=1), pytest.raises(BuildError):
        build.execute(notebook, tmp_path / "out/demo.ipynb", {})
    assert echoing.requests and proxy == []


@pytest.mark.parametrize("name", secrets.NAMES)
def test_every_secret_is_found_in_every_spelling(canaries, name):
    for one in spellings(CANARIES[name]):
        for text in (one, f"before {one} after", json.dumps({"a": [one]})):
            assert leaks(secrets.redact(text)) == set()


def test_the_token_that_a_login_keeps_is_a_secret_too(monkeypatch, tmp_path):
    for name in secrets.NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN_PATH", raising=False)
    (tmp_path / "token").write_text("hf_keptByALogin\n")
    assert secrets.redact("Bearer hf_keptByALogin") == "Bearer [the stored HF token]"


def test_logs_are_redacted(canaries):
    record = logging.LogRecord("dm_utils", logging.WARNING, "", 0, "said %s", (CANARIES["OPENAI_API_KEY"],), None)
    assert Discreet().format(record) == "said [OPENAI_API_KEY]"


def test_a_parameter_that_holds_a_secret_is_refused_without_showing_it(canaries):
    chapter = takes(ROOT / "notebooks/05_2_saes_on_error.ipynb")
    with pytest.raises(ParameterError, match="endpoint holds the value of OPENAI_API_KEY") as caught:
        read(chapter, {"endpoint": f"https://host/{CANARIES['OPENAI_API_KEY']}"})
    assert leaks(str(caught.value)) == set()


def test_ordinary_text_is_left_alone(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    assert secrets.redact("none of the four") == "none of the four"
    assert os.environ["OPENAI_API_KEY"] == "none"
