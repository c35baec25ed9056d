"""Gives a task its input in the type that its parameter annotates.

An input is one or several Parquet files, in the order of their partitions. Files that were written with
different schemas are read with one that holds all their columns.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from sidestage.errors import DataError, DefinitionError
from sidestage.pipeline.annotations import Kind, Shape, check_input_annotation, input_shape
from sidestage.run.rows import fields_of
from sidestage.run.unify import Misfit, conform, unified

__all__ = ["check_input_annotation", "read_input"]

BATCH_ROWS = 65_536
ROWS_AT_ONCE = 8_192

_SCHEMA_HINT = "Run the partitions again with one version of the code, or read them one by one."


def read_input(annotation: object, files: Sequence[Path]) -> object:
    """Return the rows of ``files`` as what ``annotation`` says; without an annotation as a pyarrow Table.

    Iterables and readers read as they are drawn from, a bounded part at a time; everything else is as eager
    or lazy as its library. Raises DefinitionError for annotations that are not supported, DataError for files
    that cannot be read, that do not fit each other, or do not fit the annotated class of rows.
    """
    shape = input_shape(annotation)
    if shape.kind == "path":
        return _paths(shape, files)
    source = _Source(files)
    if shape.kind == "batch":
        return _held(shape, source.batches)
    if shape.kind in ("row", "dict"):
        return _held(shape, _row_reader(shape, source))
    return _FRAMES[shape.kind](source)


class _Source:
    """Parquet files read with one schema."""

    def __init__(self, files: Sequence[Path]) -> None:
        if not files:
            raise DataError(
                "There is no version of this input to read.",
                hint="Make its partitions first, or annotate list[Path] to accept none.",
            )
        self.files = list(files)
        schemas = [_schema(file) for file in files]
        self.is_uniform = all(schema.equals(schemas[0]) for schema in schemas)
        try:
            self.schema: pa.Schema = schemas[0] if self.is_uniform else unified(schemas)
        except Misfit as misfit:
            raise DataError(f"{_named(files)} do not fit together: {misfit}.", hint=_SCHEMA_HINT) from misfit

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield the rows, ``rows`` at most at a time."""
        for file in self.files:
            with _reading(file), pq.ParquetFile(file, pre_buffer=False) as opened:
                for batch in opened.iter_batches(rows):
                    yield conform(batch, self.schema)

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self.schema, self.batches())

    def table(self) -> pa.Table:
        if not self.is_uniform:
            return self.reader().read_all()
        tables = []
        for file in self.files:
            with _reading(file), pq.ParquetFile(file) as opened:
                tables.append(opened.read().replace_schema_metadata(None))
        return pa.concat_tables(tables)

    def dataset(self) -> object:
        import pyarrow.dataset as ds  # noqa: PLC0415 - it imports pandas, which most tasks do without

        found: object = ds.dataset([str(file) for file in self.files], schema=self.schema, format="parquet")
        return found

    def polars(self) -> object:
        import polars as pl  # noqa: PLC0415 - an optional dependency

        return pl.from_arrow(self.table())

    def polars_lazy(self) -> object:
        import polars as pl  # noqa: PLC0415 - an optional dependency

        if self.is_uniform:
            return pl.scan_parquet(self.files, glob=False, hive_partitioning=False)
        scans = [pl.scan_parquet(file, glob=False, hive_partitioning=False) for file in self.files]
        return pl.concat(scans, how="diagonal_relaxed")

    def pandas(self) -> object:
        frame: object = self.table().to_pandas()
        return frame

    def duckdb(self) -> object:
        # The default connection: only its relations can be joined with each other and named in duckdb.sql().
        import duckdb  # noqa: PLC0415 - slow to import, and most tasks do without

        names = [_without_glob(file) for file in self.files]
        relation: Any = duckdb.read_parquet(names, union_by_name=not self.is_uniform, hive_partitioning=False)
        return relation


class _Again:
    """An iterable that reads from the beginning whenever it is iterated."""

    def __init__(self, start: Callable[[], Iterator[Any]]) -> None:
        self._start = start

    def __iter__(self) -> Iterator[Any]:
        return self._start()


def _paths(shape: Shape, files: Sequence[Path]) -> object:
    if shape.holder == "list":
        return list(files)
    if len(files) != 1:
        raise DataError(
            f"The parameter takes one Path, but the input has {len(files)} files.",
            hint="Annotate list[Path].",
        )
    return files[0]


def _held(shape: Shape, start: Callable[[], Iterator[Any]]) -> object:
    match shape.holder:
        case "list":
            return list(start())
        case "iterator":
            return start()
        case _:
            return _Again(start)


def _row_reader(shape: Shape, source: _Source) -> Callable[[], Iterator[Any]]:
    target: Any = None
    if shape.kind == "row":
        target = list[shape.row]  # type: ignore[name-defined]  # made at run time
        _check_fields(shape.row, source)
    schema = _for_python(source.schema)

    def start() -> Iterator[Any]:
        number = 0
        for batch in source.batches(ROWS_AT_ONCE):
            rows = _python_rows(batch, schema)
            yield from rows if target is None else _converted(rows, target, number, shape.row)
            number += len(rows)

    return start


def _check_fields(row: type, source: _Source) -> None:
    fields = fields_of(row)
    present, announced = set(source.schema.names), {field.name for field in fields}
    missing = [field.name for field in fields if field.required and field.name not in present]
    extra = [name for name in source.schema.names if name not in announced]
    parts = [f"lacks {', '.join(map(repr, missing))}"] if missing else []
    parts += [f"has {', '.join(map(repr, extra))} too"] if extra else []
    if parts:
        raise DataError(
            f"The input does not fit {row.__name__}: it {' and '.join(parts)}.",
            hint="Make the class and the dataset's columns the same, or read it as a table.",
        )


def _for_python(schema: pa.Schema) -> pa.Schema:
    """Return the schema with times in microseconds, as far as Python's own classes go."""
    fields = []
    for field in schema:
        kind = field.type
        if kinds.is_timestamp(kind) and kind.unit == "ns":
            kind = pa.timestamp("us", kind.tz)
        elif kinds.is_duration(kind) and kind.unit == "ns":
            kind = pa.duration("us")
        elif kinds.is_time64(kind) and kind.unit == "ns":
            kind = pa.time64("us")
        fields.append(field.with_type(kind))
    return pa.schema(fields)


def _python_rows(batch: pa.RecordBatch, schema: pa.Schema) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = conform(batch, schema).to_pylist(maps_as_pydicts="strict")
    except Misfit as misfit:
        hint = "Python's times have microseconds; read the input as a table."
        raise DataError(f"A value cannot be given as a Python object: {misfit}.", hint=hint) from misfit
    return rows


def _converted(rows: list[dict[str, Any]], target: Any, before: int, row: type) -> list[Any]:
    try:
        found: list[Any] = msgspec.convert(rows, target)
    except msgspec.ValidationError as error:
        hint = "Correct the class, or read the input as a table."
        raise DataError(
            f"Rows {before + 1} to {before + len(rows)} of the input do not fit {row.__name__}: {error}.",
            hint=hint,
        ) from error
    except TypeError as error:
        raise DefinitionError(f"Rows cannot be given as {row.__name__}: {error}.") from error
    return found


def _schema(file: Path) -> pa.Schema:
    with _reading(file):
        return pq.read_schema(file).remove_metadata()


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Make errors of reading a file DataErrors that name it."""
    try:
        yield
    except Misfit as misfit:
        raise DataError(f"{file} does not fit the other files: {misfit}.", hint=_SCHEMA_HINT) from misfit
    except (OSError, pa.ArrowException) as error:
        hint = "The file may be damaged: roll back, or make its partition again."
        raise DataError(f"{file} cannot be read: {error}.", hint=hint) from error


def _named(files: Sequence[Path]) -> str:
    return f"{files[0]} and {len(files) - 1} more files"


def _without_glob(file: Path) -> str:
    return "".join(f"[{character}]" if character in "[*?" else character for character in str(file))


_FRAMES: dict[Kind, Callable[[_Source], object]] = {
    "table": _Source.table,
    "reader": _Source.reader,
    "dataset": _Source.dataset,
    "polars": _Source.polars,
    "lazy": _Source.polars_lazy,
    "pandas": _Source.pandas,
    "duckdb": _Source.duckdb,
}
