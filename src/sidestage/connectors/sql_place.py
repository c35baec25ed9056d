"""A database as a place that streams read from and write to: connect, and look at a table."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import URL, Connection, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, NoSuchTableError
from sqlalchemy.pool import NullPool

from sidestage.connectors.failure import ConnectorError
from sidestage.connectors.sql_faults import errors_of_databases, explain
from sidestage.errors import ConfigurationError

# A connection whose other end is gone without a word is noticed within half a minute, not after hours.
_NOTICE_LOSS = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
_LOCK_SECONDS = 60.0


class ColumnShape(NamedTuple):
    """A column of a table, as far as it matters here."""

    name: str
    nullable: bool
    is_json: bool
    is_generated: bool


class Shape(NamedTuple):
    """A table: its columns, and the sets of columns that are unique."""

    columns: tuple[ColumnShape, ...]
    unique: tuple[frozenset[str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns, in their order."""
        return tuple(column.name for column in self.columns)


class Place:
    """A database at ``url``. ``doing`` is what errors begin with: "Reading orders".

    ``reads`` keeps its connections from changing anything, and from holding a transaction open between two
    statements. Raises ConfigurationError for a URL that cannot be used.
    """

    def __init__(self, url: str, doing: str, *, timeout: float, reads: bool) -> None:
        self.doing = doing
        self._url = _usable(url, doing)
        self._reads = reads
        self._timeout = timeout
        self.is_postgresql = self._url.get_backend_name() == "postgresql"
        self._errors = errors_of_databases()
        more: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"} if reads else {}
        if self.is_postgresql:
            arguments: dict[str, Any] = {
                name: value for name, value in _NOTICE_LOSS.items() if name not in self._url.query
            }
        else:
            arguments = {"check_same_thread": False, "timeout": _LOCK_SECONDS}
        self._engine = create_engine(self._url, poolclass=NullPool, connect_args=arguments, **more)
        if not self.is_postgresql and not reads:
            event.listen(self._engine, "connect", _leave_transactions_to_us)
            event.listen(self._engine, "begin", _begin_immediate)

    def connect(self, patience: float = 0.0) -> Connection:
        """Connect, trying for ``patience`` seconds while the server is away. Raises ConnectorError."""
        self._require_file()
        end, pause = time.monotonic() + patience, 0.05
        while True:
            try:
                return self._connect()
            except self._errors as error:
                explained = explain(error, self.doing)
                if not explained.transient or time.monotonic() + pause > end:
                    raise explained from error
                time.sleep(pause)
                pause = min(2.0, pause * 2)

    def quoted(self, name: str) -> str:
        """Return a column's name as it stands in a statement."""
        return str(self._engine.dialect.identifier_preparer.quote_identifier(name))

    def quoted_table(self, table: str) -> str:
        """Return the name of a table, perhaps with its schema, as it stands in a statement."""
        return ".".join(self.quoted(word) for word in table.split("."))

    def shape(self, connection: Connection, table: str) -> Shape:
        """Look at a table. Raises ConnectorError if there is none."""
        schema, _, name = table.rpartition(".")
        catalog = inspect(connection)
        try:
            columns = catalog.get_columns(name, schema or None)
            primary = catalog.get_pk_constraint(name, schema or None)["constrained_columns"]
            indexes: Sequence[Any] = catalog.get_indexes(name, schema or None)
            constraints: Sequence[Any] = catalog.get_unique_constraints(name, schema or None)
        except NoSuchTableError as error:
            raise ConnectorError(
                f"{self.doing} failed: there is no table {table}.",
                hint="Check its name and schema, or create it.",
                failure_class="bug",
            ) from error
        finally:
            connection.rollback()
        unique = [frozenset(primary)] if primary else []
        unique += [frozenset(each["column_names"]) for each in indexes if _is_of_all_rows(each)]
        unique += [frozenset(each["column_names"]) for each in constraints]
        # SQLite says of a row's own number that it may be null, which it never is.
        number = primary[0] if not self.is_postgresql and len(primary) == 1 else None
        shapes = (_shape(each, is_number=each["name"] == number) for each in columns)
        return Shape(tuple(shapes), tuple(unique))

    def _connect(self) -> Connection:
        connection = self._engine.connect()
        if self.is_postgresql:
            milliseconds = int(self._timeout * 1000)
            connection.exec_driver_sql(f"SET statement_timeout = {milliseconds}")
            # So that the server, too, notices within half a minute that we are gone.
            connection.exec_driver_sql("SET tcp_keepalives_idle = 10")
            connection.exec_driver_sql("SET tcp_keepalives_interval = 5")
            connection.exec_driver_sql("SET tcp_keepalives_count = 4")
            if self._reads:
                connection.exec_driver_sql("SET default_transaction_read_only = on")
        elif self._reads:
            connection.exec_driver_sql("PRAGMA query_only = ON")
        connection.commit()
        return connection

    def _require_file(self) -> None:
        path = self._url.database
        if self.is_postgresql or (path and Path(path).exists()):
            return
        raise ConnectorError(
            f"{self.doing} failed: there is no file {path}.", hint="Check the URL.", failure_class="bug"
        )


def disconnect(connection: Connection) -> None:
    """Close a connection, also one that the server has closed already; what was begun is undone."""
    raw: Any = None
    errors = errors_of_databases()
    with contextlib.suppress(*errors):
        raw = connection.connection.driver_connection
    try:
        connection.close()
    except errors:  # undoing what was begun takes a connection that works
        if raw is not None:
            raw.close()


def interrupt(connection: Connection) -> None:
    """Give up the statement that another thread waits for."""
    with contextlib.suppress(*errors_of_databases(), TimeoutError):
        raw: Any = connection.connection.driver_connection
        if hasattr(raw, "cancel_safe"):
            raw.cancel_safe(timeout=1.0)
        else:
            raw.interrupt()


def _usable(url: str, doing: str) -> URL:
    try:
        made = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(
            f"{doing}: this is not the URL of a database.",
            hint="Use postgresql://host/name or sqlite:///path.",
        ) from error
    match made.get_backend_name():
        case "sqlite":
            return made
        case "postgresql":
            return _with_psycopg(made)
        case other:
            raise ConfigurationError(
                f"{doing}: streams cannot use {other!r}.",
                hint="Use postgresql://host/name or sqlite:///path.",
            )


def _with_psycopg(url: URL) -> URL:
    try:
        import psycopg  # noqa: F401, PLC0415 - comes with an extra
    except ImportError as error:
        raise ConfigurationError(
            "The driver for PostgreSQL is not installed.", hint="pip install 'sidestage[postgres]'"
        ) from error
    return url.set(drivername="postgresql+psycopg")


def _leave_transactions_to_us(connection: Any, _record: object) -> None:
    connection.isolation_level = None


def _begin_immediate(connection: Connection) -> None:
    raw: Any = connection.connection.driver_connection
    raw.execute("BEGIN IMMEDIATE")


def _is_of_all_rows(index: Any) -> bool:
    """Whether an index is unique for all rows, and by columns alone."""
    options = index.get("dialect_options", {})
    partial = options.get("postgresql_where") or options.get("sqlite_where") is not None
    return bool(index["unique"]) and not partial and None not in index["column_names"]


def _shape(column: Any, *, is_number: bool) -> ColumnShape:
    kind = str(column["type"]).upper()
    number = is_number and kind == "INTEGER"
    always = bool(column.get("computed")) or bool((column.get("identity") or {}).get("always"))
    return ColumnShape(column["name"], column["nullable"] and not number, kind.startswith("JSON"), always)
