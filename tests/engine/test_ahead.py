"""The next thing is loaded while one is used; nothing is held that nobody will take."""

import threading
import weakref

import pytest

from dm_utils.engine.ahead import Ahead


class Loads:
    """Records which items are loaded, and by which thread; some cannot be."""

    def __init__(self, broken=()):
        self.broken, self.threads, self.came = broken, {}, threading.Event()

    def __call__(self, item):
        self.threads.setdefault(item, []).append(threading.current_thread())
        self.came.set()
        if item in self.broken:
            raise OSError(f"{item} cannot be read")
        return item.upper()


def test_the_next_is_begun_when_one_is_taken_and_no_further():
    load, asked = Loads(), []
    with Ahead(load, "abcd", room=lambda item: not asked.append(item)) as ahead:
        assert ahead.take("a") == "A"
        load.came.clear()
        assert "b" in load.threads or load.came.wait(60), "begun without being asked for"
        assert asked == ["b"] and load.threads.keys() == {"a", "b"}
        assert [ahead.take(item) for item in "bcd"] == ["B", "C", "D"]
    main = threading.current_thread()
    assert [threads == [main] for threads in load.threads.values()] == [True, False, False, False]


def test_what_fails_to_load_is_said_when_it_is_taken_and_the_rest_goes_on():
    with Ahead(Loads(broken="b"), "abc") as ahead:
        assert ahead.take("a") == "A"
        with pytest.raises(OSError, match="b cannot be read"):
            ahead.take("b")
        assert ahead.take("c") == "C"


class Weights:
    """Something large."""


def test_an_item_that_is_skipped_is_let_go():
    held, came = weakref.WeakValueDictionary(), threading.Event()

    def load(item):
        found = held[item] = Weights()
        if item == "b":
            came.set()
        return found

    with Ahead(load, "abc") as ahead:
        ahead.take("a")
        assert came.wait(60)
        assert isinstance(ahead.take("c"), Weights)
        patience = threading.Event()
        while "b" in held:  # the worker may still be at it
            patience.wait(0.01)


def test_an_item_may_be_taken_again_and_one_that_is_not_listed_too():
    load = Loads()
    with Ahead(load, "ab") as ahead:
        assert [ahead.take(item) for item in "aabz"] == ["A", "A", "B", "Z"]


def test_without_room_nothing_is_loaded_ahead():
    load = Loads()
    with Ahead(load, "abc", room=lambda item: item != "b") as ahead:
        assert [ahead.take("a"), ahead.take("b")] == ["A", "B"]
    assert load.threads["b"] == [threading.current_thread()]


def test_leaving_waits_for_what_was_begun():
    before = threading.active_count()
    with pytest.raises(KeyError, match="the user's"), Ahead(Loads(), "ab") as ahead:
        ahead.take("a")
        raise KeyError("the user's")
    assert threading.active_count() == before


def test_no_two_items_are_loaded_ahead_at_a_time():
    """One that was skipped while it loads is waited for: there is room for one more and not for two."""
    running, most, release = [], [], threading.Event()

    def load(item):
        if threading.current_thread() is threading.main_thread():
            return item
        running.append(item)
        most.append(len(running))
        release.wait(5)
        running.remove(item)
        return item

    with Ahead(load, "abcd") as ahead:
        ahead.take("a")  # begins b
        ahead.take("c")  # b is not wanted any more, and d may begin when it has ended
        threading.Timer(0.2, release.set).start()
        assert ahead.take("d") == "d"
    assert max(most) == 1
