"""Opening a store: fresh, old, newer, foreign, damaged, unwritable."""

import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, inspect

from sidestage.errors import ConfigurationError, SchemaMismatch, SidestageError, StoreError
from sidestage.store import lease_clock, tables
from sidestage.store.migrations import migrate, scripts
from sidestage.store.schema import CURRENT, VERSION_TABLE, Schema
from sidestage.store.sql import SqlStore, open_store
from sidestage.store.sql_database import Database


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def shape(path: Path) -> set[Any]:
    """Every table and index, as SQLite describes them."""
    with sqlite3.connect(path) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        described: set[Any] = set()
        for name in names:
            if name in (VERSION_TABLE, lease_clock.TABLE):  # made by others
                continue
            for column in connection.execute(f"PRAGMA table_xinfo({name})"):
                described.add((name, "column", *column))
            for _, index, unique, origin, partial in connection.execute(f"PRAGMA index_list({name})"):
                columns = tuple(row[2] for row in connection.execute(f"PRAGMA index_info({index})"))
                described.add((name, "index", index, unique, origin, partial, columns))
            for key in connection.execute(f"PRAGMA foreign_key_list({name})"):
                described.add((name, "foreign key", *key))
    connection.close()
    return described


def migrated(path: Path) -> None:
    engine = create_engine(url(path))
    with engine.begin() as connection:
        migrate(connection, CURRENT.migrations, CURRENT.head, version_table=VERSION_TABLE)
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_migrations_lead_to_the_schema_of_the_tables(tmp_path: Path) -> None:
    migrated(tmp_path / "migrated")
    open_store(url(tmp_path / "fresh")).close()
    assert shape(tmp_path / "migrated") == shape(tmp_path / "fresh")
    open_store(url(tmp_path / "migrated")).close()


def test_the_revisions_are_those_of_the_scripts() -> None:
    walked = [script.revision for script in scripts(CURRENT.migrations).walk_revisions()]
    assert tuple(reversed(walked)) == CURRENT.revisions


def next_schema(folder: Path, script: str) -> Schema:
    """A schema one step later, whose migration is ``script``."""
    versions = folder / "versions"
    versions.mkdir(parents=True)
    for each in (CURRENT.migrations / "versions").glob("r*.py"):
        (versions / each.name).write_text(each.read_text())
    header = f'import sqlalchemy as sa\nfrom alembic import op\nrevision = "next"\ndown_revision = "{CURRENT.head}"\n'
    (versions / "rnext_pre_more.py").write_text(header + textwrap.dedent(script))
    metadata = MetaData()
    for table in tables.metadata.tables.values():
        table.to_metadata(metadata)
    Table("more", metadata, Column("id", Integer, primary_key=True))
    return Schema(metadata, (*CURRENT.revisions, "next"), folder)


MORE = """
def upgrade():
    op.create_table("more", sa.Column("id", sa.Integer(), primary_key=True))
"""


def test_an_older_store_is_migrated_and_refused_by_the_older_release(tmp_path: Path) -> None:
    path = tmp_path / "store"
    open_store(url(path)).close()
    schema = next_schema(tmp_path / "migrations", MORE)
    for _ in range(2):
        store = SqlStore(Database(url(path), schema))
        assert store.environments() == ()
        store.close()
    with pytest.raises(SchemaMismatch, match="upgrade Sidestage"):
        open_store(url(path))


def test_a_migration_that_dies_changes_nothing_and_can_be_run_again(tmp_path: Path) -> None:
    path = tmp_path / "store"
    open_store(url(path)).close()
    before = shape(path)
    dying = next_schema(tmp_path / "dying", MORE + "    import os; os._exit(9)\n")
    code = textwrap.dedent(f"""
        from pathlib import Path
        from sidestage.store import lease_clock, tables
        from sidestage.store.schema import Schema
        from sidestage.store.sql_database import Database
        Database({url(path)!r}, Schema(tables.metadata, {dying.revisions!r}, Path({str(dying.migrations)!r})))
    """)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert shape(path) == before
    open_store(url(path)).close()
    whole = next_schema(tmp_path / "whole", MORE)
    Database(url(path), whole).close()
    assert {entry[0] for entry in shape(path)} == {entry[0] for entry in before} | {"more"}


def test_opening_and_creating_need_no_alembic(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        import sys
        from sidestage.store.sql import open_store
        for _ in range(2):
            open_store({url(tmp_path / "store")!r}).close()
        assert "alembic" not in sys.modules
    """)
    subprocess.run([sys.executable, "-c", code], check=True)


def test_transactions_are_durable_and_foreign_keys_kept(tmp_path: Path) -> None:
    database = Database(url(tmp_path / "store"))
    pragmas = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}
    for name, value in pragmas.items():
        assert database.write(lambda c, n=name: c.exec_driver_sql(f"PRAGMA {n}").scalar()) == value
    assert database.read(lambda c: c.exec_driver_sql("PRAGMA busy_timeout").scalar()) == 30000
    database.close()


def test_reading_cannot_write(tmp_path: Path) -> None:
    database = Database(url(tmp_path / "store"))
    with pytest.raises(StoreError, match="may not be written"):
        database.read(lambda c: c.execute(tables.event.delete()))
    database.close()


def test_an_error_undoes_the_whole_transaction(tmp_path: Path) -> None:
    database = Database(url(tmp_path / "store"))

    def work(connection: Any) -> None:
        connection.exec_driver_sql("INSERT INTO environment VALUES ('a', NULL, '', 'open', 0)")
        raise KeyError

    with pytest.raises(KeyError):
        database.write(work)
    assert database.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM environment").scalar()) == 0
    database.close()


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"not a database|damaged"):
        open_store(url(path))
    assert path.read_bytes() == content


def test_a_damaged_store_says_so(tmp_path: Path) -> None:
    path = tmp_path / "store"
    open_store(url(path)).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xaa" * (len(whole) - 4096))
    with pytest.raises(StoreError, match="damaged"):
        open_store(url(path)).environments()


def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="theirs"):
        open_store(url(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("sqlite://", ConfigurationError),
        ("sqlite:///:memory:", ConfigurationError),
        ("mysql://host/name", SidestageError),
        ("nonsense", ConfigurationError),
        ("sqlite:////dev/null/store", StoreError),
        ("sqlite:////", StoreError),
        ("sqlite:////none/such/store", StoreError),
    ],
)
def test_a_url_that_names_no_store(bad: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        open_store(bad)


def test_a_full_disk_is_explained_and_recovers_by_itself(tmp_path: Path) -> None:
    database = Database(url(tmp_path / "store"))

    def limit(pages: int) -> None:
        database.write(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {pages}").all())

    def fill() -> None:
        long = "x" * 1_000_000
        database.write(
            lambda c: c.exec_driver_sql("INSERT INTO environment VALUES (?, NULL, ?, 'open', 0)", ("a", long))
        )

    limit(1)
    with pytest.raises(StoreError, match="disk is full") as error:
        fill()
    assert error.value.transient
    limit(1_000_000)
    fill()
    assert database.read(lambda c: inspect(c).has_table("environment"))
    database.close()


def test_a_forked_child_may_not_use_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(url(tmp_path / "store"))
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(StoreError, match="fork"):
        store.environments()
    monkeypatch.undo()
    store.close()
