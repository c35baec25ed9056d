"""The time by which leases and retries run on SQLite: never the wall clock, which people and daemons set.

Whoever uses the file is on one host, so all of them can go by the time since it was started. That begins
again with every start, so the store counts the starts that it has seen, and each adds ``STRIDE``: what was
due before the last start is past after it, as it must be, because whoever ran a step then is gone. (A retry
that was to wait longer does not.) The seconds since 1970, which catalogs once held, lie below the first
stride, too. A connection that only reads counts a start that nobody has recorded yet, and records nothing.

All processes that use a file must see the same name of the start. Where a container is given one of its own,
it and its host would each take the other's claims for those of an earlier start: fences hold, time is lost.
"""

import sqlite3
from typing import NamedTuple

from sidestage.clock import Uptime

FUNCTION = "lease_time"
"""What the SQL function is called."""

TABLE = "host_start"

STRIDE = 1e10
"""Three hundred years, in seconds. After ten thousand starts a lease is still exact to 0.02 s."""

_IS_THERE = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'host_start'"
_LAST = "SELECT boot, number FROM host_start"
_MAKE = """
    CREATE TABLE IF NOT EXISTS host_start (
        only INTEGER PRIMARY KEY CHECK (only = 1), boot TEXT NOT NULL, number INTEGER NOT NULL
    )
"""
_RECORD = "REPLACE INTO host_start (only, boot, number) VALUES (1, ?, ?)"


class _Start(NamedTuple):
    """A start of the host, as the store counts them from 1."""

    boot: str
    number: int


def follow(connection: sqlite3.Connection, uptime: Uptime) -> None:
    """Let a connection that only reads tell the time."""
    _tell(connection, uptime, _current(connection, uptime))


def record(connection: sqlite3.Connection, uptime: Uptime) -> None:
    """Let a connection that writes tell the time; the first one since the host was started records that.

    To be called outside transactions. Raises sqlite3.Error.
    """
    current = _current(connection, uptime)
    if current != _last(connection):
        connection.execute("BEGIN IMMEDIATE")
        try:
            current = _current(connection, uptime)  # another process may have been first
            connection.execute(_MAKE)
            connection.execute(_RECORD, current)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    _tell(connection, uptime, current)


def _last(connection: sqlite3.Connection) -> _Start | None:
    """Return the last start that was recorded."""
    if connection.execute(_IS_THERE).fetchone() is None:
        return None
    found = connection.execute(_LAST).fetchone()
    return found and _Start(*found)


def _current(connection: sqlite3.Connection, uptime: Uptime) -> _Start:
    """Return the start that the host is in."""
    last = _last(connection)
    if last is not None and last.boot == uptime.boot:
        return last
    return _Start(uptime.boot, 1 if last is None else last.number + 1)


def _tell(connection: sqlite3.Connection, uptime: Uptime, current: _Start) -> None:
    base, seconds = current.number * STRIDE, uptime.seconds
    connection.create_function(FUNCTION, 0, lambda: base + seconds())
