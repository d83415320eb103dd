"""What determines a result is in its key: each field of it, and nothing is read under the key of another."""

from __future__ import annotations

import pytest
import torch

from dm_utils.engine import study as engine_study
from dm_utils.engine.store import Store
from dm_utils.engine.study import Study
from dm_utils.world import corpus, models

PROTOCOL = {"fit_fraction": 0.5, "split_by": "context", "seed": 1, "n_bootstrap": 300, "interval": "fit"}


@pytest.fixture(scope="module")
def ref(study):
    return study.sae(width=512)


def test_the_protocol_of_a_result_is_every_field_that_moves_a_number(study, ref):
    assert study.result_key(ref)["protocol"] == {name: getattr(study.profile, name) for name in PROTOCOL}


@pytest.mark.parametrize("name", [*PROTOCOL, "skip", "dtype", "precision"])
def test_a_change_of_one_field_is_another_result(study, ref, name):
    value = {**PROTOCOL, "skip": 65, "dtype": "bfloat16", "precision": "bfloat16"}[name]
    changed = Study(study.profile.with_overrides(**{name: value}), study.store)
    changed.__dict__["contexts"] = study.contexts  # the same tokens: the field itself must count
    base = Study(study.profile.with_overrides(precision="float32"), study.store) if name == "precision" else study
    assert changed.result_key(ref) != base.result_key(ref)


def test_other_tokens_and_another_sae_are_other_results(study, ref):
    other = Study(study.profile, study.store)
    other.__dict__["contexts"] = study.contexts.roll(1, 0)
    assert other.result_key(ref)["site"] != study.result_key(ref)["site"]
    assert study.result_key(study.sae(width=1024))["sae"] != study.result_key(ref)["sae"]


def test_sites_of_one_shape_are_told_apart(study):
    assert not torch.equal(study.site(2).x, study.site(3).x)


def test_a_new_source_of_the_model_is_another_site(study, ref, monkeypatch):
    before = study.result_key(ref)["site"]
    monkeypatch.setattr(engine_study, "source_digest", lambda _: "other code")
    assert study.result_key(ref)["site"] != before


class Asked(Store):
    """Keeps nothing, and notes what it is asked for."""

    def kept(self, kind, key, compute, *, sources):
        self.asked = kind, key
        raise LookupError(kind)


@pytest.mark.parametrize(("name", "value"), [("ctx_len", 128), ("n_contexts", 23), ("seed", 1)])
def test_contexts_of_another_size_or_order_are_others(study, tmp_path, name, value):
    keys = []
    for profile in (study.profile, study.profile.with_overrides(**{name: value})):
        store = Asked(tmp_path)
        with pytest.raises(LookupError):
            _ = Study(profile, store).contexts
        keys.append(store.asked[1])
    assert {field for field in keys[0] if keys[0][field] != keys[1][field]} >= {name}


def test_contexts_cut_by_another_tokenizer_or_from_another_text_are_others(study, tmp_path, monkeypatch):
    keys = []
    for what in ("one", "two"):
        monkeypatch.setattr(models, "tokenizer_identity", lambda _, what=what: what)
        monkeypatch.setattr(corpus, "identity", lambda _, what=what: what)
        store = Asked(tmp_path)
        with pytest.raises(LookupError):
            _ = Study(study.profile, store).contexts
        keys.append(store.asked[1])
    assert {field for field in keys[0] if keys[0][field] != keys[1][field]} == {"text", "tokenizer"}
