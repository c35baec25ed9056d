"""The lines in which keys wait, and the place where what overflows is put aside."""

import os
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from sidestage.stream.chunk import Chunk
from sidestage.stream.failing import Halt
from sidestage.stream.keys.hot_keys import Alarm
from sidestage.stream.keys.lines import Line, Lines, Taken
from sidestage.stream.keys.outlets import Numbers
from sidestage.stream.keys.overflow import LineOutlets
from sidestage.stream.keys.spill import Spill, Store
from sidestage.testing.turned_clock import HandClock

Item = tuple[int, int]

SECONDS = 30.0
"""After which a test that waits for something has failed."""


def key_of(item: Item) -> int:
    return item[0]


# Lines


def chunk_of(*items: Any) -> Chunk:
    return Chunk(list(items), (), 0.0)


def items_of(taken: Taken | None) -> list[Any]:
    assert taken is not None
    return taken.chunk.items


def test_a_line_is_taken_from_by_one_at_a_time_and_all_in_turn() -> None:
    lines = Lines(3, 30, Halt(), senders=1)
    assert (
        lines.offer([(lines[0], chunk_of("a")), (lines[0], chunk_of("b")), (lines[1], chunk_of("c"))]) == []
    )
    assert lines.pending == 3
    first, second = lines.take(None), lines.take(None)
    assert (items_of(first), items_of(second)) == (["a"], ["c"])
    assert lines.take(0.0) is None, "what is left has to wait"
    assert first is not None
    assert second is not None
    assert items_of(lines.take(None, first.line)) == ["b"]
    lines.finish()
    assert lines.take(None, second.line) is None
    assert lines.is_over


def test_a_full_line_does_not_keep_others_from_getting_theirs() -> None:
    halt = Halt()
    lines = Lines(2, 4, halt, senders=1)
    full = [(lines[0], chunk_of("a", "b", "c")), (lines[0], chunk_of("d")), (lines[1], chunk_of("e"))]
    left = lines.offer(full)
    assert [(line.number, chunk.items) for line, chunk in left] == [(0, ["d"])]
    assert lines.put(lines[0], chunk_of("d"), within=0.0) is False
    assert items_of(lines.take(None)) == ["a", "b", "c"]
    assert lines.put(lines[0], chunk_of("d"))
    assert items_of(lines.take(None)) == ["e"]


class Bench:
    """Lines with a sender, and one worker who has nothing to do."""

    def __init__(self, most: int = 4) -> None:
        self.halt = Halt()
        self.lines = Lines(2, 2 * most, self.halt, senders=1)
        numbers = Numbers(key_of, hash, None, "by_key")
        self.outlets = LineOutlets(self.lines, numbers, Alarm("stage", HandClock(), None), None)
        self.found: list[Taken | None] = []
        self.idle = threading.Thread(target=self._take)

    def _take(self) -> None:
        self.found.append(self.lines.take(SECONDS))

    def send(self, *items: Item) -> None:
        chunk = chunk_of(*items)
        self.outlets.send([(items[0][0] % 2, chunk)])


def test_a_key_that_fills_a_line_is_given_one_of_its_own_until_it_is_dealt_with() -> None:
    bench = Bench()
    lines = bench.lines
    bench.send((0, 1), (2, 1))
    taken = lines.take(None)
    assert taken is not None
    bench.idle.start()
    bench.send((0, 2), (2, 2), (0, 3))
    bench.send((0, 4), (2, 3))  # there is no room, and somebody waits for work
    ((line, own),) = lines.own.items()
    assert (line, list(own)) == (lines[0], [0])
    assert bench.found == [], "neither line goes on before what was taken is done"
    lines.give_back(taken.line)
    bench.idle.join(SECONDS)
    (mine,) = bench.found
    other = lines.take(None)
    assert mine is not None
    assert other is not None
    by_line = {taken.line is lines[0]: taken.chunk.items for taken in (mine, other)}
    assert by_line == {True: [(2, 2)], False: [(0, 2), (0, 3)]}
    bench.send((0, 5), (2, 4))
    rest = defaultdict[bool, list[Item]](list)
    for at_first in (mine, other):
        back: Line | None = at_first.line
        while (more := lines.take(0.0, back)) is not None:
            rest[more.line is lines[0]] += more.chunk.items
            back = more.line
    assert rest == {True: [(2, 3), (2, 4)], False: [(0, 4), (0, 5)]}
    assert not lines.own, "a line of one key is no more once nothing waits in it"
    assert lines.pending == 0
    bench.send((0, 6), (2, 5))
    assert items_of(lines.take(None)) == [(0, 6), (2, 5)]


def test_a_line_of_many_keys_is_not_divided() -> None:
    bench = Bench()
    bench.send((0, 1))
    taken = bench.lines.take(None)
    assert taken is not None
    bench.idle.start()
    bench.send((0, 2), (2, 2), (4, 2), (6, 2))
    sent = threading.Thread(target=bench.send, args=((8, 1),))
    sent.start()
    sent.join(0.3)
    assert sent.is_alive()
    assert not bench.lines.own
    bench.lines.give_back(taken.line)
    sent.join(SECONDS)
    bench.idle.join(SECONDS)
    assert [items_of(found) for found in bench.found] == [[(0, 2), (2, 2), (4, 2), (6, 2)]]


# What is put aside


def test_a_store_keeps_to_its_bounds_and_gives_files_back_when_they_are_read(tmp_path: Path) -> None:
    store = Store(Spill(tmp_path, memory=10, most=100))
    lines = [Line(0), Line(1)]
    kept = [store.keep(lines[n % 2], bytes([n]) * 10) for n in range(12)]
    assert [place is not None for place in kept] == [True] * 11 + [False]
    assert (store.in_memory, store.on_disk) == (10, 100)
    assert "100 bytes" in store.refusal
    assert list(tmp_path.iterdir()) == [], "its files have no names: nobody has to tidy up after a crash"
    for n, place in enumerate(kept):
        if place is not None:
            assert store.take(place) == bytes([n]) * 10
    assert (store.in_memory, store.on_disk) == (0, 0)
    again = store.keep(lines[0], b"x" * 100)
    assert again is not None
    assert store.take(again) == b"x" * 100
    assert Store(Spill(memory=5)).keep(lines[0], b"123456") is None


def test_a_disk_that_is_full_refuses_and_what_is_there_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, line = Store(Spill(tmp_path, memory=0)), Line(0)
    first = store.keep(line, b"first")
    assert first is not None
    file = store._current[line].file

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(file, name)

        def write(self, view: memoryview) -> int:
            if len(view) > 2:
                return file.write(view[: len(view) - 2])
            raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr(store._current[line], "file", Full())
        assert store.keep(line, b"second") is None
        assert store.refusal == f"{tmp_path}: {os.strerror(28)}"
    third = store.keep(line, b"third")
    assert third is not None
    assert [store.take(place) for place in (first, third)] == [b"first", b"third"]
    store.close()
