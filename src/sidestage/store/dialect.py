"""The few places where SQLite and PostgreSQL differ."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any, NamedTuple

from sqlalchemy import URL, Connection, Double, Engine, Insert, Table, create_engine, event, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import NullPool
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from sidestage.clock import Uptime, host_uptime
from sidestage.errors import ConfigurationError
from sidestage.store import lease_clock
from sidestage.store.faults import is_without_room
from sidestage.store.sqlite_file import SqliteFile
from sidestage.store.turn import FileLock, Turn

# A connection whose other end is gone without a word is noticed within half a minute, not after hours.
_NOTICE_LOSS = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}

# Conditions are checked by counting what took effect, also for inserts of many rows.
_COUNTED = {"preserve_rowcount": True}

_SCHEMA_LOCK = 0x51DE57A6E


class DatabaseClock(FunctionElement[float]):
    """Seconds by a clock of the database that whoever uses it goes by; only differences mean anything."""

    type = Double()
    inherit_cache = True


@compiles(DatabaseClock, "sqlite")
def _sqlite_clock(_element: DatabaseClock, _compiler: SQLCompiler, **_options: Any) -> str:
    return f"{lease_clock.FUNCTION}()"


@compiles(DatabaseClock, "postgresql")
def _postgresql_clock(_element: DatabaseClock, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


@cache
def insert_if_absent(dialect: str, table: Table) -> Insert:
    """Return an insert that leaves a row with the same primary key as it is (its row count is 0 then)."""
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - optional dependency, slow to import

        return postgresql.insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key))
    return sqlite.insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key))


@cache
def insert_or_replace(dialect: str, table: Table, columns: tuple[str, ...]) -> Insert:
    """Return an insert that updates ``columns`` of a row that has the same primary key."""
    keys = list(table.primary_key)
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - optional dependency, slow to import

        pg = postgresql.insert(table)
        return pg.on_conflict_do_update(index_elements=keys, set_={c: pg.excluded[c] for c in columns})
    lite = sqlite.insert(table)
    return lite.on_conflict_do_update(index_elements=keys, set_={c: lite.excluded[c] for c in columns})


def know_sizes(connection: Connection, table: Table, rows: int) -> None:
    """Have PostgreSQL look at a table that has just been given more rows than it believes to be there.

    It does so by itself after a minute; until then it would look for single rows by reading all of them.
    """
    if connection.dialect.name != "postgresql":
        return
    name = table.name
    believed = connection.scalar(text(f"SELECT reltuples FROM pg_class WHERE oid = '{name}'::regclass"))  # noqa: S608
    if rows and (believed or 0) < rows:
        connection.execute(text(f"ANALYZE {name}"))


def locks_rows(connection: Connection) -> bool:
    """Whether a writer locks the rows it asks for; SQLite locks out all other writers as it begins."""
    return connection.dialect.name != "sqlite"


class Engines(NamedTuple):
    """Ways to a database."""

    writer: Engine
    reader: Engine
    turn: AbstractContextManager[object]
    """Held by whoever writes: SQLite lets one transaction write at a time."""
    locks: tuple[Turn | FileLock, ...] = ()
    as_it_lies: Callable[[], AbstractContextManager[Connection]] | None = None
    """The last way to read, where there is no room to do it in the usual one."""

    def connect_reader(self) -> AbstractContextManager[Connection]:
        """Return a connection for reading, which is used and closed before the next one is asked for."""
        try:
            return self.reader.connect()
        except DBAPIError as error:
            if self.as_it_lies is None or not is_without_room(error):
                raise
        return self.as_it_lies()

    def close(self) -> None:
        """Close all connections that are not in use, then the locks that closing them needs."""
        self.writer.dispose()
        self.reader.dispose()
        for lock in self.locks:
            lock.close()


def engines(url: URL, uptime: Uptime | None = None) -> Engines:
    """Return the ways to the database at ``url``.

    SQLite's leases run by ``uptime``, by default the host's. Raises StoreError if the place cannot hold a
    store, ConfigurationError for an unknown database.
    """
    match url.get_backend_name():
        case "sqlite":
            return _sqlite_engines(url, uptime or host_uptime())
        case "postgresql":
            place, arguments = _with_psycopg(url), _arguments(url)
            writer = create_engine(place, execution_options=_COUNTED, connect_args=arguments)
            # Apart, because the driver forgets its prepared statements when a transaction is rolled back, as
            # each one is that only reads.
            reader = create_engine(place, connect_args=arguments)
            return Engines(writer, reader, nullcontext())
        case other:
            raise ConfigurationError(
                f"A store cannot be kept in {other!r}.", hint="Use sqlite:///path or postgresql://host/name."
            )


def _sqlite_engines(url: URL, uptime: Uptime) -> Engines:
    file = SqliteFile.at(url, uptime)
    file.create()
    turn = Turn(file.place)
    writer = create_engine(url, pool_size=1, max_overflow=0, execution_options=_COUNTED)
    event.listen(writer, "do_connect", lambda *_sqlalchemy: file.open_writer())
    event.listen(writer, "begin", _begin_immediate)
    reader = create_engine(url, pool_size=4, max_overflow=-1)
    event.listen(reader, "do_connect", lambda *_sqlalchemy: file.open_reader())
    event.listen(reader, "begin", _begin_deferred)
    return Engines(writer, reader, turn, (turn, file.door), partial(_as_it_lies, file))


@contextmanager
def _as_it_lies(file: SqliteFile) -> Iterator[Connection]:
    with file.as_it_lies() as raw:
        engine = create_engine(
            "sqlite://", creator=lambda: raw, poolclass=NullPool, execution_options={"as_it_lies": True}
        )
        event.listen(engine, "begin", _begin_deferred)
        with engine.connect() as connection:
            yield connection


def listening_engine(url: URL) -> Engine:
    """Return an engine of PostgreSQL whose connections are new and hold no transactions."""
    return create_engine(
        _with_psycopg(url), poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=_arguments(url)
    )


def _arguments(url: URL) -> dict[str, int]:
    return {name: value for name, value in _NOTICE_LOSS.items() if name not in url.query}


def is_ready(connection: Connection) -> bool:
    """Whether the database is in the mode it is used in; a copy of a file may have lost it."""
    if connection.dialect.name != "sqlite":
        return True
    if connection.get_execution_options().get("as_it_lies"):
        return True
    return bool(connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal")


@contextmanager
def exclusive_schema(connection: Connection) -> Iterator[None]:
    """Hold a transaction in which this process alone may look at the schema and change it."""
    if connection.dialect.name == "sqlite":
        # Rebuilding a table drops the old one, which must not count as deleting what others refer to.
        _pragma(connection, "foreign_keys = OFF")
        try:
            with connection.begin():
                yield
        finally:
            _pragma(connection, "foreign_keys = ON")
        return
    with connection.begin():
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
        yield


def _pragma(connection: Connection, pragma: str) -> None:
    raw: Any = connection.connection.driver_connection
    raw.execute(f"PRAGMA {pragma}")


def _with_psycopg(url: URL) -> URL:
    try:
        import psycopg  # noqa: F401, PLC0415 - optional dependency
    except ImportError as error:
        raise ConfigurationError(
            "The driver for PostgreSQL is not installed.", hint="pip install 'sidestage[postgres]'"
        ) from error
    return url.set(drivername="postgresql+psycopg")


def _begin_immediate(connection: Connection) -> None:
    # A file on one host: whoever could know of a lazy transaction is gone with a power cut that loses it.
    level = "NORMAL" if connection.get_execution_options().get("lazily") else "FULL"
    raw: Any = connection.connection.driver_connection
    if raw.synchronous != level:
        raw.execute(f"PRAGMA synchronous = {level}")
        raw.synchronous = level
    raw.execute("BEGIN IMMEDIATE")


def _begin_deferred(connection: Connection) -> None:
    raw: Any = connection.connection.driver_connection
    raw.execute("BEGIN")
