"""Load the next thing while this one is used: one worker, at most one ahead."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item", bound=Hashable)
Loaded = TypeVar("Loaded")


class Ahead(Generic[Item, Loaded]):
    """Load listed items; each time one is taken, a worker begins with the one after it.

    `room(item)` says whether there is memory for one more; without it the item is loaded when it is taken. Items may be
    skipped, and taken again. What loading raises is raised where that item is taken.
    """

    def __init__(
        self, load: Callable[[Item], Loaded], items: Sequence[Item], room: Callable[[Item], bool] = lambda _: True
    ):
        self._load, self._room = load, room
        self._next = dict(pairwise(items))
        self._begun: dict[Item, Future[Loaded]] = {}
        self._worker = ThreadPoolExecutor(1, "ahead")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._begun.clear()
        self._worker.shutdown(cancel_futures=True)

    def take(self, item: Item) -> Loaded:
        """The item, loaded, and nothing of those before it is held any more."""
        begun = self._begun.pop(item, None)
        self._begun.clear()
        loaded = self._load(item) if begun is None else begun.result()
        following = self._next.get(item)
        if following is not None and self._room(following):
            self._begun[following] = self._worker.submit(self._load, following)
        return loaded
