"""Tables as items: what counts as one, and how rows become one. Loads pyarrow when it is needed first."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from sidestage.errors import DataError
from sidestage.stream.shape_nodes import Library

if TYPE_CHECKING:
    import pyarrow as pa

_FRAMES = frozenset({("pyarrow", "Table"), ("pyarrow", "RecordBatch"), ("polars", "DataFrame")})
_ROWS_AT_ONCE = 8192


def is_frame(item: object) -> bool:
    """Return whether an item is a table of pyarrow or polars. Loads neither."""
    kind = type(item)
    return (kind.__module__.partition(".")[0], kind.__name__) in _FRAMES


def arrow_of(frame: Any) -> "pa.Table":
    """Return a table as a ``pyarrow.Table``, without copying what pyarrow can read as it is."""
    import pyarrow as pa  # noqa: PLC0415 - slow to load

    if isinstance(frame, pa.Table):
        return frame
    if isinstance(frame, pa.RecordBatch):
        return pa.Table.from_batches([frame])
    return frame.to_arrow()


def frame_of(table: "pa.Table", library: Library) -> Any:
    """Return a ``pyarrow.Table`` as what a function asked for."""
    if library == "arrow":
        return table
    import polars as pl  # noqa: PLC0415 - slow to load, and an extra

    return pl.from_arrow(table)


def conformed(table: "pa.Table", schema: "pa.Schema | None") -> "pa.Table":
    """Return the columns that a schema names, of its types. Raises DataError if they cannot be had."""
    if schema is None or table.schema.equals(schema):
        return table
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise DataError(
            f"A table has no column {', '.join(missing)}; it has {', '.join(table.column_names) or 'none'}.",
            hint="Leave it out of the schema, or make it in a stage before.",
        )
    return table.select(schema.names).cast(schema)


def table_of_rows(rows: Sequence[Any], schema: "pa.Schema | None") -> "pa.Table":
    """Return rows as a table: a column for each name that any of them has, or for each of the schema.

    A row without a name has null there. Raises what pyarrow raises for values that are not of one type, and
    DataError for what is no row.
    """
    import pyarrow as pa  # noqa: PLC0415 - slow to load

    known = [_mapping_of(row) for row in rows]
    if schema is None:
        names = dict.fromkeys(name for row in known for name in row)
        return pa.table({name: [row.get(name) for row in known] for name in names})
    columns = [
        pa.array([row.get(field.name) for row in known], type=field.type, from_pandas=False)
        for field in schema
    ]
    for field, column in zip(schema, columns, strict=True):
        if column.null_count and not field.nullable:
            raise DataError(f"The column {field.name!r} may not be null.", hint="Drop such rows before.")
    return pa.Table.from_arrays(columns, schema=schema)


def _mapping_of(row: Any) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    if isinstance(row, msgspec.Struct):
        return msgspec.structs.asdict(row)
    if isinstance(row, tuple) and hasattr(row, "_asdict"):
        named: dict[str, Any] = row._asdict()
        return named
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        return {each.name: getattr(row, each.name) for each in dataclasses.fields(row)}
    raise DataError(
        f"An item of type {type(row).__name__} is no row, so it has no columns.",
        hint="Make a dict, a msgspec.Struct, a NamedTuple or a dataclass of it in a stage before.",
    )


def rows_of(frame: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table as dicts. Raises DataError for what is no table."""
    if not is_frame(frame):
        raise DataError(
            f"An item of type {type(frame).__name__} is no table, so it has no rows.",
            hint="rows() follows stages that give out tables.",
        )
    for batch in arrow_of(frame).to_batches(max_chunksize=_ROWS_AT_ONCE):
        yield from batch.to_pylist()


def weight_of(items: Sequence[Any]) -> int:
    """Return how many items these hold: the rows of tables, what is in lists, and each other as one."""
    return sum(len(each) if isinstance(each, list) or is_frame(each) else 1 for each in items)


def first_row(frame: Any) -> dict[str, Any]:
    """Return the first row of a table."""
    return next(rows_of(frame[:1] if isinstance(frame, list) else frame.slice(0, 1)))


def fitting(table: "pa.Table", rows: float, most_bytes: float) -> int:
    """Return how many of the first rows of a table are within these limits."""
    low, high = 0, int(min(rows, table.num_rows))
    if table.slice(0, high).nbytes <= most_bytes:
        return high
    while low < high - 1:
        middle = (low + high) // 2
        if table.slice(0, middle).nbytes <= most_bytes:
            low = middle
        else:
            high = middle
    return low
