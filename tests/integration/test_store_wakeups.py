"""Those who wait hear what other processes commit, soon after it is committed and not before."""

import contextlib
import select
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, make_url
from tests.integration.test_store_processes import wait_for
from tests.servers.postgresql import Server

from sidestage.clock import SystemClock
from sidestage.errors import StoreError
from sidestage.store.contract import Wakeups
from sidestage.store.dialect import listening_engine
from sidestage.store.sql_database import Database
from sidestage.store.wakeups import PostgresqlWakeups, announce

Open = Callable[[], Database]
PATIENT = 180.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="sidestage-pg-") as folder:
        server = Server(Path(folder), ("fsync=off",))
        server.start()
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("server").url)
    return f"sqlite:///{tmp_path / 'store'}"


@pytest.fixture
def both(url: str) -> Iterator[tuple[Database, Database]]:
    """One that waits and another that works."""
    with opened(url) as waits, opened(url) as works:
        yield waits, works


@contextlib.contextmanager
def opened(url: str) -> Iterator[Database]:
    database = Database(url)
    try:
        yield database
    finally:
        database.close()


@contextlib.contextmanager
def listening(database: Database) -> Iterator[Wakeups]:
    wakeups = database.open_wakeups()
    try:
        yield wakeups
    finally:
        wakeups.close()


def change(connection: Connection) -> None:
    connection.exec_driver_sql("INSERT INTO event (at, kind, body) VALUES (0, 'test', '')")
    announce(connection)
    announce(connection)


def wait(wakeups: Wakeups) -> bool:
    """Wait until something is readable, where there is something to wait for; then ask."""
    descriptor = wakeups.fileno()
    if descriptor is not None:
        assert select.select([descriptor], [], [], PATIENT)[0], "no wake-up came"
    return wakeups.heard()


def test_a_commit_is_heard_once(both: tuple[Database, Database]) -> None:
    waits, works = both
    works.write(change)
    with listening(waits) as wakeups:
        assert not wakeups.heard()
        for _ in range(3):
            works.write(change)
            assert wait(wakeups)
            assert not wakeups.heard()
        works.write(change)
        works.write(change)
        assert wait(wakeups)


def test_what_was_undone_or_changed_nothing_is_not_heard(both: tuple[Database, Database]) -> None:
    waits, works = both

    def undone(connection: Connection) -> None:
        change(connection)
        raise KeyError

    with listening(waits) as wakeups:
        with pytest.raises(KeyError):
            works.write(undone)
        works.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM event").scalar())
        works.write(lambda c: c.exec_driver_sql("SELECT count(*) FROM event").scalar())
        assert not wakeups.heard()


def test_several_listen_at_once(both: tuple[Database, Database]) -> None:
    waits, works = both
    with listening(waits) as one, listening(waits) as two:
        works.write(change)
        assert wait(one)
        assert wait(two)


def test_closing_wakeups_leaves_the_store_open(both: tuple[Database, Database]) -> None:
    waits, works = both
    waits.open_wakeups().close()
    works.write(change)
    assert waits.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM event").scalar())


def test_a_waiting_worker_wakes_by_itself(server: Server) -> None:
    with opened(server.url) as waits, opened(server.url) as works, listening(waits) as wakeups:
        heard: list[bool] = []
        waiting = threading.Thread(target=lambda: heard.append(wait(wakeups)))
        waiting.start()
        works.write(change)
        waiting.join()
        assert heard == [True]


def test_a_store_in_another_schema_wakes_nobody(server: Server) -> None:
    with opened(server.url) as one:
        one.write(lambda c: c.exec_driver_sql("CREATE SCHEMA other"))
        with opened(f"{server.url}?options=-csearch_path%3Dother") as other, listening(one) as wakeups:
            other.write(change)
            descriptor = wakeups.fileno()
            assert descriptor is not None
            assert select.select([descriptor], [], [], PATIENT)[0]
            assert not wakeups.heard()
        one.write(lambda c: c.exec_driver_sql("DROP SCHEMA other CASCADE"))


def notice_loss(wakeups: Wakeups) -> None:
    while wakeups.fileno() is not None:
        assert not wait(wakeups)


def test_a_lost_server_is_found_again(server: Server) -> None:
    with opened(server.url) as database, listening(database) as wakeups:
        server.stop(immediately=True)
        notice_loss(wakeups)
        assert not wakeups.heard()
        server.start()
        wait_for(wakeups.heard)
        assert not wakeups.heard()
        database.write(change)
        assert wait(wakeups)


def test_a_lost_connection_is_seen_before_there_is_another_one(server: Server) -> None:
    """Both may have the same number, and who waits for it would wait for ever."""
    with opened(server.url) as database, listening(database) as wakeups:
        database.write(
            lambda c: c.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'"
            ).all()
        )
        notice_loss(wakeups)
        wait_for(wakeups.heard)
        assert wakeups.fileno() is not None


def test_a_lost_server_is_asked_at_most_once_a_second(server: Server) -> None:
    engine = listening_engine(make_url(server.url))
    clock = HandClock()
    wakeups = PostgresqlWakeups(engine, "here", clock)
    server.stop(immediately=True)
    notice_loss(wakeups)
    server.start()
    clock.seconds += 0.9
    assert not wakeups.heard()
    clock.seconds += 0.2
    assert wakeups.heard()
    wakeups.close()


class HandClock(SystemClock):
    """Turned by hand."""

    seconds = 100.0

    def monotonic(self) -> float:
        """Return what the test set."""
        return self.seconds


def test_listening_needs_a_server(server: Server) -> None:
    with opened(server.url) as database:
        server.stop(immediately=True)
        with pytest.raises(StoreError) as error:
            database.open_wakeups()
        assert error.value.transient
        server.start()
