"""Inputs in every type that a task may annotate."""

import dataclasses
import datetime as dt
import inspect
import subprocess
import sys
from collections.abc import Generator, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from sidestage.errors import DataError, DefinitionError
from sidestage.run.inputs import check_input_annotation, read_input


@dataclasses.dataclass
class Flight:
    carrier: str
    minutes: int | None
    day: dt.date = dt.date(2013, 1, 1)


class FlightDict(TypedDict):
    carrier: str
    minutes: int | None
    day: NotRequired[dt.date]


class FlightStruct(msgspec.Struct, rename={"origin": "carrier"}):
    origin: str
    minutes: int | None
    day: dt.date | None = None


DAY = dt.date(2013, 1, 2)


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "brackets [1] and *"
    folder.mkdir()
    paths = []
    for number, rows in enumerate(([("AA", 1), ("UA", None)], [("B6", 3)])):
        table = pa.table(
            {
                "carrier": [carrier for carrier, _ in rows],
                "minutes": pa.array([minutes for _, minutes in rows], pa.int64()),
                "day": [DAY] * len(rows),
            }
        )
        paths.append(folder / f"2013-01-0{number + 1}~{number:024x}.parquet")
        pq.write_table(table, paths[-1])
    return paths


EXPECTED = [
    {"carrier": "AA", "minutes": 1, "day": DAY},
    {"carrier": "UA", "minutes": None, "day": DAY},
    {"carrier": "B6", "minutes": 3, "day": DAY},
]


@pytest.mark.parametrize("annotation", [pa.Table, Any, inspect.Parameter.empty, Annotated[pa.Table, "x"]])
def test_tables_are_what_is_given_without_an_annotation(files, annotation):
    table = read_input(annotation, files)
    assert isinstance(table, pa.Table)
    assert table.to_pylist() == EXPECTED


def test_reader(files):
    with read_input(pa.RecordBatchReader, files) as reader:
        assert reader.read_all().to_pylist() == EXPECTED


@pytest.mark.parametrize("holder", [Iterator, Iterable, list, Generator])
def test_batches(files, holder):
    annotation = Generator[pa.RecordBatch, None, None] if holder is Generator else holder[pa.RecordBatch]
    batches = list(read_input(annotation, files))
    assert [row for batch in batches for row in batch.to_pylist()] == EXPECTED


def test_dataset(files):
    dataset = read_input(ds.Dataset, files)
    assert dataset.to_table().to_pylist() == EXPECTED


def test_polars(files):
    pl = pytest.importorskip("polars")
    assert read_input(pl.DataFrame, files).to_dicts() == EXPECTED
    lazy = read_input(pl.LazyFrame, files)
    assert isinstance(lazy, pl.LazyFrame)
    assert lazy.collect().to_dicts() == EXPECTED


def test_pandas(files):
    pd = pytest.importorskip("pandas")
    frame = read_input(pd.DataFrame, files)
    assert list(frame.columns) == ["carrier", "minutes", "day"]
    assert list(frame["carrier"]) == ["AA", "UA", "B6"]


def test_duckdb_relations_can_be_joined_with_each_other(files):
    duckdb = pytest.importorskip("duckdb")
    relation = read_input(duckdb.DuckDBPyRelation, files)
    assert relation.to_arrow_table().to_pylist() == EXPECTED
    other = read_input(duckdb.DuckDBPyRelation, files[:1])
    assert len(relation.join(other, "carrier").fetchall()) == 2


def test_paths(files):
    assert read_input(list[Path], files) == files
    assert read_input(list[Path], []) == []
    assert read_input(Path, files[:1]) == files[0]
    with pytest.raises(DataError, match="2 files"):
        read_input(Path, files)


@pytest.mark.parametrize("row", [Flight, FlightStruct])
def test_rows_as_objects(files, row):
    expected = [row(*each.values()) for each in EXPECTED]
    assert read_input(list[row], files) == expected
    assert list(read_input(Iterator[row], files)) == expected
    again = read_input(Iterable[row], files)
    assert list(again) == list(again) == expected


@pytest.mark.parametrize("row", [dict, dict[str, Any], FlightDict])
def test_rows_as_dictionaries(files, row):
    assert read_input(list[row], files) == EXPECTED
    assert list(read_input(Iterator[row], files)) == EXPECTED


def test_bare_holders_hold_dictionaries(files):
    assert read_input(list, files) == EXPECTED
    assert list(read_input(Iterable, files)) == EXPECTED


def write(tmp_path, *tables):
    paths = [tmp_path / f"{number}.parquet" for number in range(len(tables))]
    for path, table in zip(paths, tables, strict=True):
        pq.write_table(table, path)
    return paths


def test_a_field_may_be_missing_if_it_has_a_default(tmp_path):
    files = write(tmp_path, pa.table({"carrier": ["AA"], "minutes": [1]}))
    assert read_input(list[Flight], files) == [Flight("AA", 1)]
    assert read_input(list[FlightDict], files) == [{"carrier": "AA", "minutes": 1}]


def test_missing_and_extra_columns_are_named(tmp_path):
    files = write(tmp_path, pa.table({"carrier": ["AA"], "delay": [1]}))
    with pytest.raises(DataError, match="lacks 'minutes' and has 'delay' too"):
        read_input(Iterator[Flight], files)


def test_values_that_do_not_fit_the_class_are_named(tmp_path):
    files = write(tmp_path, pa.table({"carrier": ["AA", None], "minutes": [1, 2]}))
    with pytest.raises(
        DataError, match=r"Rows 1 to 2 .* Flight: Expected `str`, got `null` - at `\$\[1\]\.carrier`"
    ):
        read_input(list[Flight], files)


def test_every_column_type_reaches_python(tmp_path):
    class Wide(msgspec.Struct):
        at: dt.datetime
        clock: dt.time
        gap: dt.timedelta
        money: Decimal
        raw: bytes
        flag: bool
        items: list[int]
        inner: Flight
        tags: dict[str, int]

    at = dt.datetime(2013, 1, 1, 5, tzinfo=dt.UTC)
    inner = {"carrier": "AA", "minutes": 1, "day": DAY}
    table = pa.table(
        {
            "at": pa.array([at], pa.timestamp("ns", "UTC")),
            "clock": pa.array([dt.time(5)], pa.time64("ns")),
            "gap": pa.array([dt.timedelta(seconds=1)], pa.duration("ns")),
            "money": [Decimal("1.25")],
            "raw": [b"x"],
            "flag": [True],
            "items": [[1, 2]],
            "inner": [inner],
            "tags": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        }
    )
    (row,) = read_input(list[Wide], write(tmp_path, table))
    assert (row.at, row.clock, row.gap) == (at, dt.time(5), dt.timedelta(seconds=1))
    assert (row.money, row.raw, row.flag, row.items) == (Decimal("1.25"), b"x", True, [1, 2])
    assert (row.inner, row.tags) == (Flight("AA", 1, DAY), {"k": 1})


def test_nanoseconds_are_not_dropped_silently(tmp_path):
    files = write(tmp_path, pa.table({"at": pa.array([1], pa.timestamp("ns"))}))
    with pytest.raises(DataError, match="microseconds"):
        read_input(list[dict], files)
    assert read_input(pa.Table, files)["at"].cast(pa.int64()).to_pylist() == [1]


OLD = pa.table({"id": pa.array([1], pa.int32()), "name": ["a"], "gone": [True]})
NEW = pa.table(
    {"id": pa.array([2.5]), "name": pa.array(["b"], pa.dictionary(pa.int8(), pa.large_string())), "late": [9]}
)
UNIFIED = [
    {"id": 1.0, "name": "a", "gone": True, "late": None},
    {"id": 2.5, "name": "b", "gone": None, "late": 9},
]


@pytest.mark.parametrize("kind", ["table", "reader", "dataset", "polars", "lazy", "pandas", "duckdb", "rows"])
def test_files_of_different_schemas_are_read_with_one(tmp_path, kind):
    files = write(tmp_path, OLD, NEW)
    match kind:
        case "table":
            rows = read_input(pa.Table, files).to_pylist()
        case "reader":
            rows = read_input(pa.RecordBatchReader, files).read_all().to_pylist()
        case "dataset":
            rows = read_input(ds.Dataset, files).to_table().to_pylist()
        case "polars":
            rows = read_input(pytest.importorskip("polars").DataFrame, files).to_dicts()
        case "lazy":
            rows = read_input(pytest.importorskip("polars").LazyFrame, files).collect().to_dicts()
        case "pandas":
            frame = read_input(pytest.importorskip("pandas").DataFrame, files)
            assert list(frame["id"]) == [1.0, 2.5]
            return
        case "duckdb":
            duckdb = pytest.importorskip("duckdb")
            rows = read_input(duckdb.DuckDBPyRelation, files).to_arrow_table().to_pylist()
        case _:
            rows = read_input(list[dict], files)
    assert rows == UNIFIED


@pytest.mark.parametrize("annotation", ["table", "duckdb", "lazy", "rows"])
def test_schemas_that_cannot_be_reconciled_are_refused(tmp_path, annotation):
    files = write(tmp_path, pa.table({"id": [1]}), pa.table({"id": ["x"]}))
    wanted: Any = {"table": pa.Table, "rows": Iterable[dict]}.get(annotation)
    if annotation == "duckdb":
        wanted = pytest.importorskip("duckdb").DuckDBPyRelation
    if annotation == "lazy":
        wanted = pytest.importorskip("polars").LazyFrame
    with pytest.raises(DataError, match="'id' is int64 in one and string in another"):
        read_input(wanted, files)


def test_a_promotion_that_would_change_values_is_refused(tmp_path):
    files = write(tmp_path, pa.table({"id": [2**60 + 1]}), pa.table({"id": [0.5]}))
    with pytest.raises(DataError, match="column 'id' cannot become double"):
        read_input(pa.Table, files)


def test_streams_read_only_what_is_drawn(tmp_path, monkeypatch):
    files = write(tmp_path, pa.table({"id": range(10)}), pa.table({"id": range(10)}))
    rows = read_input(Iterator[dict], files)
    assert next(rows) == {"id": 0}
    files[1].unlink()
    with pytest.raises(DataError, match=r"1\.parquet cannot be read"):
        list(rows)


@pytest.mark.parametrize("annotation", [pa.Table, list[dict], Iterator[pa.RecordBatch]])
def test_no_file_is_an_error(annotation):
    with pytest.raises(DataError, match="no version"):
        read_input(annotation, [])


@pytest.mark.parametrize("content", [None, b"", b"PAR1 this is not it PAR1"])
def test_damaged_and_missing_files_are_named(tmp_path, content):
    path = tmp_path / "bad.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.parquet cannot be read"):
        read_input(pa.Table, [path])


BAD_ANNOTATIONS = [
    int,
    str,
    None,
    type(None),
    "pa.Table",
    set[dict],
    dict,
    Flight,
    tuple[dict, ...],
    list[int],
]


@pytest.mark.parametrize("annotation", [*BAD_ANNOTATIONS, pa.Table | None, pa.RecordBatch, list[pa.Table]])
def test_annotations_that_are_refused(annotation):
    with pytest.raises(DefinitionError, match="cannot be given") as caught:
        check_input_annotation(annotation)
    assert "polars.DataFrame" in caught.value.hint


def test_annotations_are_checked_without_importing_their_libraries():
    code = (
        "import sys, collections.abc as c\n"
        "from sidestage.pipeline.annotations import check_input_annotation, check_output_annotation\n"
        "check_input_annotation(c.Iterator[dict]); check_output_annotation(list[dict])\n"
        "print([m for m in ('pyarrow', 'polars', 'pandas', 'duckdb', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
