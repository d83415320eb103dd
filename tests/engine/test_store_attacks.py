"""The store under random attack: whatever is damaged or killed, what it serves afterwards is right."""

import random
import subprocess
import sys
import time

import numpy as np

from dm_utils.engine.store import Store

N_CORRUPTIONS, N_KILLS, N_ENTRIES = 300, 10, 3
WRITER = """
import sys
import numpy as np
from dm_utils.engine.store import Store

store, n = Store(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
for number in range(n):
    value = np.arange(200_000, dtype=np.float32) * number
    store.kept("sae", {"entry": number}, lambda: ({"fvu": 0.1 * number}, {"a": value}), sources=())
    if store.mapped("activations", {"entry": number}, (1000, 200)) is None:
        with store.mapping("activations", {"entry": number}, (1000, 200)) as array:
            array[:] = value.reshape(1000, 200)
"""


def values(number):
    return np.arange(40, dtype=np.float32) * (number + 1)


def served(store, number):
    """What the store gives for an entry, computed again where it refuses what it holds."""
    key = {"entry": number}
    data, arrays = store.kept("sae", key, lambda: ({"fvu": 0.1 * number}, {"a": values(number)}), sources=())
    if store.mapped("activations", key, (8, 5)) is None:
        with store.mapping("activations", key, (8, 5)) as array:
            array[:] = values(number).reshape(8, 5)
    return data, arrays["a"], np.array(store.mapped("activations", key, (8, 5)))


def corrupt(path, other, draw):
    """Do to a file one of what disks, editors and people do."""
    blob = bytearray(path.read_bytes())
    how = draw.choice(["flip", "truncate", "empty", "garbage", "remove", "exchange", "append"])
    if how == "flip":
        blob[draw.randrange(len(blob))] ^= 1 << draw.randrange(8)
    elif how == "truncate":
        del blob[draw.randrange(len(blob)) :]
    elif how == "exchange":
        blob = bytearray(other.read_bytes())
    else:
        blob = {"empty": bytearray(), "append": blob + b"\0"}.get(how, bytearray(draw.randbytes(64)))
    path.unlink() if how == "remove" else path.write_bytes(blob)


def test_no_corruption_is_served(tmp_path):
    store, draw = Store(tmp_path), random.Random(0)
    for attack in range(N_CORRUPTIONS):
        for number in range(N_ENTRIES):
            data, array, mapped = served(store, number)
            assert data == {"fvu": 0.1 * number}, attack
            np.testing.assert_array_equal(array, values(number))
            np.testing.assert_array_equal(mapped.ravel(), values(number))
        files = sorted(path for path in tmp_path.glob("*/*") if path.suffix != ".lock")
        path = draw.choice(files)
        corrupt(path, draw.choice([one for one in files if one.suffix == path.suffix]), draw)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*/*") if path.suffix != ".lock"}


def test_a_store_whose_writers_were_killed_is_that_of_one_that_was_not(tmp_path):
    """Killed at random moments of the time that a whole run takes; the last run goes on from what they left."""
    run = [sys.executable, "-c", WRITER]
    with subprocess.Popen([*run, tmp_path / "whole", str(N_ENTRIES)], stdout=subprocess.PIPE) as whole:
        assert whole.stdout.readline() == b"ready\n"
        start = time.monotonic()
        assert whole.wait() == 0
        took = time.monotonic() - start
    draw = random.Random(0)
    for _ in range(N_KILLS):
        with subprocess.Popen([*run, tmp_path / "killed", str(N_ENTRIES)], stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(draw.random() * took)
            process.kill()
    subprocess.run([*run, tmp_path / "killed", str(N_ENTRIES)], check=True, stdout=subprocess.DEVNULL)
    Store(tmp_path / "killed").sweep()
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
