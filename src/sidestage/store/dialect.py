"""The few places where SQLite and PostgreSQL differ."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import URL, Connection, Double, Engine, Insert, Table, create_engine, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import NullPool
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from sidestage.errors import ConfigurationError, StoreError
from sidestage.store.turn import FileLock, Turn

BUSY_SECONDS = 30.0
"""How long SQLite looks again for a lock held by somebody who does not take turns: a foreign program."""

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
    """Seconds since 1970 by the database's clock, with fractions."""

    type = Double()
    inherit_cache = True


@compiles(DatabaseClock, "sqlite")
def _sqlite_clock(_element: DatabaseClock, _compiler: SQLCompiler, **_options: Any) -> str:
    # unixepoch('subsec') would be shorter, but silently gives NULL before SQLite 3.42.
    return "((julianday('now') - 2440587.5) * 86400.0)"


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

    def close(self) -> None:
        """Close all connections that are not in use, then the locks that closing them needs."""
        self.writer.dispose()
        self.reader.dispose()
        for lock in self.locks:
            lock.close()


def engines(url: URL) -> Engines:
    """Return the ways to the database at ``url``; PostgreSQL needs only one for reading and writing.

    Raises StoreError if the place cannot hold a store, ConfigurationError for an unknown database.
    """
    match url.get_backend_name():
        case "sqlite":
            path = _sqlite_path(url)
            # As SQLite names its own neighbours: whatever links lead here, they are the same.
            place = str(Path(path).resolve())
            turn, door = Turn(place), FileLock(f"{place}-door")
            _create_file(path, door)
            writer = create_engine(url, pool_size=1, max_overflow=0, execution_options=_COUNTED)
            event.listen(writer, "do_connect", partial(_open_writer, path, door))
            event.listen(writer, "begin", _begin_immediate)
            reader = create_engine(url, pool_size=4, max_overflow=-1)
            event.listen(reader, "do_connect", partial(_open_reader, path, door))
            event.listen(reader, "begin", _begin_deferred)
            return Engines(writer, reader, turn, (turn, door))
        case "postgresql":
            engine = create_engine(
                _with_psycopg(url),
                pool_pre_ping=True,
                execution_options=_COUNTED,
                connect_args=_arguments(url),
            )
            return Engines(engine, engine, nullcontext())
        case other:
            raise ConfigurationError(
                f"A store cannot be kept in {other!r}.", hint="Use sqlite:///path or postgresql://host/name."
            )


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


def _sqlite_path(url: URL) -> str:
    path = url.database
    if not path or path == ":memory:" or path.startswith("file:"):
        raise ConfigurationError(
            f"{url} names no file.", hint="A store must outlive the process: use sqlite:///path/of/file."
        )
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise StoreError(
            f"The store cannot be opened: there is no directory {folder}.", hint="Create it first."
        )
    if Path(path).is_dir():
        raise StoreError(f"The store cannot be opened: {path} is a directory.", hint="Name a file.")
    return str(Path(path).absolute())


class _Sqlite(sqlite3.Connection):
    """A connection that is closed when nobody else is opening or closing one.

    Whoever closes the last one copies the log back into the file, and locks out all who would open it.
    """

    door: AbstractContextManager[object] = nullcontext()
    synchronous = ""
    """The level that was set last."""

    def close(self) -> None:
        """Close the connection."""
        with self.door:
            super().close()


def _create_file(path: str, door: FileLock) -> None:
    """Create the file durably, and let it use a log from its first page on, if there is none or it is empty.

    What is in the file is synced by SQLite, its name only by this. It is never opened but by SQLite: whoever
    closes a file loses all the locks that his process has on it.
    """
    try:
        with door:
            if Path(path).exists() and Path(path).stat().st_size > 0:
                return
            connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                _enter_wal(connection)
            finally:
                connection.close()
            if hasattr(os, "O_DIRECTORY"):
                _sync_folder(Path(path).absolute().parent)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"The store {path} cannot be opened: {getattr(error, 'strerror', None) or error}.",
            hint="Check who owns the file and its directory, and whether the disk is full or read-only.",
        ) from error


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _open_writer(path: str, door: FileLock, *_sqlalchemy: object) -> sqlite3.Connection:
    with door:
        connection = _connected(path, door)
        try:
            _prepare_writer(connection)
        except BaseException:
            sqlite3.Connection.close(connection)  # with the door in our hand
            raise
    return connection


def _open_reader(path: str, door: FileLock, *_sqlalchemy: object) -> sqlite3.Connection:
    with door:
        connection = _connected(path, door)
        try:
            connection.execute("PRAGMA query_only = ON")
            # Here, while nobody is at the door, it finds the log and mends what a crash left.
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        except BaseException:
            sqlite3.Connection.close(connection)
            raise
    return connection


def _connected(path: str, door: FileLock) -> _Sqlite:
    # The driver would begin transactions by itself: too late, and without asking for the write lock.
    connection = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, factory=_Sqlite
    )
    connection.door = door
    return connection


def _prepare_writer(connection: sqlite3.Connection) -> None:
    mode = _enter_wal(connection)
    if mode != "wal":
        raise StoreError(
            f"The store is not safe where it lies: SQLite offers journal mode {mode!r} there, not WAL.",
            hint="Network file systems cannot; use a local disk, or PostgreSQL.",
        )
    for pragma in (
        "synchronous = FULL",
        # On macOS only this makes the disk itself write; elsewhere it changes nothing.
        "fullfsync = ON",
        "checkpoint_fullfsync = ON",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _enter_wal(connection: sqlite3.Connection) -> str:
    """Switch the file to WAL; SQLite does not wait by itself for those who are reading without it."""
    pause, tries = 0.01, int(BUSY_SECONDS / 0.01)
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            tries -= 1
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or tries <= 0:
                raise
            time.sleep(pause)


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
