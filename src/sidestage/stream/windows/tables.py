"""Windows of tables: the functions that take times, keys and values of rows take columns of tables."""

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from sidestage.errors import DataError
from sidestage.stream.chunk import Chunk
from sidestage.stream.columns.frames import arrow_of, first_row
from sidestage.stream.failing import PASS_ON
from sidestage.stream.windows.aggregates import Count
from sidestage.stream.windows.plan import Outcome
from sidestage.stream.windows.state import WindowState
from sidestage.stream.windows.watermarks import Moment

if TYPE_CHECKING:
    import pyarrow as pa


class TableFailure(NamedTuple):
    """A row, or a table as a whole, that could not be counted, of the table at ``place`` of its chunk."""

    place: int
    item: Any
    error: Exception


def add_tables(
    state: WindowState, chunk: Chunk, now: Moment, part: Hashable
) -> tuple[Outcome, list[TableFailure]]:
    """Count the tables of a chunk. What was late or early in them is named by row, and the table's index."""
    total = Outcome([], [], [], [], None)  # its failures: windows; those of rows are returned beside it
    failures: list[TableFailure] = []
    for index, frame in enumerate(chunk.items):
        try:
            table = arrow_of(frame)
            outcome = _added(state, table, now, part)
        except PASS_ON:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the user's functions raise
            failures.append(TableFailure(index, frame, error))
            continue
        total.emitted.extend(outcome.emitted)
        total.failures.extend(each for each in outcome.failures if each.place is None)
        total.late.extend(each._replace(place=index, item=_row(table, each.place)) for each in outcome.late)
        total.early.extend(each._replace(place=index, item=_row(table, each.place)) for each in outcome.early)
        failures.extend(
            TableFailure(index, _row(table, each.place), each.error)
            for each in outcome.failures
            if each.place is not None
        )
    return total, failures


def _added(state: WindowState, table: "pa.Table", now: Moment, part: Hashable) -> Outcome:
    plan = state.plan
    times = None if plan.time.at is None else _column(plan.time.at(table), "EventTime(at)")
    keys = None if plan.key is None else _column(plan.key(table), "key")
    values = None if isinstance(plan.aggregate, Count) else _values(plan.aggregate.of_item(table), table)
    if times is None and keys is None:
        keys = [None] * table.num_rows
    return state.add_columns(times, keys, values, now, part)


def _column(given: Any, what: str) -> Any:
    """Return what a function took of a table, if that is a column. Raises DataError."""
    import numpy as np  # noqa: PLC0415 - slow to load
    import pyarrow as pa  # noqa: PLC0415 - slow to load

    if isinstance(given, pa.Array | pa.ChunkedArray | np.ndarray):
        return given
    raise DataError(
        f"The window's {what} returned a {type(given).__name__} of a table, which is no column.",
        hint='Give a function that takes a column of a pyarrow.Table, such as operator.itemgetter("time"), '
        "or call rows() before.",
    )


def _values(given: Any, table: "pa.Table") -> Any:
    """Return what an aggregate is of: a column, all rows, or several columns put together."""
    if given is table:
        return table.to_pylist()
    if isinstance(given, tuple):
        return list(zip(*_several(given, table), strict=True))
    return _column(given, "aggregate")


def _several(given: tuple[Any, ...], table: "pa.Table") -> Iterator[list[Any]]:
    for each in given:
        if each is None:
            yield [None] * table.num_rows
        else:
            values = _values(each, table)
            as_list = getattr(values, "to_pylist", None) or getattr(values, "tolist", None)
            yield values if as_list is None else as_list()


def _row(table: "pa.Table", place: int) -> dict[str, Any]:
    return first_row(table.slice(place, 1))
