"""The record of what happened: append-only, written in the transaction that did it."""

from collections.abc import Iterable, Sequence
from functools import partial

from sqlalchemy import Connection, bindparam, select

from sidestage.events import Event
from sidestage.store.prepared import Parameters, Prepared, change_all
from sidestage.store.records import EventEntry
from sidestage.store.sql_database import SqlPart
from sidestage.store.sql_rows import as_json
from sidestage.store.tables import event as events_table

_INSERT = Prepared(events_table.insert())

_AFTER = (
    select(events_table)
    .where(events_table.c.id > bindparam("after"))
    .order_by(events_table.c.id)
    .limit(bindparam("at_most"))
)


def append(connection: Connection, events: Iterable[tuple[int | None, Event]]) -> None:
    """Append events, each with the run that it belongs to."""
    change_all(connection, appended(events))


def appended(events: Iterable[tuple[int | None, Event]]) -> list[tuple[Prepared, Sequence[Parameters]]]:
    """Return the change that appends events, to be done together with others."""
    rows = [
        {"at": event.at, "run": run, "kind": type(event).__name__, "body": as_json(event)}
        for run, event in events
    ]
    return [(_INSERT, rows)] if rows else []


class SqlEvents(SqlPart):
    """Reads what happened."""

    def events(self, after: int = 0, limit: int = 1000) -> tuple[EventEntry, ...]:
        """Return what happened after the event with id ``after``, oldest first."""
        return self._database.read(partial(_events, after=after, limit=limit))


def _events(connection: Connection, after: int, limit: int) -> tuple[EventEntry, ...]:
    rows = connection.execute(_AFTER, {"after": after, "at_most": limit})
    return tuple(EventEntry(row.id, row.at, row.run, row.kind, row.body) for row in rows)
