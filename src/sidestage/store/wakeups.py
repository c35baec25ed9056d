"""Hear that other processes changed something, instead of looking again and again.

Whoever waits opens wake-ups *first*, looks at the store, and then asks or selects: nothing falls in between.
A wake-up says only that something may have changed; it may be false, and where the database cannot notify,
or its server is away, none comes. So whoever waits also looks from time to time without one. Wake-ups are
used by one thread at a time, and closed before the store.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from sidestage.clock import Clock, SystemClock
from sidestage.store.faults import explained
from sidestage.store.prepared import Parameters, Prepared, change_all

_CHANNEL = "sidestage"
_AGAIN_SECONDS = 1.0

# Stores in other schemas of the same database use the same channel.
_ANNOUNCE = Prepared(text(f"SELECT pg_notify('{_CHANNEL}', current_schema())"))


def announce(connection: Connection) -> None:
    """Within a transaction: wake those who wait as soon as it is committed.

    Repeated calls in one transaction wake once. On SQLite every commit is heard anyway.
    """
    change_all(connection, announced(connection))


def announced(connection: Connection) -> list[tuple[Prepared, Sequence[Parameters]]]:
    """Return the change that wakes those who wait, to be done together with others; none on SQLite."""
    return [(_ANNOUNCE, [{}])] if connection.dialect.name == "postgresql" else []


class SqliteWakeups:
    """Hears every commit of other processes, and of this one. It costs a few microseconds to ask."""

    def __init__(self, reader: Engine, place: str) -> None:
        self._place = place
        with explained(place):
            connection = reader.connect()
            self._raw = _driver(connection)
            connection.detach()
            self._seen = self._version()

    def fileno(self) -> None:
        """Return None: SQLite notifies nobody."""

    def heard(self) -> bool:
        """Whether anything was committed since this was last asked. Raises StoreError."""
        with explained(self._place):
            seen, self._seen = self._seen, self._version()
        return seen != self._seen

    def close(self) -> None:
        """Stop listening."""
        self._raw.close()

    def _version(self) -> int:
        return int(self._raw.execute("PRAGMA data_version").fetchone()[0])


class PostgresqlWakeups:
    """Hears what is announced, through a connection of its own that it opens again when it is lost."""

    def __init__(self, engine: Engine, place: str, clock: Clock | None = None) -> None:
        self._engine = engine
        self._clock = clock or SystemClock()
        self._raw: Any = None
        self._schema = ""
        self._announced = False
        self._tried_at = 0.0
        with explained(place):
            self._listen()

    def fileno(self) -> int | None:
        """Return the connection's socket, or None while there is no connection."""
        return None if self._raw is None else int(self._raw.fileno())

    def heard(self) -> bool:
        """Whether anything was announced since this was last asked, or may have been while out of reach.

        Waits only to reach a lost server again, which is tried at most once a second. A connection that was
        lost is seen to be (``fileno`` is None) before there is another one: both may have the same number,
        and who waits for it must learn that it means something else.
        """
        if self._raw is None:
            self._listen_again()
        else:
            try:
                self._take_in()
            except self._engine.dialect.loaded_dbapi.Error:
                self.close()
                self._tried_at = self._clock.monotonic()
        announced, self._announced = self._announced, False
        return announced

    def close(self) -> None:
        """Stop listening."""
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.close()

    def _take_in(self) -> None:
        wire = self._raw.pgconn
        wire.consume_input()
        while notice := wire.notifies():
            self._hear(notice.extra.decode())

    def _hear(self, schema: str) -> None:
        self._announced = self._announced or schema == self._schema

    def _listen(self) -> None:
        connection = self._engine.connect()
        try:
            self._schema = str(connection.exec_driver_sql("SELECT current_schema()").scalar())
            raw = _driver(connection)
            # What comes in together with the answer is not left on the wire.
            raw.add_notify_handler(lambda notice: self._hear(notice.payload))
            connection.exec_driver_sql(f"LISTEN {_CHANNEL}")
            connection.detach()
        except BaseException:
            connection.close()
            raise
        self._raw = raw

    def _listen_again(self) -> None:
        now = self._clock.monotonic()
        if now - self._tried_at < _AGAIN_SECONDS:
            return
        self._tried_at = now
        try:
            self._listen()
        except SQLAlchemyError:
            return
        self._announced = True


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection
