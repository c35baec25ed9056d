"""Leases on SQLite run by the host's uptime; a start of the host ends all that came before it."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from sidestage import clock
from sidestage.clock import Uptime, host_uptime
from sidestage.store.dialect import DatabaseClock
from sidestage.store.lease_clock import STRIDE
from sidestage.store.records import Demand, Environment, Failure, NewRun, NewStep, Worker
from sidestage.store.sql import SqlStore
from sidestage.store.sql_database import Database

NOW = datetime(2013, 1, 1, tzinfo=UTC)
WEEK = 7 * 86400.0
Open = Callable[[Uptime], SqlStore]


class Hand:
    """An uptime that is turned by hand."""

    def __init__(self, boot: str, seconds: float) -> None:
        self.seconds = seconds
        self.uptime = Uptime(boot, lambda: self.seconds)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    """Opens the same file by any uptime."""
    stores: list[SqlStore] = []

    def open_by(uptime: Uptime) -> SqlStore:
        stores.append(SqlStore(Database(f"sqlite:///{path}", uptime=uptime)))
        return stores[-1]

    yield open_by
    for store in stores:
        store.close()


def begin(store: SqlStore, *steps: str) -> int:
    store.save_environment(Environment("production", None, "", "open", NOW))
    plan = [NewStep(name, "t", "d", name, None) for name in steps]
    return store.begin_run(NewRun("p", "production", "", "", "", ""), plan, NOW)


def taken(store: SqlStore, owner: str = "w", lease: float = 60.0) -> list[str]:
    return [claim.step for claim in store.claim(Demand(owner, 10, lease=lease), NOW)]


def starts(path: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT boot, number FROM host_start").fetchall()


def time_of(database: Database) -> float:
    return database.read(lambda connection: connection.execute(select(DatabaseClock())).scalar_one())


def test_a_lease_ends_when_the_host_ran_for_so_long(opened: Open) -> None:
    hand = Hand("a", 100.0)
    store, other = opened(hand.uptime), opened(hand.uptime)
    begin(store, "s")
    assert taken(store) == ["s"]
    assert store.next_due() == pytest.approx(60.0, abs=1e-4)
    hand.seconds += 59.9
    assert taken(other, "v") == []
    hand.seconds += 0.2
    assert taken(other, "v") == ["s"]


def test_the_wall_clock_means_nothing(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(Hand("a", 100.0).uptime)
    begin(store, "s")
    taken(store)
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert store.next_due() == pytest.approx(60.0, abs=1e-4)
    assert taken(store, "v") == []


def test_a_retry_waits_for_its_time(opened: Open) -> None:
    hand = Hand("a", 5.0)
    store = opened(hand.uptime)
    begin(store, "s")
    (claim,) = store.claim(Demand("w", 1, lease=60.0), NOW)
    store.settle([Failure(claim=claim, failure_class="transient", message="m", retry_in=30.0)], NOW)
    assert store.next_due() == pytest.approx(30.0, abs=1e-4)
    assert taken(store) == []
    hand.seconds += 30.1
    assert taken(store) == ["s"]


@pytest.mark.parametrize("again_after", [0.0, 5.0, 50 * WEEK])
def test_what_was_due_in_an_earlier_start_is_past(opened: Open, again_after: float) -> None:
    early = opened(Hand("a", 50 * WEEK).uptime)
    begin(early, "held", "failed")
    claims = early.claim(Demand("w", 10, lease=WEEK), NOW)
    failed = next(claim for claim in claims if claim.step == "failed")
    early.settle([Failure(claim=failed, failure_class="transient", message="m", retry_in=WEEK)], NOW)
    early.beat(Worker("w", ("q",), 1, draining=False, started_at=NOW, seen_at=NOW), lease=WEEK, now=NOW)
    assert [worker.alive for worker in early.workers()] == [True]
    early.close()
    late = opened(Hand("b", again_after).uptime)
    assert [worker.alive for worker in late.workers()] == [False]
    assert late.next_due() == 0.0
    assert sorted(taken(late, "v")) == ["failed", "held"]
    assert late.next_due() == pytest.approx(60.0, abs=1e-3)


def test_what_a_catalog_held_in_seconds_since_1970_is_past(opened: Open, path: Path) -> None:
    store = opened(Hand("a", 1.0).uptime)
    begin(store, "s")
    taken(store)
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE step SET due = unixepoch() + 7200")
        connection.execute("DROP TABLE host_start")
    assert taken(opened(Hand("a", 1.0).uptime), "v") == ["s"]
    assert starts(path) == [("a", 1)]


def test_a_start_that_was_seen_before_is_a_later_one_when_it_comes_back(opened: Open, path: Path) -> None:
    """A file that was copied to another host, and back."""
    here, there = Hand("here", WEEK), Hand("there", 50 * WEEK)
    begin(opened(here.uptime), "s")
    assert taken(opened(there.uptime)) == ["s"]
    assert starts(path) == [("there", 2)]
    assert taken(opened(here.uptime), "v") == ["s"]
    assert starts(path) == [("here", 3)]


def test_reading_counts_a_new_start_and_records_nothing(opened: Open, path: Path) -> None:
    store = opened(Hand("a", WEEK).uptime)
    begin(store, "s")
    taken(store)
    store.close()
    reader = opened(Hand("b", 1.0).uptime)
    assert reader.next_due() == 0.0
    assert starts(path) == [("a", 1)]
    assert taken(opened(Hand("b", 1.0).uptime), "v") == ["s"]
    assert starts(path) == [("b", 2)]
    assert reader.next_due() == pytest.approx(60.0, abs=1e-3)


def test_a_start_is_counted_once_whoever_comes_first(path: Path) -> None:
    url = f"sqlite:///{path}"
    Database(url, uptime=Hand("a", 1.0).uptime).close()
    databases = [Database(url, uptime=Hand("b", 7.0).uptime) for _ in range(6)]
    gate = threading.Barrier(len(databases))

    def first_write(database: Database) -> None:
        gate.wait()
        database.write(lambda _: None)

    threads = [threading.Thread(target=first_write, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert starts(path) == [("b", 2)]
    assert {time_of(database) for database in databases} == {2 * STRIDE + 7.0}
    for database in databases:
        database.close()


def test_a_store_whose_first_start_was_recorded_and_nothing_else_is_still_empty(path: Path) -> None:
    Database(f"sqlite:///{path}").close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in names:
            if name not in ("host_start", "sqlite_sequence"):
                connection.execute(f'DROP TABLE "{name}"')
    with closing(SqlStore(Database(f"sqlite:///{path}"))) as store:
        assert store.runs() == ()


def test_all_processes_of_the_host_have_the_same_uptime() -> None:
    look = "from sidestage.clock import host_uptime as h; print(h().boot, h().seconds())"
    before = host_uptime()
    began = before.seconds()
    said = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout
    boot, seconds = said.rsplit(maxsplit=1)
    assert boot == before.boot
    assert began <= float(seconds) <= before.seconds()


def test_without_a_name_of_the_start_the_wall_clock_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(clock, "_BOOT_ID", tmp_path / "none")
    uptime = host_uptime()
    assert uptime.boot == "wall clock"
    assert uptime.seconds() > 1e9


def test_changing_over_to_the_wall_clock_ends_what_came_before(opened: Open) -> None:
    store = opened(Hand("a", WEEK).uptime)
    begin(store, "s")
    assert taken(store) == ["s"]
    wall = Hand("wall clock", 1.9e9)
    assert taken(opened(wall.uptime)) == ["s"]
    assert taken(opened(Hand("b", 1.0).uptime)) == ["s"]
