"""One database: read it, change it, and say plainly what went wrong."""

import os
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from sidestage.clock import Uptime
from sidestage.errors import ConfigurationError, StoreError
from sidestage.store.ambiguous import PATIENCE_SECONDS, Patience, Token, leave_token, took_effect
from sidestage.store.contract import Wakeups
from sidestage.store.dialect import engines, listening_engine
from sidestage.store.faults import explained, is_lost_connection, is_lost_race
from sidestage.store.schema import CURRENT, PostMigration, Schema, bring_up, finish, pending
from sidestage.store.wakeups import PostgresqlWakeups, SqliteWakeups

T = TypeVar("T")

_TRIES = 6


class LostRaceError(Exception):
    """A condition checked earlier in the transaction no longer holds: do the transaction again."""


class Database:
    """Transactions on one database, with its schema up to date.

    Usable from several threads; a forked child must open its own. ``patience`` is how many seconds a
    transaction waits for a server that cannot be reached any more; opening does not wait. On SQLite leases
    run by ``uptime``, by default the host's.

    Raises StoreError, SchemaMismatch or ConfigurationError if it cannot be opened.
    """

    def __init__(
        self,
        url: str,
        schema: Schema = CURRENT,
        *,
        patience: float = PATIENCE_SECONDS,
        uptime: Uptime | None = None,
    ) -> None:
        try:
            self._url = make_url(url)
        except ArgumentError as error:
            raise ConfigurationError(
                f"{url!r} is not the URL of a database.", hint="Use sqlite:///path or postgresql://host/name."
            ) from error
        self.place = self._url.render_as_string(hide_password=True)
        self._process = os.getpid()
        self._schema = schema
        self._patience = patience
        self._engines = engines(self._url, uptime)
        self._lazy_writer = self._engines.writer.execution_options(lazily=True)
        try:
            self._unless_raced(lambda: bring_up(self._engines, self.place, schema))
        except BaseException:
            self.close()
            raise

    def read(self, work: Callable[[Connection], T]) -> T:
        """Return what ``work`` reads in one transaction, which it cannot change anything in.

        ``work`` may be called again from the start if the connection is lost.
        """
        self._refuse_fork()

        def once(_patience: Patience) -> T:
            with self._engines.connect_reader() as connection:
                return work(connection)

        with explained(self.place):
            return self._patiently(once)

    def write(self, work: Callable[[Connection], T], *, lazily: bool = False) -> T:
        """Do ``work`` in one transaction that is synced when this returns, exactly once.

        ``work`` may be called again from the start if another transaction got in its way, or if the
        connection was lost before it took effect. ``lazily`` leaves it to the next transaction to sync this
        one too, where a power cut that loses it also ends every process that could know of it.

        Raises a StoreError that is transient if the server stayed away, and one that is not if nobody knows
        whether the change was made.
        """
        self._refuse_fork()
        writer = self._lazy_writer if lazily else self._engines.writer
        return self._unless_raced(
            lambda: self._patiently(lambda patience: self._write_once(writer, work, patience))
        )

    def open_wakeups(self) -> Wakeups:
        """Return wake-ups for what is committed from now on. Raises StoreError."""
        self._refuse_fork()
        if self._url.get_backend_name() == "sqlite":
            return SqliteWakeups(self._engines.reader, self.place)
        return PostgresqlWakeups(listening_engine(self._url), self.place)

    def pending_post(self) -> tuple[PostMigration, ...]:
        """Return what ``finish_migrations`` would do, in its order."""
        return self.read(lambda connection: pending(connection, self.place, self._schema))

    def finish_migrations(self) -> tuple[PostMigration, ...]:
        """Take out of the schema what only earlier releases needed; return what was done.

        Call it when no process of an earlier release uses the store any more: it would fail, and cannot open
        the store again. All or nothing; nothing is done if nothing is pending.
        """
        self._refuse_fork()
        return self._unless_raced(lambda: finish(self._engines, self.place, self._schema))

    def close(self) -> None:
        """Close all connections; the database can be used again by opening it anew."""
        self._engines.close()

    def _unless_raced(self, once: Callable[[], T]) -> T:
        """Return what ``once`` returns, called again while other transactions get in its way."""
        for tries_left in reversed(range(_TRIES)):
            try:
                with explained(self.place):
                    return once()
            except LostRaceError:
                continue
            except StoreError as error:
                if not (tries_left and is_lost_race(error.__cause__)):
                    raise
        raise StoreError(f"The store {self.place} was too busy to make a change.", hint="Try again.")

    def _patiently(self, once: Callable[[Patience], T]) -> T:
        """Return what ``once`` returns, called again while the server cannot be reached."""
        patience = Patience(self._patience)
        while True:
            try:
                return once(patience)
            except DBAPIError as error:
                if not (is_lost_connection(error) and patience.wait()):
                    raise

    def _write_once(self, writer: Engine, work: Callable[[Connection], T], patience: Patience) -> T:
        token: Token | None = None
        try:
            with self._engines.turn, writer.begin() as connection:
                result = work(connection)
                token = leave_token(connection)
        except DBAPIError as error:
            # With a token it was lost in the commit.
            if token is None or not is_lost_connection(error):
                raise
            if not took_effect(writer, token, patience, self.place):
                raise
        return result

    def _refuse_fork(self) -> None:
        if os.getpid() != self._process:
            raise StoreError(
                "A store opened before a fork cannot be used after it: both would damage the file.",
                hint="Open the store again in the child process.",
            )


class SqlPart:
    """A part of the store that works on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
