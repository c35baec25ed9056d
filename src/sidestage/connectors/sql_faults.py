"""Say what an error of a database means: its failure class, and what to do."""

import sqlite3

from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError

from sidestage.connectors.failure import ConnectorError
from sidestage.policy.failure import FailureClass
from sidestage.store.faults import is_lost_connection

# By the beginning of PostgreSQL's SQLSTATE, the longer first.
_POSTGRESQL: tuple[tuple[str, FailureClass, str], ...] = (
    ("42501", "authentication", "Grant the database user this right, or use another one."),
    ("42P01", "bug", "Check the table's name and schema, or create it."),
    ("42703", "bug", "Check the names of the columns."),
    (
        "57014",
        "transient",
        "It took longer than the timeout: is there an index on the key? Or smaller pages.",
    ),
    ("55P03", "transient", "Another session holds a lock; it is worth trying again."),
    ("53100", "disk-full", "Free some space on the server."),
    ("25006", "bug", "The server is read-only: connect to the primary."),
    ("22", "validation", "Look at the values."),
    ("23", "validation", "Look at the values, and at what the table demands."),
    ("44", "validation", "Look at the values, and at what the view demands."),
    ("P0001", "validation", "A trigger of the table says so."),
    ("28", "authentication", "Check the user and the password."),
    ("3D", "bug", "Create the database, or check its name."),
    ("40", "transient", "Other sessions were in the way; it is worth trying again."),
    ("08", "transient", "Is the server running?"),
    ("57P", "transient", "The server is stopping or starting."),
    ("53", "resource", "The server has no room for more."),
)

# By the beginning of SQLite's error name.
_SQLITE: tuple[tuple[str, FailureClass, str], ...] = (
    ("SQLITE_BUSY", "transient", "Another process keeps the file locked."),
    ("SQLITE_LOCKED", "transient", "Another connection keeps the table locked."),
    ("SQLITE_FULL", "disk-full", "Free some space."),
    ("SQLITE_CONSTRAINT", "validation", "Look at the values, and at what the table demands."),
    ("SQLITE_MISMATCH", "validation", "Look at the values."),
    ("SQLITE_TOOBIG", "validation", "The value is larger than SQLite allows."),
    ("SQLITE_READONLY", "authentication", "Check who may write the file and its folder."),
)

_OF_A_ROW = ("22", "23", "44", "P0001", "54", "21000", "42804", "42846")
"""SQLSTATEs that one row alone can cause. 21000: two rows of one statement have the same key."""

DATABASE_ERRORS = (SQLAlchemyError, sqlite3.Error)


def errors_of_databases() -> tuple[type[Exception], ...]:
    """Return what calls of SQLAlchemy and of the drivers raise."""
    try:
        import psycopg  # noqa: PLC0415 - comes with an extra
    except ImportError:
        return DATABASE_ERRORS
    return (*DATABASE_ERRORS, psycopg.Error)


def explain(error: Exception, doing: str) -> ConnectorError:
    """Return the error that says what failed: ``doing`` is such as "Reading orders"."""
    cause = _cause(error)
    said = " ".join(str(cause).split())
    code = code_of(error)
    for beginning, failure, hint in _SQLITE if code.startswith("SQLITE") else _POSTGRESQL:
        if code.startswith(beginning):
            return ConnectorError(f"{doing} failed: {said}", hint=hint, failure_class=failure)
    if is_lost(error):
        return ConnectorError(f"{doing} failed: {said}", hint="Is it running?", failure_class="transient")
    if "authentication" in said or "no password supplied" in said:
        hint = "Check the user and the password."
        return ConnectorError(f"{doing} failed: {said}", hint=hint, failure_class="authentication")
    if not code and is_of_rows(error):
        return ConnectorError(
            f"{doing} failed: {said}", hint="Look at the values.", failure_class="validation"
        )
    return ConnectorError(f"{doing} failed: {said}", failure_class="bug")


def is_lost(error: BaseException) -> bool:
    """Whether the server went away, or could not be reached, and may be back later."""
    if is_lost_connection(error):
        return True
    if isinstance(error, SQLAlchemyError | sqlite3.Error):
        return False
    code = str(getattr(error, "sqlstate", None) or "")
    lost = type(error).__name__ == "OperationalError" and not code
    return lost or code.startswith(("08", "57P01", "57P02", "57P03"))


def is_of_rows(error: Exception) -> bool:
    """Whether rows are to blame, and not the table, the statement or the server."""
    cause = _cause(error)
    if isinstance(cause, sqlite3.Error):
        kinds = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
        return isinstance(cause, kinds)
    if isinstance(cause, TypeError | ValueError | OverflowError | LookupError):
        return True
    code = code_of(error)
    if code:
        return code.startswith(_OF_A_ROW)
    # The driver itself could not make text of a value.
    return type(cause).__name__ in ("DataError", "ProgrammingError", "NotSupportedError")


def is_lost_race(error: Exception) -> bool:
    """Whether the database undid a transaction only because of another one at the same time."""
    return code_of(error).startswith("40")


def code_of(error: Exception) -> str:
    """Return PostgreSQL's SQLSTATE or SQLite's name of an error; empty if there is none."""
    cause = _cause(error)
    return str(getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None) or "")


def _cause(error: Exception) -> BaseException:
    if isinstance(error, DBAPIError | StatementError) and error.orig is not None:
        return error.orig
    return error
