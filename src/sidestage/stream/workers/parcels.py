"""Values on their way to another process: a pickle, with large buffers beside it (protocol 5).

Tables go as streams of Arrow's IPC format, since a pickle of some rows of a table holds all of its rows.
"""

import copyreg
import io
import pickle
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

LARGE = 1 << 16
"""From how many bytes on something goes beside the pickle."""

_SMALL = 1 << 12
"""Fewer bytes are copied to where they are together with others."""

Buffer = list[memoryview]
"""The pieces of what is to lie in one place when it arrives."""

_Reduced = tuple[Callable[..., Any], tuple[Any, ...]]


class Parcel(NamedTuple):
    """A pickle, and the buffers that go beside it."""

    body: bytes
    buffers: list[Buffer]


def parcel(value: Any) -> Parcel:
    """Return a value pickled. Raises whatever its own code raises."""
    packing = _Packing()
    tables = packing.tables()
    if not tables:
        return Parcel(pickle.dumps(value, 5, buffer_callback=packing.beside), packing.buffers)
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 5, buffer_callback=packing.beside)
    pickler.dispatch_table = {**copyreg.dispatch_table, **tables}
    pickler.dump(value)
    return Parcel(file.getvalue(), packing.buffers)


def unpacked(body: bytes | bytearray | memoryview, buffers: list[Any]) -> Any:
    """Return the value of a parcel that arrived. Raises whatever its own code raises."""
    return pickle.loads(body, buffers=buffers)  # noqa: S301 - from our own process


class _Packing:
    """What goes beside one pickle."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self._next: Buffer | None = None

    def beside(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer, that of a table if one was just come to; return whether the pickle is to hold it."""
        mine, self._next = self._next, None
        if mine is None:
            raw = buffer.raw()
            if raw.nbytes < _SMALL:
                return True
            mine = [raw]
        self.buffers.append(mine)
        return False

    def tables(self) -> dict[type, Callable[[Any], Any]]:
        """Return how tables are packed, of the kinds that anybody has loaded."""
        found: dict[type, Callable[[Any], Any]] = {}
        arrow: Any = sys.modules.get("pyarrow")
        polars: Any = sys.modules.get("polars")
        if hasattr(arrow, "Table") and hasattr(arrow, "RecordBatch"):  # not if it is just being loaded
            found |= {arrow.Table: self._table, arrow.RecordBatch: self._record_batch}
        if hasattr(polars, "DataFrame"):
            found[polars.DataFrame] = self._frame
        return found

    def _table(self, table: "pa.Table") -> _Reduced:
        return table_read, (self._written(table),)

    def _record_batch(self, batch: "pa.RecordBatch") -> _Reduced:
        return record_batch_read, (self._written(batch),)

    def _frame(self, frame: "pl.DataFrame") -> Any:
        """Pack a frame as a table, which takes a third of the time of its own pickle, if all types allow."""
        import polars as pl  # noqa: PLC0415 - slow to load, and an extra

        try:
            table = frame.to_arrow()
            is_the_same = pl.DataFrame(table.slice(0, 0)).schema == frame.schema
        except Exception:  # noqa: BLE001 - of polars and pyarrow, which have many
            is_the_same = False
        return (frame_read, (self._written(table),)) if is_the_same else frame.__reduce_ex__(5)

    def _written(self, table: "pa.Table | pa.RecordBatch") -> bytes | pickle.PickleBuffer:
        """Return a table in Arrow's format; if it is large, what stands for that in the pickle."""
        import pyarrow as pa  # noqa: PLC0415 - slow to load

        pieces = _Pieces()
        file = pa.PythonFile(pieces, mode="w")
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write(table)
        buffer = pieces.taken()
        if sum(piece.nbytes for piece in buffer) < LARGE:
            return b"".join(buffer)
        self._next = buffer
        return pickle.PickleBuffer(b"")


class _Pieces(io.RawIOBase):
    """A file that keeps what is written to it as it is; what is small is copied together."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: Buffer = []
        self._small = bytearray()
        self._at = 0

    def write(self, data: Any) -> int:
        """Keep data."""
        view = memoryview(data)
        self._at += view.nbytes
        if view.nbytes < _SMALL:
            self._small += view
        else:
            self._end_small()
            self._pieces.append(view.cast("B"))
        return view.nbytes

    def writable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return how much was written."""
        return self._at

    def taken(self) -> Buffer:
        """Return all that was written."""
        self._end_small()
        return self._pieces

    def _end_small(self) -> None:
        if self._small:
            self._pieces.append(memoryview(self._small))
            self._small = bytearray()


def table_read(stream: Any) -> "pa.Table":
    """Return the table of a stream of Arrow's, which lies where the stream lies."""
    import pyarrow as pa  # noqa: PLC0415 - slow to load

    return pa.ipc.open_stream(stream).read_all()


def record_batch_read(stream: Any) -> "pa.RecordBatch":
    """Return the only batch of a stream of Arrow's."""
    import pyarrow as pa  # noqa: PLC0415 - slow to load

    return pa.ipc.open_stream(stream).read_next_batch()


def frame_read(stream: Any) -> "pl.DataFrame":
    """Return the table of a stream of Arrow's as a polars.DataFrame."""
    import polars as pl  # noqa: PLC0415 - slow to load, and an extra

    return pl.DataFrame(table_read(stream))
