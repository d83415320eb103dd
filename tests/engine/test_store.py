"""The store: content-keyed, atomic, and honest about damage."""

import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dm_utils.base.errors import StoreError
from dm_utils.base.files import content_key, write_atomic
from dm_utils.engine import housekeeping
from dm_utils.engine.sources import source_digest
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
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
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
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_an_entry_under_another_key_is_not_served(store):
    """As when two stores are merged by hand, or a file is copied to another's name."""
    store.save("sae", KEY, {"fvu": 0.2})
    other = {**KEY, "tokens": 13}
    shutil.copy(store.path("sae", KEY), store.path("sae", other))
    with pytest.raises(CorruptEntryError, match="another kind or key"):
        store.load("sae", other)


@pytest.mark.parametrize("shape", [(2, 3), (4, 2), (3, 4), (6, 3)])
def test_a_mapped_array_is_not_served_in_another_shape(store, caplog, shape):
    with store.mapping("activations", KEY, (4, 3)) as array:
        array[:] = np.arange(12).reshape(4, 3)
    assert store.mapped("activations", KEY, shape) is None
    assert f"has the shape [4, 3], not {list(shape)}" in caplog.text


def test_what_is_replaced_goes(store):
    for value in (1, 2, 3):
        store.save("sae", KEY, value, {"a": np.full(4, value, dtype=np.float32)})
    files = [path for path in (store.root / "sae").iterdir() if path.suffix != ".lock"]
    assert len(files) == 2
    assert store.load("sae", KEY)[1]["a"][0] == 3


def killed_writer(root):
    """Start writing a large array in another process, and kill it while it writes."""
    code = """
import sys, time
from dm_utils.engine.store import Store
with Store(sys.argv[1]).mapping("activations", {"a": 1}, (100, 10)):
    print("writing", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    return process


def test_temporaries_of_killed_runs_are_swept_and_those_of_running_ones_are_not(store):
    process = killed_writer(store.root)
    try:
        assert store.sweep() == 0, "it still runs"
    finally:
        process.kill()
        process.wait()
    assert [path.stat().st_size for path in housekeeping.abandoned(store)] == [4000]
    assert store.sweep() == 4000
    assert not list(store.root.glob("*/.*"))


def test_temporaries_of_another_machine_are_given_a_day(store, monkeypatch):
    store.save("sae", KEY, 1)
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    path = store.root / "sae" / f".x.json~here~{os.getpid()}~abc"
    path.write_bytes(b"123")
    assert store.sweep() == 0
    os.utime(path, (time.time() - 90000,) * 2)
    assert store.sweep() == 3


def test_a_store_that_is_a_file_is_named(tmp_path):
    (tmp_path / "store").write_text("notes")
    store = Store(tmp_path / "store")
    for use in (lambda: store.load("sae", KEY), lambda: store.save("sae", KEY, 1), lambda: housekeeping.entries(store)):
        with pytest.raises(StoreError, match=r"store is a file, and results are kept in a folder: set DM_STORE"):
            use()


@pytest.mark.parametrize("suffix", ["json", "f32"])
def test_a_folder_where_an_entry_should_be_is_named(store, suffix):
    if suffix == "f32":
        with store.mapping("sae", KEY, (2, 2)) as array:
            array[:] = 1
        store.path("sae", KEY, "f32").unlink()
    store.path("sae", KEY, suffix).mkdir(parents=True)
    with pytest.raises(StoreError, match=rf"{suffix} is a folder where a result's file should be: remove it"):
        store.mapped("sae", KEY, (2, 2))
    if suffix == "json":
        with pytest.raises(StoreError, match="is a folder where"):
            store.kept("sae", KEY, lambda: (1, None), sources=())


def test_a_read_only_store_serves_what_it_has_and_names_what_it_lacks(store, monkeypatch):
    store.save("sae", KEY, {"fvu": 0.2})

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    assert store.kept("sae", KEY, refuse, sources=())[0] == {"fvu": 0.2}
    with pytest.raises(
        StoreError, match=r"does not let sae/.* be read or written \(Read-only file system\): set DM_STORE"
    ):
        store.kept("sae", {**KEY, "tokens": 13}, lambda: (1, None), sources=())


# --- housekeeping ------------------------------------------------------------------------------------------

THEORY = ("dm_utils.maths.norm_theory",)


@pytest.fixture
def full(store):
    """A store with a current entry, one whose code has changed, and arrays whose description is gone."""
    store.kept("sae", {"sae": {"id": "mine"}}, lambda: (1, {"a": np.ones(1000, dtype=np.float32)}), sources=THEORY)
    store.save("norm_test", {"hook_name": "blocks.0", "source": "0ld"}, 2, by=THEORY)
    (store.root / "sae" / "lost.1234.safetensors").write_bytes(b"12345")
    return store


def test_a_listing_says_kind_size_age_and_who(full):
    now = time.time() + 2 * 86400
    table = housekeeping.listing(full, now).set_index("of")
    assert table.state.to_dict() == {"mine": "current", "blocks.0": "orphaned", "": "orphaned"}
    assert table.kind["mine"] == "sae"
    assert table["computed by"]["mine"] == "maths.norm_theory"
    assert 0.004 < table.MB["mine"] < 0.006
    assert table["days since used"]["mine"] == pytest.approx(2, abs=0.01)
    assert source_digest(THEORY) != "0ld"


def test_pruning_takes_what_nobody_will_ask_for(full):
    assert {entry.name for entry in housekeeping.prune(full, dry_run=True)} >= {"lost"}
    assert len(housekeeping.entries(full)) == 3
    assert len(housekeeping.prune(full)) == 2
    assert [entry.about for entry in housekeeping.entries(full)] == ["mine"]


def test_pruning_by_age_counts_from_the_last_use(full):
    key = full.full_key({"sae": {"id": "mine"}}, THEORY)
    os.utime(full.path("sae", key), (time.time() - 10 * 86400,) * 2)
    assert "mine" in {entry.about for entry in housekeeping.prune(full, older_than=5, dry_run=True)}
    full.load("sae", key)
    assert [entry for entry in housekeeping.prune(full, older_than=5) if entry.about == "mine"] == []


def test_checking_names_each_damaged_entry(full):
    with full.mapping("activations", KEY, (4, 3)) as array:
        array[:] = 7
    assert len(housekeeping.check(full)) == 1, "the arrays without a description"
    damage_flip(full.path("activations", KEY, "f32"))
    damage_truncate(next(full.root.glob("norm_test/*.json")))
    said = "; ".join(housekeeping.check(full))
    assert "f32 does not match its checksum" in said
    assert "norm_test" in said
    assert len(housekeeping.check(full)) == 3
