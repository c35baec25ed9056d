"""The statements of a source that reads pages by key, and keys as text."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection, TextClause, text

from sidestage.connectors.keyset import KeysetPages
from sidestage.connectors.sql_place import Place
from sidestage.errors import DefinitionError

Bound = tuple[Any, ...]
"""A key, each value as JSON can hold it."""

_PLAIN = (int, float, str)


class PageQuery:
    """Statements for one source, made for one database. Raises DefinitionError if its key is none."""

    def __init__(self, source: KeysetPages, place: Place, connection: Connection) -> None:
        self._source = source
        self._place = place
        self.names = self._column_names(connection)
        missing = [name for name in source.key if name not in self.names]
        if missing:
            raise DefinitionError(
                f"{source.name} has no column {missing[0]}.", hint=f"It has: {', '.join(self.names)}."
            )
        self._types = self._key_types(connection)
        self._keys = ", ".join(place.quoted(name) for name in source.key)
        self._places = [self.names.index(name) for name in source.key]
        shown = ", ".join(place.quoted(name) for name in self.names)
        self._rows = f"SELECT {shown} FROM {self._from()}"  # noqa: S608 - names are quoted

    def page(self, after: Bound | None, up_to: Sequence[Bound]) -> tuple[TextClause, dict[str, Any]]:
        """Return the statement for the rows after a key, up to all of some keys, and its parameters."""
        bounds = ([(">", after)] if after is not None else []) + [("<=", each) for each in up_to]
        given = {
            f"k{number}_{place}": value if self._types is None else str(value)
            for number, (_, bound) in enumerate(bounds)
            for place, value in enumerate(bound)
        }
        conditions = [f"({self._keys}) {sign} ({self._bound(n)})" for n, (sign, _) in enumerate(bounds)]
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        # One row more than a page: it shows whether the last key of the page is there a second time.
        limit = f" ORDER BY {self._keys} LIMIT {self._source.page + 1}"
        return text(f"{self._rows}{where}{limit}"), given

    def newest(self) -> TextClause:
        """Return the statement for the highest key that is there."""
        down = ", ".join(f"{self._place.quoted(name)} DESC" for name in self._source.key)
        return text(f"SELECT {self._keys} FROM {self._from()} ORDER BY {down} LIMIT 1")  # noqa: S608

    def key_of(self, row: Sequence[Any]) -> Bound:
        """Return the key of a row. Raises DefinitionError if it cannot be a position."""
        return self.bound([row[place] for place in self._places])

    def bound(self, values: Sequence[Any]) -> Bound:
        """Return a key as JSON can hold it. Raises DefinitionError if it cannot."""
        return tuple(self._plain(value) for value in values)

    def require_order(self, rows: Sequence[Sequence[Any]]) -> None:
        """Raise DefinitionError if rows that were read in order show that the key is not unique."""
        if self._source.table:
            rows = rows[-2:]  # the catalog says that it is
        before = None
        for row in rows:
            key = [row[place] for place in self._places]
            if None in key:
                self.bound(key)
            if key == before:
                shown = ", ".join(map(str, key))
                raise DefinitionError(
                    f"{self._source.name} has the key {shown} twice.",
                    hint="Add columns to the key until it is unique: rows would be lost else.",
                )
            before = key

    def _plain(self, value: Any) -> Any:
        if isinstance(value, bool | bytes | type(None)):
            pass  # a bool is an int, but no key that anything is gained by
        elif isinstance(value, datetime):
            return (value if value.tzinfo is None else value.astimezone(UTC)).isoformat()
        elif isinstance(value, _PLAIN):
            return value
        elif isinstance(value, date):
            return value.isoformat()
        elif isinstance(value, Decimal | UUID):
            return str(value)
        kind = "nothing (NULL)" if value is None else f"of type {type(value).__name__}"
        raise DefinitionError(
            f"A key of {self._source.name} is {kind}, of which no position can be made.",
            hint="Keys are numbers, texts, dates, times and UUIDs; for others read a query that casts them.",
        )

    def _from(self) -> str:
        source = self._source
        if source.table:
            return self._place.quoted_table(source.table)
        # A colon would begin the name of a parameter.
        return f"({source.query.rstrip().rstrip(';').replace(':', chr(92) + ':')}) AS page"

    def _bound(self, number: int) -> str:
        if self._types is None:
            return ", ".join(f":k{number}_{place}" for place in range(len(self._source.key)))
        casts = (f"CAST(:k{number}_{place} AS {kind})" for place, kind in enumerate(self._types))
        return ", ".join(casts)

    def _column_names(self, connection: Connection) -> tuple[str, ...]:
        if self._source.columns:
            return self._source.columns
        found = connection.execute(text(f"SELECT * FROM {self._from()} LIMIT 0"))  # noqa: S608
        return tuple(found.keys())

    def _key_types(self, connection: Connection) -> tuple[str, ...] | None:
        """Return the names of the key's types, which PostgreSQL must be told; None on SQLite."""
        if not self._place.is_postgresql:
            return None
        keys = ", ".join(self._place.quoted(name) for name in self._source.key)
        found: Any = connection.execute(text(f"SELECT {keys} FROM {self._from()} LIMIT 0"))  # noqa: S608
        numbers = [column.type_code for column in found.cursor.description]
        # -1: without a length, which would cut a key that is longer than the shortest.
        name = text("SELECT format_type(:type, -1)")
        return tuple(str(connection.scalar(name, {"type": number})) for number in numbers)


def require_key(source: KeysetPages, place: Place, connection: Connection) -> None:
    """Raise DefinitionError if the catalog does not say that a table's key is unique and never null."""
    if not source.table:
        return
    shape = place.shape(connection, source.table)
    key = frozenset(source.key)
    shown = ", ".join(source.key)
    if not any(unique <= key for unique in shape.unique):
        raise DefinitionError(
            f"The key {shown} of {source.name} is not unique: rows with the same key would be lost.",
            hint="Add columns until it holds a primary key or unique index; or read a query, and see to it.",
        )
    nullable = [column.name for column in shape.columns if column.nullable and column.name in key]
    if nullable:
        raise DefinitionError(
            f"The key column {nullable[0]} of {source.name} may be null: such rows would never be read.",
            hint="Make it NOT NULL, or read a query that leaves them out.",
        )


def position_of(bound: Bound) -> str:
    """Return a key as a position."""
    return msgspec.json.encode(bound).decode()


def bound_at(position: object, source: KeysetPages) -> Bound:
    """Return the key that a position is. Raises DefinitionError."""
    try:
        values = msgspec.json.decode(str(position), type=list[int | float | str])
    except msgspec.DecodeError:
        values = []
    if len(values) != len(source.key):
        raise DefinitionError(
            f"{source.name} cannot go on from {position!r}: its positions are keys, as JSON.",
            hint="The checkpoint belongs to another source, or the key was another one.",
        )
    return tuple(values)
