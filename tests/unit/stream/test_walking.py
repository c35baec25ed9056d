"""A stream that is stopped leaves its chunks between two items, not after a thousand of them."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.unit.stream.places import Kept, Parts

from sidestage.errors import StreamFailed
from sidestage.stream import Refused, Stream
from sidestage.stream.failing import Halt, Stopped
from sidestage.stream.walking import Walk

Staged = Callable[[Stream[int], Callable[[int], Any]], Stream[Any]]

STAGES: dict[str, Staged] = {
    "map": lambda stream, function: stream.map(function),
    "map of its own": lambda stream, function: stream.map(function, workers=1),
    "filter": lambda stream, function: stream.filter(function),
    "flat_map": lambda stream, function: stream.flat_map(lambda number: [function(number)]),
    "look_up": lambda stream, function: stream.look_up(lambda n: n, function, lambda n, found: found.value),
}


class Calls:
    """A function that is at its third item when it is told to be, and until it may go on."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.there = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, number: int) -> int:
        self.seen.append(number)
        if len(self.seen) == 3:
            self.there.set()
            assert self.go_on.wait(60)
        return number + 1


@pytest.mark.parametrize("name", STAGES)
def test_cancelling_does_not_wait_for_the_other_items_of_a_chunk(name: str) -> None:
    source, sink, calls = Parts({"a": range(1000)}, sizes=[1000]), Kept(), Calls()
    engine = STAGES[name](Stream(source), calls).to(sink).engine()
    engine.start()
    assert calls.there.wait(60)
    engine.cancel()
    calls.go_on.set()
    assert not engine.join().complete
    assert calls.seen == [0, 1, 2]
    assert (sink.items, source.committed) == ([], {})


def test_an_error_elsewhere_ends_a_slow_stage_as_well() -> None:
    calls = Calls()

    def fail(number: int) -> int:
        assert calls.there.wait(60)
        raise ValueError(number)

    slow = Stream(Parts({"a": range(1000)}, sizes=[1000])).map(calls)
    bad = Stream(Parts({"b": range(1)}, sizes=[1])).map(fail)
    engine = slow.to(Kept()).also(bad.to(Kept())).engine()
    engine.start()
    assert calls.there.wait(60)
    while engine.phase != "crash":
        threading.Event().wait(0.01)
    calls.go_on.set()
    with pytest.raises(StreamFailed, match="ValueError: 0"):
        engine.join()
    assert calls.seen == [0, 1, 2]


class Picky:
    """A sink that takes nothing, and is slow about it."""

    name = "picky"

    def __init__(self) -> None:
        self.calls = Calls()

    def open(self) -> "Picky":
        return self

    def write(self, items: Sequence[int]) -> None:
        self.calls(items[0])
        if len(items) > 1:
            raise ValueError("one of them is bad")
        raise Refused({0: ValueError("bad")})

    def close(self) -> None: ...


def test_a_sink_is_not_asked_about_each_item_once_all_is_to_stop() -> None:
    source, sink = Parts({"a": range(1000)}, sizes=[1000]), Picky()
    letters: list[Any] = []
    engine = Stream(source).to(sink).engine(fail="soft", dead_letters=letters.append)
    engine.start()
    assert sink.calls.there.wait(60)
    engine.cancel()
    sink.calls.go_on.set()
    engine.join()
    assert (len(sink.calls.seen), source.committed) == (3, {})


def test_what_is_no_list_is_gone_through_to_its_end() -> None:
    halt = Halt()
    walk = Walk(halt)
    items = walk.through(deque([1, 2, 3]))  # type: ignore[arg-type]
    assert next(items) == 1
    halt.stop()
    assert list(items) == [2, 3]
    with pytest.raises(Stopped):
        walk.through([1])


@pytest.mark.parametrize("items", [[1, 2, 3], (1, 2, 3)])
def test_nothing_comes_any_more_once_all_is_to_stop(items: Sequence[int]) -> None:
    halt = Halt()
    walk = Walk(halt)
    way = walk.through(items)
    assert next(way) == 1
    halt.stop()
    assert list(way) == []
    halt.stop()
