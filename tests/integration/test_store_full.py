"""A disk without any room: what is in the catalog is still served, and only where that is safe.

Files that may not grow stand for the disk; what is larger already stays. SQLite cannot make its index then.
"""

import contextlib
import os
import resource
import select
import sqlite3
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection
from tests.integration.test_store_processes import Process

from sidestage.errors import SidestageError, StoreError
from sidestage.store.records import Environment
from sidestage.store.sql import open_store
from sidestage.store.sql_database import Database

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and limits of files")

NOW = datetime(2013, 1, 1, tzinfo=UTC)
PRODUCTION = Environment("production", None, "", "open", NOW)
COUNT = "SELECT count(*) FROM environment"
INSERT = "INSERT INTO environment VALUES ('other', NULL, '', 'open', 0)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    with open_store(f"sqlite:///{path}") as store:
        store.save_environment(PRODUCTION)
    assert sorted(each.name for each in tmp_path.iterdir() if each.suffix) == []
    return path


def without_room(path: Path, work: Callable[[Database], object]) -> str:
    """Return what ``work`` answers, or how it failed, in a process whose files may not grow."""

    def limited(pipe: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        try:
            database = Database(f"sqlite:///{path}")
            try:
                said = str(work(database))
            finally:
                database.close()
        except SidestageError as error:
            said = f"{type(error).__name__}, transient {getattr(error, 'transient', None)}: {error}"
        os.write(pipe, f"{said}\n".encode())

    code, said = Process(limited).wait()
    assert code == 0
    return said[0]


def count(database: Database) -> object:
    return database.read(lambda connection: connection.exec_driver_sql(COUNT).scalar())


def test_what_is_there_is_read_and_nothing_is_written(path: Path) -> None:
    assert without_room(path, lambda database: [count(database), count(database)]) == "[1, 1]"
    said = without_room(path, lambda database: database.write(lambda c: c.exec_driver_sql(INSERT)))
    assert said.startswith("StoreError, transient True")
    assert "its disk is full" in said
    assert "Free some space" in said
    with open_store(f"sqlite:///{path}") as store:
        assert store.environments() == (PRODUCTION,)


def test_a_link_leads_to_the_same_file(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    assert without_room(link, count) == "1"


def test_with_room_again_the_same_store_reads_and_writes_as_usual(path: Path) -> None:
    def work(database: Database) -> object:
        before = count(database)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        database.write(lambda connection: connection.exec_driver_sql(INSERT).rowcount)
        return [before, count(database)]

    assert without_room(path, work) == "[1, 2]"


def test_while_somebody_has_it_open_all_of_the_log_is_read(path: Path) -> None:
    with open_store(f"sqlite:///{path}") as store:
        store.save_environment(Environment("other", None, "", "open", NOW))
        assert without_room(path, count) == "2"


def test_a_log_without_its_index_is_not_overlooked(path: Path) -> None:
    """Its last commits are not in the file yet, so the file alone would be an older state."""
    with open_store(f"sqlite:///{path}") as store:
        store.save_environment(Environment("other", None, "", "open", NOW))
        files = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")}
    copy = path.with_name("copy")
    for suffix, content in files.items():
        Path(f"{copy}{suffix}").write_bytes(content)
    said = without_room(copy, count)
    assert said.startswith("StoreError, transient True")
    assert "its disk is full" in said


def test_nobody_opens_it_while_it_is_read_as_it_lies(path: Path) -> None:
    """Who writes is let in only after; until then the file does not change under who reads it."""
    reads, goes_on, wrote = os.pipe(), os.pipe(), os.pipe()

    def slowly(database: Database) -> object:
        def work(connection: Connection) -> object:
            os.write(reads[1], b".")
            os.read(goes_on[0], 1)
            return connection.exec_driver_sql(COUNT).scalar()

        return database.read(work)

    def write(_: int) -> None:
        os.read(reads[0], 1)
        with open_store(f"sqlite:///{path}") as store:
            store.save_environment(Environment("other", None, "", "open", NOW))
        os.write(wrote[1], b".")

    def look_on(_: int) -> None:
        assert select.select([wrote[0]], [], [], 0.5)[0] == [], "it was written to while it was read"
        os.write(goes_on[1], b".")

    writer, witness = Process(write), Process(look_on)
    assert without_room(path, slowly) == "1"
    assert witness.wait()[0] == 0
    assert writer.wait()[0] == 0
    for pipe in (*reads, *goes_on, *wrote):
        os.close(pipe)
    with open_store(f"sqlite:///{path}") as store:
        assert len(store.environments()) == 2


def test_a_program_that_does_not_ask_at_the_door_is_found_out(path: Path) -> None:
    def work(database: Database) -> object:
        def read(connection: Connection) -> object:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute(INSERT)
            return connection.exec_driver_sql(COUNT).scalar()

        return database.read(read)

    said = without_room(path, work)
    assert said.startswith("StoreError, transient True")
    assert "changed it meanwhile" in said


def test_without_a_door_for_all_it_is_not_read_as_it_lies(path: Path) -> None:
    door = Path(f"{path}-door")
    door.unlink()
    door.symlink_to("none/such")
    said = without_room(path, count)
    assert said.startswith("StoreError, transient True")
    assert "its disk is full" in said


def test_another_failure_of_the_disk_is_not_called_full(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(StoreError, match="not a database"):
        open_store(f"sqlite:///{path}")
