"""When the connection to PostgreSQL is lost: before a commit, in the middle of one, until it is back.

A connection that breaks while it commits does not say whether the transaction took effect. Therefore every
transaction that changes anything also writes, as its last change, a number into the row that its connection
has for this. Whoever finds the row with the number knows that the commit happened, and whoever does not that
it never will: the question waits for a transaction that still has the row. This also holds after a failover
to a server that did not get the commit, where the number of a transaction (``pg_xact_status``) would mean
somebody else's by then. SQLite needs none of this: it is in this process.
"""

import time
import uuid
from contextlib import suppress
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, DateTime, Engine, Integer, MetaData, Table, Text, text
from sqlalchemy.exc import DBAPIError

from sidestage.clock import Clock, SystemClock
from sidestage.errors import StoreError
from sidestage.store.faults import is_lock_timeout
from sidestage.store.prepared import Prepared

PATIENCE_SECONDS = 60.0
"""How long a transaction waits for a server that cannot be reached."""

# Outside the metadata of the store: it is about connections, and no record refers to it.
TOKENS = Table(
    "transaction_token",
    MetaData(),
    Column("writer", Text, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
)

_LEAVE = Prepared(
    text("""
    INSERT INTO transaction_token (writer, number, at)
    SELECT :writer, :number, clock_timestamp() WHERE pg_current_xact_id_if_assigned() IS NOT NULL
    ON CONFLICT (writer) DO UPDATE SET number = excluded.number, at = excluded.at
    RETURNING CAST(pg_current_xact_id() AS text)
""")
)

# As an insert, because only that waits for a row which an unfinished transaction has inserted.
_LOOK = text("""
    INSERT INTO transaction_token AS token (writer, number, at) VALUES (:writer, 0, clock_timestamp())
    ON CONFLICT (writer) DO UPDATE SET number = token.number
    RETURNING number
""")

_FORGET = text("""
    DELETE FROM transaction_token WHERE writer IN (
        SELECT writer FROM transaction_token WHERE at < clock_timestamp() - interval '7 days'
        FOR UPDATE SKIP LOCKED
    )
""")

_END = text("""
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE CAST(backend_xid AS text) = CAST(CAST(CAST(:transaction AS xid8) AS xid) AS text)
""")


class Token(NamedTuple):
    """What a transaction left behind: found later, the transaction was committed."""

    writer: str
    number: int
    transaction: str


class Patience:
    """Waits between attempts to reach a server, longer each time, until ``seconds`` are over."""

    def __init__(self, seconds: float, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._seconds = seconds
        self._end: float | None = None
        self._pause = 0.05

    def wait(self) -> bool:
        """Wait a little and return True, or return False at once if the time is over.

        The time begins with the first call.
        """
        now = self._clock.monotonic()
        if self._end is None:
            self._end = now + self._seconds
        if now >= self._end:
            return False
        time.sleep(min(self._pause, self._end - now))
        self._pause = min(2.0, self._pause * 2)
        return True


def leave_token(connection: Connection) -> Token | None:
    """Write, as the last thing in a transaction, that it took effect.

    Returns None where a commit cannot be ambiguous: on SQLite, and if the transaction changed nothing.
    """
    if connection.dialect.name != "postgresql":
        return None
    known: dict[Any, Any] = connection.info
    writer, number = known.get("token") or (uuid.uuid4().hex, 0)
    number += 1
    left = _LEAVE.rows(connection, {"writer": writer, "number": number})
    if not left:
        return None
    if number == 1:
        connection.execute(_FORGET)
    known["token"] = (writer, number)
    return Token(writer, number, str(left[0][0]))


def took_effect(engine: Engine, token: Token, patience: Patience, place: str) -> bool:
    """Whether the transaction that left ``token`` was committed; if not, it never will be.

    Waits for the server. Raises StoreError, which says that nobody knows, if the server stays away.
    """
    while True:
        try:
            return _is_there(engine, token)
        except DBAPIError as error:
            # Whatever is in the way, a server that starts or a full disk: without an answer nothing is sure.
            if is_lock_timeout(error):
                _end_transaction(engine, token)
            if not patience.wait():
                raise _unknown(place) from None


def _is_there(engine: Engine, token: Token) -> bool:
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '1s'"))
        return bool(connection.scalar(_LOOK, {"writer": token.writer}) == token.number)


def _end_transaction(engine: Engine, token: Token) -> None:
    """End the transaction whose connection is gone for us, but not yet for the server."""
    with suppress(DBAPIError), engine.begin() as connection:
        connection.execute(_END, {"transaction": token.transaction})


def _unknown(place: str) -> StoreError:
    return StoreError(
        f"The connection to the store {place} was lost in the middle of a commit, and the server did not come"
        " back in time to ask: the change was made completely or not at all, and it is not known which.",
        hint="When the database is reachable, look at what the store shows before doing it again.",
    )
