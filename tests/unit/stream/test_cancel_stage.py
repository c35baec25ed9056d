"""A branch of a stream is ended: nothing of it is lost uncounted, and the rest goes on."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.places import Kept, Parts
from tests.unit.stream.runs import nothing_left
from tests.unit.stream.test_cancel_worker import LONG, PATIENT, Hanging, all_but
from tests.unit.stream.test_join_pacing import Stepping, paced, wait_until_held
from tests.unit.stream.test_transactions import Ledger

from sidestage.errors import DefinitionError
from sidestage.events import Event
from sidestage.policy.breaker import Breaker
from sidestage.policy.rate import Rate
from sidestage.policy.retry import Retry
from sidestage.stream import (
    Checkpoint,
    EventTime,
    Flow,
    Guard,
    Settings,
    Spill,
    Stream,
    WindowPlan,
    count,
    tumbling,
)
from sidestage.stream.chunk import Chunk
from sidestage.stream.chunk import Ledger as Tickets
from sidestage.stream.contract import Batch
from sidestage.stream.engine import Engine
from sidestage.stream.failing import DeadLetter, Halt
from sidestage.stream.keys.lines import Lines
from sidestage.stream.scopes.events import SinkLeft, StageCancellation, StageCancelled

LAST = 99


class Blocked(Kept):
    """A sink that does not return from its first write until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.there = threading.Event()
        self.go_on = threading.Event()

    def write(self, items: Sequence[Any]) -> None:
        self.there.set()
        assert self.go_on.wait(PATIENT)
        super().write(items)


class Whole(Kept):
    """A sink that says when it was given the last of the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.has_all = threading.Event()

    def write(self, items: Sequence[Any]) -> None:
        super().write(items)
        if LAST in items:
            self.has_all.set()


def engine_of(flow: Flow, **terms: Any) -> Engine:
    terms.setdefault("settings", Settings(chunk=5, buffer=5))
    engine = flow.engine(**terms)
    engine.start()
    return engine


def cancelled(engine: Engine) -> dict[str, int]:
    return {each.name: each.cancelled for each in engine.counts() if each.cancelled}


def numbers() -> Parts:
    return Parts({"a": range(LAST + 1)}, sizes=[5])


def test_a_sink_that_hangs_holds_up_nobody_any_more() -> None:
    main, archive, source, events = Whole(), Blocked(), numbers(), list[Event]()
    stream = Stream(source)
    flow = stream.to(main, name="main").also(stream.to(archive, name="archive", workers=1))
    engine = engine_of(flow, listener=events.append)
    assert archive.there.wait(PATIENT)
    came = engine.cancel_stage("archive", why="its disk is full", by="ann")
    assert (came.stage, came.stages, came.sinks) == ("archive", ("archive",), ("archive",))
    assert main.has_all.wait(PATIENT), "though the other sink has not returned"
    archive.go_on.set()
    assert engine.join().complete
    assert main.items == all_but(100)
    assert len(archive.items) == 5
    assert cancelled(engine) == {"archive": 95}
    assert came.waiting <= 95
    assert source.committed == {"a": 100}, "what an operator gave up has been dealt with"
    assert archive.closed == 1
    (told,) = [event for event in events if isinstance(event, StageCancelled)]
    assert (told.stage, told.stages, told.by, told.why) == (
        "archive",
        ("archive",),
        "ann",
        "its disk is full",
    )
    assert 'pipeline_stage_cancelled_total{stage="archive"} 95' in engine.metrics()


def test_a_sink_that_is_waited_for_by_a_breaker_is_let_go_of() -> None:
    class Down(Kept):
        def write(self, items: Sequence[Any]) -> None:
            self.written.set()
            raise ConnectionError("it is down")

    main, archive, source = Kept(), Down(), numbers()
    stream = Stream(source)
    breaker = Breaker(in_a_row=1, pause=LONG, longest=LONG)
    flow = stream.to(main, name="main").also(stream.to(archive, name="archive", breaker=breaker))
    engine = engine_of(flow)
    assert archive.written.wait(PATIENT)
    engine.cancel_stage("archive")
    assert engine.join().complete
    assert main.items == all_but(100)
    assert cancelled(engine) == {"archive": 100}
    assert source.committed == {"a": 100}


def test_a_sink_in_the_thread_of_the_source_is_closed_before_the_rest_ends() -> None:
    go_on, main, archive, source = threading.Event(), Kept(), Kept(), numbers()

    def wait(number: int) -> int:
        if number == 10:
            assert go_on.wait(PATIENT)
        if number == 50:
            assert archive.closed == 1
        return number

    stream = Stream(source).map(wait)
    archived = stream.map(lambda n: n, name="pack").to(archive, name="archive")
    engine = engine_of(archived.also(stream.to(main, name="main")))
    assert archive.written.wait(PATIENT)
    came = engine.cancel_stage("archive")
    assert came == StageCancellation("archive", ("pack", "archive"), ("archive",), 0, 0)
    assert engine.cancel_stage("archive") == StageCancellation("archive", (), (), 0, 0)
    go_on.set()
    assert engine.join().complete
    assert main.items == all_but(100)
    assert len(archive.items) + sum(cancelled(engine).values()) == 100
    assert (archive.closed, source.committed) == (1, {"a": 100})


def test_what_the_workers_of_a_branch_have_in_hand_is_given_up() -> None:
    hanging, main, archive, source = Hanging(7), Kept(), Kept(), numbers()
    stream = Stream(source)
    archived = stream.map(hanging, timeout=LONG, workers=2).to(archive, name="archive")
    engine = engine_of(stream.to(main, name="main").also(archived))
    assert hanging.there.acquire(timeout=PATIENT)
    assert engine.cancel_stage("decode").workers >= 1
    assert engine.join().complete, "and it is no failure, though the stream would end at one"
    assert main.items == all_but(100)
    assert len(archive.items) + sum(cancelled(engine).values()) == 100
    assert len(set(archive.items)) == len(archive.items)
    assert source.committed == {"a": 100}
    hanging.go_on.set()


def test_coroutines_of_a_branch_are_cancelled() -> None:
    hanging, main, archive, source = Hanging(1, 2), Kept(), Kept(), numbers()
    stream = Stream(source)
    archived = stream.map(hanging.slowly, workers=4, ordered=False).to(archive, name="archive")
    engine = engine_of(stream.to(main, name="main").also(archived))
    for _ in hanging.at:
        assert hanging.there.acquire(timeout=PATIENT)
    engine.cancel_stage("archive")
    assert engine.join().complete
    assert main.items == all_but(100)
    assert len(archive.items) + sum(cancelled(engine).values()) == 100
    assert source.committed == {"a": 100}


Build = Callable[[Stream[int]], Stream[Any]]


def fails(_number: int) -> int:
    raise ConnectionError("away")


@pytest.mark.parametrize(
    "build",
    [
        lambda s: s.limit(Rate(1, seconds=LONG)),
        lambda s: s.limit(Rate(1, seconds=LONG), by=lambda n: n % 3, held=10),
        lambda s: s.map(fails, workers=1, retry=Retry(times=10, delay=LONG, longest=LONG)),
        lambda s: s.map(fails, workers=1).guarded(
            Guard(breaker=Breaker(in_a_row=1, pause=LONG, longest=LONG))
        ),
    ],
    ids=["limit", "limit by key", "retry", "guard"],
)
def test_waiting_in_a_branch_ends(build: Build) -> None:
    main, archive, source = Whole(), Kept(), numbers()
    stream = Stream(source)
    archived = build(stream).to(archive, name="archive")
    engine = engine_of(stream.to(main, name="main").also(archived))
    assert main.written.wait(PATIENT)
    engine.cancel_stage("archive")
    assert engine.join().complete
    assert main.items == all_but(100)
    assert len(archive.items) + sum(cancelled(engine).values()) == 100
    assert source.committed == {"a": 100}


def test_routes_and_failures_are_branches() -> None:
    def odd_fails(number: int) -> int:
        if number % 2:
            raise ValueError(number)
        return number

    hanging, low, high, failed, source = Hanging(20), Kept(), Whole(), Kept(), numbers()
    ways = Stream(source).map(hanging).route(lambda n: "low" if n < 50 else "high", ("low", "high"))
    done = ways["low"].map(odd_fails, workers=1)
    flow = done.to(low, name="low sink").also(
        ways["high"].to(high, name="high sink"), done.failures().to(failed, name="failed sink")
    )
    engine = engine_of(flow)
    assert hanging.there.acquire(timeout=PATIENT)
    assert "failed sink" in engine.cancel_stage("failed sink").sinks
    came = engine.cancel_stage("odd_fails")
    assert "low sink" in came.sinks
    hanging.go_on.set()
    assert engine.join().complete
    assert high.items == list(range(50, 100))
    assert len(low.items) + len(failed.items) + sum(cancelled(engine).values()) == 50
    assert source.committed == {"a": 100}


def test_what_would_lose_all_that_a_source_gives_is_refused() -> None:
    hanging = Hanging(0)
    stream = Stream(numbers()).map(hanging)
    flow = stream.to(Kept(), name="one").also(stream.to(Kept(), name="two"))
    engine = engine_of(flow)
    for name in ("decode", "parts"):
        with pytest.raises(DefinitionError, match="all that 'parts' gives goes there") as error:
            engine.cancel_stage(name)
        assert "engine.drain()" in error.value.hint
    engine.cancel_stage("one")
    with pytest.raises(DefinitionError, match="all that 'parts' gives goes there"):
        engine.cancel_stage("two")
    with pytest.raises(DefinitionError, match="no stage 'three'"):
        engine.cancel_stage("three")
    hanging.go_on.set()
    assert engine.join().complete
    with pytest.raises(DefinitionError, match="does not run"):
        engine.cancel_stage("two")


def test_transactions_and_sides_of_joins_are_refused() -> None:
    hanging, ledger = Hanging(0), Ledger()
    stream = Stream(numbers()).map(hanging)
    flow = stream.to(Kept(), name="plain").also(stream.to(ledger, name="ledger"))
    engine = engine_of(flow)
    with pytest.raises(DefinitionError, match="the transactions of 'ledger' keep how far"):
        engine.cancel_stage("ledger")
    engine.cancel_stage("plain")
    hanging.go_on.set()
    engine.join()
    hanging = Hanging(0)
    stream = Stream(numbers()).map(hanging)
    left = stream.map(lambda n: n, name="left")
    joined = left.join(stream, on=(lambda n: n, lambda n: n), within=(0, 0), time=(lambda n: n, lambda n: n))
    engine = engine_of(joined.to(Kept(), name="joined").also(stream.to(Kept(), name="main")))
    with pytest.raises(DefinitionError, match="wait for its side for ever"):
        engine.cancel_stage("left")
    hanging.go_on.set()
    engine.join()


def test_batches_keys_and_lists_in_a_branch_are_settled() -> None:
    main, archive, source = Whole(), Blocked(), numbers()
    stream = Stream(source)
    archived = (
        stream.by_key(lambda n: n % 5, into=4, spill=Spill(memory=10_000))
        .map(lambda n: n, name="by key", workers=2)
        .batch(7)
        .to(archive, name="archive", workers=1)
    )
    engine = engine_of(stream.to(main, name="main").also(archived))
    assert archive.there.wait(PATIENT)
    came = engine.cancel_stage("archive")
    assert came.stages[-1] == "archive"
    assert "by key" in came.stages
    assert main.has_all.wait(PATIENT)
    archive.go_on.set()
    assert engine.join().complete
    assert main.items == all_but(100)
    assert source.committed == {"a": 100}


def test_windows_of_a_branch_stay_in_the_checkpoint(tmp_path: Path) -> None:
    plan = WindowPlan(windows=tumbling(1000), aggregate=count(), time=EventTime(at=float))

    def flow(main: Kept, archive: Kept, wait: Callable[[int], int]) -> Flow:
        stream = Stream(source).map(wait)
        counted = stream.window(plan).to(archive, name="archive")
        return stream.to(main, name="main").also(counted)

    source, main, archive = numbers(), Kept(), Kept()
    terms = {"checkpoint": Checkpoint(tmp_path / "here"), "settings": Settings(chunk=5, commit_every=0.0)}
    engine: Engine

    def cancels(number: int) -> int:
        if number == 50:
            engine.cancel_stage("archive")
        return number

    engine = flow(main, archive, cancels).engine(**terms)
    assert engine.run().complete
    assert main.items == all_but(100)
    assert archive.items == [], "it was not given out"
    assert cancelled(engine) == {"window": 50}
    archive = Kept()
    flow(Kept(), archive, lambda n: n).engine(**terms).run()
    assert [each.value for each in archive.items] == [50], "the next run goes on with what was counted"


def test_a_sink_that_cannot_be_closed_is_told_and_ends_nothing() -> None:
    class Unclosed(Kept):
        def close(self) -> None:
            super().close()
            raise OSError("cannot be closed")

    for workers in (None, 1):
        main, archive, events, hanging = Kept(), Unclosed(), list[Event](), Hanging(50)
        stream = Stream(numbers()).map(hanging)
        archived = stream.to(archive, name="archive", workers=workers)
        engine = engine_of(stream.to(main, name="main").also(archived), listener=events.append)
        assert hanging.there.acquire(timeout=PATIENT)
        engine.cancel_stage("archive")
        hanging.go_on.set()
        assert engine.join().complete
        assert (main.closed, archive.closed) == (1, 1)
        told = [(event.sink, event.why) for event in events if isinstance(event, SinkLeft)]
        assert told == [("archive", "OSError")]


def test_a_stage_may_be_cancelled_by_its_own_function() -> None:
    main, source = Kept(), numbers()
    engine: Engine

    def ends_itself(number: int) -> int:
        if number == 20:
            engine.cancel_stage("ends_itself")
        return number

    stream = Stream(source)
    archived = stream.map(ends_itself, workers=1).to(Kept(), name="archive")
    engine = stream.to(main, name="main").also(archived).engine()
    assert engine.run().complete
    assert main.items == all_but(100)


# Lines


def chunk_of(tickets: Tickets, *items: int) -> Chunk:
    return Chunk(list(items), (tickets.issue(Batch("a", 0, list(items), 1)),), 0.0)


class Stored:
    def __init__(self, chunk: Chunk) -> None:
        self.load = len(chunk.items)
        self._chunk = chunk

    def read(self) -> Chunk:
        raise AssertionError("nobody wants it")

    def unread(self) -> Chunk:
        return self._chunk


def test_lines_that_are_shut_drop_all_that_waits_and_comes() -> None:
    tickets, dropped = Tickets(), list[int]()
    lines = Lines(2, 4, Halt(), senders=1)

    def drop(chunk: Chunk) -> None:
        dropped.extend(chunk.items)
        chunk.settle()

    def parted(chunk: Chunk) -> tuple[Chunk | None, Chunk | None]:
        lines.shut(drop)  # while a line is being divided
        return chunk, None

    lines.put(lines[0], chunk_of(tickets, 1))
    lines.put(lines[1], chunk_of(tickets, 2))
    lines.store(lines[1], Stored(chunk_of(tickets, 3)))
    own = lines.divide(lines[0], 0, parted)
    assert own is not None
    assert sorted(dropped) == [1, 2, 3]
    assert lines.put(own, chunk_of(tickets, 4))
    lines.store(lines[0], Stored(chunk_of(tickets, 5)))
    rest = [(lines[0], chunk_of(tickets, 6))]
    assert lines.offer(rest) == rest, "to be put in one by one"
    assert lines.put(*rest[0])
    assert dropped[3:] == [4, 5, 6]
    assert (lines.pending, lines.is_over, tickets.unsettled) == (0, True, 0)
    lines.finish()
    assert lines.is_over
    assert lines.take(None) is None


# Anything at any time


class Faulty:
    """Fails on some numbers, and cancels something on others."""

    def __init__(self, bad: int, when: dict[int, str], cancel: Callable[[str], None]) -> None:
        self.bad = bad
        self._when = when
        self._cancel = cancel
        self.__name__ = "faulty"

    def __call__(self, number: int) -> int:
        what = self._when.get(number)
        if what is not None:
            self._cancel(what)
        if number % 17 == self.bad:
            raise ValueError(number)
        return number


def slowly(number: int) -> int:
    if number % 10 == 0:
        time.sleep(0.003)  # so that there is something in hand to be given up
    return number


async def aslowly(number: int) -> int:
    if number % 10 == 0:
        await asyncio.sleep(0.003)
    return number


SHAPES: dict[str, Build] = {
    "plain": lambda s: s,
    "workers": lambda s: s.map(lambda n: n, workers=2),
    "keys": lambda s: s.by_key(lambda n: n % 7, into=4).map(lambda n: n, workers=2),
    "limit": lambda s: s.limit(Rate(10_000)),
    "limit by key": lambda s: s.limit(Rate(10_000), by=lambda n: n % 3),
    "timed": lambda s: s.map(slowly, workers=2, timeout=LONG),
    "coroutines": lambda s: s.map(aslowly, workers=2),
}


@given(
    st.sampled_from(sorted(SHAPES)),
    st.sampled_from(sorted(SHAPES)),
    st.dictionaries(st.integers(0, LAST), st.sampled_from(["left", "right", "worker"]), max_size=4),
    st.integers(0, 20),
    st.sampled_from([None, 1, 3]),
    st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_each_item_ends_once_in_each_branch_whatever_is_cancelled(
    left_shape: str, right_shape: str, when: dict[int, str], bad: int, workers: int | None, chunk: int
) -> None:
    engine: Engine
    ended: list[str] = []

    def cancel(what: str) -> None:
        if what == "worker":
            for each in engine.workers():
                engine.cancel_worker(each.stage, each.number)
            return
        try:
            engine.cancel_stage(f"{what} sink")
            ended.append(what)
        except DefinitionError:
            assert ended, "only the last branch is refused"

    with nothing_left():
        source, left, right, letters = numbers(), Kept(), Kept(), list[DeadLetter]()
        stream = Stream(source)
        canceller = Faulty(bad, when, cancel)
        one = SHAPES[left_shape](stream.map(canceller, workers=workers)).to(left, name="left sink")
        trunk = SHAPES[right_shape](stream)
        two = trunk.map(Faulty(bad, {}, cancel), name="right faulty").to(right, name="right sink")
        flow = one.also(two)
        engine = flow.engine(
            fail="soft", dead_letters=letters.append, settings=Settings(chunk=chunk, buffer=chunk)
        )
        ran = engine.run()
        assert ran.complete
        counts = {each.name: each for each in engine.counts()}
    given_up = sum(each.cancelled for each in counts.values()) - sum(
        letter.failure_class == "cancelled" for letter in letters
    )
    assert len(left.items) + len(right.items) + len(letters) + given_up == 2 * (LAST + 1)
    assert len(set(left.items)) == len(left.items)
    assert len(set(right.items)) == len(right.items)
    if not ended:
        assert given_up == 0
    if "left" not in ended and "worker" not in when.values():
        assert sorted(left.items) == [number for number in range(LAST + 1) if number % 17 != bad]
    assert source.committed == {"a": LAST + 1}


def test_a_source_does_not_wait_for_a_join_that_was_cancelled() -> None:
    fast, slow = Stepping(500), Stepping(500, stop=100)
    one, other, mains = Stream(fast, name="fast"), Stream(slow, name="slow"), (Kept(), Kept())
    joined = paced(one, other, idle=LONG).to(Kept(), name="joined")
    flow = joined.also(one.to(mains[0], name="one"), other.to(mains[1], name="other"))
    engine = engine_of(flow)
    wait_until_held(engine)
    assert "joined" in engine.cancel_stage("joined").sinks
    for _ in range(6000):
        if len(mains[0].items) == 500:
            break
        assert not engine.wait(0.01)
    else:
        pytest.fail("it waits")
    slow.go_on.set()
    assert engine.join().complete
    assert [len(main.items) for main in mains] == [500, 500]
