"""Statements that run for every step, compiled once.

SQLAlchemy works out at each execution how a statement is to be run, which takes several times as long as
SQLite takes to run it, and as long as PostgreSQL takes to answer. Here the driver is given the text that was
made the first time. To PostgreSQL several statements go in one message (its pipeline), for what takes time
there is not the statements but waiting for each answer.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

from sqlalchemy import Connection, Executable
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement

Parameters = Mapping[str, Any]
Rows = Sequence[tuple[Any, ...]]


class _Text(NamedTuple):
    """What a driver needs: SQL, and what its placeholders stand for; ``order`` if they are question marks."""

    sql: str
    order: tuple[str, ...] | None
    fixed: dict[str, Any]
    processors: dict[str, Any]

    def arguments(self, parameters: Parameters) -> list[Any] | dict[str, Any]:
        values = {**self.fixed, **parameters}
        for name, process in self.processors.items():
            values[name] = process(values[name])
        return values if self.order is None else [values[name] for name in self.order]


class Prepared:
    """A statement whose parameters have the same names at each execution.

    ``listed`` names the parameters that stand for lists of values.
    """

    def __init__(self, statement: Executable, *, listed: Sequence[str] = ()) -> None:
        self._statement = statement
        self._listed = tuple(listed)
        self._texts: dict[tuple[object, ...], _Text] = {}

    def rows(self, connection: Connection, parameters: Parameters) -> Rows:
        """Return the rows that the statement finds or returns; their values are as the driver gives them."""
        with _driver(connection) as driver:
            found: Rows = driver.execute(*self.ready(connection, parameters)).fetchall()
        return found

    def change(self, connection: Connection, rows: Sequence[Parameters]) -> int:
        """Run the statement once for each of ``rows``; return how many rows of the table it changed."""
        return change_all(connection, [(self, rows)])[0]

    def ready(self, connection: Connection, parameters: Parameters) -> tuple[str, Any]:
        """Return the text and the arguments for the driver."""
        text = self._text(connection, parameters)
        for name in self._listed:
            items = enumerate(parameters[name], 1)
            parameters = {**parameters, **{f"{name}_{number}": item for number, item in items}}
        return text.sql, text.arguments(parameters)

    def ready_for_many(self, connection: Connection, rows: Sequence[Parameters]) -> tuple[str, list[Any]]:
        """Return the text and the arguments for the driver, of each of the rows."""
        text = self._text(connection, rows[0])
        return text.sql, [text.arguments(row) for row in rows]

    def _text(self, connection: Connection, parameters: Parameters) -> _Text:
        kind = (connection.dialect.name, *(len(parameters[name]) for name in self._listed))
        text = self._texts.get(kind)
        if text is None:
            text = self._texts[kind] = self._compiled(connection, parameters)
        return text

    def _compiled(self, connection: Connection, parameters: Parameters) -> _Text:
        dialect = connection.dialect
        element = cast("ClauseElement", self._statement)
        compiler = element.compile(dialect=dialect, column_keys=list(parameters), for_executemany=True)
        compiled = cast("SQLCompiler", compiler)
        state = compiled.construct_expanded_state(dict(parameters))
        binds = compiled.binds
        processors = {
            name: process
            for name in parameters
            if name in binds and (process := binds[name].type.dialect_impl(dialect).bind_processor(dialect))
        }
        fixed = {name: value for name, value in state.parameters.items() if name not in parameters}
        order = None if state.positiontup is None else tuple(state.positiontup)
        return _Text(state.statement, order, fixed, processors)


def find_all(connection: Connection, questions: Sequence[tuple[Prepared, Parameters]]) -> list[Rows]:
    """Return what each of the statements finds, as ``Prepared.rows`` does; PostgreSQL is waited for once."""
    with _driver(connection) as driver:
        ready = [statement.ready(connection, parameters) for statement, parameters in questions]
        if connection.dialect.name == "sqlite":
            return [driver.execute(*each).fetchall() for each in ready]
        with driver.pipeline():
            cursors = [driver.execute(*each) for each in ready]
        return [cursor.fetchall() for cursor in cursors]


def change_all(connection: Connection, changes: Sequence[tuple[Prepared, Sequence[Parameters]]]) -> list[int]:
    """Do all these changes, as ``Prepared.change`` does, in order; PostgreSQL is waited for once."""
    with _driver(connection) as driver:
        ready = [statement.ready_for_many(connection, rows) for statement, rows in changes]
        if connection.dialect.name == "sqlite":
            return [driver.executemany(*each).rowcount for each in ready]
        cursors = [driver.cursor() for _ in ready]
        with driver.pipeline():
            for cursor, each in zip(cursors, ready, strict=True):
                cursor.executemany(*each)
        return [cursor.rowcount for cursor in cursors]


@contextmanager
def _talking_to_postgresql(connection: Connection, driver: Any) -> Iterator[Any]:
    """Have the driver's errors mean the same as those of statements that SQLAlchemy runs."""
    base = connection.dialect.loaded_dbapi.Error
    try:
        yield driver
    except base as error:
        if driver.closed:
            connection.invalidate(error)
            connection.engine.dispose()  # the others are gone as well, most likely
        raise DBAPIError.instance(
            None, None, error, base, connection_invalidated=bool(driver.closed), dialect=connection.dialect
        ) from error


class _TalkingToSqlite(NamedTuple):
    """Its errors are known as they are."""

    driver: Any

    def __enter__(self) -> Any:
        return self.driver

    def __exit__(self, *_error: object) -> None:
        pass


def _driver(connection: Connection) -> Any:
    driver = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        return _TalkingToSqlite(driver)
    return _talking_to_postgresql(connection, driver)
