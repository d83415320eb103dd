"""Downloads that go wrong: retried and resumed where that helps, else refused with what to do."""

import subprocess
import sys

import pytest
from hub import Fault, Hub, Repository

NAME = "someone/something"
FETCH = """
import logging, sys
from dm_utils import hub
hub.WAITS = (0.01, 0.01)
logging.basicConfig(level=logging.WARNING, format="%(message)s")
{before}
try:
    print(hub.fetch("{name}", {revision!r}, ["*.json", "*.safetensors"]))
except hub.LoadError as error:
    sys.exit(f"LoadError: {{error}}")
"""


@pytest.fixture
def hub():
    """One small repository: a text file, and a large file of 100,000 bytes."""
    large = bytes(range(256)) * 400
    served = Hub({("models", NAME): Repository({"config.json": b"{}", "model.safetensors": large}, tags={"v1": ""})})
    yield served
    served.close()


def fetch(hub, home, revision=None, before="", name=NAME, **environment):
    """Fetch the repository in a process of its own; return what it printed and what it complained about."""
    code = FETCH.format(name=name, revision=revision, before=before)
    done = subprocess.run(
        [sys.executable, "-c", code], env=hub.environment(home) | environment, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.strip(), done.stderr


def content(folder):
    """The large file of a snapshot."""
    from pathlib import Path

    return (Path(folder) / "model.safetensors").read_bytes()


def test_a_snapshot_is_pinned_to_the_commit_and_needs_the_hub_once(hub, tmp_path):
    folder, _ = fetch(hub, tmp_path)
    assert folder.endswith(hub.repositories["models", NAME].commit)
    assert content(folder) == hub.repositories["models", NAME].files["model.safetensors"]
    hub.requests.clear()
    assert fetch(hub, tmp_path, revision=hub.repositories["models", NAME].commit)[0] == folder
    assert hub.requests == []


@pytest.mark.parametrize(
    ("fault", "path", "said"),
    [
        ("unauthorized", "", ["the hub has no model 'someone/something' for you", "check the name", "HF_TOKEN"]),
        ("gated", "resolve", ["is gated", "accept its terms on that page", "`hf auth login`", "HF_TOKEN"]),
        ("no repository", "", ["the hub has no model", "check the name"]),
        ("no entry", "resolve", ["a file is missing from someone/something", "/tree/main"]),
        ("too many", "", ["too many requests", "Wait some minutes"]),
        ("unavailable", "", ["the hub fails (503)", "what was downloaded is kept"]),
        (
            "corrupt",
            "safetensors",
            ["arrives damaged again and again", "does not match the hash", "Try another network"],
        ),
    ],
)
def test_a_fault_that_stays_says_what_to_do(hub, tmp_path, fault, path, said):
    hub.faults = [Fault(fault, path)]
    printed, complaint = fetch(hub, tmp_path, before="import time; time.sleep = lambda _: None")
    assert printed == ""
    for words in said:
        assert words in complaint.split("LoadError: ")[1]


@pytest.mark.parametrize(
    ("fault", "path"),
    [
        ("too many", ""),
        ("broken", "/api/"),
        ("broken", "/tree/"),
        ("unavailable", "resolve"),
        ("corrupt", "safetensors"),
        ("slow", ""),
    ],
)
def test_a_fault_that_passes_is_waited_for(hub, tmp_path, fault, path):
    hub.faults = [Fault(fault, path, times=1)]
    folder, _ = fetch(hub, tmp_path, before="import time; time.sleep = lambda _: None")
    assert content(folder) == hub.repositories["models", NAME].files["model.safetensors"]


def test_a_transfer_that_breaks_off_is_resumed_where_it_stopped(hub, tmp_path):
    hub.faults = [Fault("truncate", "safetensors", times=2)]
    small_chunks = "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 1024\n"
    folder, _ = fetch(hub, tmp_path, before=small_chunks + "import time; time.sleep = lambda _: None")
    assert content(folder) == hub.repositories["models", NAME].files["model.safetensors"]
    ranges = [asked for _, path, asked in hub.requests if path.endswith("safetensors") and asked]
    assert [int(asked.removeprefix("bytes=").rstrip("-")) for asked in ranges] == [51_200, 76_800]


def test_a_gated_repository_says_something_else_to_those_with_a_token(hub, tmp_path):
    hub.faults = [Fault("gated", "resolve")]
    _, complaint = fetch(hub, tmp_path, HF_TOKEN="hf_of_nobody")
    assert "your token has no access to it yet" in complaint


def test_a_wrong_revision_is_named(hub, tmp_path):
    _, complaint = fetch(hub, tmp_path, revision="v2")
    assert "no revision 'v2'" in complaint and "/commits/main" in complaint
    _, complaint = fetch(hub, tmp_path, revision="0" * 40)
    assert f"no revision '{'0' * 40}'" in complaint


def test_no_network_uses_what_is_here_or_says_so(hub, tmp_path):
    gone = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    _, complaint = fetch(hub, tmp_path, **gone)
    assert "is not on this machine" in complaint and "profile 'lab'" in complaint
    folder, _ = fetch(hub, tmp_path)
    again, warning = fetch(hub, tmp_path, **gone)
    assert again == folder and "the one downloaded last is used" in warning
    unpatched = "hub.WAITS = (10_000.0,)"  # nothing waits for a network that is switched off
    assert fetch(hub, tmp_path, before=unpatched, HF_HUB_OFFLINE="1")[0] == folder
    assert "is not on this machine" in fetch(hub, tmp_path / "empty", before=unpatched, HF_HUB_OFFLINE="1")[1]


def test_a_full_disk_is_noticed_before_the_download(hub, tmp_path):
    before = "import shutil; shutil.disk_usage = lambda _: type('Usage', (), {'free': 5})"
    _, complaint = fetch(hub, tmp_path, before=before)
    assert "the disk is full" in complaint and "HF_HOME" in complaint
    assert not [path for command, path, _ in hub.requests if command == "GET" and "resolve" in path]


WITHOUT_ROOM = """
import huggingface_hub
def full(dry_run=False, **_):
    if not dry_run:
        raise {}
    return []
huggingface_hub.snapshot_download = full
"""


def test_no_room_in_memory_says_what_is_smaller(hub, tmp_path):
    before = WITHOUT_ROOM.format("RuntimeError('CUDA out of memory. Tried 2 GiB')")
    _, complaint = fetch(hub, tmp_path, before=before)
    assert "does not fit into memory" in complaint and "dtype = 'bfloat16'" in complaint


def test_a_disk_that_fills_up_meanwhile_is_the_same_message(hub, tmp_path):
    before = WITHOUT_ROOM.format("OSError(28, 'No space left on device')")
    _, complaint = fetch(hub, tmp_path, before=before)
    assert "the disk is full" in complaint and "DM_STORE" in complaint


@pytest.mark.parametrize("path", ["resolve", "/api/", ""])
def test_a_redirect_to_another_host_is_followed_without_the_token(hub, tmp_path, path):
    """As the hub does for large files, which another host keeps: the file arrives, and the token goes to the hub alone."""
    elsewhere = Hub(hub.repositories)
    hub.faults = [Fault(elsewhere.endpoint.replace("127.0.0.1", "localhost"), path)]
    folder, _ = fetch(hub, tmp_path, HF_TOKEN="hf_canaryToken0123456789")
    elsewhere.close()
    assert content(folder) == hub.repositories["models", NAME].files["model.safetensors"]
    assert "Bearer hf_canaryToken0123456789" in hub.tokens
    assert elsewhere.requests and set(elsewhere.tokens) == {None}
