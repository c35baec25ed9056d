"""What a database error means: lost, refused, in a race; and how long one waits for a lost server."""

import sqlite3

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError, OperationalError

from sidestage.clock import SystemClock
from sidestage.errors import NotFound, StoreError
from sidestage.store import ambiguous
from sidestage.store.ambiguous import Patience
from sidestage.store.faults import explain, explained, is_lock_timeout, is_lost_connection, is_lost_race

AT = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '


def failed(message: str, *, invalidated: bool = False) -> DBAPIError:
    return OperationalError("", {}, psycopg.OperationalError(message), connection_invalidated=invalidated)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (failed(f"{AT}Connection refused"), True),
        (failed(f"{AT}FATAL:  the database system is starting up"), True),
        (failed(f"{AT}FATAL:  the database system is shutting down"), True),
        (failed(f"{AT}FATAL:  sorry, too many clients already"), True),
        (failed("server closed the connection unexpectedly", invalidated=True), True),
        (failed("consuming input failed"), False),
        (failed(f'{AT}FATAL:  role "nobody" does not exist'), False),
        (failed(f'{AT}FATAL:  password authentication failed for user "ann"'), False),
        (OperationalError("", {}, psycopg.errors.AdminShutdown("ended")), True),
        (OperationalError("", {}, psycopg.errors.CannotConnectNow("starting")), True),
        (OperationalError("", {}, psycopg.errors.DiskFull("full")), False),
        (OperationalError("", {}, sqlite3.OperationalError("connect"), connection_invalidated=True), False),
        (KeyError("connect"), False),
        (None, False),
    ],
)
def test_which_errors_may_pass_when_the_server_is_back(error: Exception | None, lost: bool) -> None:
    assert is_lost_connection(error) is lost


def test_a_lost_connection_is_transient_and_a_refusal_is_not() -> None:
    away = explain("here", failed(f"{AT}Connection refused"))
    refused = explain("here", failed(f'{AT}FATAL:  database "x" does not exist'))
    assert (away.transient, refused.transient) == (True, False)
    assert "running" in away.hint
    assert "URL" in refused.hint


def test_races_and_lock_timeouts() -> None:
    race = OperationalError("", {}, psycopg.errors.DeadlockDetected("dead"))
    lock = OperationalError("", {}, psycopg.errors.LockNotAvailable("locked"))
    assert (is_lost_race(race), is_lost_race(lock), is_lost_race(None)) == (True, False, False)
    assert (is_lock_timeout(lock), is_lock_timeout(race)) == (True, False)


def test_only_errors_of_the_database_are_explained() -> None:
    with pytest.raises(StoreError, match="here") as error, explained("here"):
        raise sqlite3.OperationalError("nonsense")
    assert isinstance(error.value.__cause__, sqlite3.OperationalError)
    with pytest.raises(NotFound), explained("here"):
        raise NotFound("other")
    with explained("here"):
        pass


class HandClock(SystemClock):
    """Goes on only while somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Return the seconds that were slept."""
        return self.seconds

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds
        self.slept.append(seconds)


def test_patience_waits_longer_each_time_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = HandClock()
    monkeypatch.setattr(ambiguous.time, "sleep", clock.sleep)
    patience = Patience(10.0, clock)
    while patience.wait():
        pass
    assert clock.slept[:4] == [0.05, 0.1, 0.2, 0.4]
    assert max(clock.slept) == 2.0
    assert sum(clock.slept) == pytest.approx(10.0)
    assert not patience.wait()
    assert len(clock.slept) < 12


def test_without_patience_nobody_waits() -> None:
    assert not Patience(0.0).wait()
