"""Joins: with a table that is loaded again, and of two streams by key and time, against a nested loop."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.places import Kept, Parts, PartsReader

from sidestage.errors import DataError, DefinitionError, StreamFailed
from sidestage.events import Event
from sidestage.policy.fallback import FailureBudget, FallbackTurned
from sidestage.stream import (
    Called,
    Checkpoint,
    Collected,
    DeadLetter,
    EventTime,
    JoinFull,
    Manner,
    Settings,
    SideTable,
    Stream,
    TableStale,
    Waiting,
)
from sidestage.stream.contract import Batch, Position
from sidestage.stream.joins.interval_plan import IntervalPlan, Keyed
from sidestage.stream.joins.intervals import IntervalState
from sidestage.stream.joins.side_tables import LoadedTable, TableTooOld
from sidestage.stream.windows.watermarks import Moment
from sidestage.testing.turned_clock import HandClock

Row = tuple[float, str, int]
"""Time, key, number."""

NAMES = {1: "ann", 2: "bob"}


# With a table


@pytest.mark.parametrize("workers", [None, 3])
def test_items_are_put_together_with_the_row_of_their_key(workers: int | None) -> None:
    numbers = Stream(Parts({"p": [1, 7, 2, 1]}, sizes=[2]))
    inner = numbers.join_table(NAMES, lambda n: n, lambda n, name: (n, name), workers=workers)
    assert list(inner) == [(1, "ann"), (2, "bob"), (1, "ann")]
    left = numbers.join_table(NAMES, lambda n: n, lambda n, name: (n, name), how="left", workers=workers)
    assert list(left) == [(1, "ann"), (7, None), (2, "bob"), (1, "ann")]


def test_only_the_item_that_fails_is_lost() -> None:
    letters: list[DeadLetter] = []
    sink = Kept()
    stream = Stream([[1], 1, 2]).join_table(NAMES, lambda n: n, lambda n, name: (n, name[2]))
    stream.to(sink).run(fail="soft", dead_letters=letters.append)
    assert [letter.item for letter in letters] == [[1]]
    assert sink.items == [(1, "n"), (2, "b")]


@pytest.mark.parametrize(
    "table",
    [
        [{"id": 1, "name": "ann"}, {"id": 2, "name": "bob"}],
        lambda: [{"id": 1, "name": "ann"}, {"id": 2, "name": "bob"}],
        pa.table({"id": [1, 2], "name": ["ann", "bob"]}),
        pl.DataFrame({"id": [1, 2], "name": ["ann", "bob"]}),
    ],
)
@pytest.mark.parametrize("key", ["id", itemgetter("id")])
def test_a_table_of_rows(table: Any, key: Any) -> None:
    side: SideTable[int, dict[str, Any]] = SideTable.of_rows(table, key)
    stream = Stream([2, 1]).join_table(side, lambda n: n, lambda n, row: row["name"])
    assert list(stream) == ["bob", "ann"]


def test_two_rows_of_one_key_are_an_error() -> None:
    side: Any = SideTable.of_rows([{"id": 1}, {"id": 2}, {"id": 1}], "id")
    with pytest.raises(StreamFailed, match="1 rows of a side table have the key of another: 1"):
        list(Stream([1]).join_table(side, lambda n: n, lambda n, row: row))


@pytest.mark.parametrize("returned", [5, [1]])
def test_a_table_that_cannot_be_loaded_ends_the_stream_at_once(returned: Any) -> None:
    source = Parts({"p": [1]})
    with pytest.raises(StreamFailed, match="The table of 'join_table' could not be loaded"):
        list(Stream(source).join_table(SideTable(lambda: returned), lambda n: n, lambda n, row: row))
    assert source.commits == []


def test_a_table_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(DefinitionError):
        SideTable([1, 2])  # type: ignore[arg-type]
    with pytest.raises(DefinitionError):
        SideTable({}, every=5)
    with pytest.raises(DefinitionError):
        SideTable(dict, every=0)
    with pytest.raises(DefinitionError):
        SideTable.of_rows(iter([{"id": 1}]), "id")
    with pytest.raises(DefinitionError):
        SideTable.of_rows([{"id": 1}], "id", every=5)


class Loads:
    """What a loader answers, one after another; an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def __call__(self) -> Mapping[Any, Any]:
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def loaded(
    load: Loads, clock: HandClock, **more: Any
) -> tuple[LoadedTable, list[Event], list[Callable[[], None]]]:
    events: list[Event] = []
    begun: list[Callable[[], None]] = []
    side: SideTable[Any, Any] = SideTable(load, every=10, **more)
    table = LoadedTable("names", side, clock, events.append, begun.append)
    table.ensure()
    return table, events, begun


def test_the_version_before_is_used_until_the_new_one_is_whole() -> None:
    clock = HandClock()
    table, events, begun = loaded(Loads({1: "old"}, {1: "new"}), clock)
    assert table.due() == 10
    table.tick(9.9)
    assert not begun
    clock.advance(10)
    table.tick(10.0)
    table.tick(10.0)
    assert len(begun) == 1
    assert table.rows(1) == {1: "old"}
    assert table.due() == pytest.approx(10.1)  # nobody is woken when it is loaded, so they look
    begun[0]()
    assert table.rows(1) == {1: "new"}
    assert table.due() == 20
    assert not events


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
def test_a_version_that_cannot_be_loaded_leaves_the_one_before_within_the_budget(error: Any) -> None:
    clock = HandClock()
    load = Loads({1: "old"}, error, ConnectionError("gone"), {1: "new"})
    table, events, begun = loaded(load, clock, budget=FailureBudget(seconds=5, calm=0))
    for _ in range(2):
        clock.advance(10)
        table.tick(clock.monotonic())
        begun.pop()()
    stale = [each for each in events if isinstance(each, TableStale)]
    assert [(each.table, each.age, each.failures) for each in stale] == [("names", 10, 1), ("names", 20, 2)]
    assert "ConnectionError: gone" in stale[1].why
    assert table.rows(3) == {1: "old"}
    clock.advance(5.1)
    with pytest.raises(TableTooOld, match="25 s old: ConnectionError: gone"):
        table.rows(1)
    clock.advance(10)
    table.tick(clock.monotonic())
    begun.pop()()
    assert table.rows(1) == {1: "new"}
    turned = [(each.before, each.after) for each in events if isinstance(each, FallbackTurned)]
    assert turned == [("normal", "degraded"), ("degraded", "spent"), ("spent", "normal")]


def test_a_version_that_is_never_loaded_counts_as_stale() -> None:
    clock = HandClock()
    table, events, begun = loaded(Loads({1: "old"}), clock, budget=FailureBudget(seconds=0))
    clock.advance(10)
    table.tick(10.0)
    clock.advance(9)
    assert table.rows(1) == {1: "old"}
    clock.advance(1)
    table.rows(1)
    clock.advance(1)
    with pytest.raises(TableTooOld, match="it has been loading for 11 s"):
        table.rows(1)
    assert len(begun) == 1
    assert [type(each) for each in events] == [FallbackTurned, FallbackTurned]


def test_a_stream_uses_the_new_version_as_soon_as_it_is_there() -> None:
    reloaded = threading.Event()
    versions = itertools.count()

    def load() -> dict[str, int]:
        version = next(versions)
        if version:
            reloaded.set()
        return {"x": version}

    def events() -> Any:
        yield "x"
        assert reloaded.wait(120), "time alone loads it again"
        for _ in range(10_000):
            yield "x"
            if seen[-1]:
                return
            threading.Event().wait(0.01)

    seen: list[int] = []
    stream = Stream(events()).join_table(SideTable(load, every=0.02), str, lambda _, version: version)
    stream.to(Called(seen.extend)).run()
    assert seen[0] == 0
    assert seen[-1] > 0


def test_items_whose_table_is_too_old_are_decided_about() -> None:
    load = Loads({1: "old"}, *[ValueError("no")] * 10_000)
    letters: list[DeadLetter] = []
    events: list[Event] = []
    failed = threading.Event()

    def listen(event: Event) -> None:
        if isinstance(event, TableStale):
            events.append(event)
            failed.set()

    def items() -> Any:
        yield 1
        assert failed.wait(120)
        for _ in range(10_000):
            yield 1
            if letters:
                return
            threading.Event().wait(0.01)

    side: SideTable[int, str] = SideTable(load, every=0.02, budget=FailureBudget(seconds=0.05))
    sink = Kept()
    flow = Stream(items()).join_table(side, lambda n: n, lambda n, name: name).to(sink)
    flow.run(fail="soft", dead_letters=letters.append, listener=listen)
    assert isinstance(letters[0].error, TableTooOld)
    assert set(sink.items) == {"old"}
    assert events


# Of two streams, by key and time


def plan(
    before: float = 5, after: float = 10, how: Any = "inner", disorder: float = 0, **more: Any
) -> IntervalPlan:
    idle = more.pop("idle", None)
    time = EventTime(at=itemgetter(0), disorder=disorder, idle=idle, ahead=more.pop("ahead", None))
    return IntervalPlan(before, after, (time, time), how, Waiting(**more))


def nested_loop(
    left: Sequence[Row], right: Sequence[Row], before: float, after: float, how: str
) -> Counter[Any]:
    pairs: Counter[Any] = Counter()
    for one in left:
        found = [
            other for other in right if other[1] == one[1] and one[0] - before <= other[0] <= one[0] + after
        ]
        pairs.update((one, other) for other in found)
        if not found and how == "left":
            pairs[one, None] += 1
    return pairs


def numbered(times: Sequence[tuple[int, str]]) -> list[Row]:
    return [(time, key, number) for number, (time, key) in enumerate(times)]


def within_disorder(rows: list[Row], delays: Sequence[int]) -> list[Row]:
    """Rows as they arrive if each is as late as that, at most."""
    padded = itertools.chain(delays, itertools.repeat(0))
    return [
        row
        for _, _, row in sorted(
            (row[0] + delay, row[2], row) for row, delay in zip(rows, padded, strict=False)
        )
    ]


_times = st.lists(st.tuples(st.integers(0, 80), st.sampled_from("ab")), max_size=40)
_delays = st.lists(st.integers(0, 7), max_size=40)


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(_times, _delays),
    st.tuples(_times, _delays),
    st.lists(st.booleans(), max_size=80),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.tuples(st.integers(-3, 9), st.integers(-3, 9)).filter(lambda within: sum(within) >= 0),
    st.sampled_from(["inner", "left"]),
    st.booleans(),
)
def test_it_is_the_nested_loop_for_any_order_within_the_disorder(
    one: Any, other: Any, turns: Any, sizes: Any, within: tuple[int, int], how: Any, restored: bool
) -> None:
    (left_times, left_delays), (right_times, right_delays) = one, other
    before, after = within
    left, right = numbered(left_times), numbered(right_times)
    waits = [within_disorder(left, left_delays), within_disorder(right, right_delays)]
    declared = plan(before, after, how, disorder=7)
    state = IntervalState(declared)
    pairs: list[Any] = []
    order = itertools.chain(turns, itertools.cycle([True, False]))
    for turn, size in zip(order, itertools.cycle(sizes), strict=False):
        if not any(waits):
            break
        side = int(turn)
        taken, waits[side] = waits[side][:size], waits[side][size:]
        outcome = state.add([Keyed(side, row[1], row[0], row) for row in taken], Moment(0, 0), side)
        assert not outcome.aside
        assert not outcome.failures
        assert len(outcome.places) == len(outcome.pairs)
        pairs += outcome.pairs
        if restored:
            again = IntervalState(declared)
            again.restore(state.snapshot(), Moment(0, 0))
            assert (again.rows, again.watermarks) == (state.rows, state.watermarks)
            state = again
    pairs += state.drain().pairs
    assert Counter(pairs) == nested_loop(left, right, before, after, how)
    assert state.rows == 0


def test_rows_are_kept_until_nothing_they_belong_to_can_come() -> None:
    state = IntervalState(plan(before=5, after=10, how="left", lateness=3))

    def add(side: int, *times: float) -> list[Any]:
        rows = [(time, "k") for time in times]
        return state.add([Keyed(side, "k", row[0], row) for row in rows], Moment(0, 0)).pairs

    assert add(0, 100, 101) == []
    assert add(1, 80, 113) == []  # 113 is none of 100's, whose end is 110
    assert state.rows == 3  # 80 is past, by the left's watermark: 101 - 3 > 80 + 5
    assert add(1, 113.5) == [((100, "k"), None)]  # 113.5 - 3 > 110
    assert add(1, 112) == []
    assert add(0, 104) == [((104, "k"), (112, "k")), ((104, "k"), (113, "k")), ((104, "k"), (113.5, "k"))][:3]
    assert state.watermarks == (104, 113.5)


def test_memory_stays_flat_however_long_it_runs() -> None:
    state = IntervalState(plan(before=5, after=10))
    pairs = most = 0
    for second in range(0, 5000, 10):
        for side in (0, 1):
            items = [Keyed(side, n % 7, float(second + n), n) for n in range(10)]
            pairs += len(state.add(items, Moment(0, 0)).pairs)
            most = max(most, state.rows)
    assert most < 60
    assert pairs > 5000
    assert sum(len(side.shelves) for side in state._sides) <= 14


def test_what_comes_too_late_or_too_early_is_set_aside_and_joined_with_nothing() -> None:
    state = IntervalState(plan(lateness=3, ahead=60))
    moment = Moment(1000, 0)
    state.add([Keyed(0, "k", 500, "old"), Keyed(0, "k", 990, "new")], moment)
    outcome = state.add(
        [Keyed(1, "k", 990, "r"), Keyed(1, "k", 986.9, "late"), Keyed(1, "k", 1061, "early")], moment
    )
    assert outcome.pairs == [("new", "r")]
    assert [(place, each.side, each.item) for place, each in outcome.aside] == [
        (1, "right", "late"),
        (2, "right", "early"),
    ]
    assert "3.100 s behind the watermark" in outcome.aside[0][1].reason
    assert "61.000 s ahead of the clock" in outcome.aside[1][1].reason


def test_a_side_without_traffic_does_not_hold_rows_for_ever() -> None:
    state = IntervalState(plan(how="left", idle=30))
    state.add([Keyed(0, "k", 1.0, "first"), Keyed(0, "k", 1000.0, "second")], Moment(0, 0))
    assert state.rows == 2
    assert state.tick(Moment(0, 29)).pairs == []
    outcome = state.add([Keyed(0, "k", 1001.0, "third")], Moment(0, 30.5))
    assert outcome.pairs == [("first", None)]
    assert state.rows == 2
    back = state.add([Keyed(1, "k", 500.0, "old"), Keyed(1, "k", 1003.0, "r")], Moment(0, 31))
    assert [each.item for _, each in back.aside] == ["old"]
    assert back.pairs == [("second", "r"), ("third", "r")]


def test_when_both_sides_are_idle_nothing_is_lost() -> None:
    state = IntervalState(plan(idle=30))
    state.add([Keyed(0, "k", 100.0, "l")], Moment(0, 0))
    state.tick(Moment(0, 1000))
    assert state.add([Keyed(1, "k", 100.0, "r")], Moment(0, 1001)).pairs == [("l", "r")]


def test_rows_beyond_the_budget_are_refused_and_the_others_go_on() -> None:
    state = IntervalState(plan(rows=4, rows_per_key=2))
    keys = ["a", "a", "a", "b", "c", "d"]
    items = [Keyed(0, key, 1.0, number) for number, key in enumerate(keys)]
    outcome = state.add(items, Moment(0, 0))
    assert [place for place, _ in outcome.failures] == [2, 5]
    assert all(isinstance(error, JoinFull) for _, error in outcome.failures)
    assert "2 rows of the key 'a'" in str(outcome.failures[0][1])
    outcome = state.add([Keyed(1, "a", 1.0, "r")], Moment(0, 0))
    assert [place for place, _ in outcome.failures] == [0]
    assert not outcome.pairs


def test_keys_that_cannot_be_put_in_order_are_joined() -> None:
    state = IntervalState(plan())
    keys = [None, (1, "x"), "x", 5]
    state.add([Keyed(0, key, 1.0, key) for key in keys], Moment(0, 0))
    assert state.add([Keyed(1, key, 1.0, key) for key in keys], Moment(0, 0)).pairs == [(k, k) for k in keys]


def test_a_snapshot_of_another_join_is_refused() -> None:
    snapshot = IntervalState(plan(before=5)).snapshot()
    with pytest.raises(DataError):
        IntervalState(plan(before=6)).restore(snapshot, Moment(0, 0))


def join(left: Any, right: Any, workers: int | None = None, how: Any = "inner", **more: Any) -> Any:
    time = EventTime(at=itemgetter(0), disorder=more.pop("disorder", 0))
    return Stream(left, name="left").join(
        Stream(right, name="right"),
        on=(itemgetter(1), itemgetter(1)),
        within=(5, 10),
        time=(time, time),
        how=how,
        manner=Manner(workers=workers),
        waiting=Waiting(**more),
    )


@pytest.mark.parametrize("workers", [None, 1, 3])
@pytest.mark.parametrize("how", ["inner", "left"])
def test_two_streams_are_joined_by_all_workers(workers: int | None, how: Any) -> None:
    left = numbered([(n * 3 % 500, "abcde"[n % 5]) for n in range(400)])
    right = numbered([(n * 7 % 500, "abcde"[n % 5]) for n in range(300)])
    left.sort()
    right.sort()
    sources = Parts({"l": left}, [7]), Parts({"r": right}, [11, 3])
    sink = Kept()
    join(*sources, workers=workers, how=how).to(sink).run(settings=Settings(chunk=9))
    assert Counter(sink.items) == nested_loop(left, right, 5, 10, how)
    assert [source.committed for source in sources] == [{"l": 400}, {"r": 300}]


def test_items_without_key_or_time_are_errors_of_their_own() -> None:
    nan = float("nan")
    left: list[Any] = [(1, "a"), ("when?", "a"), (2, ["a"]), (2, nan), (datetime.fromtimestamp(3, UTC), "a")]
    letters: list[DeadLetter] = []
    sink = Kept()
    join(left, [(4, "a")]).to(sink).run(fail="soft", dead_letters=letters.append)
    assert [letter.item for letter in letters] == left[1:4]
    assert Counter(sink.items) == Counter([(left[0], (4, "a")), (left[4], (4, "a"))])


def test_late_items_of_a_join_are_a_stream() -> None:
    left = [(100, "k", "l"), (50, "k", "late"), (200, "k", "l")]
    stream = join(Parts({"l": left}, sizes=[1]), [])
    late, pairs = Kept(), Kept()
    stream.to(pairs).also(stream.late.to(late)).run()
    assert [(each.side, each.item, each.time) for each in late.items] == [("left", (50, "k", "late"), 50)]
    assert pairs.items == []


def test_a_full_join_is_said() -> None:
    with pytest.raises(StreamFailed, match=r"JoinFull: 3 rows wait for the other side.*Waiting"):
        join([(n, n) for n in range(5)], [], rows=3).to(Kept()).run()


def test_joins_that_make_no_sense_are_refused() -> None:
    for within in ((5, -6), (float("nan"), 1), (1, float("inf"))):
        with pytest.raises(DefinitionError):
            plan(*within)
    with pytest.raises(DefinitionError):
        IntervalPlan(1, 1, (EventTime(), EventTime(at=itemgetter(0))), "inner", Waiting())
    with pytest.raises(DefinitionError):
        plan(how="outer")
    for more in ({"lateness": -1}, {"rows": 0}, {"rows_per_key": 0}, {"on_drain": "x"}):
        with pytest.raises(DefinitionError):
            Waiting(**more)


def test_a_join_is_drawn() -> None:
    drawing = join([], [], workers=2).to(Called(print, name="out")).explain()
    assert drawing.splitlines()[2:4] == [
        "join left and join right --[4,096 items]--> merge + by_key [into 2]  (1 thread)",
        "by_key --[2 x 4,096 items]--> join [inner within 5 and 10 s]  (2 threads, in order by key)",
    ]
    table = Stream([1]).join_table(SideTable(dict, every=60), str, lambda n, _: n, how="left", name="names")
    assert "names [left, loaded every 60 s]" in table.to(Kept()).explain()


# With checkpoints


class Keeping(Checkpoint):
    """Notes what a sink had when a checkpoint was taken: what it would commit in one transaction with it."""

    def __init__(self, path: Path, sink: Kept) -> None:
        super().__init__(path)
        self._sink = sink
        self.committed = 0

    def save_all(self, *given: Any, **more: Any) -> None:
        super().save_all(*given, **more)
        self.committed = len(self._sink.items)


class Paced(Parts):
    """A source that gives nothing more before what it gave last is in a checkpoint."""

    checkpoint: Checkpoint

    def open(self, resume: Mapping[str, Position]) -> "PacedReader":
        return PacedReader(self, {part: int(resume.get(part, 0)) for part in self.parts})


class PacedReader(PartsReader):
    def __init__(self, source: Paced, at: dict[str, int]) -> None:
        super().__init__(source, at)
        self._checkpoint = source.checkpoint
        self._seen = -1

    def read(self, limit: int, wait: float) -> Sequence[Batch] | None:
        if self._checkpoint.progress.number == self._seen:
            return ()
        self._seen = self._checkpoint.progress.number
        return PartsReader.read(self, limit, wait)


def over_crashes(
    path: Path,
    sources: Sequence["Paced"],
    crashes: Sequence[int],
    described: Callable[[], Stream[Any]],
    memory: int | None = None,
) -> list[Any]:
    """Return what a sink that commits with each checkpoint has of a stream, cut off after so many items."""
    pairs: list[Any] = []
    for crash in [*crashes, 10**9]:
        sink = Kept(fail=[crash])
        checkpoint = Keeping(path, sink)
        for source in sources:
            source.checkpoint = checkpoint
        flow = described().batch(3).flat_map(list).to(sink)
        try:
            flow.run(checkpoint=checkpoint, settings=Settings(commit_every=0.0, memory=memory))
        except StreamFailed:
            pairs += sink.items[: checkpoint.committed]
        else:
            return pairs + sink.items
    raise AssertionError("it crashed although its sink did not fail")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from("ab")), max_size=40),
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from("ab")), max_size=40),
    st.sampled_from([None, 2]),
    st.sampled_from(["inner", "left"]),
    st.lists(st.integers(1, 8), max_size=4),
)
def test_each_pair_exactly_once_over_crashes(
    tmp_path_factory: pytest.TempPathFactory,
    left_times: Any,
    right_times: Any,
    workers: int | None,
    how: Any,
    crashes: list[int],
) -> None:
    """A sink that commits with each checkpoint has each pair once, wherever the stream was cut off."""
    path = tmp_path_factory.mktemp("join") / "checkpoint"
    left, right = sorted(numbered(left_times)), sorted(numbered(right_times))
    sources = Paced({"l": left}, sizes=[3]), Paced({"r": right}, sizes=[4])
    pairs = over_crashes(path, sources, crashes, lambda: join(*sources, workers=workers, how=how))
    assert Counter(pairs) == nested_loop(left, right, 5, 10, how)


def test_what_waits_is_left_for_whoever_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    left, right = Parts({"l": [(1, "k", "l")]}), Parts({"r": [(30, "k", "far")]})
    first = Collected[Any]()
    join(left, right, how="left", on_drain="keep").to(first).run(checkpoint=Checkpoint(path))
    left.parts = {"l": [(1, "k", "l"), (25, "k", "l2")]}
    second = Collected[Any]()
    join(left, right, how="left", disorder=0).to(second).run(checkpoint=Checkpoint(path))
    assert [*first.items, *second.items] == [
        ((1, "k", "l"), None),
        ((25, "k", "l2"), (30, "k", "far")),
    ]
