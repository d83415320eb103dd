"""Token contexts: packed, BOS first, and the lab's own packing."""

import json
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import zstandard

import dm_utils as dm
from dm_utils.engine.store import Store
from dm_utils.engine.study import Study
from dm_utils.lab.text import evaluation_text
from dm_utils.lab.text import pack as lab_pack
from dm_utils.world import corpus, hub, models
from dm_utils.world.profiles import load_profile


@pytest.fixture(scope="module")
def lab():
    return dm.load_profile("lab", n_contexts=32)


@pytest.fixture(scope="module")
def tokenizer(lab):
    return models.load_tokenizer(lab)


def test_packing_is_the_one_that_the_lab_was_trained_with(tokenizer):
    documents = evaluation_text()[:300]
    ours = np.stack(list(corpus.pack(documents, tokenizer, 64)))
    np.testing.assert_array_equal(ours, lab_pack(documents, tokenizer, 64))


def test_a_text_file_is_a_corpus(lab, tokenizer, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("One paragraph of text.\n\nAnother one, a little longer. " * 400)
    found = corpus.contexts(lab.with_overrides(dataset=str(path), n_contexts=6), tokenizer)
    assert found.shape == (6, 256) and (found[:, 0] == tokenizer.bos_token_id).all()
    assert "Another one" in tokenizer.decode(found[0])


def test_too_little_text_says_how_much_there_is(lab, tokenizer, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("too short " * 300)
    with pytest.raises(ValueError, match=r"gives \d+ contexts of 256 tokens; 32 were asked for"):
        corpus.contexts(lab.with_overrides(dataset=str(path)), tokenizer)


def test_another_seed_draws_other_contexts(lab, tokenizer, monkeypatch):
    some = evaluation_text()[:400]
    monkeypatch.setattr(corpus, "evaluation_text", lambda: some)
    first, again, other = (corpus.contexts(lab.with_overrides(seed=s), tokenizer) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


ROWS = [{"text": f"Document {i} has some words of its own, {i} in all."} for i in range(40)]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.zst", "parquet", "folder"])
def test_local_files_are_a_corpus_in_every_format(lab, tmp_path, kind):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    path = tmp_path / f"mine.{kind}"
    if kind == "parquet":
        pd.DataFrame(ROWS).to_parquet(path)
    elif kind == "folder":
        path.mkdir()
        (path / "a.jsonl").write_bytes(lines)
    else:
        path.write_bytes(zstandard.ZstdCompressor().compress(lines) if kind.endswith("zst") else lines)
    profile = lab.with_overrides(dataset=str(path))
    assert list(corpus.documents(profile)) == [row["text"] for row in ROWS]
    assert list(corpus.documents(profile, start=38)) == [row["text"] for row in ROWS[38:]]
    assert corpus.revision(profile) == ""


def test_a_file_in_another_format_is_refused_with_those_that_are_read(lab, tmp_path):
    (tmp_path / "mine.pdf").write_bytes(b"%PDF")
    with pytest.raises(hub.LoadError, match=r"mine\.pdf.*end in \.txt, \.parquet, \.jsonl, \.json"):
        corpus.identity(lab.with_overrides(dataset=str(tmp_path / "mine.pdf")))


def test_packing_can_stop_and_go_on(tokenizer):
    documents = evaluation_text()[:300]
    whole, progress = list(corpus.pack(documents, tokenizer, 64)), corpus.Progress()
    first = list(corpus.pack(documents[:96], tokenizer, 64, progress, size=16))
    assert progress.documents == 96
    rest = list(corpus.pack(documents[96:], tokenizer, 64, progress, size=16))
    np.testing.assert_array_equal(np.stack([*first, *rest]), np.stack(whole))


KILLED = """
import json, os, signal, sys
from dm_utils.engine.store import Store
from dm_utils.engine.study import Study
from dm_utils.world import corpus
from dm_utils.world.profiles import load_profile

read = corpus.documents

def some(profile, start=0):
    for i, document in enumerate(read(profile, start)):
        if i == 200:
            os.kill(os.getpid(), signal.SIGKILL)
        yield document

corpus.documents = some
Study(load_profile("lab", **json.loads(sys.argv[1])), Store(sys.argv[2])).contexts
"""


def test_a_killed_stream_goes_on_from_what_it_kept(tmp_path, monkeypatch):
    text = tmp_path / "mine.txt"
    text.write_text("\n\n".join(evaluation_text()[:400]))
    given = {"dataset": str(text), "ctx_len": 64, "skip": 8, "n_contexts": 300, "n_bootstrap": 100}
    profile, store = load_profile("lab", **given), Store(tmp_path / "store")
    done = subprocess.run([sys.executable, "-c", KILLED, json.dumps(given), str(store.root)], check=False)
    assert done.returncode == -signal.SIGKILL
    starts, read = [], corpus.documents
    monkeypatch.setattr(corpus, "documents", lambda profile, start=0: starts.append(start) or read(profile, start))
    found = Study(profile, store).contexts
    assert starts[0] > 0, "it began anew"
    assert torch.equal(found, Study(profile, Store(tmp_path / "other")).contexts)
    assert not list(store.root.glob("contexts_so_far/*.json")), "what is complete needs no progress"
