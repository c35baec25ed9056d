"""Statements that run for every step, compiled once.

SQLAlchemy works out at each execution how a statement is to be run, which takes several times as long as
SQLite takes to run it. Here SQLite's driver is given the text that was made the first time. Across a network
that time is not worth saving, so other databases are left to SQLAlchemy.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from sqlalchemy import Connection, Executable
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement

Parameters = Mapping[str, Any]


class _Text(NamedTuple):
    """What SQLite's driver needs: SQL, and what its question marks stand for, in their order."""

    sql: str
    names: tuple[str, ...]
    fixed: dict[str, Any]
    processors: dict[str, Any]

    def arguments(self, parameters: Parameters) -> list[Any]:
        values = {**self.fixed, **parameters}
        for name, process in self.processors.items():
            values[name] = process(values[name])
        return [values[name] for name in self.names]


class Prepared:
    """A statement whose parameters have the same names at each execution.

    ``listed`` names the parameters that stand for lists of values.
    """

    def __init__(self, statement: Executable, *, listed: Sequence[str] = ()) -> None:
        self._statement = statement
        self._listed = tuple(listed)
        self._texts: dict[tuple[int, ...], _Text] = {}

    def rows(self, connection: Connection, parameters: Parameters) -> Sequence[tuple[Any, ...]]:
        """Return the rows that the statement finds or returns; their values are as the driver gives them."""
        if connection.dialect.name != "sqlite":
            return [tuple(row) for row in connection.execute(self._statement, dict(parameters))]
        text = self._text(connection, parameters)
        for name in self._listed:
            items = enumerate(parameters[name], 1)
            parameters = {**parameters, **{f"{name}_{number}": item for number, item in items}}
        found: list[tuple[Any, ...]] = (
            _driver(connection).execute(text.sql, text.arguments(parameters)).fetchall()
        )
        return found

    def change(self, connection: Connection, rows: Sequence[Parameters]) -> int:
        """Run the statement once for each of ``rows``; return how many rows of the table it changed."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, [dict(row) for row in rows]).rowcount
        text = self._text(connection, rows[0])
        many = _driver(connection).executemany(text.sql, [text.arguments(row) for row in rows])
        return int(many.rowcount)

    def _text(self, connection: Connection, parameters: Parameters) -> _Text:
        items = tuple(len(parameters[name]) for name in self._listed)
        text = self._texts.get(items)
        if text is None:
            text = self._texts[items] = self._compiled(connection, parameters)
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
        return _Text(state.statement, tuple(state.positiontup or ()), fixed, processors)


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection
