"""Rate limits: never faster, nothing lost, in order, and whoever waits wakes up."""

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.places import Kept, Parts, PartsReader

from sidestage.errors import DefinitionError, StreamFailed
from sidestage.policy.rate import Bucket, Buckets, Rate
from sidestage.stream.batching import BatchOperator
from sidestage.stream.checkpoint import Checkpoint
from sidestage.stream.chunk import Chunk, Ledger
from sidestage.stream.contract import Batch, Position
from sidestage.stream.failing import DeadLetter, Desk, Halt, OnError, Raise, SetAside, Skip, Stopped
from sidestage.stream.guarding.limiting import Bounds, KeyLimitOperator, LimitOperator
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.operators import End, Step
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream
from sidestage.stream.windows.aggregates import count
from sidestage.stream.windows.plan import WindowPlan, tumbling
from sidestage.stream.windows.watermarks import EventTime
from sidestage.testing.turned_clock import HandClock

FOR_EVER = float("inf")


class HandHalt(Halt):
    """Waits by turning a clock."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__()
        self._clock = clock
        self.waits = 0

    def wait(self, seconds: float) -> bool:
        self.waits += 1
        self._clock.advance(seconds)
        return self.is_set


class Noted(End):
    """Keeps what comes and when, and settles it if it is to."""

    def __init__(self, clock: HandClock, *, settles: bool = True) -> None:
        self._clock = clock
        self._settles = settles
        self.came: list[tuple[float, Any]] = []
        self.origins: list[int | None] = []
        self.chunks: list[Chunk] = []

    def push(self, chunk: Chunk) -> None:
        self.came += [(self._clock.monotonic(), item) for item in chunk.items]
        origins = [chunk.origin_of(index) for index in range(len(chunk.items))]
        self.origins += [None if each is None else each.index for each in origins]
        self.chunks.append(chunk)
        if self._settles:
            chunk.settle()

    def flush(self) -> None: ...

    def finish(self) -> None: ...

    @property
    def items(self) -> list[Any]:
        return [item for _, item in self.came]


class Bench:
    """Everything around a limit, turned by hand."""

    def __init__(self, *, settles: bool = True) -> None:
        self.clock = HandClock()
        self.halt = HandHalt(self.clock)
        self.ledger = Ledger()
        self.noted = Noted(self.clock, settles=settles)
        self.read = 0

    def limit(self, rate: Rate, following: Step | None = None) -> LimitOperator:
        return LimitOperator(
            Bucket(rate, self.clock), self.clock, self.halt, Meter(), following or self.noted
        )

    def by_key(
        self, rate: Rate, *, most: int = 1000, longest: float = FOR_EVER, on_error: OnError | None = None
    ) -> KeyLimitOperator:
        desk = Desk(
            "limit", on_error or Raise(), None, lambda _: None, self.halt, lambda: 0.0, lambda _: None
        )
        buckets: Buckets[Any] = Buckets(rate, self.clock)
        bounds = Bounds(most, longest, rate.interval)
        return KeyLimitOperator(
            lambda item: item[0], buckets, bounds, self.clock, self.halt, desk, Meter(), self.noted
        )

    def chunk(self, items: list[Any]) -> Chunk:
        batch = Batch("a", self.read, items, self.read + len(items))
        self.read += len(items)
        return Chunk(items, (self.ledger.issue(batch),), self.clock.monotonic())

    def run_out(self, operator: KeyLimitOperator) -> None:
        """Turn the clock from one due time to the next until nothing is."""
        while (due := operator.due()) is not None:
            self.clock.advance(max(0.0, due - self.clock.monotonic()))
            operator.tick(self.clock.monotonic())


def most_within(times: list[float], seconds: float) -> int:
    """Return how many of the times at most lie within so many seconds."""
    return max(sum(1 for each in times[at:] if each < first + seconds) for at, first in enumerate(times))


# All items of a stage


def test_what_may_pass_passes_at_once_and_the_rest_of_the_chunk_as_leave_comes() -> None:
    bench = Bench()
    limit = bench.limit(Rate(2, seconds=1.0))
    limit.push(bench.chunk([1, 2, 3, 4, 5]))
    assert [(round(at, 6), item) for at, item in bench.noted.came] == [
        (0.0, 1),
        (0.0, 2),
        (0.5, 3),
        (1.0, 4),
        (1.5, 5),
    ]
    assert bench.noted.origins == [0, 1, 2, 3, 4]
    assert bench.ledger.take_reached() == {"a": 5}, "the ticket is settled once, by all of its parts"


def test_a_chunk_that_may_pass_goes_on_as_it_is() -> None:
    bench = Bench()
    chunk = bench.chunk([1, 2, 3])
    bench.limit(Rate(3)).push(chunk)
    assert bench.noted.chunks == [chunk]
    assert not bench.halt.waits


@given(
    items=st.integers(1, 20),
    seconds=st.sampled_from([0.1, 1.0, 7.0]),
    burst=st.none() | st.integers(1, 9),
    sizes=st.lists(st.tuples(st.integers(1, 30), st.floats(0, 5)), min_size=1, max_size=8),
)
def test_a_rate_is_never_exceeded_and_nothing_is_lost(
    items: int, seconds: float, burst: int | None, sizes: list[tuple[int, float]]
) -> None:
    bench = Bench()
    rate = Rate(items, seconds=seconds, burst=burst)
    limit = bench.limit(rate)
    for size, pause in sizes:
        limit.push(bench.chunk(list(range(bench.read, bench.read + size))))
        bench.clock.advance(pause)
    assert bench.noted.items == list(range(bench.read))
    times = [at for at, _ in bench.noted.came]
    for width in (seconds, 3 * seconds):
        assert most_within(times, width) <= rate.most_at_once + width / rate.interval + 1e-6
    assert not bench.ledger.unsettled


def test_what_follows_is_seen_to_while_a_limit_waits() -> None:
    bench = Bench()
    batch = BatchOperator(100, 5.0, bench.clock, Meter(), bench.noted)
    bench.limit(Rate(1, seconds=2.0), batch).push(bench.chunk(list(range(7))))
    assert bench.noted.came == [(5.0, [0, 1, 2]), (11.0, [3, 4, 5])], "no list waits for more than 5 s"


def test_whoever_waits_for_leave_hears_that_all_is_to_stop() -> None:
    clock, halt = HandClock(), Halt()
    noted, ledger = Noted(clock), Ledger()
    limit = LimitOperator(Bucket(Rate(1, seconds=1e9), clock), clock, halt, Meter(), noted)
    ended: list[type[BaseException]] = []

    def push() -> None:
        try:
            limit.push(Chunk([1, 2], (ledger.issue(Batch("a", 0, [1, 2], 2)),), 0.0))
        except Stopped:
            ended.append(Stopped)

    thread = threading.Thread(target=push)
    thread.start()
    halt.stop()
    thread.join(120)
    assert ended == [Stopped]
    assert ledger.unsettled == 1, "what did not pass is not acknowledged"


# By key


def test_a_key_that_must_wait_does_not_hold_up_others() -> None:
    bench = Bench()
    limit = bench.by_key(Rate(1, seconds=10.0))
    limit.push(bench.chunk([("a", 1), ("a", 2), ("b", 1), ("a", 3)]))
    limit.push(bench.chunk([("c", 1), ("a", 4)]))
    assert bench.noted.items == [("a", 1), ("b", 1), ("c", 1)]
    assert not bench.halt.waits
    assert limit.count == 3
    bench.run_out(limit)
    assert bench.noted.came[3:] == [(10.0, ("a", 2)), (20.0, ("a", 3)), (30.0, ("a", 4))]
    assert bench.noted.origins == [0, 2, 0, 1, 3, 1]
    assert bench.ledger.take_reached() == {"a": 6}
    assert limit.count == 0


def test_what_may_pass_at_once_keeps_its_order_also_between_keys() -> None:
    bench = Bench()
    chunk = bench.chunk([("a", 1), ("b", 1), ("a", 2), 7, ("b", 2)])
    bench.by_key(Rate(9), on_error=Skip()).push(chunk)
    assert bench.noted.items == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert bench.noted.origins == [0, 1, 2, 4]


def test_what_comes_after_what_is_held_waits_behind_it() -> None:
    bench = Bench()
    limit = bench.by_key(Rate(1, seconds=10.0))
    limit.push(bench.chunk([("a", 1), ("a", 2)]))
    bench.clock.advance(10.0)  # there would be leave, but an older item waits for it
    limit.push(bench.chunk([("a", 3)]))
    assert bench.noted.items == [("a", 1)]
    bench.run_out(limit)
    assert bench.noted.items == [("a", 1), ("a", 2), ("a", 3)]


def test_when_too_much_is_held_nothing_more_is_taken() -> None:
    bench = Bench()
    limit = bench.by_key(Rate(1, seconds=1.0), most=3)
    limit.push(bench.chunk([("a", n) for n in range(10)]))
    assert limit.count == 3
    assert bench.clock.monotonic() == pytest.approx(6.0)


def test_a_bound_of_time_makes_all_wait_before_something_is_held_for_longer() -> None:
    bench = Bench()
    limit = bench.by_key(Rate(1, seconds=1.0), longest=4.0)
    limit.push(bench.chunk([("a", n) for n in range(20)]))
    assert limit.count == 4
    assert bench.clock.monotonic() == pytest.approx(15.0)
    bench.run_out(limit)
    assert bench.clock.monotonic() == pytest.approx(19.0)


def test_the_end_waits_for_what_is_held_at_its_rate() -> None:
    bench = Bench()
    limit = bench.by_key(Rate(1, seconds=1.0))
    limit.push(bench.chunk([("a", n) for n in range(5)]))
    limit.flush()
    assert len(bench.noted.items) == 1, "no flush lets anything pass faster"
    limit.finish()
    assert bench.noted.items == [("a", n) for n in range(5)]
    assert bench.clock.monotonic() == pytest.approx(4.0)
    assert not bench.ledger.unsettled


def test_a_cancelled_limit_leaves_what_it_holds_unsettled() -> None:
    bench = Bench()
    limit = bench.by_key(Rate(1, seconds=1.0))
    limit.push(bench.chunk([("a", 1), ("a", 2)]))
    bench.halt.stop()
    with pytest.raises(Stopped):
        limit.finish()
    assert bench.ledger.unsettled == 1


def test_items_without_a_usable_key_are_errors_of_the_limit() -> None:
    bench = Bench()
    limit = bench.by_key(Rate(5), on_error=Skip())
    limit.push(bench.chunk([("a", 1), ([], 2), 3, ("b", 4)]))
    assert bench.noted.items == [("a", 1), ("b", 4)]
    assert bench.noted.origins == [0, 3]
    limit.push(bench.chunk([5]))
    assert not bench.ledger.unsettled, "also where nothing is left of a chunk"


@settings(max_examples=60)
@given(
    rate=st.builds(Rate, st.integers(1, 5), st.sampled_from([1.0, 3.0]), st.none() | st.integers(1, 4)),
    most=st.integers(1, 40),
    chunks=st.lists(
        st.tuples(st.lists(st.sampled_from("abcd"), min_size=1, max_size=25), st.floats(0, 4)),
        min_size=1,
        max_size=8,
    ),
)
def test_each_key_keeps_its_order_and_rate_whatever_comes(
    rate: Rate, most: int, chunks: list[tuple[list[str], float]]
) -> None:
    bench = Bench(settles=False)
    limit = bench.by_key(rate, most=most)
    sent: dict[str, list[int]] = defaultdict(list)
    for keys, pause in chunks:
        items = []
        for key in keys:
            sent[key].append(len(sent[key]))
            items.append((key, sent[key][-1]))
        limit.push(bench.chunk(items))
        assert limit.count <= most
        bench.clock.advance(pause)
        if (due := limit.due()) is not None and due <= bench.clock.monotonic():
            limit.tick(bench.clock.monotonic())
    limit.finish()
    came: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for at, (key, number) in bench.noted.came:
        came[key].append((at, number))
    assert {key: [number for _, number in each] for key, each in came.items()} == sent
    for each in came.values():
        most_at_once = rate.most_at_once + rate.seconds / rate.interval
        assert most_within([at for at, _ in each], rate.seconds) <= most_at_once + 1e-6
    assert bench.ledger.unsettled == len(chunks), "nothing is settled before it is written"
    for chunk in bench.noted.chunks:
        chunk.settle()
    assert bench.ledger.take_reached() == {"a": bench.read}


# In a stream


def test_limits_in_a_stream_lose_nothing() -> None:
    sink, source = Kept(), Parts({"a": list(range(60)), "b": list(range(60, 90))}, sizes=[7, 3])
    stream = Stream(source).limit(Rate(1000, seconds=1.0, burst=20))
    stream.limit(Rate(100, seconds=0.1, burst=2), by=lambda n: n % 3).to(sink).run()
    assert sorted(sink.items) == list(range(90))
    for remainder in range(3):
        mine = [n for n in sink.items if n % 3 == remainder and n < 60]
        assert mine == sorted(mine)
    assert source.committed == {"a": 60, "b": 30}


def test_a_limit_among_workers_that_share_keys_counts_for_all_of_them() -> None:
    def by(item: int) -> int:
        return item % 4

    sink = Kept()
    stream = Stream(range(200)).by_key(by, into=4).map(lambda n: n, workers=2).limit(Rate(1e6), by=by)
    stream.map(lambda n: n, workers=2).limit(Rate(1e6)).to(sink).run()
    for remainder in range(4):
        assert [n for n in sink.items if n % 4 == remainder] == list(range(remainder, 200, 4))


def test_a_limit_does_its_waiting_in_a_thread_of_its_own() -> None:
    drawn = Stream([1]).map(abs).limit(Rate(5), by=abs, held=7).map(abs).to(Kept()).explain()
    assert "abs --[4,096 items]--> limit [5 in 1 s, by key, up to 7 held] + abs-2" in drawn
    assert "at most 6,151 items" in drawn


def test_a_limit_by_another_key_would_break_the_order_of_by_key_and_is_refused() -> None:
    keyed = Stream([1, 2]).by_key(abs)
    with pytest.raises(DefinitionError, match="overtake"):
        keyed.limit(Rate(1), by=lambda n: n).to(Kept()).run()
    keyed.limit(Rate(10), by=abs).to(Kept()).run()
    keyed.merge().limit(Rate(10), by=lambda n: n).to(Kept()).run()


@pytest.mark.parametrize("held", [0, -1])
def test_limits_that_make_no_sense_are_refused(held: int) -> None:
    with pytest.raises(DefinitionError):
        Stream([1]).limit(Rate(1), by=abs, held=held)


def test_keys_that_cannot_be_had_are_set_aside_or_end_the_stream() -> None:
    letters: list[DeadLetter] = []
    sink = Kept()
    limited = Stream([1, 0, 2]).limit(Rate(9), by=lambda n: 1 // n, on_error=SetAside())
    limited.to(sink).run(dead_letters=letters.append)
    assert sink.items == [1, 2]
    assert [(letter.stage, letter.item) for letter in letters] == [("limit", 0)]
    with pytest.raises(StreamFailed, match="'limit' failed on 0"):
        Stream([0]).limit(Rate(9), by=lambda n: 1 // n).to(Kept()).run()


def test_a_cancelled_stream_does_not_wait_for_its_limits() -> None:
    sink = Kept()
    source = Parts({"a": [("k", n) for n in range(50)]}, sizes=[10])
    engine = Stream(source).limit(Rate(1, seconds=3600.0), by=lambda item: item[0]).to(sink).engine()
    engine.start()
    assert sink.written.wait(120)
    engine.cancel()
    engine.join()
    assert sink.items == [("k", 0)]
    assert source.committed == {}


def test_checkpoints_of_windows_wait_for_what_is_held_and_count_all_of_it(tmp_path: Any) -> None:
    """A checkpoint is taken when nothing is under way: held items are waited for, at their rate."""
    time_of = EventTime(at=float)
    plan = WindowPlan(windows=tumbling(100), aggregate=count(), key=lambda _: "all", time=time_of)
    sink = Kept()

    def items() -> Iterator[int]:
        yield from range(40)

    stream = Stream(items()).limit(Rate(10, seconds=0.05, burst=1), by=lambda n: n % 2).window(plan)
    ended = stream.to(sink).run(
        checkpoint=Checkpoint(tmp_path / "checkpoint"), settings=Settings(commit_every=0.02, chunk=5)
    )
    results = [(each.key, each.value) for each in sink.items]
    assert ended.complete
    assert results == [("all", 40)]


class Halves(Parts):
    """Gives the first half, and the other one once it may; says when it was told that something is done."""

    def __init__(self, items: int) -> None:
        super().__init__({"a": list(range(items // 2))}, [10])
        self.told = threading.Event()
        self.may_end = threading.Event()

    def open(self, resume: Mapping[str, Position]) -> "HalvesReader":
        return HalvesReader(self, {"a": int(resume.get("a", 0))})

    def committing(self) -> None:
        self.told.set()


class HalvesReader(PartsReader):
    def __init__(self, source: Halves, at: dict[str, int]) -> None:
        super().__init__(source, at)
        self._halves = source
        self._ends = False

    def read(self, limit: int, wait: float) -> Sequence[Batch] | None:
        batches = super().read(limit, wait)
        if batches is not None or self._ends or self._halves.may_end.is_set():
            return batches
        self._halves.may_end.wait(0.001)
        return ()

    def stop(self) -> None:
        super().stop()
        self._ends = True


@pytest.mark.parametrize("end", ["drain", "cancel"])
def test_windows_behind_a_limit_count_each_item_once_whatever_was_held(tmp_path: Any, end: str) -> None:
    time_of = EventTime(at=float, disorder=1000.0)
    plan = WindowPlan(windows=tumbling(1000), aggregate=count(), key=lambda n: n % 2, time=time_of)
    checkpoint, sink, source = Checkpoint(tmp_path / "checkpoint"), Kept(), Halves(300)
    flow = Stream(source).limit(Rate(2000, burst=1), by=lambda n: n % 2, held=20).window(plan).to(sink)
    terms = Settings(commit_every=0.005, chunk=10, buffer=10)
    engine = flow.engine(checkpoint=checkpoint, settings=terms)
    engine.start()
    assert source.told.wait(120)
    getattr(engine, end)()
    engine.join()
    assert sink.items == []
    source.parts = {"a": list(range(300))}
    source.may_end.set()
    flow.run(checkpoint=checkpoint, settings=terms)
    assert {each.key: each.value for each in sink.items} == {0: 150, 1: 150}
