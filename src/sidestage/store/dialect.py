"""The few places where SQLite and PostgreSQL differ."""

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Double, Engine, Insert, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from sidestage.errors import ConfigurationError, StoreError

BUSY_SECONDS = 30.0
"""How long a process waits for another one that is writing."""

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
        return postgresql.insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key))
    return sqlite.insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key))


@cache
def insert_or_replace(dialect: str, table: Table, columns: tuple[str, ...]) -> Insert:
    """Return an insert that updates ``columns`` of a row that has the same primary key."""
    keys = list(table.primary_key)
    if dialect == "postgresql":
        pg = postgresql.insert(table)
        return pg.on_conflict_do_update(index_elements=keys, set_={c: pg.excluded[c] for c in columns})
    lite = sqlite.insert(table)
    return lite.on_conflict_do_update(index_elements=keys, set_={c: lite.excluded[c] for c in columns})


def locks_rows(connection: Connection) -> bool:
    """Whether a writer locks the rows it asks for; SQLite locks out all other writers as it begins."""
    return connection.dialect.name != "sqlite"


def engines(url: URL) -> tuple[Engine, Engine]:
    """Return the engine that writes and the one that reads; PostgreSQL needs only one.

    Raises StoreError if the place cannot hold a store, ConfigurationError for an unknown database.
    """
    match url.get_backend_name():
        case "sqlite":
            path = _sqlite_path(url)
            wait = {"timeout": BUSY_SECONDS}
            writer = create_engine(
                url, pool_size=1, max_overflow=0, connect_args=wait, execution_options=_COUNTED
            )
            event.listen(writer, "connect", _prepare_writer)
            event.listen(writer, "begin", _begin_immediate)
            _create_file(path)
            reader = create_engine(url, pool_size=4, max_overflow=-1, connect_args=wait)
            event.listen(reader, "connect", _prepare_reader)
            event.listen(reader, "begin", _begin_deferred)
            return writer, reader
        case "postgresql":
            engine = create_engine(_with_psycopg(url), pool_pre_ping=True, execution_options=_COUNTED)
            return engine, engine
        case other:
            raise ConfigurationError(
                f"A store cannot be kept in {other!r}.", hint="Use sqlite:///path or postgresql://host/name."
            )


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
    return path


def _create_file(path: str) -> None:
    """Create the file durably if there is none: what is in it is synced by SQLite, its name only by this."""
    try:
        file = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            empty = os.fstat(file).st_size == 0
        finally:
            os.close(file)
        if empty and hasattr(os, "O_DIRECTORY"):
            folder = os.open(Path(path).absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise StoreError(
            f"The store {path} cannot be opened: {error.strerror}.",
            hint="Check who owns the file and its directory, and whether the disk is full or read-only.",
        ) from error


def _prepare_writer(raw: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    _leave_transactions_to_us(raw)
    connection: Any = raw
    mode = _enter_wal(connection)
    if mode != "wal":
        raise StoreError(
            f"The store is not safe where it lies: SQLite offers journal mode {mode!r} there, not WAL.",
            hint="Network file systems cannot; use a local disk, or PostgreSQL.",
        )
    _execute_all(
        connection,
        (
            "PRAGMA synchronous = FULL",
            # On macOS only this makes the disk itself write; elsewhere it changes nothing.
            "PRAGMA fullfsync = ON",
            "PRAGMA checkpoint_fullfsync = ON",
            "PRAGMA foreign_keys = ON",
        ),
    )


def _prepare_reader(raw: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    _leave_transactions_to_us(raw)
    _execute_all(raw, ("PRAGMA query_only = ON",))


def _leave_transactions_to_us(raw: DBAPIConnection) -> None:
    # Otherwise the driver would begin them by itself: too late, and without asking for the write lock.
    connection: Any = raw
    connection.isolation_level = None


def _enter_wal(connection: sqlite3.Connection) -> str:
    """Switch the file to WAL; SQLite does not wait by itself while two processes do so at once."""
    pause, tries = 0.01, int(BUSY_SECONDS / 0.01)
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            tries -= 1
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or tries <= 0:
                raise
            time.sleep(pause)


def _execute_all(raw: Any, statements: Sequence[str]) -> None:
    for statement in statements:
        raw.execute(statement)


def _begin_immediate(connection: Connection) -> None:
    # A file on one host: whoever could know of a lazy transaction is gone with a power cut that loses it.
    level = "NORMAL" if connection.get_execution_options().get("lazily") else "FULL"
    raw: Any = connection.connection.driver_connection
    _execute_all(raw, (f"PRAGMA synchronous = {level}", "BEGIN IMMEDIATE"))


def _begin_deferred(connection: Connection) -> None:
    raw: Any = connection.connection.driver_connection
    raw.execute("BEGIN")
