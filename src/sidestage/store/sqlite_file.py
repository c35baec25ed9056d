"""The file that SQLite keeps a store in: made durably, opened so that nobody gets in anybody's way."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import quote

from sqlalchemy import URL

from sidestage.clock import Uptime
from sidestage.data.syncing import sync_folder
from sidestage.errors import ConfigurationError, StoreError
from sidestage.store import lease_clock
from sidestage.store.turn import FileLock

BUSY_SECONDS = 30.0
"""How long SQLite looks again for a lock held by somebody who does not take turns: a foreign program."""

_INDEX_BYTES = 32768
"""The least that SQLite's index of its log takes while somebody has the file open."""


class SqliteConnection(sqlite3.Connection):
    """A connection that is closed when nobody else is opening or closing one.

    Whoever closes the last one copies the log back into the file, and locks out all who would open it.
    """

    door: AbstractContextManager[object] = nullcontext()
    synchronous = ""
    """The level that was set last."""

    def close(self) -> None:
        """Close the connection."""
        with self.door:
            super().close()


@dataclass(frozen=True)
class SqliteFile:
    """A file, by its absolute path. Whoever opens or closes it holds ``door``; leases run by ``uptime``."""

    path: str
    door: FileLock
    uptime: Uptime

    @classmethod
    def at(cls, url: URL, uptime: Uptime) -> Self:
        """Return the file of a store. Raises ConfigurationError or StoreError if none can be there."""
        path = _path(url)
        return cls(path, FileLock(f"{_place(path)}-door"), uptime)

    @property
    def place(self) -> str:
        """Where it lies, whatever links lead there: SQLite names its own neighbours so."""
        return _place(self.path)

    def create(self) -> None:
        """Create the file durably if there is none, or an empty one; it uses a log from its first page on.

        What is in the file is synced by SQLite, its name only by this. It is never opened but by SQLite:
        whoever closes a file loses all the locks that his process has on it. Raises StoreError.
        """
        path = Path(self.path)
        try:
            with self.door:
                if path.exists() and path.stat().st_size > 0:
                    return
                with closing(
                    sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
                ) as connection:
                    _enter_wal(connection)
                if hasattr(os, "O_DIRECTORY"):
                    sync_folder(path.parent)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"The store {path} cannot be opened: {getattr(error, 'strerror', None) or error}.",
                hint="Check who owns the file and its directory, and whether the disk is full or read-only.",
            ) from error

    def open_writer(self) -> SqliteConnection:
        """Open a connection that may change anything. Raises sqlite3.Error, or StoreError if it is unsafe."""
        with self.door:
            connection = self._connected()
            try:
                _prepare_writer(connection)
                lease_clock.record(connection, self.uptime)
            except BaseException:
                sqlite3.Connection.close(connection)  # with the door in our hand
                raise
        return connection

    def open_reader(self) -> SqliteConnection:
        """Open a connection that only reads. Raises sqlite3.Error."""
        with self.door:
            connection = self._connected()
            try:
                connection.execute("PRAGMA query_only = ON")
                # Here, while nobody is at the door, it finds the log and mends what a crash left.
                lease_clock.follow(connection, self.uptime)
            except BaseException:
                sqlite3.Connection.close(connection)
                raise
        return connection

    @contextmanager
    def as_it_lies(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection that reads the bare file, as one still can where the disk has no room at all.

        It takes no locks and looks for no log, so nobody may have the file open, nor open it meanwhile.
        Nobody opens it: this process stands in the door until the connection is closed. Nobody has it open:
        that takes an index beside it, and there is none. Nothing is missing in it: there is no log. Programs
        that do not ask at the door are found out afterwards, by what they did to the file.

        Raises StoreError, which is transient, if that cannot be had or was not kept.
        """
        with self.door:
            before = _at_rest(self.place) if self.door.is_for_all else None
            if before is None:
                raise _no_room(self.path, "it is in use, or its last changes are still in its log")
            with closing(_connected_to_bare(self.path)) as connection:
                try:
                    lease_clock.follow(connection, self.uptime)
                    yield connection
                finally:
                    if _at_rest(self.place) != before:
                        raise _no_room(self.path, "somebody changed it meanwhile")

    def _connected(self) -> SqliteConnection:
        # The driver would begin transactions by itself: too late, and without asking for the write lock.
        connection = sqlite3.connect(
            self.path,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            factory=SqliteConnection,
        )
        connection.door = self.door
        return connection


class _Rest(NamedTuple):
    """What a file is like that nobody has open."""

    number: int
    size: int
    changed_at: int


def _at_rest(path: str) -> _Rest | None:
    """Return what a file is like, or None if it is in use, or not complete without what lies beside it."""
    if _size(f"{path}-wal") or _size(f"{path}-journal") or _size(f"{path}-shm") >= _INDEX_BYTES:
        return None
    found = Path(path).stat()
    return _Rest(found.st_ino, found.st_size, found.st_mtime_ns)


def _place(path: str) -> str:
    return str(Path(path).resolve())


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except FileNotFoundError:
        return 0


def _connected_to_bare(path: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )


def _no_room(path: str, why: str) -> StoreError:
    error = StoreError(
        f"The store {path} cannot be read: its disk is full, and {why}.",
        hint="Free some space and try again.",
    )
    error.transient = True
    return error


def _path(url: URL) -> str:
    path = url.database
    if not path or path == ":memory:" or path.startswith("file:"):
        raise ConfigurationError(
            f"{url} names no file.", hint="A store must outlive the process: use sqlite:///path/of/file."
        )
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise StoreError(
            f"The store cannot be opened: there is no directory {folder}.", hint="Create it first."
        )
    if Path(path).is_dir():
        raise StoreError(f"The store cannot be opened: {path} is a directory.", hint="Name a file.")
    return str(Path(path).absolute())


def _prepare_writer(connection: sqlite3.Connection) -> None:
    mode = _enter_wal(connection)
    if mode != "wal":
        raise StoreError(
            f"The store is not safe where it lies: SQLite offers journal mode {mode!r} there, not WAL.",
            hint="Network file systems cannot; use a local disk, or PostgreSQL.",
        )
    for pragma in (
        "synchronous = FULL",
        # On macOS only this makes the disk itself write; elsewhere it changes nothing.
        "fullfsync = ON",
        "checkpoint_fullfsync = ON",
        "foreign_keys = ON",
        # A publication takes some fifteen pages: moving them into the file waits for the disk twice more.
        "wal_autocheckpoint = 4000",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _enter_wal(connection: sqlite3.Connection) -> str:
    """Switch the file to WAL; SQLite does not wait by itself for those who are reading without it."""
    pause, tries = 0.01, int(BUSY_SECONDS / 0.01)
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            tries -= 1
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or tries <= 0:
                raise
            time.sleep(pause)
