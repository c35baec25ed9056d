"""One database: read it, change it, and say plainly what went wrong."""

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from sqlalchemy import Connection, make_url
from sqlalchemy.exc import ArgumentError

from sidestage.errors import ConfigurationError, StoreError
from sidestage.store.dialect import engines
from sidestage.store.faults import explained, is_lost_race
from sidestage.store.schema import CURRENT, Schema, bring_up

T = TypeVar("T")

_TRIES = 6


class LostRaceError(Exception):
    """A condition checked earlier in the transaction no longer holds: do the transaction again."""


class Database:
    """Transactions on one database, with its schema up to date.

    Usable from several threads; a forked child must open its own. Raises StoreError, SchemaMismatch or
    ConfigurationError if it cannot be opened.
    """

    def __init__(self, url: str, schema: Schema = CURRENT) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise ConfigurationError(
                f"{url!r} is not the URL of a database.", hint="Use sqlite:///path or postgresql://host/name."
            ) from error
        self.place = parsed.render_as_string(hide_password=True)
        self._process = os.getpid()
        self._writer, self._reader = engines(parsed)
        self._lazy_writer = self._writer.execution_options(lazily=True)
        # SQLite lets one transaction write at a time; threads queue here, processes at the file.
        self._turn: AbstractContextManager[object] = (
            threading.Lock() if self._writer.dialect.name == "sqlite" else nullcontext()
        )
        try:
            with explained(self.place):
                bring_up(self._reader, self._writer, self.place, schema)
        except BaseException:
            self.close()
            raise

    def read(self, work: Callable[[Connection], T]) -> T:
        """Return what ``work`` reads in one transaction, which it cannot change anything in."""
        self._refuse_fork()
        with explained(self.place), self._reader.connect() as connection:
            return work(connection)

    def write(self, work: Callable[[Connection], T], *, lazily: bool = False) -> T:
        """Do ``work`` in one transaction that is synced when this returns.

        ``work`` may be called again from the start if another transaction got in its way. ``lazily`` leaves
        it to the next transaction to sync this one too, where a power cut that loses it also ends every
        process that could know of it.
        """
        writer = self._lazy_writer if lazily else self._writer
        self._refuse_fork()
        for tries_left in reversed(range(_TRIES)):
            try:
                with explained(self.place), self._turn, writer.begin() as connection:
                    return work(connection)
            except LostRaceError:
                continue
            except StoreError as error:
                if not (tries_left and is_lost_race(error.__cause__)):
                    raise
        raise StoreError(f"The store {self.place} was too busy to make a change.", hint="Try again.")

    def close(self) -> None:
        """Close all connections; the database can be used again by opening it anew."""
        self._writer.dispose()
        self._reader.dispose()

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
