"""What once went wrong, or nearly: losses, hangs and false successes that a review found."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.unit.stream.places import Kept, Parts

from sidestage.clock import SystemClock
from sidestage.errors import DataError, DefinitionError, StreamFailed
from sidestage.policy.restart import Restart
from sidestage.policy.retry import Retry
from sidestage.stream.checkpoint import Checkpoint
from sidestage.stream.chunk import Chunk, Ledger
from sidestage.stream.contract import Batch, Refused
from sidestage.stream.failing import DeadLetter, Default, Desk, Halt, Raise, SetAside, Skip
from sidestage.stream.keys.spreading import spread
from sidestage.stream.letters.file import LetterFile, read_letters
from sidestage.stream.mailbox import Mailbox
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream
from sidestage.stream.windows.aggregates import count
from sidestage.stream.windows.plan import WindowPlan, tumbling
from sidestage.stream.windows.stage import WindowOperator
from sidestage.stream.windows.watermarks import EventTime

AT_ONCE = Settings(restart=Restart(delay=0.0, times=50))


def per_minute(**more: Any) -> WindowPlan:
    time_of = EventTime(at=lambda item: item[0])
    return WindowPlan(windows=tumbling(60), aggregate=count(), key=lambda item: item[1], time=time_of, **more)


class DiesOnce:
    """A function that ends its worker when it first meets an item."""

    def __init__(self, item: Any) -> None:
        self.item = item
        self.died = False

    def __call__(self, item: Any) -> Any:
        if item == self.item and not self.died:
            self.died = True
            raise SystemExit("off")
        return item


# Coroutines


async def picky(number: int) -> int:
    match number:
        case 3:
            raise ValueError(number)
        case 5:
            raise asyncio.CancelledError
        case 7:
            raise SystemExit("off")
    return number


def test_an_error_of_a_coroutine_ends_the_stream_with_it() -> None:
    with pytest.raises(StreamFailed, match="'picky' failed on 3"):
        Stream([1, 2, 3, 4]).map(picky, workers=2).to(Kept()).run()


def test_coroutines_that_leave_cost_their_item_only() -> None:
    sink, letters = Kept(), list[DeadLetter]()
    Stream(range(9)).map(picky, workers=4).to(sink).run(fail="soft", dead_letters=letters.append)
    assert sink.items == [0, 1, 2, 4, 6, 8]
    assert [(letter.item, letter.failure_class) for letter in letters] == [
        (3, "bug"),
        (5, "worker-died"),
        (7, "worker-died"),
    ]


def test_a_slow_sink_holds_up_a_stage_of_coroutines() -> None:
    read = []
    release = threading.Event()

    def numbers() -> Iterator[int]:
        for number in range(200_000):
            read.append(number)
            yield number

    async def same(number: int) -> int:
        return number

    class Slow(Kept):
        def write(self, items: Sequence[Any]) -> None:
            super().write(items)
            assert release.wait(120)

    sink = Slow()
    engine = Stream(numbers()).map(same, workers=10).to(sink).engine()
    engine.start()
    assert sink.written.wait(120)
    before = -1
    while len(read) != before:  # until nothing more is read
        before = len(read)
        time.sleep(0.3)
    assert before < 30_000
    release.set()
    engine.cancel()
    engine.wait()


# Workers that die


def test_a_death_after_a_batch_loses_nothing() -> None:
    source, sink = Parts({"a": range(6)}, sizes=[3]), Kept()
    Stream(source).batch(4).map(DiesOnce([0, 1, 2, 3])).to(sink).run(settings=AT_ONCE)
    assert sink.items == [[0, 1, 2, 3], [4, 5]]
    assert source.committed == {"a": 6}


def test_a_death_on_one_way_leaves_the_other_alone() -> None:
    source, left, right = Parts({"a": range(20)}, sizes=[5]), Kept(), Kept()
    stream = Stream(source)
    stream.to(left).also(stream.map(DiesOnce(7)).to(right)).run(settings=AT_ONCE)
    assert left.items == right.items == list(range(20))
    assert source.committed == {"a": 20}


def test_a_death_after_a_window_counts_nothing_twice() -> None:
    items = [(second, "e") for second in range(0, 180, 20)]
    sink = Kept()
    stream = Stream(Parts({"a": items}, sizes=[4])).window(per_minute()).map(lambda each: each.value)
    stream.map(DiesOnce(3)).to(sink).run(settings=AT_ONCE)
    assert sink.items == [3, 3, 3]


def test_the_policy_of_the_stage_itself_decides_about_deaths() -> None:
    def off(number: int) -> int:
        if number == 3:
            raise SystemExit("off")
        return number

    sink = Kept()
    Stream(range(5)).map(off, on_error=Default(-1)).to(sink).run(settings=AT_ONCE)
    assert sink.items == [0, 1, 2, -1, 4]
    letters: list[DeadLetter] = []
    flow = Stream(range(5)).filter(lambda _: True).map(off, on_error=SetAside()).to(Kept())
    flow.run(dead_letters=letters.append, settings=AT_ONCE)
    assert [letter.stage for letter in letters] == ["off"]


# Sinks


def test_what_is_refused_when_tried_again_is_all_that_is_set_aside() -> None:
    class Shaky(Kept):
        def write(self, items: Sequence[Any]) -> None:
            self.calls += 1
            if self.calls == 1:
                raise ConnectionError
            self.items += [item for item in items if item != 2]
            raise Refused({index: ValueError("two") for index, item in enumerate(items) if item == 2})

    sink, letters = Shaky(), list[DeadLetter]()
    flow = Stream([1, 2, 3]).to(sink, retry=Retry(times=3, delay=0.0))
    flow.run(fail="soft", dead_letters=letters.append)
    assert sink.items == [1, 3]
    assert [letter.item for letter in letters] == [2]


def test_one_bad_row_does_not_take_its_chunk_with_it() -> None:
    class Strict(Kept):
        def write(self, items: Sequence[Any]) -> None:
            if 3 in items:
                raise ValueError("three")
            super().write(items)

    sink, letters = Strict(), list[DeadLetter]()
    Stream(range(6)).to(sink).run(fail="soft", dead_letters=letters.append)
    assert sink.items == [0, 1, 2, 4, 5]
    assert [letter.item for letter in letters] == [3]


def test_sinks_with_several_workers_keep_the_order_of_keys() -> None:
    sink = Kept()
    items = [(number % 7, number) for number in range(2000)]
    stream = Stream(items).by_key(lambda item: item[0])
    stream.to(sink, workers=4).run(settings=Settings(chunk=5))
    assert sorted(sink.items) == sorted(items)
    assert sink.opened == sink.closed == 4
    for key in range(7):
        mine = [item for item in sink.items if item[0] == key]
        assert mine == sorted(mine)


def test_all_that_was_opened_is_closed_whatever_fails() -> None:
    class Closed(Kept):
        def open(self) -> "Closed":
            raise OSError("no place")

    class Unclosed(Kept):
        def close(self) -> None:
            super().close()
            raise OSError("cannot be closed")

    source, first = Parts({"a": range(3)}), Kept()
    stream = Stream(source)
    with pytest.raises(OSError, match="no place"):
        stream.to(first).also(stream.to(Closed())).run()
    assert (source.closed, first.opened - first.closed) == (1, 0)
    source, first, second = Parts({"a": range(3)}), Unclosed(), Kept()
    stream = Stream(source)
    with pytest.raises(OSError, match="cannot be closed"):
        stream.to(first).also(stream.to(second)).run()
    assert (source.closed, first.closed, second.closed) == (1, 1, 1)


# More than fits


def test_an_endless_stage_with_several_workers_is_held_up_like_any_other() -> None:
    def endless(number: int) -> Iterator[int]:
        while True:
            yield number

    sink = Kept()
    engine = Stream([1, 2]).flat_map(endless, workers=2).to(sink).engine()
    engine.start()
    assert sink.written.wait(120)
    engine.cancel()
    engine.wait()


def test_buffers_count_what_lists_hold() -> None:
    read: list[int] = []
    release = threading.Event()

    class Stuck(Kept):
        def write(self, items: Sequence[Any]) -> None:
            self.written.set()
            assert release.wait(120)

    def note(number: int) -> int:
        read.append(number)
        return number

    sink = Stuck()
    flow = Stream(range(100_000)).map(note).batch(100).to(sink, workers=1)
    engine = flow.engine(settings=Settings(chunk=100, buffer=300))
    engine.start()
    assert sink.written.wait(120)
    time.sleep(0.3)  # as long as it likes to read on
    assert len(read) <= 700
    release.set()
    engine.cancel()
    engine.wait()


def test_an_error_after_a_stage_that_makes_several_is_not_that_stages() -> None:
    def broken(number: int) -> int:
        raise ValueError(number)

    with pytest.raises(StreamFailed, match="'broken' failed"):
        Stream([20_000]).flat_map(range, on_error=Skip()).map(broken).to(Kept()).run()


# Windows and checkpoints


def test_two_windows_in_a_row_do_not_wait_for_each_other(tmp_path: Path) -> None:
    by_start = WindowPlan(
        windows=tumbling(600), aggregate=count(), time=EventTime(at=lambda each: each.start)
    )
    items = [(second, "e") for second in range(6000)]
    stream = Stream(Parts({"a": items}, sizes=[20])).map(lambda item: item, workers=2)
    sink = Kept()
    flow = stream.window(per_minute()).window(by_start).to(sink)
    flow.run(checkpoint=Checkpoint(tmp_path / "c"), settings=Settings(commit_every=0.0))
    assert [each.value for each in sink.items] == [10] * 10


def test_windows_go_on_only_where_their_keys_are(tmp_path: Path) -> None:
    def flow(workers: int, sink: Kept) -> Any:
        keyed = Stream(Parts({"a": [(1, "e"), (2, "u")]})).by_key(lambda item: item[1])
        return keyed.map(lambda item: item, workers=workers).window(per_minute(on_drain="keep")).to(sink)

    flow(4, Kept()).run(checkpoint=Checkpoint(tmp_path / "c"))
    with pytest.raises(DataError, match="of 4"):
        flow(2, Kept()).run(checkpoint=Checkpoint(tmp_path / "c"))
    assert [spread(key) for key in ("e", b"e", 7, 7.0, True, None, ("e", 1))] == [
        spread(key) for key in ("e", b"e", 7.0, 7, 1, None, ("e", 1))
    ]
    assert spread("region") == 2740768521267464717
    with pytest.raises(TypeError):
        spread(["e"])


def test_a_complete_run_is_not_repeated(tmp_path: Path) -> None:
    source = Parts({"a": [(1, "e"), (2, "e")]})
    results = []
    for _ in range(3):
        sink = Kept()
        flow = Stream(source).window(per_minute()).to(sink)
        flow.run(checkpoint=Checkpoint(tmp_path / "c"), settings=Settings(commit_every=0.0))
        results += sink.items
    assert [(each.start, each.value) for each in results] == [(0, 2)]


def test_each_source_has_a_time_of_its_own() -> None:
    halt = Halt()
    desk = Desk("window", Raise(), None, lambda letter: None, halt, lambda: 0.0, lambda death: None)
    following = Mailbox(100, halt, senders=1)
    operator = WindowOperator(per_minute(), SystemClock(), desk, Meter(), following, None, threading.Event())
    for source, second in (("slow", 0), ("fast", 600), ("fast", 1200)):
        ticket = Ledger(source).issue(Batch("all", 0, [], 1))
        operator.push(Chunk([(second, source)], (ticket,), 0.0))
    assert operator.state.watermark == 0
    assert operator.state.counts.late == 0


def test_windows_close_also_after_batches() -> None:
    items = [(second, "e") for second in range(0, 3000, 20)]
    sink = Kept()
    stream = Stream(Parts({"a": items}, sizes=[7])).batch(2).flat_map(list)
    stream.window(per_minute()).to(sink).run()
    assert Counter(each.kind for each in sink.items) == {"on time": 49, "drained": 1}


def test_cancelling_does_not_wait_for_the_next_checkpoint(tmp_path: Path) -> None:
    def endless() -> Iterator[tuple[int, str]]:
        while True:
            time.sleep(0.001)
            yield 1, "e"

    engine = (
        Stream(endless())
        .window(per_minute())
        .to(Kept())
        .engine(checkpoint=Checkpoint(tmp_path / "c"), settings=Settings(commit_every=3600))
    )
    engine.start()
    began = time.monotonic()
    engine.cancel()
    engine.wait()
    assert time.monotonic() - began < 1800


# Odd items


def test_half_a_character_in_an_error_is_kept(tmp_path: Path) -> None:
    def refuse(text: str) -> str:
        raise ValueError(f"bad key {text}")

    with LetterFile(tmp_path / "letters") as letters:
        Stream(["\ud800"]).map(refuse).to(Kept()).run(fail="soft", dead_letters=letters)
    (letter,) = read_letters(tmp_path / "letters")
    assert "bad key" in letter.message
    assert letter.value() == "\ud800"


def test_empty_batches_and_truths_that_raise() -> None:
    class Neither:
        def __bool__(self) -> bool:
            raise TypeError("neither")

    source = Parts({"a": [1, Neither(), 2]}, sizes=[0, 1, 0, 1])
    sink, letters = Kept(), list[DeadLetter]()
    Stream(source).filter(lambda item: item).batch(10).flat_map(list).to(sink).run(
        fail="soft", dead_letters=letters.append
    )
    assert sink.items == [1, 2]
    assert [str(letter.error) for letter in letters] == ["neither"]
    assert source.committed == {"a": 3}


def test_coroutines_are_refused_where_nobody_waits_for_them() -> None:
    for stream in (
        Stream([1]).filter(picky),
        Stream([1]).flat_map(picky),  # type: ignore[arg-type]
        Stream([1]).map(picky, on="process"),
    ):
        with pytest.raises(DefinitionError):
            stream.to(Kept()).explain()
    with pytest.raises(DefinitionError):
        Stream(Path("clicks.csv"))  # type: ignore[arg-type]


def test_draining_loses_nothing_that_was_taken_from_an_iterator() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(10**9):
            taken.append(number)
            yield number

    sink = Kept()
    engine = Stream(numbers()).map(lambda number: number).to(sink).engine()
    engine.start()
    assert sink.written.wait(120)
    engine.drain()
    engine.join()
    assert sink.items == taken
