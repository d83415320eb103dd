"""The store: content-keyed, atomic, and honest about damage."""

import json
import multiprocessing
import os
import time

import numpy as np
import pytest

from dm_utils.base.files import content_key, write_atomic
from dm_utils.engine.store import CorruptEntryError, Store

KEY = {"sae": "a", "tokens": 12}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_round_trip(store):
    arrays = {"norm": np.arange(5, dtype=np.float32)}
    store.save("sae", KEY, {"fvu": 0.2}, arrays)
    data, found = store.load("sae", KEY)
    assert data == {"fvu": 0.2}
    np.testing.assert_array_equal(found["norm"], arrays["norm"])


def test_any_change_of_the_key_is_another_entry(store):
    store.save("sae", KEY, 1)
    assert store.load("sae", {**KEY, "tokens": 13}) is None
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})


def test_computes_once(store):
    calls = []

    def compute():
        calls.append(1)
        return {"v": 1}, None

    assert store.kept("k", KEY, compute, sources=()) == ({"v": 1}, {})
    assert store.kept("k", KEY, compute, sources=()) == ({"v": 1}, {})
    assert len(calls) == 1


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def damage_flip(path):
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(bytes(blob))


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, lambda path: path.unlink()])
def test_damage_is_reported_and_recomputed(store, suffix, damage, caplog):
    store.save("sae", KEY, {"fvu": 0.2}, {"norm": np.ones(3, dtype=np.float32)})
    damage(next(store.root.glob(f"sae/*.{suffix}")))
    fresh = {"norm": np.zeros(3, dtype=np.float32)}
    data, arrays = store.kept("sae", KEY, lambda: ({"fvu": 0.3}, fresh), sources=())
    assert data == {"fvu": 0.3}
    assert not arrays["norm"].any()
    if not (suffix == "json" and "unlink" in damage.__code__.co_names):  # a missing entry is no damage
        assert "recomputed" in caplog.text
    assert store.load("sae", KEY)[0] == {"fvu": 0.3}


def test_an_edited_value_is_detected(store):
    store.save("sae", KEY, {"fvu": 0.2})
    path = store.path("sae", KEY)
    entry = json.loads(path.read_text())
    entry["data"]["fvu"] = 0.1
    path.write_text(json.dumps(entry))
    with pytest.raises(CorruptEntryError, match="altered"):
        store.load("sae", KEY)


def test_nan_is_refused(store):
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.save("sae", KEY, {"fvu": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_key({"x": float("inf")})


def test_a_failed_write_leaves_nothing(store, monkeypatch, tmp_path):
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomic(tmp_path / "x.json", b"{}")
    assert list(tmp_path.iterdir()) == []


def _writer(root, value):
    for _ in range(40):
        Store(root).save("sae", KEY, {"v": value}, {"a": np.full(2000, value, dtype=np.float32)})


def test_two_processes_may_write_at_once(store):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_writer, args=(store.root, value)) for value in (1, 2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found = store.load("sae", KEY)
        if found is not None:
            assert (found[1]["a"] == found[0]["v"]).all()
    assert [writer.exitcode for writer in writers] == [0, 0]


def _computer(root, together, log):
    def compute():
        with log.open("a") as lines:
            lines.write("computed\n")
        time.sleep(0.3)
        return {"v": 1}, None

    together.wait()
    assert Store(root).kept("sae", KEY, compute, sources=())[0] == {"v": 1}


def test_what_two_processes_need_is_computed_once(store, tmp_path):
    context = multiprocessing.get_context("spawn")
    together, log = context.Barrier(2), tmp_path / "log"
    processes = [context.Process(target=_computer, args=(store.root, together, log)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert log.read_text() == "computed\n"


def test_a_mapped_array_is_kept_and_damage_is_found(store, caplog):
    with store.mapping("activations", KEY, (4, 3)) as array:
        array[:] = 7
    assert (store.mapped("activations", KEY, (4, 3)) == 7).all()
    damage_flip(store.path("activations", KEY, "f32"))
    assert store.mapped("activations", KEY, (4, 3)) is None
    assert "does not match its checksum" in caplog.text


def test_an_interrupted_mapping_leaves_nothing(store):
    with pytest.raises(KeyboardInterrupt), store.mapping("activations", KEY, (4, 3)):
        raise KeyboardInterrupt
    assert list((store.root / "activations").iterdir()) == []
    assert store.mapped("activations", KEY, (4, 3)) is None


@pytest.mark.parametrize("call", ["posix_fallocate", "fsync"])
def test_a_full_disk_says_what_to_do_and_leaves_nothing(tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError(28, "No space left on device")

    store = Store(tmp_path)
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match=r"the disk is full: results need .* GB under .*DM_STORE.*n_contexts"):
        if call == "fsync":
            store.save("kind", {"a": 1}, 1.0)
        else:
            with store.mapping("kind", {"a": 1}, (1000, 1000)):
                pytest.fail("mapped a file that the disk cannot hold")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
