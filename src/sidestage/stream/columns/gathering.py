"""Tables of a declared size: rows become columns here, once, and tables are put together and cut."""

from collections import deque
from collections.abc import Iterator
from itertools import groupby
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from sidestage.clock import Clock
from sidestage.stream.chunk import NOWHERE, Chunk
from sidestage.stream.columns.frames import arrow_of, conformed, fitting, frame_of, is_frame, table_of_rows
from sidestage.stream.failing import PASS_ON, Desk, GivenUp
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.observing.spans import together
from sidestage.stream.operators import Step
from sidestage.stream.shape_nodes import GatherNode

if TYPE_CHECKING:
    import pyarrow as pa

_PIECES = 8
"""A table of more pieces than this is copied into one: functions are faster on fewer."""


class _Held:
    """A chunk of which some rows are still here."""

    __slots__ = ("chunk", "rows")

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.rows = 0


class _Piece(NamedTuple):
    """Columns of a chunk, the first row at index ``at``; ``step`` is 0 if all of them are one item."""

    table: "pa.Table"
    held: _Held
    at: int
    step: int


class GatherOperator:
    """Makes tables of ``size`` rows, or of ``most_bytes``; smaller after ``within`` seconds and at the end.

    Without a size, tables go on as they come, and the rows of a chunk as one. A table holds the tickets of
    all the chunks that its rows came in. Where types change so that no column can hold both, a table ends
    early.
    """

    def __init__(self, node: GatherNode, clock: Clock, desk: Desk, meter: Meter, following: Step) -> None:
        self._size = inf if node.size is None else node.size
        self._most_bytes = inf if node.most_bytes is None else node.most_bytes
        self._as_they_come = node.size is None and node.most_bytes is None
        self._within = node.within
        self._library = node.library
        self._schema = node.schema
        self._clock = clock
        self._desk = desk
        self._meter = meter
        self._next = following
        self._pieces: deque[_Piece] = deque()
        self._rows = 0
        self._bytes = 0
        self._type: pa.Schema | None = None
        self._since = 0.0

    def push(self, chunk: Chunk) -> None:
        """Take a chunk of rows, of tables, or of both."""
        began = perf_counter()
        held = _Held(chunk)
        pieces = list(self._columns(held))
        self._meter.took(chunk.load, perf_counter() - began)
        chunk.trail = self._meter.trail(chunk)
        if not pieces:
            chunk.settle()
        for piece in pieces:
            self._add(piece)
            while self._pieces and self._is_full():
                self._push(*self._taken())

    def due(self) -> float | None:
        """Return when the first row has waited long enough."""
        further = self._next.due()
        if not self._pieces or self._within is None:
            return further
        mine = self._since + self._within
        return mine if further is None else min(mine, further)

    def tick(self, now: float) -> None:
        """Pass on what has waited long enough."""
        if self._pieces and self._within is not None and now >= self._since + self._within:
            self._push(*self._taken())
        self._next.tick(now)

    def flush(self) -> None:
        """Pass on the rest."""
        self._pass_on_all()
        self._next.flush()

    def finish(self) -> None:
        """Pass on the rest: nothing more comes."""
        self._pass_on_all()
        self._next.finish()

    def _add(self, piece: _Piece) -> None:
        schema = piece.table.schema
        if self._type is not None and not schema.equals(self._type):
            together = _together(self._type, schema)
            if together is None:
                self._pass_on_all()
                together = schema
            schema = together
        if not self._pieces:
            self._since = 0.0 if self._within is None else self._clock.monotonic()
        self._type = schema
        self._pieces.append(piece)
        self._rows += piece.table.num_rows
        self._bytes += piece.table.nbytes

    def _is_full(self) -> bool:
        return self._as_they_come or self._rows >= self._size or self._bytes >= self._most_bytes

    def _pass_on_all(self) -> None:
        while self._pieces:
            self._push(*self._taken())

    def _push(self, made: Chunk, traced: list[_Held]) -> None:
        """Push on a table, with the traces of those of its chunks that have one."""
        made.trail = together([each.chunk.trail for each in traced if each.chunk.trail is not None])
        self._meter.follow(made.trail)
        self._next.push(made)

    def _taken(self) -> tuple[Chunk, list[_Held]]:
        """Return the first rows as a chunk of one table, and what they came in."""
        import pyarrow as pa  # noqa: PLC0415 - loaded by now

        first = self._pieces[0]
        rows_left, bytes_left = self._size, self._most_bytes
        tables: list[pa.Table] = []
        chunks: dict[_Held, None] = {}
        while self._pieces and rows_left > 0:
            piece = self._pieces[0]
            count = fitting(piece.table, rows_left, bytes_left) or (0 if tables else 1)
            if not count:
                break
            taken = piece.table.slice(0, count)
            tables.append(taken)
            chunks[piece.held] = None
            self._leave(piece, count)
            rows_left -= count
            bytes_left -= taken.nbytes
            if count < piece.table.num_rows:
                break
        table = tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")
        if len(tables) > _PIECES:
            table = table.combine_chunks()
        if not self._pieces:
            self._type = None
        elif self._within is not None:
            self._since = self._clock.monotonic()
        return self._chunk_of(table, first, list(chunks)), list(chunks)

    def _leave(self, piece: _Piece, count: int) -> None:
        """Take so many rows of the first piece away."""
        self._pieces.popleft()
        self._rows -= piece.table.num_rows
        self._bytes -= piece.table.nbytes
        if count < piece.table.num_rows:
            rest = piece._replace(table=piece.table.slice(count), at=piece.at + count * piece.step)
            self._pieces.appendleft(rest)
            self._rows += rest.table.num_rows
            self._bytes += rest.table.nbytes
        piece.held.rows -= count

    def _chunk_of(self, table: "pa.Table", first: _Piece, chunks: list[_Held]) -> Chunk:
        tickets = tuple(dict.fromkeys(ticket for each in chunks for ticket in each.chunk.tickets))
        made = Chunk(
            [frame_of(table, self._library)],
            tickets,
            first.held.chunk.born,
            [_origin(first, table.num_rows)] if len(tickets) == 1 else None,
        )
        made.weight = table.num_rows
        made.hold()
        for each in chunks:
            if not each.rows:
                each.chunk.settle()
        return made

    def _columns(self, held: _Held) -> Iterator[_Piece]:
        """Yield the columns of a chunk, without what cannot be one."""
        at = 0
        for framed, group in groupby(held.chunk.items, is_frame):
            items = list(group)
            made = self._tables if framed else self._converted
            for first, table in made(held.chunk, at, items):
                if table.num_rows:
                    held.rows += table.num_rows
                    yield _Piece(table, held, first, 0 if framed else 1)
            at += len(items)

    def _tables(self, chunk: Chunk, at: int, frames: list[Any]) -> Iterator[tuple[int, "pa.Table"]]:
        for index, frame in enumerate(frames, at):
            try:
                table = conformed(arrow_of(frame), self._schema)
            except Exception as error:  # noqa: BLE001 - pyarrow raises many kinds
                self._desk.decide(chunk, index, frame, GivenUp(error, 1))
            else:
                yield index, table

    def _converted(self, chunk: Chunk, at: int, rows: list[Any]) -> Iterator[tuple[int, "pa.Table"]]:
        """Yield rows as columns; where some of them cannot be, halve them until it is known which."""
        try:
            table = table_of_rows(rows, self._schema)
        except PASS_ON:
            raise
        except Exception as error:  # noqa: BLE001 - pyarrow raises many kinds
            if len(rows) == 1:
                self._desk.decide(chunk, at, rows[0], GivenUp(error, 1))
                return
            half = len(rows) // 2
            yield from self._converted(chunk, at, rows[:half])
            yield from self._converted(chunk, at + half, rows[half:])
        else:
            yield at, table


def _origin(first: _Piece, rows: int) -> int:
    """Return which item a table came of, if its rows are of one."""
    if (first.step and rows > 1) or rows > first.table.num_rows:
        return NOWHERE
    origins = first.held.chunk.origins
    return first.at if origins is None else origins[first.at]


def _together(one: "pa.Schema", other: "pa.Schema") -> "pa.Schema | None":
    """Return a schema that holds both; None if a column cannot."""
    import pyarrow as pa  # noqa: PLC0415 - loaded by now

    try:
        return pa.unify_schemas([one, other], promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return None
