"""Put many rows into a table at once, in the way that is fastest for the database."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sqlalchemy import Connection

from sidestage.connectors.sql_place import Place, Shape
from sidestage.connectors.sql_table import SqlTable
from sidestage.errors import DefinitionError

Row = Sequence[Any]

_ASIDE = "sidestage_rows"


class Loading(Protocol):
    """Loads rows through one connection, within the transaction that is open there."""

    def prepare(self) -> None:
        """Be called before each load, outside of any savepoint."""
        ...

    def load(self, rows: Sequence[Row]) -> None:
        """Insert rows, or replace those with the same key, the last one of a key; all or none."""
        ...

    def note_committed(self) -> None:
        """Be told that the transaction has ended."""
        ...


class Target:
    """A table as it is written to: its columns and its key, held against the catalog.

    Raises DefinitionError if a column is missing, or the key has no unique constraint.
    """

    def __init__(self, sink: SqlTable, place: Place, shape: Shape) -> None:
        names = sink.columns or tuple(column.name for column in shape.columns if not column.is_generated)
        missing = [name for name in (*names, *sink.key) if name not in shape.names]
        if missing:
            raise DefinitionError(
                f"{sink.name} has no column {missing[0]}.", hint=f"It has: {', '.join(shape.names)}."
            )
        if sink.key and frozenset(sink.key) not in shape.unique:
            raise DefinitionError(
                f"{sink.name} has no unique constraint on {', '.join(sink.key)}.",
                hint="Make one, or name the columns of one that is there: it says which row is replaced.",
            )
        self.columns = tuple(names)
        self.key = sink.key
        self.json = [number for number, name in enumerate(names) if _is_json(shape, name)]
        self._quoted = [place.quoted(name) for name in names]
        self.table = place.quoted_table(sink.table)
        self._of_key = [self.columns.index(name) for name in sink.key]
        self._place = place

    @property
    def listed(self) -> str:
        """The columns, as they stand in a statement."""
        return ", ".join(self._quoted)

    @property
    def listed_key(self) -> str:
        """The key's columns, as they stand in a statement."""
        return ", ".join(self._place.quoted(name) for name in self.key)

    @property
    def replacing(self) -> str:
        """What a statement says about a row whose key is there already; empty without a key."""
        if not self.key:
            return ""
        others = [self._place.quoted(name) for name in self.columns if name not in self.key]
        new = ", ".join(f"{name} = excluded.{name}" for name in others)
        return f" ON CONFLICT ({self.listed_key}) DO " + (f"UPDATE SET {new}" if new else "NOTHING")

    def last_of_each_key(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Return the rows without those whose key comes again later."""
        if not self.key or len(rows) == 1:
            return rows
        places = self._of_key
        try:
            if len(places) == 1:
                place = places[0]
                last = {row[place]: row for row in rows}
            else:
                last = {tuple([row[place] for place in places]): row for row in rows}
        except TypeError:  # a key that cannot be compared here is compared by the database
            return rows
        return rows if len(last) == len(rows) else list(last.values())


def loading_for(connection: Connection, place: Place, target: Target) -> Loading:
    """Return what loads rows through a new connection."""
    if place.is_postgresql:
        return _Copying(connection, target)
    return _Inserting(connection, target)


class _Copying:
    """COPY, aside if rows may replace others: a statement for all of them moves them into the table.

    They are moved in the order of the key, so that two writers that meet wait for each other in one order.
    """

    def __init__(self, connection: Connection, target: Target) -> None:
        self._raw: Any = connection.connection.driver_connection
        self._target = target
        self._used = False
        into = target.table
        self._move = ""
        if target.key:
            into = f"pg_temp.{_ASIDE}"
            self._move = (
                f"INSERT INTO {target.table} ({target.listed}) "  # noqa: S608 - names are quoted
                f"SELECT {target.listed} FROM {into} ORDER BY {target.listed_key}{target.replacing}"
            )
            connection.exec_driver_sql(
                f"CREATE TEMP TABLE {_ASIDE} ON COMMIT DELETE ROWS AS "  # noqa: S608 - names are quoted
                f"SELECT {target.listed} FROM {target.table} WITH NO DATA"
            )
            connection.commit()
        self._copy = f"COPY {into} ({target.listed}) FROM STDIN"
        self._as_json = self._json_dumper()

    def prepare(self) -> None:
        """Empty what was used before in this transaction, and have the table demand everything at once."""
        cursor = self._raw.cursor()
        if self._used:
            cursor.execute(f"TRUNCATE pg_temp.{_ASIDE}")
            self._used = False
        else:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")

    def load(self, rows: Sequence[Row]) -> None:
        """Copy rows, and move them into the table."""
        target = self._target
        rows = target.last_of_each_key(rows)
        cursor = self._raw.cursor()
        with cursor.copy(self._copy) as copy:
            write = copy.write_row
            for row in rows if not target.json else map(self._with_json, rows):
                write(row)
        if self._move:
            cursor.execute(self._move)
            self._used = True

    def note_committed(self) -> None:
        """Know that what lay aside is gone."""
        self._used = False

    def _json_dumper(self) -> Callable[[Any], Any]:
        from psycopg.types.json import Json  # noqa: PLC0415 - comes with an extra

        return Json

    def _with_json(self, row: Row) -> Row:
        made = list(row)
        for place in self._target.json:
            if made[place] is not None:
                made[place] = self._as_json(made[place])
        return made


class _Inserting:
    """One prepared statement, for each row."""

    def __init__(self, connection: Connection, target: Target) -> None:
        self._raw: Any = connection.connection.driver_connection
        values = ", ".join("?" for _ in target.columns)
        self._statement = f"INSERT INTO {target.table} ({target.listed}) VALUES ({values}){target.replacing}"  # noqa: S608

    def prepare(self) -> None:
        """Do nothing."""

    def load(self, rows: Sequence[Row]) -> None:
        """Insert rows."""
        self._raw.executemany(self._statement, rows)

    def note_committed(self) -> None:
        """Do nothing."""


def _is_json(shape: Shape, name: str) -> bool:
    return any(column.name == name and column.is_json for column in shape.columns)
