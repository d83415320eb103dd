"""The store under random interleavings: two that share a folder, writes left open, damage, each step checked against a plain model."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dm_utils.engine.store import CorruptEntryError, Store

KINDS, SHAPE = st.sampled_from(["sae", "map"]), (3, 2)
entries = st.tuples(KINDS, st.integers(0, 1))
values = st.integers(0, 5)
sides = st.integers(0, 1)


def arrays_of(value: int) -> dict[str, np.ndarray]:
    """What is stored beside a value: other lengths for other values, so that a mixture shows; for 0, none."""
    return {"a": np.full(4 * value, value, dtype=np.float32), "b": np.arange(value)} if value else {}


def is_entry(found: tuple[Any, dict[str, np.ndarray]], value: int) -> bool:
    """Whether what was read is the entry of a value, whole."""
    data, arrays = found
    expected = arrays_of(value)
    return data == {"v": value} and {n: a.tolist() for n, a in arrays.items()} == {
        n: a.tolist() for n, a in expected.items()
    }


class TwoStores(RuleBasedStateMachine):
    """What a reader may see at any time: the last value that was written whole, or nothing; never a mixture."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.stores = (Store(self.root), Store(self.root))
        self.kept: dict[tuple[str, int], int] = {}
        self.damaged: set[tuple[str, int]] = set()
        self.mapped: int | None = None
        self.open: list[tuple[contextlib.ExitStack, int]] = []
        self.turn = 0

    def teardown(self) -> None:
        """Leave nothing behind."""
        for stack, _ in self.open:
            stack.close()
        shutil.rmtree(self.root)

    @rule(side=sides, entry=entries, value=values)
    def save(self, side: int, entry: tuple[str, int], value: int) -> None:
        """The last writer of equal keys wins."""
        self.stores[side].save(entry[0], {"n": entry[1]}, {"v": value}, arrays_of(value) or None)
        self.kept[entry] = value
        self.damaged.discard(entry)

    @rule(side=sides, entry=entries, value=values, meanwhile=entries, other=values)
    def compute(self, side: int, entry: tuple[str, int], value: int, meanwhile: tuple[str, int], other: int) -> None:
        """While one computes, the other saves something else, or the same."""
        known = entry in self.kept and entry not in self.damaged
        asked: list[int] = []

        def work() -> tuple[Any, dict[str, np.ndarray] | None]:
            asked.append(value)
            self.save(1 - side, meanwhile, other)
            return {"v": value}, arrays_of(value) or None

        found = self.stores[side].kept(entry[0], {"n": entry[1]}, work, sources=())
        assert is_entry(found, self.kept[entry] if known else value)
        assert bool(asked) != known, "what is kept is not computed again, what is damaged is"
        if asked:
            self.kept[entry] = value
            self.damaged.discard(entry)

    @rule(side=sides, entry=entries)
    def remove(self, side: int, entry: tuple[str, int]) -> None:
        """Removing what is not there is no error."""
        self.stores[side].remove(entry[0], {"n": entry[1]})
        self.kept.pop(entry, None)
        self.damaged.discard(entry)

    @rule(entry=entries, at=st.integers(0, 10**6), bit=st.integers(0, 7))
    def damage(self, entry: tuple[str, int], at: int, bit: int) -> None:
        """A bit of an entry's arrays, or of its record, turns over."""
        path = self.stores[0].path(entry[0], {"n": entry[1]})
        files = sorted(path.parent.glob(f"{path.stem}.*safetensors"))
        if entry in self.kept and entry not in self.damaged and files:
            blob = bytearray(files[0].read_bytes())
            blob[at % len(blob)] ^= 1 << bit
            files[0].write_bytes(blob)
            self.damaged.add(entry)

    @rule(side=sides, value=values)
    def begin_mapping(self, side: int, value: int) -> None:
        """A large array is being written; until it is whole, nobody sees it."""
        stack = contextlib.ExitStack()
        array = stack.enter_context(self.stores[side].mapping("large", {"n": 0}, SHAPE))
        array[:] = value
        self.open.append((stack, value))

    @rule(at=st.integers(0, 5), fails=st.booleans())
    def end_mapping(self, at: int, fails: bool) -> None:
        """It is finished, or its writer fails."""
        if not self.open:
            return
        stack, value = self.open.pop(at % len(self.open))
        if fails:
            with contextlib.suppress(KeyboardInterrupt), stack:
                raise KeyboardInterrupt
        else:
            stack.close()
            self.mapped = value

    @rule()
    def sweep(self) -> None:
        """The files of writers that still run are no rubbish."""
        assert self.stores[0].sweep() == 0

    @invariant()
    def everyone_reads_what_was_written_last(self) -> None:
        """One side after each step, the other after the next: every entry."""
        self.turn = 1 - self.turn
        store = self.stores[self.turn]
        for kind in ("sae", "map"):
            for number in range(2):
                self.check(store, (kind, number))
        found = store.mapped("large", {"n": 0}, SHAPE)
        assert (found is None) == (self.mapped is None)
        assert found is None or (found == self.mapped).all()

    def check(self, store: Store, entry: tuple[str, int]) -> None:
        """One entry is the last written, or nothing, or said to be corrupt."""
        try:
            found = store.load(entry[0], {"n": entry[1]})
        except CorruptEntryError:
            assert entry in self.damaged
            return
        assert entry not in self.damaged
        assert (found is None) == (entry not in self.kept)
        assert found is None or is_entry(found, self.kept[entry])

    @invariant()
    def no_file_is_left_over(self) -> None:
        """One record an entry, one file of arrays where there are some, and the temporary files of what is being written."""
        files = [path for path in self.root.glob("*/*") if path.suffix not in (".lock",)]
        temporary = [path for path in files if path.name.startswith(".")]
        assert len(temporary) == len(self.open)
        expected = sum(1 + bool(value) for value in self.kept.values()) + 2 * (self.mapped is not None)
        assert len(files) - len(temporary) == expected


TestTwoStores = TwoStores.TestCase
TestTwoStores.settings = settings(max_examples=15, stateful_step_count=20)
