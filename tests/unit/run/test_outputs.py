"""Outputs of every type that a task may return, and those it may not."""

import dataclasses
import datetime as dt
from collections.abc import Generator, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from sidestage.errors import DefinitionError, OutputError
from sidestage.run import outputs
from sidestage.run.inputs import read_input
from sidestage.run.outputs import check_output_annotation, to_batches

TABLE = pa.table({"n": [1, 2, 3], "s": ["a", None, "c"]})
ROWS = TABLE.to_pylist()


@dataclasses.dataclass
class Row:
    n: int
    s: str | None = None


class RowDict(TypedDict):
    n: int
    s: NotRequired[str | None]


class RowStruct(msgspec.Struct):
    n: int
    s: str | None


def written(value, returns=Any):
    schema, batches = to_batches(value, returns)
    return pa.Table.from_batches(list(batches), schema)


def refused(value, match, returns=Any):
    with pytest.raises(OutputError, match=match) as caught:
        written(value, returns)
    assert caught.value.hint
    return caught.value


def test_arrow():
    assert written(TABLE) == TABLE
    assert written(TABLE.to_batches()[0]) == TABLE
    assert written(TABLE.to_reader()) == TABLE
    assert written(ds.dataset(TABLE)) == TABLE
    assert written([TABLE.slice(0, 1), TABLE.slice(1)]) == TABLE
    assert written(batch for batch in TABLE.to_batches(max_chunksize=1)) == TABLE


def test_polars():
    pl = pytest.importorskip("polars")
    frame = pl.from_arrow(TABLE)
    for value in (frame, frame.lazy(), [frame[:1], frame[1:]], iter([frame])):
        assert written(value).to_pylist() == ROWS


def test_polars_lazy_frames_keep_categories_and_empty_schemas():
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame(
        {
            "c": pl.Series(["x", None, "y"], dtype=pl.Categorical),
            "e": pl.Series(["a"] * 3, dtype=pl.Enum(["a"])),
        }
    )
    for value in (frame, frame.lazy()):
        assert written(value).to_pylist() == frame.to_dicts()
    empty = written(frame.lazy().filter(pl.col("e") == "none"))
    assert (empty.num_rows, empty.column_names) == (0, ["c", "e"])


def test_pandas():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"n": [1, 2, 3], "s": ["a", None, "c"]})
    for value in (frame, [frame], frame[frame["n"] > 0]):
        assert written(value).to_pylist() == ROWS
    assert written(frame).schema.metadata is None
    assert written(frame.iloc[[2, 0]]).column_names == ["n", "s"]
    assert written(frame.set_index("n")).column_names == ["s", "n"]
    assert written(frame.groupby("n").count()).column_names == ["s", "n"]


def test_pandas_frames_that_are_refused():
    pd = pytest.importorskip("pandas")
    refused(pd.DataFrame({"a": [1, "x"]}, dtype=object), "cannot be stored.*column a")
    refused(pd.DataFrame([[1, 2]]), "0 is not named by a string")
    refused(pd.DataFrame([[1, 2]], columns=["a", "a"]), "more than one column 'a'")
    refused(pd.DataFrame(), "no columns")


def test_duckdb():
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        relation = connection.sql("SELECT i AS n FROM range(300000) t(i)")
        schema, batches = to_batches(relation, Any)
        assert schema.names == ["n"]
        sizes = [batch.num_rows for batch in batches]
        assert sum(sizes) == 300_000
        assert max(sizes) <= outputs.BATCH_ROWS
        refused(connection.sql("SELECT 1 AS a, 2 AS a"), "more than one column 'a'")


def test_paths(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(TABLE, path)
    assert written(path) == TABLE
    assert written([path, path]).num_rows == 6
    refused(tmp_path / "none.parquet", r"none\.parquet cannot be read")
    (tmp_path / "bad.parquet").write_bytes(b"no")
    refused([path, tmp_path / "bad.parquet"], r"bad\.parquet cannot be read")


@pytest.mark.parametrize("make", [list, iter, lambda rows: (row for row in rows), tuple])
@pytest.mark.parametrize(
    ("rows", "returns"),
    [
        (ROWS, Any),
        (ROWS, Iterable[RowDict]),
        ([Row(**row) for row in ROWS], Any),
        ([Row(**row) for row in ROWS], Iterator[Row]),
        ([RowStruct(**row) for row in ROWS], Any),
        ([RowStruct(**row) for row in ROWS], list[RowStruct]),
    ],
)
def test_rows(make, rows, returns):
    assert written(make(rows), returns) == TABLE


def test_what_is_written_can_be_read_as_the_same_class(tmp_path):
    @dataclasses.dataclass
    class Inner:
        a: int
        at: dt.datetime

    @dataclasses.dataclass
    class Wide:
        at: dt.datetime
        day: dt.date
        clock: dt.time
        gap: dt.timedelta
        money: Annotated[Decimal, pa.decimal128(9, 2)]
        raw: bytes
        flag: bool
        real: float
        items: list[int]
        inner: Inner | None
        inners: list[Inner]

    at = dt.datetime(2013, 1, 1, 5, tzinfo=dt.UTC)
    naive = at.replace(tzinfo=None)
    row = Wide(
        at,
        at.date(),
        dt.time(5),
        dt.timedelta(1),
        Decimal("1.25"),
        b"x",
        bool(1),
        2,
        [1],
        None,
        [Inner(1, naive)],
    )
    table = written([row], list[Wide])
    assert table.schema.field("at").type == pa.timestamp("us", "UTC")
    assert table.schema.field("money").type == pa.decimal128(9, 2)
    path = tmp_path / "x.parquet"
    pq.write_table(table, path)
    assert read_input(list[Wide], [path]) == [row]


@pytest.mark.parametrize("returns", [Iterator[Row], list[RowDict], Iterable[RowStruct]])
@pytest.mark.parametrize("value", [[], iter(()), (row for row in ())])
def test_nothing_is_fine_where_the_class_gives_the_columns(value, returns):
    assert written(value, returns) == TABLE.schema.empty_table()


@pytest.mark.parametrize("returns", [Any, list[dict], Iterator[pa.RecordBatch], list[Path], pa.Table])
def test_nothing_is_refused_where_the_columns_are_unknown(returns):
    assert "Annotate" in refused([], "without items", returns).hint


def test_empty_tables_keep_their_columns():
    assert written(TABLE.slice(0, 0)) == TABLE.slice(0, 0)
    assert written([TABLE.slice(0, 0), TABLE]) == TABLE


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (None, "returned None"),
        (7, "returned a int"),
        ("x.parquet", "returned a str"),
        (b"x", "returned a bytes"),
        ({"n": 1}, "returned a dict"),
        ({1, 2}, "returned a set"),
        (Row(1), "returned a .*Row"),
        (Row, "returned a type"),
        (object(), "returned a object"),
        ([1, 2], "a list of a int"),
        (["x"], "a list of a str"),
        ([None], "a list of None"),
        ([[1]], "a list of a list"),
        ([TABLE, ROWS[0]], "Item 2 is a dict, unlike"),
        ([TABLE, None], "Item 2 is None, unlike"),
        ([ROWS[0], 5], "Row 2 is a int"),
        ([ROWS[0], Row(1)], "Row 2 is a Row, but the rows before are dict"),
        ([Row(1), RowStruct(1, None)], "Row 2 is a RowStruct"),
        ([{"n": 1}, {"n": 2, "m": 3}], "Row 2 has 'm', which"),
        ([{"n": 1, "m": 1}, {"n": 2}], "Row 2 lacks 'm'"),
        ([{}], "no columns"),
        ([{"": 1}], "empty name"),
        ([{1: 1}], "key 1, which is not a string"),
        ([{"n": 1}, {"n": "x"}], "no common type"),
        ([{"n": "\ud800"}], "'n' has values of no common type"),
        ([{"n": object()}], "'n' has values of no common type"),
        (pa.table([[1], [2]], names=["a", "a"]), "more than one column 'a'"),
        (pa.table([[1]], names=[""]), "empty name"),
        (pa.table({}), "no columns"),
        (pa.table({"x": pa.nulls(1, pa.month_day_nano_interval())}), "Column 'x': Values of type"),
        ([TABLE, TABLE.rename_columns(["n", "t"])], "Item 2 lacks 's' and has 't' too"),
        ([TABLE, pa.table({"n": ["x"], "s": ["y"]})], "Item 2 does not fit the first: column 'n'"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(value, match):
    refused(value, match)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        (Row("x"), "Row 3: 'n' is 'x', which is not int64"),
        (Row(1.5), "Row 3: 'n' is 1.5"),
        (Row(2**70), "Row 3: 'n' is 1180591620717411303424"),
        (Row(n=True), "Row 3: 'n' is True"),
        (Row("12"), "Row 3: 'n' is '12'"),
        (Row(None), "Row 3: 'n' is None, but its type does not allow"),
        (Row(1, 5), "Row 3: 's' is 5, which is not string"),
        (Row(1, "\ud800"), "Row 3: 's' is .*ud800"),
    ],
)
@pytest.mark.parametrize("at_once", [2, 10_000])
def test_rows_that_do_not_fit_their_class_are_found(monkeypatch, row, match, at_once):
    monkeypatch.setattr(outputs, "ROWS_AT_ONCE", at_once)
    refused([Row(1), Row(2), row, Row(4)], match, list[Row])


def test_later_rows_must_fit_what_the_first_rows_were(monkeypatch):
    monkeypatch.setattr(outputs, "ROWS_AT_ONCE", 2)
    refused(({"n": n if n < 4 else n + 0.5} for n in range(6)), "Row 5: 'n' is 4.5, which is not int64")
    refused(({"n": None if n < 4 else n} for n in range(6)), "Row 5: 'n' is 4, which is not null")
    assert written({"n": n if n < 4 else float(n)} for n in range(6))["n"].to_pylist() == list(range(6))


def test_times_with_and_without_zone_are_not_mixed(monkeypatch):
    aware = dt.datetime(2013, 1, 1, tzinfo=dt.UTC)
    naive = aware.replace(tzinfo=None)
    for at_once in (1, 10):
        monkeypatch.setattr(outputs, "ROWS_AT_ONCE", at_once)
        for first, second in ((aware, naive), (naive, aware)):
            refused([{"t": first}, {"t": second}], "'t'")
    assert written([{"t": aware}]).schema.field("t").type.tz == "UTC"
    assert written([{"t": naive}]).schema.field("t").type.tz is None


def test_decimals_are_not_rounded():
    @dataclasses.dataclass
    class Price:
        amount: Decimal

    assert written([Price(Decimal("1.000000001"))], list[Price])["amount"].to_pylist() == [
        Decimal("1.000000001")
    ]
    refused([Price(Decimal("1.0000000001"))], "Row 1: 'amount'", list[Price])


def test_rows_of_another_class_than_promised_are_refused():
    refused([RowStruct(1, None)], "promises rows of Row", list[Row])


def test_optional_keys_of_a_typed_dict_may_be_left_out():
    assert written([{"n": 1}, {"n": 2, "s": "x"}], list[RowDict]).to_pylist() == [
        {"n": 1, "s": None},
        {"n": 2, "s": "x"},
    ]
    refused([{"s": "x"}], "Row 1 lacks 'n'", list[RowDict])


class Source:
    """Counts what is drawn from a generator and notes its end."""

    def __init__(self, items):
        self.items, self.drawn, self.is_closed = items, 0, False

    def rows(self):
        try:
            for item in self.items:
                self.drawn += 1
                yield item
        finally:
            self.is_closed = True


def test_generators_are_drawn_from_lazily_and_closed(monkeypatch):
    monkeypatch.setattr(outputs, "ROWS_AT_ONCE", 10)
    source = Source([{"n": n} for n in range(100)])
    _, batches = to_batches(source.rows(), Any)
    assert source.drawn == 10
    next(batches)
    next(batches)
    assert source.drawn == 20
    assert not source.is_closed
    batches.close()
    assert source.is_closed
    assert list(batches) == []


def test_a_generator_is_closed_even_if_no_batch_was_drawn():
    source = Source([TABLE, TABLE])
    _, batches = to_batches(source.rows(), Any)
    batches.close()
    assert (source.drawn, source.is_closed) == (1, True)


def test_a_generator_is_closed_if_its_items_are_refused():
    source = Source([1, 2])
    generator = source.rows()
    with pytest.raises(OutputError):
        to_batches(generator, Any)
    assert source.is_closed


def test_errors_of_the_task_pass_through_unchanged():
    def rows() -> Generator[dict[str, int], None, None]:
        yield {"n": 1}
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        written(rows())


@pytest.mark.parametrize(
    "annotation",
    [
        Any,
        pa.Table,
        pa.RecordBatch,
        pa.Table | Path,
        Iterator[pa.Table],
        Generator[Row, None, None],
        Iterable,
        Path,
        list[Path],
        list[dict],
        list[RowDict],
    ],
)
def test_annotations_that_are_accepted(annotation):
    check_output_annotation(annotation)


@pytest.mark.parametrize(
    "annotation", [None, type(None), int, str, dict, Row, list[int], pa.Table | None, set[dict]]
)
def test_annotations_that_are_refused(annotation):
    with pytest.raises(DefinitionError, match="cannot return"):
        check_output_annotation(annotation)
