"""Memory of joins: what waits and what tables take is counted, bounded, and given back."""

import itertools
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from msgspec import structs
from tests.unit.stream.places import Kept, Parts
from tests.unit.stream.test_joins import Keeping, Loads, Paced, join, nested_loop, numbered

from sidestage.cli.stream_top_command import Seen, drawn
from sidestage.clock import SystemClock
from sidestage.errors import MemoryRefused, StreamFailed
from sidestage.stream import DeadLetter, EventTime, JoinFull, Settings, SideTable, Stream, TableStale, Waiting
from sidestage.stream.assembly import Assembly
from sidestage.stream.checkpoint import Checkpoint
from sidestage.stream.engine import Engine
from sidestage.stream.joins.interval_plan import IntervalPlan, Keyed
from sidestage.stream.joins.intervals import IntervalState
from sidestage.stream.joins.side_tables import LoadedTable, TableTooLarge
from sidestage.stream.memory.budget import Budget, MemoryCounts
from sidestage.stream.memory.weights import weigh_mapping, weights
from sidestage.stream.observing.scraping import scraped
from sidestage.stream.windows.aggregates import count
from sidestage.stream.windows.plan import WindowPlan, tumbling
from sidestage.stream.windows.watermarks import Moment
from sidestage.testing.turned_clock import HandClock

NOW = Moment(0, 0)


def start(
    flow: Any, memory: int, letters: list[DeadLetter] | None = None, **terms: Any
) -> tuple[Engine, Budget]:
    """Start a flow; failures end it, unless there is a place for dead letters."""
    clock, given = SystemClock(), Settings(memory=memory, **terms)
    post = None if letters is None else letters.append
    fail: Any = "fast" if letters is None else "soft"
    assembly = Assembly(flow.layout(), given, clock, fail=fail, post=post, listener=None)
    engine = Engine(assembly, given, clock)
    engine.start()
    assert assembly.budget is not None
    return engine, assembly.budget


def run(flow: Any, memory: int, letters: list[DeadLetter] | None = None, **terms: Any) -> MemoryCounts:
    """Run a flow to its end, and see that all memory was given back."""
    engine, budget = start(flow, memory, letters, **terms)
    ended = engine.join()
    assert ended.memory is not None
    assert (ended.memory.used, budget.left, budget.kept.by_kind.get("joins", 0)) == (0, 0, 0)
    return ended.memory


# What waits


def plan(how: Any = "inner", disorder: float = 0, **more: Any) -> IntervalPlan:
    time = EventTime(at=itemgetter(0), disorder=disorder)
    return IntervalPlan(5, 10, (time, time), how, Waiting(**more))


@pytest.mark.parametrize("keys", [1, 500, 4000])
@pytest.mark.parametrize(
    "make", [lambda n: b"%07d" % n * 20, lambda n: (n + 0.5, f"key {n}", {"a": n + 999})]
)
def test_the_estimate_is_what_rows_take(keys: int, make: Any) -> None:
    state = IntervalState(plan())
    state.allow(10**9)
    tracemalloc.start()
    try:
        names = [f"key {number:08d}" for number in range(keys)]
        for start in range(0, 4000, 500):
            part = range(start, start + 500)
            state.add([Keyed(0, names[n % keys], n * 1e-5, make(n)) for n in part], NOW)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.85 * used < state.estimated_bytes < 1.25 * used


def test_nobody_weighs_what_nobody_asked_about() -> None:
    state = IntervalState(plan())
    state.add([Keyed(0, "k", 1.0, bytes(1000))], NOW)
    assert not state.weighs
    assert state.estimated_bytes == 0
    state.allow(10**9)
    assert 1000 < state.estimated_bytes < 2000, "what waits already is weighed when somebody asks"
    state.drain()
    assert state.estimated_bytes == 0


@pytest.mark.parametrize("stream_says", [True, False])
def test_rows_beyond_the_bytes_are_refused_clearly_and_the_others_go_on(stream_says: bool) -> None:
    state = IntervalState(plan() if stream_says else plan(bytes=10_000))
    if stream_says:
        state.allow(10_000)
    rows = [Keyed(0, "k", float(number), bytes(1000)) for number in range(20)]
    outcome = state.add(rows, NOW)
    places = [place for place, _ in outcome.failures]
    assert places == list(range(len(rows) - len(places), len(rows)))
    assert 5 < state.rows < 10
    assert 8000 < state.estimated_bytes <= 10_000
    error = outcome.failures[0][1]
    assert isinstance(error, JoinFull)
    assert isinstance(error, MemoryRefused)
    assert error.failure_class == "resource"
    assert f"{state.rows} rows wait for the other side, about {state.estimated_bytes:,} bytes" in str(error)
    assert ("Settings(memory=...)" if stream_says else "Waiting(bytes=...)") in error.hint
    state.add([Keyed(1, "k", 100.0, b"")], NOW)
    assert not state.add([Keyed(0, "k", 100.0, bytes(1000))], NOW).failures, "there is room again"


_side = st.lists(
    st.tuples(st.integers(0, 80), st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 7)), max_size=40
)


def rows_of(drawn: Any, *, mixed: bool) -> list[tuple[float, str, Any]]:
    """Rows as they come: each a time, a key, and a payload of its own, by as late as they are."""
    rows = [
        (
            time + late,
            (time, key, (number, bytes(size * 300)) if mixed else b"%05d" % number * (size * 50 + 1)),
        )
        for number, (time, key, size, late) in enumerate(drawn)
    ]
    return [row for _, row in sorted(rows, key=itemgetter(0))]


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(_side, _side),
    st.lists(st.booleans(), max_size=80),
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.sampled_from([None, 1500, 5000, 10**9]),
    st.sampled_from([None, 1500, 5000]),
    st.sampled_from(["inner", "left"]),
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.booleans(),
)
def test_what_is_counted_is_what_waits_and_in_the_end_nothing(
    sides: tuple[Any, Any],
    turns: Any,
    sizes: Any,
    allowed: int | None,
    most: int | None,
    how: Any,
    restored: list[bool],
    mixed: bool,
) -> None:
    declared = plan(how, disorder=7, bytes=most)
    state = IntervalState(declared)
    waits = [rows_of(side, mixed=mixed) for side in sides]
    taken: tuple[list[Any], list[Any]] = ([], [])
    pairs: list[Any] = []
    again = itertools.cycle(restored)
    order = itertools.chain(turns, itertools.cycle([True, False]))
    for turn, size in zip(order, itertools.cycle(sizes), strict=False):
        if not any(waits):
            break
        if allowed is not None:
            state.allow(allowed)
        side = int(turn)
        rows, waits[side] = waits[side][:size], waits[side][size:]
        outcome = state.add([Keyed(side, row[1], row[0], row) for row in rows], NOW, side)
        refused = {place for place, _ in outcome.failures}
        taken[side].extend(row for place, row in enumerate(rows) if place not in refused)
        pairs += outcome.pairs
        bound = min((each for each in (allowed, most) if each is not None), default=None)
        if bound is None:
            assert state.estimated_bytes == 0
            assert not refused
        else:
            assert state.estimated_bytes <= bound
            assert (state.estimated_bytes > 0) == (state.rows > 0)
        if next(again):
            before, state = state, IntervalState(declared)
            if allowed is not None:
                state.allow(allowed)
            state.restore(before.snapshot(), NOW)
            assert state.rows == before.rows
            assert state.estimated_bytes == before.estimated_bytes
    pairs += state.drain().pairs
    assert Counter(pairs) == nested_loop(*taken, 5, 10, how)
    assert (state.estimated_bytes, state.rows) == (0, 0)


def test_the_weights_of_a_checkpoint_are_those_from_before() -> None:
    declared = plan(disorder=7, bytes=10**9)
    state, again = IntervalState(declared), IntervalState(declared)
    state.add([Keyed(n % 2, n % 50, float(n % 6), b"x" * (n % 300)) for n in range(1000)], NOW)
    again.restore(state.snapshot(), NOW)
    assert again.estimated_bytes == state.estimated_bytes > 100_000
    unweighed = IntervalState(plan(disorder=7))
    unweighed.restore(state.snapshot(), NOW)
    assert unweighed.estimated_bytes == 0
    again.restore(unweighed.snapshot(), NOW)
    assert again.estimated_bytes == state.estimated_bytes, "weighed when somebody asks"


def test_each_takes_its_own_bytes_where_that_is_cheap_to_tell() -> None:
    some = [bytes(size) for size in range(0, 10_000, 100)]
    assert all(0 <= size - len(item) < 100 for item, size in zip(some, weights(some), strict=True))
    few = [{"a": bytes(size)} for size in (10, 5000)]
    assert [size > 5000 for size in weights(few)] == [False, True]
    assert len(set(weights(few * 10))) == 1
    assert weights([]) == []


# What waits, in a stream


def payloads(count: int, size: int, *, step: float = 1.0) -> list[tuple[float, int, bytes]]:
    return [(number * step, number % 10, bytes(size)) for number in range(count)]


def test_a_side_that_is_far_ahead_is_refused_before_the_memory_is_full() -> None:
    sink = Kept()
    with pytest.raises(
        StreamFailed, match=r"JoinFull: .* rows wait for the other side, about .* bytes"
    ) as error:
        run(join(payloads(10_000, 1000), Blocked(1000)).to(sink), 1_000_000)
    assert isinstance(error.value.__cause__, JoinFull)
    assert "Settings(memory=...)" in str(error.value)


class Blocked:
    """A side of which nothing comes for long: there is no more of it than that many items far behind."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self._count):
            yield (0.0, "nothing", b"")


@pytest.mark.parametrize("workers", [None, 3])
@pytest.mark.parametrize("bound", [None, 20_000])
def test_what_there_is_no_room_for_is_set_aside_and_the_rest_joined(
    workers: int | None, bound: int | None
) -> None:
    letters: list[DeadLetter] = []
    sink = Kept()
    rows = payloads(2000, 1000, step=0.001)
    sources = Parts({"l": rows}), Parts({"r": [(float(n) / 1000, "other", b"r") for n in range(10)]})
    flow = join(*sources, workers=workers, how="left", bytes=bound).to(sink)
    memory = run(flow, 600_000, letters)
    assert {each.failure_class for each in letters} == {"resource"}
    refused = [letter.item for letter in letters]
    lost = Counter(row[0] for row in refused if row[2] != b"r")
    assert Counter(row[0] for row in rows) - lost == Counter({pair[0][0]: 1 for pair in sink.items})
    assert 5 < len({pair[0][0] for pair in sink.items}) < 600
    assert memory.peak <= 600_000 * (1 + (workers or 1) / 8), (
        "a chunk of each worker counts twice for a moment"
    )
    assert [source.committed for source in sources] == [{"l": 2000}, {"r": 10}]


def test_what_waits_is_seen_while_it_waits_and_given_back_after_it() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def right() -> Iterator[Any]:
        yield (0.0, 1, b"r")
        assert go_on.wait(60)
        yield (1000.0, 1, b"r")

    def left() -> Iterator[Any]:
        yield from payloads(100, 1000)
        begun.set()
        assert go_on.wait(60)

    sink = Kept()
    engine, budget = start(join(left(), right()).to(sink), 10_000_000, chunk=10)
    assert begun.wait(60)
    for _ in range(6000):
        if 'pipeline_join_waiting_rows{stage="join"} 100\n' in engine.metrics():
            break
        go_on.wait(0.01)
    memory = engine.memory()
    assert memory is not None
    assert 100_000 < memory.joins <= memory.used
    assert memory.kept == {"windows": 0, "joins": memory.joins, "tables": 0, "lookups": 0}
    told = engine.metrics()
    assert f'pipeline_memory_kept_bytes{{kind="joins"}} {memory.joins}\n' in told
    assert f'pipeline_join_waiting_bytes{{stage="join"}} {memory.joins}\n' in told
    assert 'pipeline_join_waiting_rows{stage="join"} 100\n' in told
    go_on.set()
    ended = engine.join()
    assert ended.memory == MemoryCounts(10_000_000, 0, ended.memory.peak if ended.memory else 0)
    assert (budget.left, budget.kept.used) == (0, 0)


def test_without_a_budget_rows_are_counted_and_not_weighed() -> None:
    engine = join([(1, "k")], []).to(Kept()).engine()
    engine.run()
    told = engine.metrics()
    assert 'pipeline_join_waiting_rows{stage="join"} 0\n' in told
    assert "pipeline_join_waiting_bytes{" not in told
    assert "pipeline_memory" not in told
    view = join([], []).to(Kept()).metrics_view()
    assert "pipeline_join_waiting_rows (gauge)" in view
    assert "pipeline_join" not in Stream([1]).to(Kept()).metrics_view()


def test_the_live_view_says_what_is_kept() -> None:
    engine = join([(1, "k")], []).to(Kept()).engine(settings=Settings(memory="1 MB"))
    engine.run()
    found = scraped(engine.metrics())
    assert found.memory == engine.memory()
    holding = structs.replace(found, memory=MemoryCounts(1_000_000, 700_000, 900_000, joins=250_000))
    _, told = drawn(Seen(holding, None, 1.0)).renderables
    assert str(told).splitlines()[-1] == "700 kB of 1 MB of memory are used: joins 250 kB."
    _, told = drawn(Seen(structs.replace(found, memory=None), None, 1.0)).renderables
    assert "of memory" not in str(told)


def test_windows_and_joins_share_what_may_be_kept() -> None:
    budget = Budget(900)
    windows, joins = budget.kept.holding("windows"), budget.kept.holding("joins")
    assert (windows.most(), joins.most()) == (300, 300)
    windows.set(200)
    assert (windows.most(), joins.most()) == (300, 100)
    joins.set(250)  # one chunk may be too much: then nothing more comes in
    assert (windows.most(), joins.most()) == (50, 100)
    table = budget.tables.holding("tables")
    table.set(450)
    assert (windows.most(), joins.most(), budget.caches.holding("lookups").most()) == (0, 0, 112)
    assert budget.counts() == MemoryCounts(900, 900, 900, windows=200, joins=250, tables=450)


@pytest.mark.parametrize("ending", ["cancel", "drain", "error"])
def test_all_is_given_back_however_it_ends(ending: str) -> None:
    begun = threading.Event()

    def endless(key: str) -> Iterator[Any]:
        for number in itertools.count():
            if number == 500:
                begun.set()
            yield (number * 0.01, key, bytes(500))

    def check(pair: Any) -> Any:
        if ending == "error":
            raise ValueError("no")
        return pair

    flow = join(endless("k"), endless("k"), disorder=1).map(check).map(len).to(Kept())
    engine, budget = start(flow, 2_000_000, [] if ending != "error" else None)
    assert ending == "error" or begun.wait(60)
    if ending == "error":
        with pytest.raises(StreamFailed):
            engine.join()
    elif ending == "cancel":
        engine.cancel()
        assert engine.wait(60)
    else:
        engine.drain()
        assert not engine.join().complete
        assert (budget.left, budget.kept.used) == (0, 0)
    memory = engine.memory()
    assert memory == MemoryCounts(2_000_000, 0, memory.peak if memory else 0)


_times = st.lists(st.tuples(st.integers(0, 60), st.sampled_from("ab")), max_size=40)


@settings(max_examples=15, deadline=None)
@given(
    _times,
    _times,
    st.sampled_from([None, 2]),
    st.sampled_from(["inner", "left"]),
    st.lists(st.integers(1, 8), max_size=4),
    st.integers(6_000, 30_000),
)
def test_each_pair_exactly_once_over_crashes_within_a_budget(
    tmp_path_factory: pytest.TempPathFactory,
    left_times: Any,
    right_times: Any,
    workers: int | None,
    how: Any,
    crashes: list[int],
    memory: int,
) -> None:
    """What is refused for want of room is refused once, too: nothing is lost, and nothing comes twice."""
    path = tmp_path_factory.mktemp("join") / "checkpoint"
    left, right = sorted(numbered(left_times)), sorted(numbered(right_times))
    right = [(time, key, number + 1000) for time, key, number in right]
    sources = Paced({"l": left}, sizes=[3]), Paced({"r": right}, sizes=[4])
    pairs: list[Any] = []
    refused: list[Any] = []
    for crash in [*crashes, 10**9]:
        sink, letters = Kept(fail=[crash]), list[DeadLetter]()
        checkpoint = Keeping(path, sink)
        committed_letters = [0]
        for source in sources:
            source.checkpoint = checkpoint
        flow = join(*sources, workers=workers, how=how).batch(3).flat_map(list).to(sink)
        failed = _run_until_crash(flow, checkpoint, letters, committed_letters, memory)
        pairs += sink.items[: checkpoint.committed] if failed else sink.items
        refused += letters[: committed_letters[0]] if failed else letters
        if not failed:
            break
    lost = Counter(letter.item for letter in refused)
    assert all(times == 1 for times in lost.values())
    event("refused some" if lost else "refused none")
    came = [[row for row in rows if row not in lost] for rows in (left, right)]
    assert Counter(pairs) == nested_loop(came[0], came[1], 5, 10, how)


def _run_until_crash(
    flow: Any, checkpoint: Keeping, letters: list[DeadLetter], committed: list[int], memory: int
) -> bool:
    """Run a stream until its sink fails; ``committed`` notes which letters the last checkpoint covers."""
    save = checkpoint.save_all

    def saving(*given: Any, **more: Any) -> None:
        count = len(letters)
        save(*given, **more)
        committed[0] = count

    checkpoint.save_all = saving  # type: ignore[method-assign]

    def post(letter: DeadLetter) -> None:
        if not isinstance(letter.error, JoinFull):
            raise letter.error
        letters.append(letter)

    try:
        flow.run(
            checkpoint=checkpoint,
            settings=Settings(commit_every=0.0, memory=memory),
            fail="soft",
            dead_letters=post,
        )
    except Exception:  # noqa: BLE001 - the sink's own, however it is told
        return True
    return False


def test_what_waits_counts_again_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    rows = [(float(number), "k", bytes(2000)) for number in range(100)]
    left, right = Parts({"l": rows}), Parts({"r": []})
    join(left, right, on_drain="keep").to(Kept()).run(checkpoint=Checkpoint(path))
    sink, letters = Kept(), list[DeadLetter]()
    left.parts = {"l": [*rows, (100.0, "k", bytes(2000))]}
    right.parts = {"r": [(5.0, "k", b"r")]}
    ended = (
        join(left, right)
        .to(sink)
        .run(
            checkpoint=Checkpoint(path),
            settings=Settings(memory=500_000),
            fail="soft",
            dead_letters=letters.append,
        )
    )
    assert isinstance(letters[0].error, JoinFull), "there is more of it than a third of the budget"
    assert ended.memory is not None
    assert ended.memory.peak > 200_000


# Tables


def table_of(rows: int, *, size: int = 1000) -> dict[int, bytes]:
    return {number: bytes(size) for number in range(rows)}


def test_a_table_is_weighed_with_its_keys_and_places() -> None:
    tracemalloc.start()
    try:
        table = {f"key {number:07d}": {"id": number, "name": f"name {number}"} for number in range(20_000)}
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.9 * used < weigh_mapping(table) < 1.15 * used


class Elsewhere(Mapping[int, bytes]):
    """A mapping that fetches its values: nobody may want all of them."""

    def __init__(self) -> None:
        self.fetched = 0

    def __getitem__(self, key: int) -> bytes:
        self.fetched += 1
        return bytes(100)

    def __iter__(self) -> Iterator[int]:
        return iter(range(10**6))

    def __len__(self) -> int:
        return 10**6


def test_of_a_mapping_that_fetches_its_values_only_a_few_are_looked_at() -> None:
    table = Elsewhere()
    assert 10**8 < weigh_mapping(table) < 3 * 10**8
    assert table.fetched < 10


def joined_with(table: Any, keys: Sequence[int], sink: Kept) -> Any:
    return Stream(keys).join_table(table, lambda n: n, lambda n, row: len(row), name="names").to(sink)


def test_a_table_counts_while_the_stream_runs() -> None:
    sink = Kept()
    memory = run(joined_with(table_of(100), range(100), sink), 1_000_000)
    assert sink.items == [1000] * 100
    assert 100_000 < memory.peak < 200_000


def test_a_table_that_does_not_fit_ends_the_stream_before_anything_is_read() -> None:
    source = Parts({"p": [1]})
    flow = joined_with(table_of(1000), source, Kept())  # type: ignore[arg-type]
    with pytest.raises(
        StreamFailed, match=r"'names' has 1,000 rows, about 1\.\d+ MB; .* leaves 500 kB"
    ) as error:
        flow.run(settings=Settings(memory=1_000_000))
    assert isinstance(error.value.__cause__, TableTooLarge)
    assert error.value.__cause__.failure_class == "resource"
    assert "Settings(memory=...)" in error.value.hint
    assert source.commits == []


def test_a_table_that_is_loaded_again_needs_room_for_both_versions() -> None:
    once, again = SideTable(table_of(300)), SideTable(lambda: table_of(300), every=3600)
    run(joined_with(once, [1], Kept()), 1_000_000)
    with pytest.raises(StreamFailed, match=r"Both versions are there while it is loaded again"):
        run(joined_with(again, [1], Kept()), 1_000_000)


def test_two_tables_share_the_room_for_tables() -> None:
    flow = (
        Stream([1])
        .join_table(table_of(300), int, lambda n, _: n)
        .join_table(table_of(300), int, lambda n, _: n)
    )
    with pytest.raises(StreamFailed, match=r"has 300 rows"):
        run(flow.to(Kept()), 1_000_000)
    run(flow.to(Kept()), 2_000_000)


def test_a_version_that_does_not_fit_leaves_the_one_before_and_is_told() -> None:
    clock, events, begun = HandClock(), list[Any](), list[Any]()
    budget = Budget(1_000_000)
    first, large, second = table_of(100), table_of(600), table_of(150)
    side: SideTable[int, bytes] = SideTable(Loads(first, large, second), every=10)
    table = LoadedTable(
        "names", side, clock, events.append, begun.append, holding=budget.tables.holding("tables")
    )
    table.ensure()
    size = weigh_mapping(first)
    assert budget.counts().tables == size
    clock.advance(10)
    table.tick(clock.monotonic())
    begun.pop()()
    assert table.rows(1) is first
    (event,) = [each for each in events if isinstance(each, TableStale)]
    assert "TableTooLarge: The table of 'names' has 600 rows" in event.why
    assert f"leaves {(500_000 - size) / 1000:.4g} kB" in event.why
    assert budget.counts().tables == size
    clock.advance(10)
    table.tick(clock.monotonic())
    begun.pop()()
    assert table.rows(1) is second
    assert budget.counts().tables == weigh_mapping(second)
    assert budget.counts().peak == size + weigh_mapping(second), "both were there for a moment"


def test_windows_have_what_tables_leave() -> None:
    letters, sink = list[DeadLetter](), Kept()
    time = EventTime(at=lambda _: 1.0)
    counted = WindowPlan(windows=tumbling(60), aggregate=count(), key=itemgetter(0), time=time)
    flow = Stream([(n,) for n in range(5000)]).join_table(table_of(400), lambda item: 1, lambda item, _: item)
    run(flow.window(counted).map(lambda each: each.value).to(sink), 1_000_000, letters)
    few = len(sink.items)
    assert sum(sink.items) + len(letters) == 5000
    without, sink = Stream([(n,) for n in range(5000)]), Kept()
    run(without.window(counted).map(lambda each: each.value).to(sink), 1_000_000, [])
    assert 100 < few < 0.8 * len(sink.items)


def test_a_drawing_says_what_joins_and_tables_hold() -> None:
    drawing = join([], [], bytes=5000).join_table({}, str, lambda n, _: n).to(Kept()).explain()
    assert "join [inner within 5 and 10 s, 5,000 bytes wait]" in drawing
    assert "and what batches, windows, joins and tables hold" in drawing
