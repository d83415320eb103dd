"""Token contexts: packed, BOS first, and the lab's own packing."""

import numpy as np
import pytest
import torch

import dm_utils as dm
from dm_utils import corpus, models
from dm_utils.lab.text import evaluation_text
from dm_utils.lab.text import pack as lab_pack


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


def test_another_seed_draws_other_contexts(lab, tokenizer):
    first, again, other = (corpus.contexts(lab.with_overrides(seed=s), tokenizer) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
