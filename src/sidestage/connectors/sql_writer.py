"""Write rows to a table, and name those that it does not take."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection

from sidestage.connectors.failure import ConnectorError
from sidestage.connectors.sql_faults import errors_of_databases, explain, is_lost_race, is_of_rows
from sidestage.connectors.sql_loading import Loading, Row, Target, loading_for
from sidestage.connectors.sql_place import Place, disconnect
from sidestage.connectors.sql_table import SqlTable
from sidestage.stream.contract import Refused

_TRIES = 4


class SqlWriter:
    """Writes each list of rows in a transaction of its own. Used by one thread."""

    def __init__(self, sink: SqlTable, patience: float = 0.0) -> None:
        self._sink = sink
        self._place = Place(sink.url, f"Writing {sink.name}", timeout=sink.timeout, reads=False)
        self._errors: tuple[type[Exception], ...] = errors_of_databases()
        self._faults: tuple[type[Exception], ...] = (
            TypeError,
            ValueError,
            LookupError,
            OverflowError,
            *self._errors,
        )
        self._connection: Connection | None = self._place.connect(patience)
        try:
            shape = self._place.shape(self._connection, sink.table)
            self._target = Target(sink, self._place, shape)
            self._loading = loading_for(self._connection, self._place, self._target)
        except self._errors as error:
            self.close()
            raise explain(error, self._place.doing) from error
        except BaseException:
            self.close()
            raise
        self._get = itemgetter(*self._target.columns) if len(self._target.columns) > 1 else self._get_one

    def write(self, items: Sequence[Any]) -> None:
        """Write rows; they are safe when this returns.

        Raises Refused for rows that the table does not take: then the others are written. Raises
        ConnectorError if none is, or, after the connection was lost in a commit, nobody knows: with a key it
        makes no difference to write them again, without one they may be there twice then.
        """
        rows, refused = self._rows(items)
        for left in reversed(range(_TRIES)):
            connection, loading = self._ready()
            try:
                with connection.begin():
                    more = self._load(connection, loading, rows)
            except self._errors as error:
                self.close()
                if left and is_lost_race(error):
                    continue
                raise explain(error, self._place.doing) from error
            loading.note_committed()
            refused = {**refused, **more}
            break
        if refused:
            raise Refused(dict(sorted(refused.items())))

    def close(self) -> None:
        """Disconnect; what was not committed is undone."""
        connection, self._connection = self._connection, None
        if connection is not None:
            disconnect(connection)

    def _ready(self) -> tuple[Connection, Loading]:
        if self._connection is None:
            self._connection = self._place.connect()
            try:
                self._loading = loading_for(self._connection, self._place, self._target)
            except self._errors as error:
                self.close()
                raise explain(error, self._place.doing) from error
        return self._connection, self._loading

    def _load(
        self, connection: Connection, loading: Loading, rows: Sequence[tuple[int, Row]]
    ) -> dict[int, ConnectorError]:
        """Load rows with their indices; return what became of those that the table does not take.

        What fails is halved until single rows are left: of n rows, k bad ones cost some k * log2(n) tries.
        """
        refused = {}
        spans = [rows] if rows else []
        while spans:
            span = spans.pop()
            loading.prepare()
            savepoint = connection.begin_nested()
            try:
                loading.load([row for _, row in span])
            except self._faults as error:
                if not is_of_rows(error):
                    raise
                savepoint.rollback()
                if len(span) == 1:
                    refused[span[0][0]] = self._refusal(error)
                else:
                    middle = len(span) // 2
                    spans += [span[middle:], span[:middle]]
            else:
                savepoint.commit()
        return refused

    def _refusal(self, error: Exception) -> ConnectorError:
        explained = explain(error, self._place.doing)
        explained.failure_class, explained.transient = "validation", False
        explained.__cause__ = error
        return explained

    def _rows(self, items: Sequence[Any]) -> tuple[list[tuple[int, Row]], dict[int, ConnectorError]]:
        """Return the rows that items are, with their indices, and what is wrong with those that are none."""
        rows: list[tuple[int, Row]] = []
        refused = {}
        get, width = self._get, len(self._target.columns)
        may_have_more = bool(self._sink.columns)
        for index, item in enumerate(items):
            if isinstance(item, Mapping):
                try:
                    row = get(item)
                except KeyError as error:
                    refused[index] = self._unfit(f"has no column {error}")
                    continue
                if len(item) > width and not may_have_more:
                    more = ", ".join(str(name) for name in item if name not in self._target.columns)
                    refused[index] = self._unfit(f"has columns that the table has not: {more}")
                    continue
            elif isinstance(item, Sequence) and not isinstance(item, str | bytes) and len(item) == width:
                row = item
            else:
                refused[index] = self._unfit(f"is no mapping, and no sequence of {width} values")
                continue
            rows.append((index, row))
        return rows, refused

    def _get_one(self, item: Mapping[str, Any]) -> Row:
        return (item[self._target.columns[0]],)

    def _unfit(self, what: str) -> ConnectorError:
        hint = f"Its columns are: {', '.join(self._target.columns)}."
        return ConnectorError(f"{self._place.doing}: an item {what}.", hint=hint, failure_class="validation")
