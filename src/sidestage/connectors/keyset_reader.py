"""Reads pages of rows by key: one statement for each page, and nothing held open in between."""

import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from sidestage.clock import Clock, SystemClock
from sidestage.connectors.aside import Aside
from sidestage.connectors.failure import ConnectorError
from sidestage.connectors.keyset import KeysetPages
from sidestage.connectors.keyset_query import Bound, PageQuery, bound_at, position_of, require_key
from sidestage.connectors.sql_faults import errors_of_databases, explain, is_lost
from sidestage.connectors.sql_place import Place, disconnect, interrupt
from sidestage.errors import DefinitionError
from sidestage.stream.contract import Batch, Positions

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_MOST_SIGHTINGS = 100
_INTERRUPT_SECONDS = 2.0

_XMAX = text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
_XMIN = text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")


class _Range:
    """How far one range has been handed over, and how far it has been fetched, which may be a page more."""

    def __init__(self, name: str, after: Bound | None, up_to: Bound | None) -> None:
        self.name = name
        self.after = self.fetched = after
        self.up_to = up_to


class _Sighting(NamedTuple):
    """The highest key that was there at a moment. Who had begun to write by then has a lower number."""

    key: Bound
    at: float
    transaction: int


class KeysetReader:
    """Reads the ranges in turn, a page of each, and hands pages over in pieces. Used by one thread.

    Statements run in a thread of their own, so that nobody has to wait for the database who may not.
    """

    def __init__(self, source: KeysetPages, resume: Positions, clock: Clock | None = None) -> None:
        self._source = source
        self._clock = clock or SystemClock()
        self._place = Place(source.url, f"Reading {source.name}", timeout=source.timeout, reads=True)
        self._errors: tuple[type[Exception], ...] = errors_of_databases()
        self._troubles: tuple[type[Exception], ...] = (ConnectorError, *self._errors)
        self._connection: Connection | None = self._place.connect(source.patience)
        self._closed = False
        self._aside: Aside[Sequence[Any]] = Aside(f"{source.name} page")
        try:
            require_key(source, self._place, self._connection)
            self._query = PageQuery(source, self._place, self._connection)
            self._ranges = deque(self._ranges_from(resume))
        except self._errors as error:
            self.close()
            raise explain(error, self._place.doing) from error
        except BaseException:
            self.close()
            raise
        self._rows: Sequence[Any] = ()
        self._next = 0
        self._stopped = False
        self._due = 0.0
        self._idle = 0
        self._lost_at: float | None = None
        self._pause = _FIRST_PAUSE
        self._sightings: deque[_Sighting] = deque()
        self._settled: Bound | None = None

    def read(self, limit: int, wait: float) -> Sequence[Batch] | None:
        """Return the next rows as dicts. A server that is away is waited for.

        Raises ConnectorError if it stays away for longer than the source's patience, or refuses a statement.
        """
        if self._next < len(self._rows):
            return (self._piece(limit),)
        if self._stopped or not (self._ranges or self._aside.is_busy):
            return None
        self._turn_page(wait)
        return (self._piece(limit),) if self._rows else ()

    def stop(self) -> None:
        """Read no more pages; what is left of this one is still handed over."""
        self._stopped = True

    def commit(self, positions: Positions) -> None:
        """Note how far everything has been dealt with: a table does not want to know."""

    def lost(self) -> Collection[str]:
        """Return nothing: ranges are shared out by whoever describes the source."""
        return ()

    def close(self) -> None:
        """Disconnect, and give up a statement that is under way."""
        self._closed = True
        if self._aside.is_busy and self._connection is not None:
            interrupt(self._connection)
            self._aside.is_done(_INTERRUPT_SECONDS)
        self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            disconnect(connection)

    def _piece(self, limit: int) -> Batch:
        """Return the next rows of the page, and note how far the range has been handed over."""
        reached = self._ranges[-1]
        rows = self._rows[self._next : self._next + limit]
        self._next += len(rows)
        first = "" if reached.after is None else position_of(reached.after)
        reached.after = self._query.key_of(rows[-1])
        names = self._query.names
        items = [dict(zip(names, row, strict=False)) for row in rows]
        return Batch(reached.name, first, items, position_of(reached.after))

    def _turn_page(self, wait: float) -> None:
        """Take the next page, if it comes in time; there is none, else."""
        self._rows = ()
        self._next = 0
        if not self._aside.is_busy:
            left = self._due - self._clock.monotonic()
            if left > 0:
                time.sleep(min(left, wait))
                return
            self._aside.begin(self._fetch)
        if not self._aside.is_done(wait):
            return
        try:
            self._take(self._aside.take())
        except self._troubles as error:
            self._meet(error)
            return
        self._lost_at, self._pause = None, _FIRST_PAUSE
        if self._rows:
            self._aside.begin(self._fetch)  # the next page comes while this one is handed over

    def _fetch(self) -> Sequence[Any]:
        """Return the next rows of the range whose turn it is: a page, and one more if there is more."""
        if self._connection is None:
            self._connection = self._place.connect()
            if self._closed:
                self._disconnect()
                return ()
        if self._source.follow and not self._idle:
            self._look(self._connection)
        each = self._ranges[0]
        bounds = [each.up_to] if each.up_to is not None else []
        if self._source.follow:
            bounds += [self._settled] if self._settled is not None else []
        rows: Sequence[Any] = ()
        if not self._source.follow or self._settled is not None:
            statement, given = self._query.page(each.fetched, bounds)
            found: Any = self._connection.execute(statement, given)
            rows = found.cursor.fetchall()  # plain tuples: an object for each row would cost as much again
            found.close()
            self._query.require_order(rows)
        return rows

    def _take(self, rows: Sequence[Any]) -> None:
        """Take a page, and let the next range have its turn.

        The range that the page is of is the last one then. One that has come to its end leaves, or rests.
        """
        self._rows = rows[: self._source.page]
        if self._rows:
            self._ranges[0].fetched = self._query.key_of(self._rows[-1])
        is_last = len(rows) <= self._source.page
        each = self._ranges.popleft()
        if not is_last or self._source.follow or self._rows:
            self._ranges.append(each)
        self._idle = self._idle + 1 if not self._rows else 0
        if self._idle >= len(self._ranges) and self._source.follow:
            self._idle = 0
            self._due = self._clock.monotonic() + self._source.every

    def _look(self, connection: Connection) -> None:
        """See how far rows may be passed on, because none with a lower key can be committed any more."""
        now = self._clock.monotonic()
        if len(self._sightings) < _MOST_SIGHTINGS:
            found = connection.execute(self._query.newest()).first()
            if found is not None:
                number = int(connection.scalar(_XMAX) or 0) if self._place.is_postgresql else 0
                self._sightings.append(_Sighting(self._query.bound(found), now, number))
        over = int(connection.scalar(_XMIN) or 0) if self._place.is_postgresql else 0
        while self._sightings:
            first = self._sightings[0]
            if now - first.at < self._source.settle or first.transaction > over:
                return
            self._settled = self._sightings.popleft().key

    def _meet(self, error: Exception) -> None:
        """Wait for a server that is away. Raises ConnectorError if it is something else, or for too long."""
        self._disconnect()
        now = self._clock.monotonic()
        self._lost_at = now if self._lost_at is None else self._lost_at
        explained = error if isinstance(error, ConnectorError) else explain(error, self._place.doing)
        is_away = is_lost(error) or (error is explained and explained.transient)
        if not is_away or now - self._lost_at >= self._source.patience:
            raise explained from (None if explained is error else error)
        self._due = now + self._pause
        self._pause = min(_LONGEST_PAUSE, self._pause * 2)

    def _ranges_from(self, resume: Positions) -> list[_Range]:
        known = {each.name for each in self._source.ranges}
        if resume and not known & resume.keys():
            raise DefinitionError(
                f"{self._source.name} cannot go on from {', '.join(sorted(resume))}: its ranges are others.",
                hint="Give it the ranges it had before, or begin anew.",
            )
        made = []
        for each in self._source.ranges:
            after = None if each.after is None else self._query.bound(each.after)
            if each.name in resume:
                after = bound_at(resume[each.name], self._source)
            up_to = None if each.up_to is None else self._query.bound(each.up_to)
            made.append(_Range(each.name, after, up_to))
        return made
