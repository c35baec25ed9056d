"""Streams among coroutines: run, iterated over, and fed by asynchronous iterators."""

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest
from tests.unit.stream.places import Kept, Parts

from sidestage.errors import StreamFailed
from sidestage.events import Event
from sidestage.stream.checkpoint import Checkpoint
from sidestage.stream.failing import Abandoned
from sidestage.stream.life.phases import StreamCancelled, StreamCrashed, StreamEnded, ThreadsHang
from sidestage.stream.places.asynchronous import AsyncHandOver
from sidestage.stream.places.sources import source_of
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream

PATIENT = 120.0


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + PATIENT
    while left := [thread for thread in threading.enumerate() if thread not in before]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


class Notes(list[str]):
    """What a generator noted, and a way to wait for it."""

    def wait_for(self, what: str) -> None:
        deadline = time.monotonic() + PATIENT
        while what not in self:
            assert time.monotonic() < deadline, self
            time.sleep(0.005)


async def counted(upto: int) -> AsyncIterator[int]:
    for number in range(upto):
        if number % 100 == 0:
            await asyncio.sleep(0)
        yield number


async def silent(notes: Notes) -> AsyncIterator[int]:
    try:
        yield 1
        notes.append("waits")
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.01)
        notes.append("closed")


async def flood(notes: Notes) -> AsyncIterator[int]:
    number = 0
    try:
        while True:
            yield number
            number += 1
            if number % 1000 == 0:
                notes.append("1000")
                await asyncio.sleep(0)
    finally:
        notes.append("closed")


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENT):
        while not holds():  # noqa: ASYNC110 - of other threads
            await asyncio.sleep(0.01)


# Asynchronous sources


def test_an_asynchronous_iterator_is_read_in_order() -> None:
    assert list(Stream(counted(20_000)).map(lambda n: n * 2, workers=2)) == [n * 2 for n in range(20_000)]


def test_it_goes_on_after_what_was_dealt_with(tmp_path: Any) -> None:
    for upto in (50, 120):
        sink = Kept()
        checkpoint = Checkpoint(tmp_path / "c")
        Stream(counted(upto), name="n").to(sink).run(checkpoint=checkpoint)
    assert sink.items == list(range(50, 120))


@pytest.mark.parametrize("end", ["cancel", "drain"])
@pytest.mark.parametrize("generator", [silent, flood])
def test_one_that_waits_or_never_ends_is_cancelled_and_cleans_up(end: str, generator: Any) -> None:
    notes, sink = Notes(), Kept()
    engine = Stream(generator(notes)).to(sink).engine()
    engine.start()
    assert sink.written.wait(PATIENT)
    notes.wait_for("waits" if generator is silent else "1000")
    getattr(engine, end)()
    assert not engine.join().complete
    assert notes[-1] == "closed"
    assert sink.items == list(range(1, 2) if generator is silent else range(len(sink.items)))


def test_one_that_is_held_up_waits_and_is_closed() -> None:
    notes, go_on = Notes(), threading.Event()

    class Blocking(Kept):
        def write(self, items: Sequence[Any]) -> None:
            super().write(items)
            assert go_on.wait(PATIENT)

    engine = Stream(flood(notes)).to(Blocking(), workers=1).engine(settings=Settings(chunk=10, buffer=10))
    engine.start()
    count = -1
    while count != len(notes):
        count = len(notes)
        time.sleep(0.3)
    assert count < 10, "it is read ahead by a bounded number of items"
    engine.cancel()
    go_on.set()
    engine.join()
    assert notes[-1] == "closed"


def test_what_it_raises_ends_the_stream() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise OSError("gone")

    source_sink = Kept()
    with pytest.raises(OSError, match="gone"):
        Stream(broken()).to(source_sink).run()
    assert source_sink.items == [1]


def test_what_its_clean_up_raises_is_told() -> None:
    async def careless() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await asyncio.sleep(0.001)
        finally:
            raise OSError("cannot close")

    sink, events = Kept(), list[Event]()
    engine = Stream(careless()).to(sink).engine(listener=events.append)
    engine.start()
    assert sink.written.wait(PATIENT)
    engine.drain()
    with pytest.raises(OSError, match="cannot close"):
        engine.join()
    assert any(isinstance(event, StreamCrashed) for event in events)


def test_one_that_refuses_to_be_cancelled_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidestage.stream.places.async_sources._CLOSE_SECONDS", 0.2)
    over = threading.Event()

    async def stubborn() -> AsyncIterator[int]:
        yield 1
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.02)

    sink, events = Kept(), list[Event]()
    engine = Stream(stubborn(), name="mule").to(sink).engine(listener=events.append)
    engine.start()
    assert sink.written.wait(PATIENT)
    engine.cancel()
    engine.join()
    assert [event.threads for event in events if isinstance(event, ThreadsHang)] == [("mule reader",)]
    over.set()


def test_one_that_has_no_aclose_is_fine() -> None:
    class Three:
        def __init__(self) -> None:
            self.left = 3

        def __aiter__(self) -> "Three":
            return self

        async def __anext__(self) -> int:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return self.left

    assert list(Stream(Three())) == [2, 1, 0]
    assert source_of(Three(), "").name == "Three"


# Running


async def beats(while_running: "asyncio.Task[Any]", enough: threading.Event | None = None) -> int:
    """Return how often the loop got round to this meanwhile; say when it did so more than five times."""
    count = 0
    while not while_running.done():
        await asyncio.sleep(0.01)
        count += 1
        if count > 5 and enough is not None:
            enough.set()
    return count


def test_a_stream_runs_without_blocking_the_loop() -> None:
    async def main() -> None:
        sink, enough = Kept(), threading.Event()

        def held(number: int) -> int:
            assert enough.wait(PATIENT), "the loop is blocked"
            return number

        flow = Stream(Parts({"a": range(10)}, sizes=[1])).map(held).to(sink)
        task = asyncio.create_task(flow.arun())
        assert await beats(task, enough) > 5
        assert (await task).complete
        assert sink.items == list(range(10))

    run(main())


def test_what_a_stream_raises_is_raised() -> None:
    with pytest.raises(StreamFailed):
        run(Stream(["x"]).map(int).to(Kept()).arun())


def test_a_task_that_is_cancelled_cancels_the_stream() -> None:
    events: list[Event] = []
    source, sink = Parts({"a": range(10**9)}), Kept()

    async def main() -> None:
        task = asyncio.create_task(Stream(source).to(sink).arun(listener=events.append))
        await until(lambda: sink.items)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance(events[-1], StreamEnded)

    run(main())
    assert [event.why for event in events if isinstance(event, StreamCancelled)] == ["its task was cancelled"]
    assert source.closed == sink.closed == 1
    assert source.committed.get("a", 0) <= len(sink.items)


def test_a_task_that_is_cancelled_twice_waits_for_nobody() -> None:
    go_on, there = threading.Event(), threading.Event()

    def hang(_number: int) -> None:
        there.set()
        assert go_on.wait(PATIENT)

    async def main() -> None:
        task = asyncio.create_task(Stream([1]).map(hang).to(Kept()).arun())
        await until(there.is_set)
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    go_on.set()


# Iterating


def test_items_are_iterated_over_without_blocking_the_loop() -> None:
    async def main() -> list[int]:
        got: list[int] = []

        async def take() -> None:
            async for item in Stream(range(3000)).map(lambda n: n + 1, workers=2):
                got.append(item)  # noqa: PERF401

        task = asyncio.create_task(take())
        await beats(task)
        await task
        return got

    assert run(main()) == list(range(1, 3001))


def test_a_slow_loop_holds_the_stream_up() -> None:
    source = Parts({"a": range(10_000)}, sizes=[10])

    async def main() -> None:
        count = 0
        async for _ in Stream(source):
            if count == 5:
                before = list(source.commits)
                await asyncio.sleep(0.2)
                assert source.commits == before
            count += 1
        assert count == 10_000

    run(main())


def test_what_the_stream_raises_is_raised_while_iterating() -> None:
    async def main() -> list[int]:
        return [item async for item in Stream(["1", "2", "x"]).map(int)]

    with pytest.raises(StreamFailed):
        run(main())


async def leave_early(stream: "Stream[int]", _notes: Notes) -> None:
    items = stream.__aiter__()
    async for _ in items:
        break
    await items.aclose()  # type: ignore[attr-defined]


async def forget(stream: "Stream[int]", _notes: Notes) -> None:
    async def take_one() -> None:
        async for _ in stream:
            return

    await take_one()
    gc.collect()
    await asyncio.sleep(0.1)


async def be_cancelled(stream: "Stream[int]", notes: Notes) -> None:
    async def take() -> None:
        async for _ in stream.filter(lambda n: n < 1):
            notes.append("got one")

    task = asyncio.create_task(take())
    await until(lambda: "got one" in notes)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("leave", [leave_early, forget, be_cancelled])
def test_whoever_stops_iterating_stops_the_stream(leave: Callable[..., Any]) -> None:
    source = Parts({"a": range(10**9)})
    run(leave(Stream(source), Notes()))
    assert source.closed == 1
    assert source.commits == [] or leave is be_cancelled


def test_a_loop_that_is_closed_stops_whoever_writes() -> None:
    sink = AsyncHandOver()
    engine = Stream([1]).to(Kept()).engine()

    async def begin() -> None:
        assert [item async for item in sink.iterate(engine)] == []

    run(begin())
    with pytest.raises(Abandoned):
        sink.write([1])
