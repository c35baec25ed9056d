"""A side of a join that is far ahead waits for the other, and never for nobody."""

import threading
from collections import Counter
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.places import Kept, Parts
from tests.unit.stream.test_joins import Paced, nested_loop, numbered, over_crashes

from sidestage.errors import DefinitionError
from sidestage.stream import DeadLetter, EventTime, Manner, Settings, Stream, Waiting
from sidestage.stream.engine import Engine
from sidestage.stream.joins.interval_plan import IntervalPlan, Keyed
from sidestage.stream.joins.interval_sides import Standing
from sidestage.stream.joins.intervals import IntervalState
from sidestage.stream.joins.pacing import Pacing
from sidestage.stream.windows.aggregates import count
from sidestage.stream.windows.plan import WindowPlan, tumbling
from sidestage.stream.windows.watermarks import Moment

NEVER = float("-inf")
PATIENCE = 60


def paced(
    left: Stream[Any],
    right: Stream[Any],
    ahead: float | None = 50,
    idle: float | None = PATIENCE,
    **more: Any,
) -> Any:
    time = EventTime(at=itemgetter(0), disorder=more.pop("disorder", 0), idle=idle)
    return left.join(
        right,
        on=(itemgetter(1), itemgetter(1)),
        within=more.pop("within", (5, 10)),
        time=(time, time),
        how=more.pop("how", "inner"),
        manner=Manner(workers=more.pop("workers", None)),
        waiting=Waiting(ahead=ahead, **more),
    )


def wait_until_held(engine: Engine) -> None:
    """Wait until one side waits for the other."""
    (pacing,) = engine._assembly.paces.of_joins.values()
    for _ in range(6000):
        if any(pacing.waits):
            return
        threading.Event().wait(0.01)
    pytest.fail("nobody ever waited")


# Who waits


def test_the_side_that_is_far_ahead_waits_until_the_other_has_come_near() -> None:
    pacing = Pacing(10, 2, (1, 1))
    pacing.tell(0, Standing((100, 50), (False, False)))
    assert pacing.waits == (False, False), "not all workers have told"
    pacing.tell(1, Standing((NEVER, 60), (False, False)))
    assert pacing.waits == (True, False)
    pacing.tell(1, Standing((NEVER, 90), (False, False)))
    assert pacing.waits == (False, False)
    pacing.tell(0, Standing((100, 111), (False, False)))
    assert pacing.waits == (False, True)


def test_nobody_waits_for_a_side_that_is_idle_for_all_workers_or_at_its_end() -> None:
    pacing = Pacing(10, 2, (1, 2))
    pacing.tell(0, Standing((100, NEVER), (False, True)))
    pacing.tell(1, Standing((100, NEVER), (False, False)))
    assert pacing.waits == (True, False), "somebody still hears of the right"
    pacing.tell(1, Standing((100, NEVER), (False, True)))
    assert pacing.waits == (False, False)
    pacing.tell(1, Standing((100, 5), (False, False)))
    assert pacing.waits == (True, False)
    pacing.has_ended(1)
    assert pacing.waits == (True, False), "one of its sources goes on"
    pacing.has_ended(1)
    assert pacing.waits == (False, False)


def test_at_the_beginning_nobody_waits() -> None:
    pacing = Pacing(0, 1, (1, 1))
    pacing.tell(0, Standing((NEVER, NEVER), (False, False)))
    assert pacing.waits == (False, False)


def test_whoever_waits_is_woken() -> None:
    pacing = Pacing(0, 1, (1, 1))
    pacing.tell(0, Standing((5, 1), (False, False)))
    woken = threading.Event()

    def waiting() -> None:
        while pacing.waits[0]:
            pacing.wait(0, PATIENCE)
        woken.set()

    thread = threading.Thread(target=waiting)
    thread.start()
    pacing.tell(0, Standing((5, 5), (False, False)))
    assert woken.wait(PATIENCE)
    thread.join()


# A side that waits is not idle


@pytest.mark.parametrize("held", [True, False])
def test_a_side_that_waits_does_not_become_idle_and_nothing_of_it_is_late(held: bool) -> None:
    time = EventTime(at=itemgetter(0), idle=30)
    state = IntervalState(IntervalPlan(5, 10, (time, time), "inner", Waiting()))
    state.add([Keyed(0, "k", 500.0, "near")], Moment(0, 0), "other")
    state.add([Keyed(0, "k", 1000.0, "far")], Moment(0, 0), "one")
    for now in range(0, 200, 10):
        state.hold((held, False))
        state.add([Keyed(1, "k", 500.0 + 10 * now, "r")], Moment(0, float(now)), "right")
        state.tick(Moment(0, now + 5.0))
    late = state.add([Keyed(0, "k", 501.0, "second")], Moment(0, 200.0), "other").aside
    assert bool(late) is not held
    assert state.standing.idle == (False, False)


# In a stream


def seconds(count: int, key: Any = "k") -> Iterator[tuple[float, Any]]:
    return ((float(number), key) for number in range(count))


class Stepping:
    """A side that stops after some items until it is told to go on; it counts those that were taken."""

    def __init__(self, count: int, stop: int | None = None) -> None:
        self.count = count
        self.stop = stop
        self.go_on = threading.Event()
        self.taken = 0

    def __iter__(self) -> Iterator[tuple[float, Any]]:
        for number in range(self.count):
            if number == self.stop:
                assert self.go_on.wait(PATIENCE)
            self.taken += 1
            yield (float(number), number % 7)


@pytest.mark.parametrize("memory", [None, 200_000])
@pytest.mark.parametrize("workers", [None, 2])
def test_the_source_of_a_side_that_is_far_ahead_is_not_read(workers: int | None, memory: int | None) -> None:
    fast, slow = Stepping(5000), Stepping(5000, stop=100)
    sink = Kept()
    flow = paced(Stream(fast, name="fast"), Stream(slow, name="slow"), workers=workers, within=(0, 0)).to(
        sink
    )
    engine = flow.engine(settings=Settings(chunk=10, buffer=20, memory=memory))
    engine.start()
    wait_until_held(engine)
    threading.Event().wait(0.3)
    assert fast.taken < 1000
    assert slow.taken == 100
    slow.go_on.set()
    assert engine.join().complete
    assert sorted(pair[0][0] for pair in sink.items) == [float(number) for number in range(5000)]


def test_a_side_waits_no_longer_than_until_the_other_is_idle() -> None:
    fast, slow = Stepping(3000), Stepping(10, stop=5)
    sink = Kept()

    def left() -> Iterator[Any]:
        yield from fast
        slow.go_on.set()

    flow = paced(Stream(left(), name="fast"), Stream(slow, name="slow"), idle=0.2, within=(0, 0)).to(sink)
    assert flow.run(settings=Settings(chunk=10, buffer=20)).complete, "only at its end does the other go on"
    assert fast.taken == 3000


@pytest.mark.parametrize("empty", [0, 1])
def test_a_side_does_not_wait_for_one_that_gives_nothing(empty: int) -> None:
    sides = [Stream(seconds(3000), name="full"), Stream(list[Any](), name="empty")]
    left, right = sides if empty else sides[::-1]
    flow = paced(left, right, how="left").to(Kept())
    assert flow.run(settings=Settings(chunk=10, buffer=20)).complete


@pytest.mark.parametrize("ending", ["drain", "cancel"])
def test_a_stream_ends_although_a_side_waits(ending: str) -> None:
    fast, slow = Stepping(10**9), Stepping(10**9, stop=10)
    flow = paced(Stream(fast, name="fast"), Stream(slow, name="slow")).to(Kept())
    engine = flow.engine(settings=Settings(chunk=10, buffer=20, memory=10**6))
    engine.start()
    wait_until_held(engine)
    if ending == "drain":
        engine.drain()
        slow.go_on.set()
        assert not engine.join(within=PATIENCE).complete
    else:
        engine.cancel()
        slow.go_on.set()
        assert engine.wait(PATIENCE)


_times = st.lists(st.tuples(st.integers(0, 200), st.sampled_from("ab")), max_size=60)


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(_times, _times),
    st.sampled_from([None, 2]),
    st.sampled_from(["inner", "left"]),
    st.lists(st.integers(1, 8), max_size=2),
    st.sampled_from([0, 3, 40]),
    st.sampled_from([None, 100_000]),
)
def test_each_pair_exactly_once_over_crashes_however_often_a_side_waits(
    tmp_path_factory: pytest.TempPathFactory,
    times: tuple[Any, Any],
    workers: int | None,
    how: Any,
    crashes: list[int],
    ahead: float,
    memory: int | None,
) -> None:
    path = tmp_path_factory.mktemp("join") / "checkpoint"
    left, right = sorted(numbered(times[0])), sorted(numbered(times[1]))
    sources = Paced({"l": left}, sizes=[3]), Paced({"r": right}, sizes=[4])
    streams = Stream(sources[0], name="left"), Stream(sources[1], name="right")
    pairs = over_crashes(
        path, sources, crashes, lambda: paced(*streams, ahead, workers=workers, how=how), memory
    )
    assert Counter(pairs) == nested_loop(left, right, 5, 10, how)


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(_times, _times),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([None, 3]),
    st.sampled_from([0, 10]),
    st.integers(1, 20),
    st.sampled_from([None, 50_000]),
    st.sampled_from([None, 1, 1000]),
)
def test_all_come_to_their_end(
    times: tuple[Any, Any],
    sizes: tuple[int, int],
    workers: int | None,
    ahead: float,
    chunk: int,
    memory: int | None,
    batch: int | None,
) -> None:
    """Whatever waits for whatever: items in batches, for memory, for the other side."""
    left = [(*row, "left", bytes(1000)) for row in sorted(numbered(times[0]))]
    right = [(*row, "right", bytes(1000)) for row in sorted(numbered(times[1]))]
    sources = Parts({"l": left}, sizes=[sizes[0]]), Parts({"r": right}, sizes=[sizes[1]])
    one, other = Stream(sources[0], name="left"), Stream(sources[1], name="right")
    if batch:
        one = one.batch(batch).flat_map(list)
    sink, letters = Kept(), list[DeadLetter]()
    terms = Settings(chunk=chunk, buffer=10, memory=memory)
    flow = paced(one, other, ahead, workers=workers).to(sink)
    assert flow.run(settings=terms, fail="soft", dead_letters=letters.append).complete
    refused = {letter.item for letter in letters}
    assert len(refused) == len(letters)
    came = [[row for row in rows if row not in refused] for rows in (left, right)]
    assert Counter(sink.items) == nested_loop(came[0], came[1], 5, 10, "inner")
    assert [source.committed for source in sources] == [
        {part: len(rows)} if rows else {} for part, rows in (("l", left), ("r", right))
    ]


# Where nobody may wait


def drawn(stream: Any) -> str:
    found: str = stream.to(Kept()).explain()
    return found


def test_a_drawing_says_who_waits_and_why_nobody_does() -> None:
    one, other = Stream(seconds(1), name="one"), Stream(seconds(1), name="other")
    assert "5 and 10 s, a side 50 s ahead waits]" in drawn(paced(one, other))
    assert "5 and 10 s, a side 50 s ahead waits]" in drawn(paced(one, other, workers=2))
    assert "ahead" not in drawn(paced(one, other, None))
    assert "no side waits: both sides read one" in drawn(paced(one.map(str), one.filter(bool)))
    assert "no side waits: both sides read one" in drawn(paced(one.merge(other), one.map(str)))
    twice = paced(paced(one, other), Stream(seconds(1), name="third"))
    assert "no side waits: join has the same sources" in drawn(twice)
    assert "no side waits: join-2 has the same sources" in drawn(twice)


def test_nobody_waits_where_windows_would_take_a_source_for_idle() -> None:
    one, other = Stream(seconds(1), name="one"), Stream(seconds(1), name="other")

    def windows(idle: float | None) -> WindowPlan:
        at = EventTime(at=lambda item: item[0][0], idle=idle)
        return WindowPlan(windows=tumbling(60), aggregate=count(), time=at)

    assert "no side waits: window would take them for idle" in drawn(paced(one, other).window(windows(5)))
    assert "a side 50 s ahead waits" in drawn(paced(one, other).window(windows(None)))
    before = one.window(windows(5)).map(lambda each: (each.start, each.key))
    assert "no side waits: window" in drawn(paced(before, other))


def test_without_waiting_both_sides_of_one_source_are_joined_all_the_same() -> None:
    stream = Stream(seconds(500), name="one")
    sink = Kept()
    paced(stream, stream.map(tuple), ahead=0, within=(0, 0)).to(sink).run(
        settings=Settings(chunk=7, buffer=10)
    )
    assert len(sink.items) == 500


def test_waiting_for_a_side_that_may_stay_silent_for_ever_is_refused() -> None:
    one, other = Stream(seconds(1), name="one"), Stream(seconds(1), name="other")
    with pytest.raises(DefinitionError, match="wait for ever") as error:
        paced(one, other, idle=None)
    assert "EventTime(idle=...)" in error.value.hint
    for ahead in (-1, float("nan"), float("inf")):
        with pytest.raises(DefinitionError):
            Waiting(ahead=ahead)


def test_dashboards_see_how_far_a_side_is_ahead() -> None:
    assert (
        "pipeline_join_left_ahead_seconds (gauge)"
        in paced(Stream(seconds(1), name="one"), Stream(seconds(1), name="other")).to(Kept()).metrics_view()
    )
    fast, slow = Stepping(5000), Stepping(5000, stop=100)
    flow = paced(Stream(fast, name="fast"), Stream(slow, name="slow")).to(Kept())
    engine = flow.engine(settings=Settings(chunk=10, buffer=20))
    engine.start()
    wait_until_held(engine)
    told = engine.metrics()
    (line,) = [each for each in told.splitlines() if each.startswith("pipeline_join_left_ahead_seconds{")]
    assert float(line.split()[1]) > 50
    engine.cancel()
    slow.go_on.set()
    assert engine.wait(PATIENCE)
