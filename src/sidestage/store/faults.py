"""Say what a database error means to the person who meets it."""

import sqlite3
from contextlib import AbstractContextManager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from sidestage.errors import StoreError

# By the beginning of SQLite's error name: what happened, what to do, whether trying again can help.
_SQLITE = (
    ("SQLITE_FULL", "its disk is full", "Free some space and try again; what was recorded is safe.", True),
    (
        # It makes room for the index of its log before anything else.
        "SQLITE_IOERR_SHMSIZE",
        "its disk is full",
        "Free some space and try again; what was recorded is safe.",
        True,
    ),
    (
        "SQLITE_IOERR",
        "reading or writing its file failed",
        "Check the disk: its space, cable and log.",
        False,
    ),
    ("SQLITE_NOTADB", "the file is not a database", "Nothing was changed. Is the path right?", False),
    (
        "SQLITE_CORRUPT",
        "the file is damaged",
        "Put the file and its -wal and -shm neighbours aside and restore a copy.",
        False,
    ),
    ("SQLITE_READONLY", "the file or its directory may not be written", "Check who owns it.", False),
    ("SQLITE_CANTOPEN", "the file cannot be opened", "Check the path and who owns it.", False),
    ("SQLITE_PERM", "access was denied", "Check who owns the file.", False),
    ("SQLITE_BUSY", "another process kept it locked for too long", "Try again.", True),
    ("SQLITE_LOCKED", "it was locked for too long", "Try again.", True),
    ("SQLITE_PROTOCOL", "other processes kept getting in the way", "Try again.", True),
)

# By the beginning of PostgreSQL's SQLSTATE.
_POSTGRESQL = (
    ("53100", "its disk is full", "Free some space and try again; what was recorded is safe.", True),
    ("28", "the database refused the user or password", "Check the URL of the store.", False),
    ("3D", "there is no such database", "Create it, or check the URL of the store.", False),
    ("42501", "the database user lacks a right", "Grant it, or use another user.", False),
    ("25006", "the database is read-only", "Connect to the primary.", False),
    ("40", "other sessions kept getting in the way", "Try again.", True),
    ("08", "the connection was lost", "Try again when the database is reachable.", True),
    ("57P", "the database is shutting down or starting", "Try again in a moment.", True),
)

_RACES = ("40001", "40P01", "23505")

_AWAY = ("08", "57P01", "57P02", "57P03")
"""SQLSTATEs of a server that closed the connection, or is about to be there."""

_SOON = ("starting up", "shutting down", "recovery", "not yet accepting", "connection slots", "too many")
"""What a server says that refuses a connection only for now. Others say that they refuse this user."""


class _Explained:
    """A generator would cost every transaction a microsecond more."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, SQLAlchemyError | sqlite3.Error):
            raise explain(self._place, error) from error


def explained(place: str) -> AbstractContextManager[None]:
    """Turn every error of the database or its driver into a StoreError about ``place``."""
    return _Explained(place)


def explain(place: str, error: Exception) -> StoreError:
    """Return the StoreError that says what happened to the store at ``place``, and what to do."""
    cause = getattr(error, "orig", None) or error
    code, meanings = _code(cause)
    for beginning, what, hint, transient in meanings:
        if code.startswith(beginning):
            return _store_error(f"The store {place} failed: {what} ({cause}).", hint, transient=transient)
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return _store_error(
            f"The store {place} failed: the connection was lost.", "Try again.", transient=True
        )
    if not code and "connect" in str(cause):
        refused = _is_refusal(cause)
        hint = "Check the URL of the store." if refused else "Is the database running?"
        return _store_error(f"The store {place} cannot be reached: {cause}", hint, transient=not refused)
    return _store_error(f"The store {place} failed: {cause}.", "", transient=False)


def is_lost_race(error: BaseException | None) -> bool:
    """Whether the database undid a transaction only because of another one at the same time."""
    return _sqlstate(error) in _RACES


def is_lost_connection(error: BaseException | None) -> bool:
    """Whether the server went away, or could not be reached, and may be back later."""
    if not isinstance(error, DBAPIError) or isinstance(error.orig, sqlite3.Error):
        return False
    if error.connection_invalidated or _sqlstate(error).startswith(_AWAY):
        return True
    cause = error.orig
    return not _sqlstate(error) and "connect" in str(cause) and not _is_refusal(cause)


def is_without_room(error: BaseException | None) -> bool:
    """Whether SQLite found no room for what it needs beside its file even to read."""
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlite_errorname", "") == "SQLITE_IOERR_SHMSIZE"


def is_lock_timeout(error: BaseException | None) -> bool:
    """Whether the database gave up waiting for a lock, as it had been told to."""
    return _sqlstate(error) == "55P03"


def _is_refusal(cause: BaseException | None) -> bool:
    """Whether a server that could be reached refuses this connection for good: its user, its database."""
    said = str(cause)
    return "FATAL:" in said and not any(soon in said for soon in _SOON)


def _sqlstate(error: BaseException | None) -> str:
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")


def _code(cause: BaseException) -> tuple[str, tuple[tuple[str, str, str, bool], ...]]:
    if isinstance(cause, sqlite3.Error):
        return str(getattr(cause, "sqlite_errorname", "")), _SQLITE
    return str(getattr(cause, "sqlstate", None) or ""), _POSTGRESQL


def _store_error(message: str, hint: str, *, transient: bool) -> StoreError:
    error = StoreError(message, hint=hint)
    error.transient = transient
    return error
