"""Guards of stages: timeouts in threads, bulkheads and circuits, shared or not, and who hears of them."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from tests.unit.stream.places import Kept, Parts

from sidestage.clock import SystemClock
from sidestage.errors import DefinitionError, StreamFailed
from sidestage.events import Event
from sidestage.policy.breaker import Breaker, Circuit, CircuitOpen, CircuitTurned
from sidestage.policy.bulkhead import Bulkhead, CallLate, ThreadBulkhead, ThreadWrittenOff
from sidestage.policy.fallback import FallbackTurned
from sidestage.policy.retry import Retry
from sidestage.policy.surge import Surge
from sidestage.stream.failing import DeadLetter, Halt, Skip, Stopped
from sidestage.stream.guarding.calls import GuardedCall, Outage
from sidestage.stream.guarding.guard import Guard
from sidestage.stream.guarding.writer import GuardedWriter
from sidestage.stream.lookups.cache import Cache, Found
from sidestage.stream.nodes import Manner
from sidestage.stream.observing.exposition import exposition
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream
from sidestage.testing.turned_clock import HandClock

QUICK = Breaker(in_a_row=3, pause=0.02, longest=0.05, least=100)
SHORT = 1.5
LONG = 30.0


class HandHalt(Halt):
    """Waits by turning a clock; it may be that everybody is told to stop meanwhile."""

    def __init__(self, clock: HandClock, *, stops: bool = False) -> None:
        super().__init__()
        self._clock = clock
        self._stops = stops

    def wait(self, seconds: float) -> bool:
        self._clock.advance(seconds)
        if self._stops:
            self.stop()
        return self.is_set


class Hangs:
    """A place that does not answer to some items, until the test is over."""

    def __init__(self, on: set[Any], times: int = 1_000) -> None:
        self.on = on
        self.times = times
        self.let_go = threading.Event()
        self.asked: list[Any] = []

    def __call__(self, item: Any) -> Any:
        self.asked.append(item)
        if item in self.on and self.times > 0:
            self.times -= 1
            assert self.let_go.wait(LONG)
        return item * 10


@pytest.fixture
def hangs() -> Iterator[Callable[..., Hangs]]:
    made: list[Hangs] = []

    def make(*on: Any, **more: Any) -> Hangs:
        made.append(Hangs(set(on), **more))
        return made[-1]

    yield make
    for each in made:
        each.let_go.set()
    _await_threads()


def _await_threads() -> None:
    """Wait until no thread of a bulkhead is left: what was let go ends by itself."""
    until = time.monotonic() + LONG
    while _bulkhead_threads() and time.monotonic() < until:
        time.sleep(0.001)
    assert not _bulkhead_threads()


def _bulkhead_threads() -> list[threading.Thread]:
    return [
        each
        for each in threading.enumerate()
        if getattr(getattr(each, "_target", None), "__module__", "") == ThreadBulkhead.__module__
    ]


class Outages:
    """A place that is away for its first calls."""

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.asked: list[Any] = []
        self._lock = threading.Lock()

    def __call__(self, item: Any) -> Any:
        with self._lock:
            self.asked.append(item)
            away = len(self.asked) <= self.calls
        if away:
            raise ConnectionError("the place is away")
        if item == 13:
            raise ValueError("unlucky")
        return item * 10


def turns(heard: Sequence[Event]) -> list[tuple[str, str]]:
    return [(each.circuit, each.after) for each in heard if isinstance(each, CircuitTurned)]


# Timeouts in threads


@pytest.mark.parametrize("workers", [None, 2])
def test_a_call_that_is_late_is_an_error_of_its_item_only(
    hangs: Callable[..., Hangs], workers: int | None
) -> None:
    sink, letters, place, heard = Kept(), list[DeadLetter](), hangs(3), list[Event]()
    Stream(range(6)).map(place, name="ask", workers=workers, timeout=SHORT).to(sink).run(
        fail="soft", dead_letters=letters.append, listener=heard.append
    )
    assert sink.items == [0, 10, 20, 40, 50]
    (letter,) = letters
    assert isinstance(letter.error, CallLate)
    assert (letter.item, letter.failure_class, letter.stage) == (3, "transient", "ask")
    assert [each.bulkhead for each in heard if isinstance(each, ThreadWrittenOff)] == ["ask"]


def test_a_late_call_is_tried_again_and_its_late_answer_is_dropped(hangs: Callable[..., Hangs]) -> None:
    sink, place = Kept(), hangs(3, times=1)
    Stream(range(5)).map(place, timeout=SHORT, retry=Retry(times=1, delay=0.001)).to(sink).run()
    place.let_go.set()
    assert sink.items == [0, 10, 20, 30, 40]
    assert place.asked.count(3) == 2


def test_late_calls_of_filters_and_of_functions_of_tables_are_errors_too(hangs: Callable[..., Hangs]) -> None:
    passes, place = hangs(3), hangs(3)
    assert list(Stream(range(6)).filter(passes, timeout=SHORT, on_error=Skip())) == [1, 2, 4, 5]
    lists = Stream(range(6)).map_batches(
        lambda some: [place(each) for each in some], 2, of="list", timeout=SHORT, on_error=Skip()
    )
    assert list(lists) == [0, 10, 40, 50]


def test_a_stage_without_a_timeout_is_called_by_its_own_worker() -> None:
    names: set[str] = set()

    def note(item: int) -> int:
        names.add(threading.current_thread().name)
        return item

    Stream(range(3), name="numbers").map(note).to(Kept()).run()
    assert names == {"numbers 1"}


def test_a_cancelled_stream_does_not_wait_for_a_call_that_hangs(hangs: Callable[..., Hangs]) -> None:
    place, source = hangs(0), Parts({"a": [0, 1]})
    engine = Stream(source).map(place, timeout=LONG * 10).to(Kept()).engine()
    engine.start()
    while not place.asked:
        time.sleep(0.001)
    engine.cancel()
    engine.join()
    assert source.committed == {}


def test_no_thread_of_a_guard_outlives_its_stream() -> None:
    Stream(range(5)).map(abs, workers=2, timeout=LONG).to(Kept(), timeout=LONG).run()
    _await_threads()


# Sinks


class Stalls(Kept):
    """A sink whose first writes do not return until the test is over."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.let_go = threading.Event()
        self.left = writes
        self.threads: set[str] = set()

    def write(self, items: Sequence[Any]) -> None:
        self.threads.add(threading.current_thread().name)
        if self.left:
            self.left -= 1
            assert self.let_go.wait(LONG)
            return
        super().write(items)


@pytest.mark.parametrize("breaker", [None, QUICK])
def test_a_sink_that_does_not_answer_is_opened_anew(breaker: Breaker | None) -> None:
    sink, source = Stalls(1), Parts({"a": list(range(10))}, sizes=[4])
    retry = None if breaker else Retry(times=2, delay=0.001)
    try:
        Stream(source).to(sink, timeout=SHORT, retry=retry, breaker=breaker).run()
    finally:
        sink.let_go.set()
    _await_threads()
    assert sink.items == list(range(10))
    assert source.committed == {"a": 10}
    assert sink.opened == sink.closed == 2, "the writer that was given up is closed once it lets go"
    assert len(sink.threads) == 2


def test_a_cancelled_stream_closes_sinks_that_have_timeouts() -> None:
    """They once were not closed: whoever asked whether to stop was told so, and closed nothing."""
    sink = Kept()
    engine = Stream(_endless()).to(sink, timeout=LONG).engine()
    engine.start()
    assert sink.written.wait(LONG)
    engine.cancel()
    engine.join()
    assert sink.opened == sink.closed == 1


def _endless() -> Iterator[int]:
    while True:
        yield 1


def test_a_cancelled_stream_leaves_a_sink_that_hangs_to_its_thread() -> None:
    sink, source = Stalls(1), Parts({"a": [1, 2]})
    engine = Stream(source).to(sink, timeout=LONG * 10).engine()
    engine.start()
    while not sink.threads:
        time.sleep(0.001)
    engine.cancel()
    engine.join()
    assert sink.closed == 0, "nobody closes what somebody is still at work with"
    sink.let_go.set()
    _await_threads()
    assert sink.opened == sink.closed == 1
    assert source.committed == {}


def test_a_sink_that_fails_is_not_called_again_at_once_while_its_circuit_is_closed() -> None:
    """It once was: as fast as it could fail, where the breaker looked at shares only."""
    clock, sink = HandClock(), Kept(fail={1, 2, 3})
    breaker = Breaker(in_a_row=None, least=100, pause=10.0)
    GuardedWriter(sink, Circuit("kept", breaker, clock), breaker, HandHalt(clock)).write([1])
    assert (sink.calls, clock.monotonic()) == (4, pytest.approx(3 * 0.2))


def test_a_sink_that_never_answers_fails_its_items() -> None:
    sink = Stalls(1000)
    try:
        with pytest.raises(StreamFailed, match="did not return within"):
            Stream([1, 2]).to(sink, timeout=SHORT).run()
    finally:
        sink.let_go.set()
    _await_threads()


def test_a_sink_with_a_timeout_stays_with_one_thread_and_its_errors_are_told() -> None:
    sink = Stalls(0)
    sink.fail = {2}
    source = Parts({"a": list(range(30))}, sizes=[10])
    Stream(source).to(sink, timeout=LONG, retry=Retry(times=1, delay=0.001)).run()
    assert sink.items == list(range(30))
    assert len(sink.threads) == 1
    assert sink.opened == sink.closed == 1


# Circuits of stages


def outage(clock: HandClock, breaker: Breaker, patience: float | None = None) -> Outage:
    return Outage(Circuit("place", breaker, clock), breaker, patience, clock)


def test_failures_of_a_place_are_waited_out_by_the_hand_clock() -> None:
    clock, place = HandClock(), Outages(5)
    breaker = Breaker(in_a_row=2, pause=10.0)
    call = GuardedCall(place, outage(clock, breaker), HandHalt(clock))
    assert call(7) == 70
    assert place.asked == [7] * 6
    # Two failures open it, with a moment between them; three trials fail, after 10, 20 and 40 seconds.
    assert clock.monotonic() == pytest.approx(5 * 0.2 + 10 + 20 + 40 + 80 - 4 * 0.2)


def test_an_item_of_which_the_place_fails_for_too_long_is_its_own_fault_after_all() -> None:
    clock, place = HandClock(), Outages(10**6)
    call = GuardedCall(place, outage(clock, Breaker(in_a_row=2, pause=10.0), 25.0), HandHalt(clock))
    with pytest.raises(ConnectionError):
        call(7)
    assert 25.0 <= clock.monotonic() < 60.0


def test_an_items_own_error_is_raised_at_once() -> None:
    clock, place = HandClock(), Outages(0)
    with pytest.raises(ValueError, match="unlucky"):
        GuardedCall(place, outage(clock, QUICK), HandHalt(clock))(13)
    assert clock.monotonic() == 0.0


def test_whoever_waits_out_a_failure_hears_that_all_is_to_stop() -> None:
    clock = HandClock()
    with pytest.raises(Stopped):
        GuardedCall(Outages(99), outage(clock, QUICK), HandHalt(clock, stops=True))(7)


def kinds() -> dict[str, Callable[["Stream[int]", Outages], "Stream[Any]"]]:
    async def ask(place: Outages, item: int) -> Any:
        await asyncio.sleep(0)
        return place(item)

    def coroutine(place: Outages) -> Callable[[int], Any]:
        async def asked(item: int) -> Any:
            return await ask(place, item)

        return asked

    return {
        "map": lambda stream, place: stream.map(place),
        "threads": lambda stream, place: stream.map(place, workers=3),
        "filter": lambda stream, place: stream.filter(lambda n: place(n) + 1).map(lambda n: n * 10),
        "flat_map": lambda stream, place: stream.flat_map(lambda n: [place(n)]),
        "coroutines": lambda stream, place: stream.map(coroutine(place), workers=3),
    }


@pytest.mark.parametrize("kind", kinds())
def test_a_stage_pauses_instead_of_failing_while_the_place_is_away(kind: str) -> None:
    sink, letters, heard, place = Kept(), list[DeadLetter](), list[Event](), Outages(8)
    source = Parts({"a": list(range(40))}, sizes=[5])
    guard = Guard(name="crm", breaker=QUICK, bulkhead=Bulkhead(timeout=LONG))
    before: Stream[int] = Stream(source)
    if kind == "filter":
        stream = before.filter(lambda n: place(n) + 1).guarded(guard).map(lambda n: n * 10)
    else:
        stream = kinds()[kind](before, place).guarded(guard)
    stream.to(sink).run(fail="soft", dead_letters=letters.append, listener=heard.append)
    assert sink.items == [n * 10 for n in range(40) if n != 13]
    assert [letter.item for letter in letters] == [13], "an item's own fault is no outage"
    assert turns(heard)[0] == ("crm", "open")
    assert turns(heard)[-1] == ("crm", "closed")
    assert source.committed == {"a": 40}


def test_a_stage_that_waits_for_its_circuit_can_be_cancelled() -> None:
    for function in (Outages(10**9), _always_away):
        source = Parts({"a": [1, 2, 3]})
        opened = threading.Event()
        breaker = Breaker(in_a_row=1, pause=200.0)
        engine = (
            Stream(source)
            .map(function)
            .guarded(Guard(breaker=breaker))
            .to(Kept())
            .engine(listener=lambda _, opened=opened: opened.set())
        )
        engine.start()
        assert opened.wait(LONG)
        engine.cancel()
        engine.join()
        assert source.committed == {}


async def _always_away(item: int) -> int:
    raise ConnectionError(item)


def test_a_timeout_of_a_guarded_coroutine_does_not_count_what_it_waits_for_its_circuit() -> None:
    """It once would have: then an open circuit fails items, which it is there to prevent."""
    place, sink = Outages(4), Kept()

    async def ask(item: int) -> Any:
        return place(item)

    guard = Guard(breaker=Breaker(in_a_row=1, pause=0.08, longest=0.08))
    Stream(range(3)).map(ask, timeout=0.05).guarded(guard).to(sink).run()
    assert sink.items == [0, 10, 20]


def test_a_late_coroutine_counts_as_a_failure_of_the_place() -> None:
    slow = [True, True]
    sink, heard = Kept(), list[Event]()

    async def ask(item: int) -> int:
        if slow:
            slow.pop()
            await asyncio.sleep(LONG)
        return item

    guard = Guard(breaker=Breaker(in_a_row=2, pause=0.02))
    Stream([1, 2]).map(ask, timeout=0.02).guarded(guard).to(sink).run(listener=heard.append)
    assert sink.items == [1, 2]
    assert turns(heard)[0] == ("ask", "open")


# What stages share


def test_stages_with_one_guard_share_its_places_and_its_circuit() -> None:
    inside, most = [0], [0]
    lock = threading.Lock()

    def ask(item: int) -> int:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.002)
        with lock:
            inside[0] -= 1
        return item

    crm = Guard(name="crm", bulkhead=Bulkhead(calls=2, timeout=LONG))
    sink = Kept()
    stream = Stream(range(30)).map(ask, workers=3).guarded(crm).map(ask, workers=3).guarded(crm)
    stream = stream.look_up(
        lambda n: n, ask, lambda _, found: found.value, manner=Manner(workers=2, guard=crm)
    )
    stream.to(sink).run(settings=Settings(chunk=3))
    assert sink.items == list(range(30))
    assert 1 <= most[0] <= 2


def test_a_circuit_that_one_stage_opened_is_open_for_the_others() -> None:
    place, sink, heard = Outages(3), Kept(), list[Event]()
    crm = Guard(name="crm", breaker=QUICK)
    Stream(range(4)).map(place).guarded(crm).map(place, name="again").guarded(crm).to(sink).run(
        listener=heard.append
    )
    assert sink.items == [0, 100, 200, 300]
    assert {circuit for circuit, _ in turns(heard)} == {"crm"}
    without_name, other = Stream(range(4)).map(Outages(3)).guarded(Guard(breaker=QUICK)), list[Event]()
    without_name.to(Kept()).run(listener=other.append)
    assert {circuit for circuit, _ in turns(other)} == {"Outages"}


async def later(item: int) -> int:
    return item


def generated(item: int) -> Iterator[int]:
    yield item


TIMED = Guard(name="crm", bulkhead=Bulkhead(timeout=1.0))


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (Stream([1]).batch(2).guarded(TIMED), "calls nothing"),
        (Stream([1]).guarded(surge=Surge()), "fails on no item"),
        (Stream([1]).merge().guarded(surge=Surge()), "fails on no item"),
        (Stream([1]).map(abs, on="process").guarded(TIMED), "processes"),
        (Stream([1]).flat_map(generated).guarded(TIMED), "generator"),
        (Stream([1]).map(abs, timeout=1.0).guarded(TIMED), "and a bulkhead"),
        (
            Stream([1]).map(abs).guarded(TIMED).map(abs).guarded(Guard(name="crm", breaker=QUICK)),
            "that differ",
        ),
        (Stream([1]).map(abs).guarded(TIMED).map(later).guarded(TIMED), "event loop"),
    ],
)
def test_what_cannot_be_guarded_is_refused(stream: "Stream[Any]", why: str) -> None:
    with pytest.raises(DefinitionError) as raised:
        stream.to(Kept()).run()
    assert why in f"{raised.value} {raised.value.hint}"


@pytest.mark.parametrize(
    "numbers", [{}, {"patience": 1.0, "bulkhead": Bulkhead()}, {"breaker": QUICK, "patience": -1.0}]
)
def test_guards_that_make_no_sense_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError):
        Guard(**numbers)


# Lookups


def test_a_degraded_lookup_is_told_and_seen_in_its_counts() -> None:
    heard, down = list[Event](), threading.Event()

    def name_of(user: int) -> str:
        if down.is_set():
            raise ConnectionError("away")
        return f"user {user}"

    class GoesDown(Parts):
        def committing(self) -> None:
            down.set()

    source = GoesDown({"a": [1] * 4}, sizes=[2])
    put: Callable[[int, Found[Any]], str] = lambda _, found: found.kind  # noqa: E731
    cache = Cache(fresh=1e-9, default="nobody")
    flow = (
        Stream(source)
        .look_up(lambda n: n, name_of, put, cache=cache, name="names")
        .guarded(Guard(breaker=Breaker(in_a_row=1, pause=100.0)))
        .to(sink := Kept())
    )
    ended = flow.run(settings=Settings(commit_every=0.0), listener=heard.append)
    assert sink.items == ["known", "known", "stale", "stale"]
    fallback = [each for each in heard if isinstance(each, FallbackTurned)]
    assert [(each.lookup, each.after) for each in fallback] == [("names", "degraded")]
    assert turns(heard) == [("names", "open")]
    by_name = {each.name: each.makeshift for each in ended.stages}
    assert by_name == {"names": 2, "kept": None}
    assert 'pipeline_stage_makeshift_total{stage="names"} 2' in exposition(ended.stages)


def test_a_lookup_has_a_timeout_too(hangs: Callable[..., Hangs]) -> None:
    place = hangs(2)
    put: Callable[[int, Found[Any]], Any] = lambda _, found: (found.kind, found.value)  # noqa: E731
    stream = Stream([1, 2, 3]).look_up(
        lambda n: n, place, put, cache=Cache(default="?"), manner=Manner(timeout=SHORT)
    )
    assert list(stream) == [("known", 10), ("default", "?"), ("known", 30)]


def test_a_cancelled_stream_leaves_a_lookup_that_hangs(hangs: Callable[..., Hangs]) -> None:
    """It once counted as the death of a worker, and made a dead letter."""
    place, source, letters = hangs(1), Parts({"a": [1, 2]}), list[DeadLetter]()
    stream = Stream(source).look_up(lambda n: n, place, lambda n, _: n, manner=Manner(timeout=LONG * 10))
    engine = stream.to(Kept()).engine(fail="soft", dead_letters=letters.append)
    engine.start()
    while not place.asked:
        time.sleep(0.001)
    engine.cancel()
    engine.join()
    assert letters == []
    assert source.committed == {}


def test_the_listener_hears_of_the_circuit_of_a_sink() -> None:
    heard, sink = list[Event](), Kept(fail={1, 2, 3})
    Stream([1]).to(sink, breaker=QUICK, name="index").run(listener=heard.append)
    assert sink.items == [1]
    assert turns(heard) == [("index", "open"), ("index", "half-open"), ("index", "closed")]


def test_a_lookup_without_anything_to_give_fails_with_an_open_circuit() -> None:
    letters: list[DeadLetter] = []
    Stream([1, 2]).look_up(lambda n: n, Outages(9), lambda n, _: n).guarded(
        Guard(breaker=Breaker(in_a_row=1, pause=100.0))
    ).to(Kept()).run(fail="soft", dead_letters=letters.append)
    assert [type(letter.error) for letter in letters] == [ConnectionError, CircuitOpen]


# The bulkhead itself


def test_those_who_wait_in_a_bulkhead_look_whether_they_still_should(hangs: Callable[..., Hangs]) -> None:
    place, halt = hangs(1), Halt()

    def look() -> None:
        if halt.is_set:
            raise Stopped

    bulkhead = ThreadBulkhead("crm", Bulkhead(calls=1, wait=LONG, timeout=LONG), SystemClock(), look=look)
    ended: list[str] = []

    def call() -> None:
        try:
            bulkhead.call(place, 1)
        except Stopped:
            ended.append("stopped")

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    while not place.asked:
        time.sleep(0.001)
    halt.stop()
    for thread in threads:
        thread.join(LONG)
    assert ended == ["stopped"] * 2
    assert bulkhead.snapshot().lost == 1
    bulkhead.close()
