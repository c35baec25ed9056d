"""Columnar stages: tables of the declared size, every row once, and only bad rows lost."""

import sys
import threading
from collections.abc import Iterator
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.places import Kept, Parts

from sidestage.errors import DefinitionError, StreamFailed
from sidestage.policy.retry import Retry
from sidestage.stream import (
    BatchSize,
    Called,
    Collected,
    DeadLetter,
    Default,
    EventTime,
    Raise,
    SetAside,
    Settings,
    Skip,
    Stream,
    WindowPlan,
    collect,
    count,
    mean,
    smallest,
    together,
    total,
    tumbling,
)
from sidestage.stream.chunk import Chunk, Ledger
from sidestage.stream.columns.gathering import GatherOperator
from sidestage.stream.contract import Batch
from sidestage.stream.failing import Desk, Halt
from sidestage.stream.mailbox import Mailbox
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.shape_nodes import GatherNode
from sidestage.testing.turned_clock import HandClock


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": number, "text": "x" * (number % 7)} for number in range(count)]


def lengths(of: list[int]) -> Any:
    def note(table: Any) -> Any:
        of.append(len(table))
        return table

    return note


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 300),
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.sampled_from([None, 1, 7, 50, 1000]),
    st.sampled_from([None, 1, 200, 3000]),
    st.sampled_from([1, 9, None]),
    st.sampled_from([None, 3]),
    st.sampled_from(["arrow", "polars"]),
)
def test_every_row_once_and_in_order_in_tables_of_the_declared_size(
    many: int,
    sizes: list[int],
    size: int | None,
    most_bytes: int | None,
    again: int | None,
    workers: int | None,
    library: Any,
) -> None:
    seen: list[int] = []
    widths: list[int] = []
    source = Parts({"a": rows(many), "b": rows(many // 2)}, sizes)

    def note(frame: Any) -> Any:
        seen.append(len(frame))
        widths.append(frame.nbytes if isinstance(frame, pa.Table) else 0)
        return frame

    wanted = BatchSize(rows=size, bytes=most_bytes)
    stream = Stream(source).map_batches(note, wanted, of=library).map_batches(lambda table: table, again)
    found = list(stream.map_batches(lambda table: table, workers=workers).rows())
    by_part = sorted(found, key=itemgetter("id"))
    assert by_part == sorted([*rows(many), *rows(many // 2)], key=itemgetter("id"))
    if len(sizes) == 1 and not many // 2:
        assert found == rows(many)
    assert all(each <= (size or 1 << 60) for each in seen)
    if size is not None and most_bytes is None:
        assert all(each == size for each in seen[:-1])
    if most_bytes is not None and library == "arrow":
        assert all(width <= most_bytes or count == 1 for width, count in zip(widths, seen, strict=True))
    assert source.committed == {part: len(source.parts[part]) for part in source.parts if source.parts[part]}


def test_rows_stay_in_order_whoever_works_on_their_tables() -> None:
    found = list(Stream(rows(5000)).map_batches(lambda table: table, 37, workers=4).rows())
    assert found == rows(5000)


def test_columns_stay_columns_between_stages() -> None:
    kinds: list[type] = []

    def as_arrow(table: pa.Table) -> pa.Table:
        kinds.append(type(table))
        return table.append_column("double", pa.array([2 * each for each in table["id"].to_pylist()]))

    def as_polars(frame: pl.DataFrame) -> pl.DataFrame:
        kinds.append(type(frame))
        return frame.filter(pl.col("double") > 4)

    stream = Stream(rows(10)).map_batches(as_arrow, 4).map_batches(as_polars, of="polars")
    sink = Collected[Any]()
    stream.to(sink).run()
    assert set(kinds) == {pa.Table, pl.DataFrame}
    assert {type(each) for each in sink.items} == {pl.DataFrame}
    assert pl.concat(sink.items)["double"].to_list() == list(range(6, 20, 2))


class Click(msgspec.Struct):
    id: int
    text: str


class Pair(NamedTuple):
    id: int
    text: str


@pytest.mark.parametrize("kind", [Click, Pair, dict])
def test_structs_named_tuples_and_mappings_are_rows(kind: Any) -> None:
    items = [kind(**row) for row in rows(5)]
    assert list(Stream(items).tables(2).rows()) == rows(5)


def test_columns_that_only_later_rows_have_are_not_lost() -> None:
    items = [{"a": 1}, {"a": 2, "b": "x"}, {"b": "y"}]
    assert list(Stream(items).tables(3).rows()) == [
        {"a": 1, "b": None},
        {"a": 2, "b": "x"},
        {"a": None, "b": "y"},
    ]


def test_a_table_ends_early_where_no_column_could_hold_both_types() -> None:
    items = [{"a": 1}, {"a": 2.5}, {"a": "three"}, {"a": "four"}]
    sink = Collected[pa.Table]()
    Stream(Parts({"p": items}, sizes=[1])).tables(10).to(sink).run()
    assert [table.to_pylist() for table in sink.items] == [
        [{"a": 1.0}, {"a": 2.5}],
        [{"a": "three"}, {"a": "four"}],
    ]


def test_only_the_rows_that_a_schema_does_not_hold_are_lost() -> None:
    schema = pa.schema([pa.field("id", pa.int32(), nullable=False), ("text", pa.string())])
    items: list[Any] = [{"id": n, "text": "t", "other": 1} for n in range(100)]
    items[17] = {"id": "seventeen", "text": "t"}
    items[40] = {"id": None}
    items[63] = 63
    letters: list[DeadLetter] = []
    sink = Collected[pa.Table]()
    flow = Stream(Parts({"p": items}, sizes=[30])).tables(64, schema=schema).to(sink)
    flow.run(fail="soft", dead_letters=letters.append)
    assert [letter.item for letter in letters] == [items[17], items[40], items[63]]
    assert [letter.origin and letter.origin.index for letter in letters] == [17, 10, 3]
    assert [len(table) for table in sink.items] == [64, 33]
    assert all(table.schema == schema for table in sink.items)


def test_tables_are_made_to_fit_a_schema_or_refused() -> None:
    schema = pa.schema([("id", pa.int64())])
    fits, does_not = pa.table({"x": [1], "id": pa.array([1], pa.int8())}), pa.table({"x": [1]})
    letters: list[DeadLetter] = []
    sink = Collected[pa.Table]()
    stream = Stream([fits, does_not, fits.to_batches()[0]]).tables(schema=schema)
    stream.to(sink).run(fail="soft", dead_letters=letters.append)
    assert [table.schema for table in sink.items] == [schema, schema]
    assert [letter.item for letter in letters] == [does_not]
    assert "no column id" in str(letters[0].error)


@pytest.mark.parametrize("empty", [pa.table({"id": pa.array([], pa.int64())}), pl.DataFrame({"id": []})])
def test_empty_tables_come_and_go_and_are_dealt_with(empty: Any) -> None:
    calls: list[int] = []
    source = Parts({"a": [empty, pa.table({"id": [1, 2, 3]}), empty]}, sizes=[1])

    def nothing_of_two(table: pa.Table) -> pa.Table:
        calls.append(len(table))
        return table.slice(0, 0) if len(table) == 2 else table

    assert list(Stream(source).map_batches(nothing_of_two, 2).rows()) == [{"id": 3}]
    assert calls == [2, 1]
    assert source.committed == {"a": 3}


def test_a_function_may_return_several_tables_or_items() -> None:
    def halves(table: pa.Table) -> list[pa.Table]:
        return [table.slice(0, 1), table.slice(0, 0), table.slice(1)]

    def records(table: pa.Table) -> Iterator[pa.RecordBatch]:
        yield from table.to_batches()

    sink = Collected[Any]()
    Stream(rows(3)).map_batches(halves, 3).map_batches(records).to(sink).run()
    assert [type(each) for each in sink.items] == [pa.Table, pa.Table]
    assert list(Stream(rows(3)).map_batches(lambda table: table["id"].to_pylist(), 2)) == [0, 1, 2]


@pytest.mark.parametrize(
    "returned", [None, "text", {"a": [1]}, pa.array([1]), 5, pl.DataFrame({"a": [1]}).lazy(), Pair(1, "x")]
)
def test_a_wrong_return_is_said_and_not_looked_for_in_rows(returned: Any) -> None:
    calls: list[int] = []

    def wrong(table: pa.Table) -> Any:
        calls.append(len(table))
        return returned

    with pytest.raises(StreamFailed, match=r"returned .*Return a pyarrow.Table"):
        list(Stream(rows(8)).map_batches(wrong, 8, splittable=True))
    assert calls == [8]


def no_bad(bad: set[int]) -> Any:
    def check(table: Any) -> Any:
        ids = [row["id"] for row in table] if isinstance(table, list) else table["id"].to_pylist()
        if bad & set(ids):
            raise ValueError(f"bad rows {sorted(bad & set(ids))}")
        return table

    return check


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(0, 99), max_size=12), st.integers(1, 60), st.sampled_from(["arrow", "list"]))
def test_only_bad_rows_are_set_aside_if_tables_may_be_split(bad: set[int], size: int, of: Any) -> None:
    letters: list[DeadLetter] = []
    sink = Kept()
    source = Parts({"a": rows(100)}, sizes=[33])
    stream = Stream(source).map_batches(no_bad(bad), size, of=of, splittable=True)
    good = stream if of == "list" else stream.rows()
    good.to(sink).run(fail="soft", dead_letters=letters.append)
    assert [letter.item for letter in letters] == [row for row in rows(100) if row["id"] in bad]
    assert sink.items == [row for row in rows(100) if row["id"] not in bad]
    assert source.committed == {"a": 100}


def test_a_table_that_may_not_be_split_is_one_item() -> None:
    letters: list[DeadLetter] = []
    sink = Kept()
    flow = Stream(rows(100)).map_batches(no_bad({5}), 10, on_error=SetAside()).rows().to(sink)
    flow.run(dead_letters=letters.append)
    assert [letter.item.to_pylist() for letter in letters] == [rows(10)]
    assert len(sink.items) == 90
    again = Stream([letters[0].item]).map_batches(no_bad(set()), 10).rows()
    assert list(again) == rows(10)


def test_other_ways_to_deal_with_a_table_that_fails() -> None:
    def left(on_error: Any) -> list[int]:
        stream = Stream(rows(9)).map_batches(no_bad({5}), 3, on_error=on_error)
        return [row["id"] for row in stream.rows()]

    assert left(Skip()) == [0, 1, 2, 6, 7, 8]
    assert left(Default(pa.table({"id": [-1]}))) == [0, 1, 2, -1, 6, 7, 8]
    with pytest.raises(StreamFailed, match="bad rows"):
        left(Raise())


def test_what_trying_again_can_cure_is_not_split() -> None:
    calls: list[int] = []

    def flaky(table: pa.Table) -> pa.Table:
        calls.append(len(table))
        if len(calls) < 3:
            raise ConnectionError("busy")
        return table

    stream = Stream(rows(8)).map_batches(flaky, 8, splittable=True, retry=Retry(times=5, delay=0.0))
    assert list(stream.rows()) == rows(8)
    assert calls == [8, 8, 8]
    del calls[:]
    letters: list[DeadLetter] = []
    down = Stream(rows(8)).map_batches(flaky, 8, splittable=True)
    down.to(Collected()).run(fail="soft", dead_letters=letters.append)
    assert [len(letter.item) for letter in letters] == [8]
    assert calls == [8]


def test_lists_are_handed_to_functions_as_they_are() -> None:
    sizes: list[int] = []

    def doubled(numbers: list[int]) -> list[int]:
        sizes.append(len(numbers))
        return [2 * each for each in numbers]

    assert list(Stream(range(10)).map_batches(doubled, 4, of="list")) == list(range(0, 20, 2))
    assert sizes == [4, 4, 2]


def test_what_waited_long_enough_goes_on() -> None:
    arrived = threading.Event()

    def events() -> Iterator[dict[str, int]]:
        yield {"id": 1}
        assert arrived.wait(120), "the row went on though no others came"

    flow = Stream(events()).tables(BatchSize(rows=100, within=0.02)).to(Called(lambda some: arrived.set()))
    assert flow.run().complete


class Holding(Mailbox):
    def __init__(self) -> None:
        super().__init__(10, Halt(), senders=1)
        self.held: list[Chunk] = []

    def push(self, chunk: Chunk) -> None:
        self.held.append(chunk)


def gathering(clock: HandClock, **size: Any) -> tuple[GatherOperator, Holding]:
    node = GatherNode(
        "tables",
        **{"size": None, "most_bytes": None, "within": None, "library": "arrow", "schema": None, **size},
    )
    following = Holding()
    desk = Desk("tables", Raise(), None, lambda letter: None, Halt(), lambda: 0.0, lambda death: None)
    return GatherOperator(node, clock, desk, Meter(), following), following


def test_a_table_is_due_when_its_first_row_has_waited() -> None:
    clock = HandClock()
    operator, following = gathering(clock, size=3, within=5.0)
    ledger = Ledger()
    assert operator.due() is None
    clock.advance(1)
    operator.push(Chunk([{"id": 1}], (ledger.issue(Batch("a", 0, [], 1)),), 0.0))
    clock.advance(1)
    operator.push(Chunk([{"id": 2}], (ledger.issue(Batch("a", 1, [], 2)),), 1.0))
    assert operator.due() == 6
    operator.tick(5.9)
    assert not following.held
    operator.tick(6.0)
    assert [table.to_pylist() for chunk in following.held for table in chunk.items] == [
        [{"id": 1}, {"id": 2}]
    ]
    assert following.held[0].born == 0.0
    assert operator.due() is None


def test_a_ticket_is_settled_when_the_last_table_of_its_rows_is() -> None:
    operator, following = gathering(HandClock(), size=4)
    ledger = Ledger()
    for first, last in ((0, 3), (3, 10), (10, 11)):
        ticket = ledger.issue(Batch("a", first, [], last))
        operator.push(Chunk([{"id": n} for n in range(first, last)], (ticket,), 0.0))
    operator.finish()
    assert [chunk.load for chunk in following.held] == [4, 4, 3]
    assert [len(chunk.tickets) for chunk in following.held] == [2, 1, 2]
    reached = []
    for chunk in following.held:
        chunk.settle()
        reached.append(ledger.take_reached())
    assert reached == [{"a": 3}, {}, {"a": 11}]
    assert ledger.unsettled == 0


def plan_of(aggregate: Any) -> WindowPlan:
    return WindowPlan(
        windows=tumbling(60),
        aggregate=aggregate,
        key=itemgetter("key"),
        time=EventTime(at=itemgetter("time"), disorder=5),
    )


@pytest.mark.parametrize(
    "aggregate",
    [
        count(),
        total(itemgetter("value")),
        mean(itemgetter("value")),
        together(n=count(), least=smallest(itemgetter("value"))),
        collect(100),
        collect(100, itemgetter("value")),
    ],
)
def test_windows_of_tables_are_windows_of_their_rows(aggregate: Any) -> None:
    items = [
        {"time": second - (second * 7 % 11), "key": "abc"[second % 3], "value": second * 0.25}
        for second in range(500)
    ]
    found: dict[str, list[Any]] = {"rows": [], "tables": []}
    late: dict[str, list[Any]] = {"rows": [], "tables": []}
    for name, stream in (("rows", Stream(items)), ("tables", Stream(items).tables(64))):
        windows = stream.window(plan_of(aggregate))
        results, behind = Collected[Any](), Collected[Any]()
        windows.to(results).also(windows.late.to(behind)).run()
        found[name], late[name] = results.items, [each.item for each in behind.items]
    assert found["tables"] == found["rows"]
    assert late["tables"] == late["rows"]
    assert late["rows"]


def test_a_row_of_a_table_that_no_window_can_use_is_an_error_of_its_own() -> None:
    items = [{"time": time, "key": "a"} for time in (1.0, float("nan"), 3.0)]
    letters: list[DeadLetter] = []
    results = Collected[Any]()
    flow = Stream(items).tables(3).window(plan_of(count())).to(results)
    flow.run(fail="soft", dead_letters=letters.append)
    assert [each.value for each in results.items] == [2]
    assert len(letters) == 1
    assert letters[0].item["time"] != letters[0].item["time"]
    wrong = WindowPlan(windows=tumbling(60), aggregate=count(), key=lambda row: (row["key"], 1))
    with pytest.raises(StreamFailed, match="tuple of a table, which is no column"):
        list(Stream(items).tables(3).window(wrong))


def test_what_makes_no_sense_is_refused() -> None:
    for size in ({"rows": 0}, {"bytes": 0}, {"rows": 1, "within": 0}, {"within": 1.0}):
        with pytest.raises(DefinitionError):
            BatchSize(**size)
    with pytest.raises(DefinitionError):
        Stream([1]).tables(0)
    with pytest.raises(DefinitionError):
        Stream([1]).map_batches(lambda items: items, BatchSize(bytes=5), of="list")
    with pytest.raises(DefinitionError):
        Stream([1]).tables(5, on_error=Default({}))
    with pytest.raises(StreamFailed, match="is no table, so it has no rows"):
        list(Stream([1]).rows())


def test_it_is_drawn_with_the_sizes() -> None:
    stream = Stream(iter([]), name="clicks").map_batches(
        no_bad(set()), BatchSize(rows=1000, bytes=1 << 20, within=2), workers=2, name="clean"
    )
    drawing = stream.map_batches(no_bad(set()), name="more").to(Called(print, name="out")).explain()
    assert "clicks + tables [1,000 rows or 1,048,576 bytes within 2 s]  (1 thread)" in drawing
    assert "--> clean + tables-2 [as they come] + more  (2 threads, in order)" in drawing


def test_nothing_heavy_is_loaded_before_it_is_used() -> None:
    import subprocess

    code = (
        "import sys, sidestage.stream; print([m for m in ('pyarrow', 'polars', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_chunks_of_any_size_come_to_the_same() -> None:
    for chunk in (1, 3, 64):
        seen: list[int] = []
        engine = Stream(rows(200)).map_batches(lengths(seen), 50).rows().to(Collected())
        engine.run(settings=Settings(chunk, buffer=8))
        assert seen == [50, 50, 50, 50]
