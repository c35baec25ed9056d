"""Stores of the previous release: their rows survive migration, whatever kills it and whoever else does it."""

import contextlib
import itertools
import os
import signal
import sqlite3
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from tests.integration.test_store_processes import Process
from tests.servers.postgresql import postgresql

from sidestage.errors import SchemaMismatch
from sidestage.store import lease_clock, tables
from sidestage.store.ambiguous import TOKENS
from sidestage.store.migrations import migrate
from sidestage.store.schema import CURRENT, VERSION_TABLE, Schema
from sidestage.store.sql import open_store
from sidestage.store.sql_database import Database

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and signals")

NOW = datetime(2013, 3, 11, tzinfo=UTC)
FROZEN = Path(__file__).with_name("schema_0001.sql")
FIRST = Schema(tables.metadata, ("0001",), CURRENT.migrations)
# So that each row comes after those that it refers to.
TABLES = (
    "environment",
    "run",
    "step",
    "step_order",
    "attempt",
    "version",
    "pointer",
    "pointer_log",
    "released",
    "move",
    "comparison",
    "event",
)
NUMBERED = ("run", "pointer_log", "move", "comparison", "event")

Rows = dict[str, list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="sidestage-pg-") as folder, postgresql(Path(folder)) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store as the first release left it, with rows in every table."""
    if request.param == "sqlite":
        return sqlite_store(tmp_path / "store")
    return postgresql_store(request.getfixturevalue("server"))


def sqlite_store(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(FROZEN.read_text())
    return f"sqlite:///{path}"


def postgresql_store(server: str) -> str:
    name = f"s{uuid.uuid4().hex}"
    url = f"{server}?options=-csearch_path%3D{name}"
    rows = [line for line in FROZEN.read_text().splitlines() if line.startswith("INSERT INTO")]
    with connected(url) as connection, connection.begin():
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        migrate(connection, CURRENT.migrations, "0001", version_table=VERSION_TABLE)
        for table in TABLES:
            for row in rows:
                if row.startswith(f'INSERT INTO "{table}" '):
                    connection.exec_driver_sql(row)
        for table in NUMBERED:
            connection.exec_driver_sql(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
            )
    return url


@contextlib.contextmanager
def connected(url: str) -> Iterator[Connection]:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def columns_of(url: str) -> dict[str, list[str]]:
    with connected(url) as connection:
        inspector = inspect(connection)
        return {table: [column["name"] for column in inspector.get_columns(table)] for table in TABLES}


def rows_of(url: str, columns: dict[str, list[str]]) -> Rows:
    with connected(url) as connection:
        found: Rows = {}
        for table, names in columns.items():
            listed = ", ".join(f'"{name}"' for name in names)
            order = ", ".join(str(number) for number in range(1, len(names) + 1))
            query = text(f'SELECT {listed} FROM "{table}" ORDER BY {order}')
            found[table] = [tuple(row) for row in connection.execute(query)]
        return found


def revisions_of(url: str) -> set[str]:
    with connected(url) as connection:
        return set(connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalars())


def check_migrated(url: str, columns: dict[str, list[str]], before: Rows) -> None:
    assert revisions_of(url) == {CURRENT.head}
    assert rows_of(url, columns) == before
    with connected(url) as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        left = [str(each) for each in compare_metadata(context, tables.metadata)]
        assert [each for each in left if TOKENS.name not in each and lease_clock.TABLE not in each] == []
    with open_store(url) as store:
        assert store.pointers("production") == {
            ("flights/delays", "2013-03-09"): "v3",
            ("flights/delays", "2013-03-10"): "v2",
        }
        assert store.versions(["v2"])["v2"].inputs[0].version == "v1"
        assert [each.state for each in store.steps(3)] == ["running", "waiting"]
        assert store.move_details(1).code[0].new == "git:fix"
        assert store.comparisons("fix")[0].passed
        assert len(store.events()) == len(before["event"])


def opening(url: str, *, kill_at: int = -1, gate: int | None = None) -> Callable[[int], None]:
    """Open the store; die before its ``kill_at``-th statement that is not merely a question."""

    def work(_pipe: int) -> None:
        number = itertools.count(1)

        def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            if not statement.lstrip().startswith(("SELECT", "PRAGMA")) and next(number) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        event.listen(Engine, "before_cursor_execute", count)
        if gate is not None:
            os.read(gate, 1)
        Database(url).close()

    return work


def test_rows_survive(url: str) -> None:
    columns = columns_of(url)
    before = rows_of(url, columns)
    assert all(before[table] for table in TABLES), "a table without rows shows nothing"
    for _ in range(2):
        open_store(url).close()
        check_migrated(url, columns, before)


def test_a_migration_killed_at_any_statement_can_be_done_again(url: str) -> None:
    columns = columns_of(url)
    before = rows_of(url, columns)
    kills = 0
    for kill_at in itertools.count(1):
        code, _ = Process(opening(url, kill_at=kill_at)).wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        assert revisions_of(url) == {"0001"}
        assert columns_of(url) == columns
        assert rows_of(url, columns) == before
    assert kills > 10
    check_migrated(url, columns, before)


def test_several_processes_migrate_at_once(url: str) -> None:
    columns = columns_of(url)
    before = rows_of(url, columns)
    reading, writing = os.pipe()

    def gated(pipe: int) -> None:
        os.close(writing)
        opening(url, gate=reading)(pipe)

    processes = [Process(gated) for _ in range(4)]
    os.close(writing)
    assert [each.wait() for each in processes] == [(0, [])] * 4
    os.close(reading)
    check_migrated(url, columns, before)


def test_the_earlier_release_refuses_the_newer_schema_and_changes_nothing(url: str) -> None:
    open_store(url).close()
    columns = columns_of(url)
    before = rows_of(url, columns)
    with pytest.raises(SchemaMismatch, match="upgrade Sidestage") as error:
        Database(url, FIRST)
    assert CURRENT.head in error.value.message
    assert columns_of(url) == columns
    assert rows_of(url, columns) == before
    assert revisions_of(url) == {CURRENT.head}


def test_an_earlier_process_that_has_the_store_open_keeps_working(url: str) -> None:
    earlier = Database(url, FIRST)
    open_store(url).close()
    insert = "INSERT INTO event (at, kind, body) VALUES (0, 'earlier', '')"
    earlier.write(lambda c: c.exec_driver_sql(insert))
    count = "SELECT count(*) FROM event WHERE kind = 'earlier'"
    assert earlier.read(lambda c: c.exec_driver_sql(count).scalar()) == 1
    earlier.close()
