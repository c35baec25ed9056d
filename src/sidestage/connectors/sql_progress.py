"""How far streams have come, in a table beside what they write; and numbers that fence off late writers."""

import time
import zlib
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from sidestage.connectors.failure import ConnectorError
from sidestage.connectors.sql_faults import code_of, errors_of_databases, explain
from sidestage.connectors.sql_place import Place, disconnect
from sidestage.connectors.sql_table import SqlTransactionalTable
from sidestage.errors import DataError
from sidestage.stream.contract import Progress

TABLE = "sidestage_stream_progress"
LOCK_SECONDS = 5
_NOTHING = Progress(0, {})


class Fence(NamedTuple):
    """A writer's right to commit, until the next one of its stream has a higher number."""

    stream: str
    number: int


class ProgressTable:
    """The table of one schema. All methods but ``commit`` are transactions of their own."""

    def __init__(self, sink: SqlTransactionalTable, place: Place) -> None:
        self._stream = sink.stream
        self._patience = sink.patience
        self._place = place
        self._schema = sink.table.rpartition(".")[0]
        self._name = place.quoted_table(f"{self._schema}.{TABLE}" if self._schema else TABLE)

    def read(self, connection: Connection) -> Progress:
        """Return what was committed last, after a commit that is under way. Raises DataError."""
        if not inspect(connection).has_table(TABLE, self._schema or None):
            return _NOTHING
        locking = ""
        if self._place.is_postgresql:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
            locking = " FOR SHARE"
        statement = text(f"SELECT progress FROM {self._name} WHERE stream = :stream{locking}")  # noqa: S608
        found = connection.scalar(statement, {"stream": self._stream})
        if found is None:
            return _NOTHING
        try:
            return msgspec.json.decode(found, type=Progress)
        except msgspec.DecodeError as error:
            raise DataError(
                f"The progress of {self._stream!r} in {TABLE} cannot be read: {error}",
                hint="It was written by something else, or by a later release of Sidestage.",
            ) from error

    def fence_off(self, connection: Connection) -> Fence:
        """Take over from whoever wrote before, whose transaction is undone."""
        session = self._session(connection)
        deadline = time.monotonic() + self._patience
        while True:
            try:
                self._create(connection)
                number, before = self._take_over(connection, session)
            except DBAPIError as error:
                connection.rollback()
                if code_of(error) != "55P03" or time.monotonic() > deadline:
                    raise
                # It hangs in the middle of a commit: one that opened it, or the one that wrote.
                self._end_openings(connection)
                self._end(connection, self._owner(connection))
            else:
                self._end(connection, before)
                return Fence(self._stream, number)

    def commit(self, connection: Connection, fence: Fence, progress: Progress) -> bool:
        """Write progress in the transaction that is open; return whether the fence still holds."""
        statement = text(
            f"UPDATE {self._name} SET number = :number, progress = :progress "  # noqa: S608
            "WHERE stream = :stream AND fence = :fence"
        )
        given = {
            "number": progress.number,
            "progress": msgspec.json.encode(progress).decode(),
            "stream": fence.stream,
            "fence": fence.number,
        }
        return bool(connection.execute(statement, given).rowcount)

    def _create(self, connection: Connection) -> None:
        # Asked first: whoever may write to it need not have the right to make it.
        if not inspect(connection).has_table(TABLE, self._schema or None):
            connection.rollback()
            try:
                self._queue(connection, "")
                connection.exec_driver_sql(
                    f"CREATE TABLE IF NOT EXISTS {self._name} (stream TEXT PRIMARY KEY, "
                    "fence BIGINT NOT NULL, number BIGINT NOT NULL, progress TEXT, session TEXT NOT NULL)"
                )
                connection.commit()
            except DBAPIError:
                connection.rollback()
                if not inspect(connection).has_table(TABLE, self._schema or None):
                    raise
        connection.rollback()

    def _take_over(self, connection: Connection, session: str) -> tuple[int, str]:
        self._queue(connection, self._stream)
        connection.execute(
            text(
                f"INSERT INTO {self._name} (stream, fence, number, progress, session) "  # noqa: S608
                "VALUES (:stream, 0, 0, NULL, '') ON CONFLICT (stream) DO NOTHING"
            ),
            {"stream": self._stream},
        )
        locking = " FOR UPDATE" if self._place.is_postgresql else ""
        found: Any = connection.execute(
            text(f"SELECT fence, session FROM {self._name} WHERE stream = :stream{locking}"),  # noqa: S608
            {"stream": self._stream},
        ).one()
        number = int(found[0]) + 1
        connection.execute(
            text(
                f"UPDATE {self._name} SET fence = :fence, session = :session WHERE stream = :stream"  # noqa: S608
            ),
            {"fence": number, "session": session, "stream": self._stream},
        )
        connection.commit()
        return number, str(found[1])

    def _queue(self, connection: Connection, stream: str) -> None:
        """Open a stream after others who do, or make the table ("").

        Who hangs in that has written its name where nobody else sees it yet; this lock tells who it is.
        """
        if self._place.is_postgresql:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
            turn = {"table": _signed(_number(self._name)), "stream": _signed(_number(stream))}
            connection.execute(
                text("SELECT pg_advisory_xact_lock(CAST(:table AS int), CAST(:stream AS int))"), turn
            )

    def _owner(self, connection: Connection) -> str:
        if not inspect(connection).has_table(TABLE, self._schema or None):
            connection.rollback()
            return ""
        statement = text(f"SELECT session FROM {self._name} WHERE stream = :stream")  # noqa: S608
        found = connection.scalar(statement, {"stream": self._stream})
        connection.rollback()
        return str(found or "")

    def _session(self, connection: Connection) -> str:
        """Return what names this session of the server, and no later one."""
        if not self._place.is_postgresql:
            return ""
        mine = text(
            "SELECT pid::text || ' ' || backend_start::text FROM pg_stat_activity "
            "WHERE pid = pg_backend_pid()"
        )
        found = connection.scalar(mine)
        connection.rollback()
        return str(found or "")

    def _end_openings(self, connection: Connection) -> None:
        """End the sessions that hang while they open this stream, or make the table."""
        held = (
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks "
            "WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND pid <> pg_backend_pid() "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND classid::bigint = :table AND objid::bigint IN (:making, :stream)"
        )
        numbers = {"making": _number(""), "stream": _number(self._stream)}
        self._terminate(connection, held, {"table": _number(self._name), **numbers})

    def _end(self, connection: Connection, session: str) -> None:
        """End a session whose locks would be in our way. One that we may not end cannot commit anyway."""
        if not session or not self._place.is_postgresql:
            return
        of_session = (
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE pid::text || ' ' || backend_start::text = :session AND pid <> pg_backend_pid()"
        )
        self._terminate(connection, of_session, {"session": session})

    def _terminate(self, connection: Connection, statement: str, given: dict[str, Any]) -> None:
        try:
            connection.execute(text(statement), given)
        except DBAPIError as error:
            if code_of(error) != "42501":
                raise
        finally:
            connection.rollback()


def _number(name: str) -> int:
    """Return a number of 32 bits for a name, as the locks of PostgreSQL have them."""
    return zlib.crc32(name.encode())


def _signed(number: int) -> int:
    """Return the same bits as a signed number."""
    return number - (number >> 31 << 32)


def read_progress(sink: SqlTransactionalTable) -> Progress:
    """Return what was committed last. Raises ConnectorError, DataError."""
    doing = f"Reading how far {sink.stream!r} has come"
    # On SQLite a transaction that may write would wait for the writer's.
    place = Place(sink.url, doing, timeout=sink.timeout, reads=sink.url.startswith("sqlite"))
    errors = errors_of_databases()
    connection = place.connect(sink.patience)
    try:
        return ProgressTable(sink, place).read(connection)
    except errors as error:
        if code_of(error) == "55P03":
            raise ConnectorError(
                f"{doing} failed: a commit has been under way for {LOCK_SECONDS} seconds.",
                hint="Open the sink first: that ends whoever hangs in it.",
                failure_class="transient",
            ) from error
        raise explain(error, doing) from error
    finally:
        disconnect(connection)
