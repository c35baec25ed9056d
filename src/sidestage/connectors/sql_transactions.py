"""Write rows in transactions that also keep how far the stream has come: exactly once."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from sidestage.connectors.failure import ConnectorError
from sidestage.connectors.sql_faults import explain
from sidestage.connectors.sql_progress import ProgressTable
from sidestage.connectors.sql_table import SqlTransactionalTable
from sidestage.connectors.sql_writer import SqlWriter
from sidestage.stream.contract import Progress, Reader, Refused, TransactionLost


class SqlTransactionLost(ConnectorError, TransactionLost):
    """What was written since the last commit is undone, or nobody but the database knows."""


class SqlTransactionalWriter(SqlWriter):
    """A session of the database that has a transaction open from the first row to the commit.

    After SqlTransactionLost this writer is of no use any more: everything it is asked for raises it again.
    Open the sink anew then, and go on from its ``progress``.
    """

    def __init__(self, sink: SqlTransactionalTable) -> None:
        super().__init__(sink, sink.patience)
        self._progress = ProgressTable(sink, self._place)
        self._gone: SqlTransactionLost | None = None
        assert self._connection is not None
        try:
            self._fence = self._progress.fence_off(self._connection)
        except self._errors as error:
            self.close()
            raise explain(error, self._place.doing) from error
        except BaseException:
            self.close()
            raise

    def write(self, items: Sequence[Any]) -> None:
        """Write rows into the transaction, which begins with the first of them.

        Raises Refused for rows that the table does not take: then the others are in it. Raises
        SqlTransactionLost for everything else.
        """
        connection = self._begun()
        rows, refused = self._rows(items)
        try:
            refused.update(self._load(connection, self._loading, rows))
        except Exception as error:  # whatever it is: some of the rows may be in the transaction
            raise self._lost(explain(error, self._place.doing).message) from error
        if refused:
            raise Refused(dict(sorted(refused.items())))

    def commit(self, progress: Progress, readers: Mapping[str, Reader[Any]]) -> None:
        """Commit the rows, and with them how far the stream has come; or neither.

        Raises SqlTransactionLost if another writer took over, or the connection was lost: then nobody knows
        whether it was committed but the database, which the sink's ``progress`` asks.
        """
        del readers
        connection = self._begun()
        try:
            holds = self._progress.commit(connection, self._fence, progress)
            if holds:
                connection.commit()
        except self._errors as error:
            why = explain(error, f"{self._place.doing}: committing").message
            raise self._lost(f"{why} Nobody knows if it took effect.") from error
        if not holds:
            raise self._lost(f"{self._place.doing} failed: another writer of this stream has taken over.")
        self._loading.note_committed()

    def _begun(self) -> Connection:
        """Return the connection, in a transaction."""
        if self._gone is not None:
            raise self._gone
        assert self._connection is not None, "a writer that was closed writes nothing"
        if not self._connection.in_transaction():
            self._connection.begin()
        return self._connection

    def _lost(self, why: str) -> SqlTransactionLost:
        self.close()
        hint = "Open the sink anew, and go on from its progress."
        self._gone = SqlTransactionLost(why, hint=hint, failure_class="stale")
        return self._gone
