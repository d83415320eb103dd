"""Text streamed from the hub: where a stream breaks off it goes on at the document reached, in this run or the next."""

import hashlib
import json
import subprocess
import sys
from itertools import islice

import checkpoints
import numpy as np
import pytest
from hub import Fault, Hub, Repository

from dm_utils.world import corpus, models
from dm_utils.world.profiles import load_profile

N_CONTEXTS = 350  # of documents from both files
SCRIPT = """
import hashlib, json, logging, sys, time
import datasets.config
datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = 2
time.sleep = lambda _: None
from dm_utils import corpus, hub, models
from dm_utils.world.profiles import load_profile
from dm_utils.engine.store import Store
logging.basicConfig(level=logging.INFO, format="%(message)s")
hub.WAITS = (0.0, 0.0, 0.0)
for overrides in json.loads(sys.argv[2]):
    given = {"dataset": "monology/pile-uncopyrighted", "n_contexts": N_CONTEXTS} | overrides
    profile = load_profile("lab", **given)
    try:
        key = {"text": corpus.identity(profile)}
        found = corpus.contexts(profile, models.load_tokenizer(profile), Store(sys.argv[1]), key)
        print(hashlib.sha256(found.numpy().tobytes()).hexdigest(), corpus.identity(profile))
    except hub.LoadError as error:
        print("LoadError:", error)
"""


@pytest.fixture(scope="module")
def documents():
    return checkpoints.texts()[::8]


@pytest.fixture(scope="module")
def pile(documents):
    return checkpoints.pile_repository(documents)


@pytest.fixture
def hub(pile):
    served = Hub(
        {
            ("datasets", "monology/pile-uncopyrighted"): pile,
            ("datasets", "me/rows"): Repository({"train.jsonl": b'{"body": "no text here"}\n'}),
        }
    )
    yield served
    served.close()


def stream(hub, folder, *overrides, **environment):
    """Pack contexts in a process of its own, once for each set of overrides; return what it printed and logged."""
    script = SCRIPT.replace("N_CONTEXTS", str(N_CONTEXTS))
    command = [sys.executable, "-c", script, str(folder / "store"), json.dumps(overrides or [{}])]
    environment = hub.environment(folder / "hf") | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def expected(documents, pile):
    """What a stream without faults must print: the digest of the documents packed in the order of the shards."""
    profile = load_profile("lab")
    tokenizer, shards = models.load_tokenizer(profile), (documents[::2], documents[1::2])
    assert len(list(corpus.pack(shards[0], tokenizer, profile.ctx_len))) < N_CONTEXTS, "the second is read too"
    packed = corpus.pack([*shards[0], *shards[1]], tokenizer, profile.ctx_len)
    digest = hashlib.sha256(np.stack(list(islice(packed, N_CONTEXTS))).tobytes()).hexdigest()
    return f"{digest} monology/pile-uncopyrighted@{pile.commit}\n"


def test_a_stream_that_breaks_off_goes_on_in_the_same_run(hub, expected, tmp_path):
    hub.faults = [Fault("truncate", "train/00", times=1), Fault("unavailable", "resolve/.*train/01", times=10)]
    printed, log = stream(hub, tmp_path)
    assert printed == expected
    assert "broke off at document" in log


def test_a_stream_that_stays_broken_keeps_its_contexts_for_the_next_run(hub, expected, tmp_path):
    hub.faults = [Fault("broken", "resolve/.*train/01")]
    printed, _ = stream(hub, tmp_path)
    assert "contexts read so far are kept: run again to go on from there" in printed
    hub.faults = []
    printed, log = stream(hub, tmp_path)
    assert printed == expected
    assert "contexts that an earlier run kept" in log


def test_text_that_cannot_be_read_says_why(hub, tmp_path):
    printed, _ = stream(hub, tmp_path, {"dataset": "me/rows"}, {"dataset_revision": "v9"})
    assert "me/rows has no column 'text'; it has body" in printed
    assert "monology/pile-uncopyrighted has no revision 'v9'" in printed


def test_a_stream_from_another_host_goes_without_the_token(hub, expected, tmp_path):
    elsewhere = Hub(hub.repositories)
    hub.faults = [Fault(elsewhere.endpoint.replace("127.0.0.1", "localhost"), "resolve")]
    printed, _ = stream(hub, tmp_path, HF_TOKEN="hf_canaryToken0123456789")
    elsewhere.close()
    assert printed == expected
    assert "Bearer hf_canaryToken0123456789" in hub.tokens
    assert elsewhere.requests and set(elsewhere.tokens) == {None}
