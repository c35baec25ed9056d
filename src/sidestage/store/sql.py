"""The store in an SQL database: SQLite by default, PostgreSQL where many machines work together."""

from typing import Self

from sidestage.store.contract import Wakeups
from sidestage.store.sql_catalog import SqlCatalog
from sidestage.store.sql_claims import SqlClaims
from sidestage.store.sql_database import Database
from sidestage.store.sql_events import SqlEvents
from sidestage.store.sql_moves import SqlMoves
from sidestage.store.sql_runs import SqlRuns
from sidestage.store.sql_services import SqlServices
from sidestage.store.sql_settle import SqlSettle
from sidestage.store.sql_ticks import SqlTicks
from sidestage.store.sql_workers import SqlWorkers


class SqlStore(
    SqlCatalog, SqlMoves, SqlRuns, SqlClaims, SqlWorkers, SqlSettle, SqlEvents, SqlTicks, SqlServices
):
    """The catalog and the record of runs in one database.

    Usable from several threads, and from several processes that each open their own. Every method raises
    StoreError, with what to do about it, if the database cannot do what was asked.
    """

    def listen(self) -> Wakeups:
        """Return an ear for changes that may interest a worker. The caller closes it."""
        return self._database.open_wakeups()

    def pending_post(self) -> tuple[str, ...]:
        """Return, in words, what ``finish_migrations`` would do to the schema, in its order."""
        return tuple(step.what for step in self._database.pending_post())

    def finish_migrations(self) -> tuple[str, ...]:
        """Take out of the schema what only earlier releases needed; return, in words, what was done."""
        return tuple(step.what for step in self._database.finish_migrations())

    def close(self) -> None:
        """Release the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def open_store(url: str) -> SqlStore:
    """Open the store at a URL, creating it or bringing its schema up to this release.

    ``url`` is ``sqlite:///path`` (the directory must exist) or ``postgresql://user@host/name``. Raises
    SchemaMismatch if it was used by a newer release, ConfigurationError if the URL names no store, StoreError
    if it cannot be opened; nothing is overwritten then.
    """
    return SqlStore(Database(url))
