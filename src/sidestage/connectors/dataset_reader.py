"""Reads pinned versions of a dataset, one partition after another."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from sidestage.errors import DataError, DefinitionError
from sidestage.stream.contract import Batch, Position, Positions

if TYPE_CHECKING:
    from sidestage.connectors.datasets import DatasetRows

_BATCH_ROWS = 8_192


class Pin(NamedTuple):
    """What is to be read of a partition: a version, from which row on, and its file or its value."""

    part: str
    version: str
    row: int
    path: Path | None
    value: str | None


class Reached(NamedTuple):
    """A position: a version, and how many of its rows have been read."""

    version: str
    row: int


class DatasetReader:
    """Reads Parquet files, a bounded part at a time. Used by one thread."""

    def __init__(self, source: "DatasetRows", pins: Sequence[Pin]) -> None:
        self._source = source
        self._pins = list(reversed(pins))
        self._pin: Pin | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._held: pa.RecordBatch | None = None
        self._row = 0
        self._stopped = False

    def read(self, limit: int, wait: float) -> Sequence[Batch] | None:
        """Return the next rows, or tables. Raises DataError if a file is missing or damaged."""
        del wait
        try:
            return self._read(limit)
        except (OSError, pa.ArrowException) as error:
            where = self._pin.path if self._pin is not None else ""
            raise DataError(
                f"{where} cannot be read: {error}",
                hint="Was it cleaned away while it was read? Else restore it, or run the step again.",
            ) from error

    def stop(self) -> None:
        """Read no more."""
        self._stopped = True

    def commit(self, positions: Positions) -> None:
        """Note how far everything has been dealt with: a dataset does not want to know."""

    def lost(self) -> Collection[str]:
        """Return nothing: nobody else reads it."""
        return ()

    def close(self) -> None:
        """Close what is open."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()

    def _read(self, limit: int) -> Sequence[Batch] | None:
        while not self._stopped:
            if self._held is None:
                self._held = next(self._batches, None)
            if self._held is not None and self._pin is not None:
                return (self._piece(self._pin, self._held, limit),)
            if not self._pins:
                return None
            self._pin = self._pins.pop()
            self._row = self._pin.row
            self._batches = self._rows_of(self._pin)
        return None

    def _piece(self, pin: Pin, held: pa.RecordBatch, limit: int) -> Batch:
        as_tables = self._source.rows is not None
        taken = held if as_tables else held.slice(0, limit)
        self._held = None if taken.num_rows == held.num_rows else held.slice(taken.num_rows)
        first = self._position(pin)
        self._row += taken.num_rows
        items = [pa.Table.from_batches([taken])] if as_tables else taken.to_pylist()
        if not as_tables and pin.value is not None:
            items = [{**each, "value": msgspec.json.decode(each["value"])} for each in items]
        return Batch(pin.part, first, items, self._position(pin))

    def _position(self, pin: Pin) -> str:
        return msgspec.json.encode((pin.version, self._row)).decode()

    def _rows_of(self, pin: Pin) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a version from a row on, with the partition's key if that is asked for."""
        for batch in _batches(pin, self._source.rows or _BATCH_ROWS):
            if self._source.partition_as:
                keys = pa.array([pin.part] * batch.num_rows, pa.string())
                yield batch.append_column(self._source.partition_as, keys)
            else:
                yield batch


def place_at(position: Position, name: str) -> Reached:
    """Return what a position says. Raises DefinitionError if it is none of a dataset."""
    try:
        version, row = msgspec.json.decode(str(position), type=tuple[str, int])
    except msgspec.DecodeError as error:
        raise DefinitionError(
            f"{name} cannot go on from {position!r}: its positions are a version and a row.",
            hint="The checkpoint belongs to another source.",
        ) from error
    return Reached(version, row)


def _batches(pin: Pin, most: int) -> Iterator[pa.RecordBatch]:
    if pin.path is None:
        yield from pa.table({"value": [pin.value]}).to_batches()
        return
    with pq.ParquetFile(pin.path, pre_buffer=False) as file:
        groups: list[int] = []
        skip = pin.row
        for number in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(number).num_rows
            if not groups and skip >= rows:
                skip -= rows  # passed over without being read
            else:
                groups.append(number)
        if not groups:
            return
        for batch in file.iter_batches(most, row_groups=groups):
            left: Any = batch.slice(min(skip, batch.num_rows))
            skip -= batch.num_rows - left.num_rows
            if left.num_rows:
                yield left
