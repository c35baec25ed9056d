"""Takes what a task returned, whatever its type, as a schema and record batches.

Generators are drawn from as the batches are, and are closed when the batches are closed; of readers,
relations and files likewise only a bounded part is held at a time.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sidestage.data.value_hash import logical_name
from sidestage.errors import OutputError
from sidestage.pipeline.annotations import (
    ACCEPTED_OUTPUTS,
    Kind,
    check_output_annotation,
    is_row_class,
    kind_of_class,
    row_class,
)
from sidestage.run.rows import RowEncoder, fields_of, schema_of
from sidestage.run.unify import Misfit, conform, refuse_other_columns

__all__ = ["Batches", "check_output_annotation", "to_batches"]

BATCH_ROWS = 131_072
ROWS_AT_ONCE = 10_000

_Stream = tuple[pa.Schema, Generator[pa.RecordBatch, None, None]]


class Batches(Iterator[pa.RecordBatch]):
    """The batches of an output. ``close`` also closes what the task returned, if that can be closed."""

    def __init__(self, batches: Generator[pa.RecordBatch, None, None], source: object) -> None:
        self._batches = batches
        self._source = source

    def __next__(self) -> pa.RecordBatch:
        return next(self._batches)

    def close(self) -> None:
        """Release what the batches are made of; draw no more."""
        self._batches.close()
        _close(self._source)


def to_batches(value: object, returns: object) -> tuple[pa.Schema, Batches]:
    """Return the schema and the batches of what a task returned; ``returns`` is its annotation.

    At once only as much is drawn from a generator as the schema needs: its first table, or its first
    10,000 rows. Raises OutputError, now or while the batches are drawn, for what cannot be written.
    """
    kind = kind_of_class(type(value))
    source: object = value
    try:
        if kind in _STREAMS:
            schema, batches = _STREAMS[kind](value)
        else:
            source = _iterator(value)
            schema, batches = _from_items(source, value, row_class(returns))
        schema = _checked(schema.remove_metadata())
    except BaseException:
        _close(source)
        raise
    return schema, Batches(batches, source)


def _iterator(value: object) -> Iterator[Any]:
    if isinstance(value, Iterable) and not isinstance(
        value, str | bytes | bytearray | dict | set | frozenset
    ):
        try:
            if not is_row_class(type(value)):
                return iter(value)
        except TypeError:
            pass
    one = " Put the row into a list." if is_row_class(type(value)) or isinstance(value, dict) else ""
    raise _not_accepted(f"The task returned {_shown(value)}.", one)


def _from_items(items: Iterator[Any], value: object, promised: type | None) -> _Stream:
    """Return what an iterator of tables, files or rows holds; its first item says which."""
    nothing = object()
    first = next(items, nothing)
    if first is nothing:
        return _empty(value, promised)
    kind = kind_of_class(type(first))
    everything = chain([first], items)
    if kind in ("row", "dict"):
        return _from_rows(everything, promised)
    if kind not in _TABLES:
        raise _not_accepted(f"The task returned {_shown(value)} of {_shown(first)}.")
    return _from_tables(everything, kind)


def _empty(value: object, promised: type | None) -> _Stream:
    schema = None if promised is None else schema_of(fields_of(promised))
    if schema is None:
        raise OutputError(
            f"The task returned {_shown(value)} without items, so its columns are unknown.",
            hint="Annotate the result with a dataclass or TypedDict whose fields have types, "
            "or return an empty table with its columns.",
        )
    return schema, _each([])


def _from_rows(rows: Iterator[Any], promised: type | None) -> _Stream:
    encoder = RowEncoder(promised)
    first = encoder.encode(list(islice(rows, ROWS_AT_ONCE)))

    def batches() -> Generator[pa.RecordBatch, None, None]:
        yield first
        while chunk := list(islice(rows, ROWS_AT_ONCE)):
            yield encoder.encode(chunk)

    return first.schema, batches()


def _from_tables(items: Iterator[Any], kind: Kind | None) -> _Stream:
    convert = _TABLES[kind]
    schema, first = convert(next(items))

    def batches() -> Generator[pa.RecordBatch, None, None]:
        yield from first
        for number, item in enumerate(items, 2):
            if kind_of_class(type(item)) != kind:
                message = f"Item {number} is {_shown(item)}, unlike the items before."
                raise OutputError(message, hint="Return items of one type.")
            other, rest = convert(item)
            with closing(rest):
                yield from _conforming(other, rest, schema, number)

    return schema, batches()


def _conforming(
    found: pa.Schema, batches: Iterable[pa.RecordBatch], schema: pa.Schema, number: int
) -> Iterator[pa.RecordBatch]:
    hint = "Return items with the same columns and types."
    refuse_other_columns(found, schema, lambda what: OutputError(f"Item {number} {what}.", hint=hint))
    _checked(found)
    try:
        for batch in batches:
            yield conform(batch, schema)
    except Misfit as misfit:
        raise OutputError(f"Item {number} does not fit the first: {misfit}.", hint=hint) from misfit


def _from_table(table: Any) -> _Stream:
    return table.schema, _each(table.to_batches(max_chunksize=BATCH_ROWS))


def _from_batch(batch: Any) -> _Stream:
    return batch.schema, _each([batch])


def _from_reader(reader: Any) -> _Stream:
    return reader.schema, _each(reader)


def _from_dataset(dataset: Any) -> _Stream:
    return _from_reader(dataset.scanner().to_reader())


def _from_polars(frame: Any) -> _Stream:
    objects = [name for name, kind in frame.schema.items() if str(kind) == "Object"]
    if objects:
        raise OutputError(
            f"Column {objects[0]!r} holds Python objects.", hint="Give the column one of polars' own types."
        )
    return _from_table(frame.to_arrow())


def _from_polars_lazy(frame: Any) -> _Stream:
    if not hasattr(frame, "collect_batches"):  # polars before 1.34
        return _from_polars(frame.collect())
    schema, _ = _from_polars(frame.collect_schema().to_frame())

    def batches() -> Generator[pa.RecordBatch, None, None]:
        for part in frame.collect_batches(maintain_order=True):
            found, rest = _from_polars(part)
            yield from _conforming(found, rest, schema, 1)

    return schema, batches()


def _from_pandas(frame: Any) -> _Stream:
    for name in frame.columns:
        if not isinstance(name, str):
            raise OutputError(
                f"Column {ascii(name)[:80]} is not named by a string.", hint="Rename the column."
            )
    if not frame.columns.is_unique:
        raise _duplicate(list(frame.columns))
    # An index is a column if it was given a name; otherwise it is only where rows stood once.
    has_index = any(name is not None for name in frame.index.names)
    try:
        table = pa.Table.from_pandas(frame, preserve_index=has_index)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        detail = " ".join(str(part) for part in error.args)
        raise OutputError(
            f"The DataFrame cannot be stored: {detail}.", hint="Give every column values of one type."
        ) from error
    return _from_table(table)


def _from_duckdb(relation: Any) -> _Stream:
    to_reader = getattr(relation, "to_arrow_reader", None) or relation.fetch_record_batch  # before duckdb 1.5
    return _from_reader(to_reader(BATCH_ROWS))


def _from_path(path: Path) -> _Stream:
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise OutputError(
            f"{path} cannot be read as a Parquet file: {error}.", hint="Return the path of a Parquet file."
        ) from error

    def batches() -> Generator[pa.RecordBatch, None, None]:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield from file.iter_batches(BATCH_ROWS)

    return schema.remove_metadata(), batches()


def _each(batches: Iterable[pa.RecordBatch]) -> Generator[pa.RecordBatch, None, None]:
    yield from batches


def _checked(schema: pa.Schema) -> pa.Schema:
    names = schema.names
    if not names:
        raise OutputError("The output has no columns.", hint="Return at least one column.")
    if len(set(names)) < len(names):
        raise _duplicate(names)
    for field in schema:
        if not field.name:
            raise OutputError("A column has an empty name.", hint="Name every column.")
        try:
            logical_name(field.type)
        except OutputError as error:
            raise OutputError(f"Column {field.name!r}: {error.message}", hint=error.hint) from error
    return schema


def _duplicate(names: list[str]) -> OutputError:
    twice = next(name for number, name in enumerate(names) if name in names[:number])
    return OutputError(f"The output has more than one column {twice!r}.", hint="Rename all but one of them.")


def _not_accepted(what: str, more: str = "") -> OutputError:
    return OutputError(what, hint=f"Return {ACCEPTED_OUTPUTS}.{more}")


def _shown(value: object) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return "None" if value is None else f"a {name}"


def _close(source: object) -> None:
    """Close a generator or reader; tables and frames need none, and relations belong to their connection."""
    close = getattr(source, "close", None)
    if isinstance(source, Iterator) and callable(close):
        with suppress(RuntimeError):  # a generator that ignores being closed
            close()


_TABLES: dict[Kind | None, Callable[[Any], _Stream]] = {
    "table": _from_table,
    "batch": _from_batch,
    "polars": _from_polars,
    "pandas": _from_pandas,
    "path": _from_path,
}
_STREAMS: dict[Kind | None, Callable[[Any], _Stream]] = {
    **_TABLES,
    "reader": _from_reader,
    "dataset": _from_dataset,
    "lazy": _from_polars_lazy,
    "duckdb": _from_duckdb,
}
