"""What only earlier releases needed is taken away when a person says so, and not before."""

import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table

from sidestage.errors import SchemaMismatch
from sidestage.store import tables
from sidestage.store.migrations import scripts
from sidestage.store.schema import CURRENT, PostMigration, Schema
from sidestage.store.sql import open_store
from sidestage.store.sql_database import Database

MORE = """
def upgrade():
    op.create_table("more", sa.Column("id", sa.Integer(), primary_key=True))
"""
NO_SUMMARY = """
def upgrade():
    with op.batch_alter_table("comparison") as batch:
        batch.drop_column("summary")
"""
NO_REASON = """
def upgrade():
    with op.batch_alter_table("run") as batch:
        batch.drop_column("reason")
"""
STEPS = (
    PostMigration("9002", "Take away what a comparison was in short."),
    PostMigration("9003", "Take away why a run was made."),
)


def later_schema(folder: Path, *, no_reason: str = NO_REASON) -> Schema:
    """The schema of a release that adds a table and needs two columns no more."""
    versions = folder / "versions"
    versions.mkdir(parents=True)
    for each in (CURRENT.migrations / "versions").glob("r*.py"):
        (versions / each.name).write_text(each.read_text())

    def script(name: str, revision: str, down: str | None, doc: str, code: str) -> None:
        header = f'"""{doc}\n\nMore of it.\n"""\nimport sqlalchemy as sa\nfrom alembic import op\n'
        ids = f"revision = {revision!r}\ndown_revision = {down!r}\n"
        (versions / name).write_text(header + ids + textwrap.dedent(code))

    script("r9001_pre_more.py", "9001", CURRENT.head, "Add a table.", MORE)
    script("r9002_post_summary.py", "9002", None, STEPS[0].what, NO_SUMMARY)
    script("r9003_post_reason.py", "9003", "9002", STEPS[1].what, no_reason)
    metadata = MetaData()
    for table in tables.metadata.tables.values():
        table.to_metadata(metadata)
    Table("more", metadata, Column("id", Integer, primary_key=True))
    for name, column in (("comparison", "summary"), ("run", "reason")):
        kept = [c._copy() for c in tables.metadata.tables[name].c if c.name != column]
        metadata.remove(metadata.tables[name])
        Table(name, metadata, *kept)
    return Schema(metadata, (*CURRENT.revisions, "9001"), folder, ("9002", "9003"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def later(tmp_path: Path) -> Schema:
    return later_schema(tmp_path / "migrations")


def opened(path: Path, schema: Schema) -> Database:
    return Database(f"sqlite:///{path}", schema)


def columns(path: Path, table: str) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


def revisions(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT version_num FROM schema_version")}


def test_the_scripts_of_each_phase_are_a_chain_of_their_own() -> None:
    found = {
        script.revision: Path(script.path).name for script in scripts(CURRENT.migrations).walk_revisions()
    }
    phases = {revision: name.split("_")[1] for revision, name in found.items()}
    assert {revision for revision, phase in phases.items() if phase == "pre"} == set(CURRENT.revisions)
    assert {revision for revision, phase in phases.items() if phase == "post"} == set(CURRENT.post)


def test_opening_adds_and_takes_nothing_away(path: Path, later: Schema) -> None:
    opened(path, CURRENT).close()
    database = opened(path, later)
    assert columns(path, "more")
    assert "summary" in columns(path, "comparison")
    assert database.pending_post() == STEPS
    assert revisions(path) == {"9001"}
    database.close()


def test_finishing_takes_away_and_says_what(path: Path, later: Schema) -> None:
    opened(path, CURRENT).close()
    database = opened(path, later)
    assert database.finish_migrations() == STEPS
    assert "summary" not in columns(path, "comparison")
    assert "reason" not in columns(path, "run")
    assert revisions(path) == {"9001", "9003"}
    assert database.pending_post() == ()
    assert database.finish_migrations() == ()
    database.close()
    opened(path, later).close()


def test_a_fresh_store_has_nothing_to_finish(path: Path, later: Schema) -> None:
    database = opened(path, later)
    assert database.pending_post() == ()
    assert database.finish_migrations() == ()
    assert revisions(path) == {"9001", "9003"}
    database.close()


def test_the_present_release_has_nothing_to_finish(path: Path) -> None:
    database = opened(path, CURRENT)
    assert len(database.pending_post()) == 0
    database.close()


def test_a_release_that_does_not_know_a_post_step_refuses(path: Path, later: Schema) -> None:
    opened(path, CURRENT).close()
    earlier = [Schema(later.metadata, later.revisions, later.migrations, post) for post in ((), ("9002",))]
    for each in earlier:
        opened(path, each).close()
    database = opened(path, later)
    database.finish_migrations()
    database.close()
    before = path.read_bytes()
    for each in earlier:
        with pytest.raises(SchemaMismatch, match="9003"):
            opened(path, each)
    with pytest.raises(SchemaMismatch, match="9001, 9003"):
        open_store(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_what_was_left_is_finished_step_by_step(path: Path, later: Schema) -> None:
    opened(path, CURRENT).close()
    first = opened(path, Schema(later.metadata, later.revisions, later.migrations, ("9002",)))
    assert first.finish_migrations() == STEPS[:1]
    assert revisions(path) == {"9001", "9002"}
    first.close()
    second = opened(path, later)
    assert second.pending_post() == STEPS[1:]
    assert second.finish_migrations() == STEPS[1:]
    second.close()


def test_a_later_release_adds_before_an_earlier_one_is_finished(path: Path, later: Schema) -> None:
    opened(path, CURRENT).close()
    opened(path, later).close()
    (later.migrations / "versions" / "r9004_pre_yet_more.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\nrevision = '9004'\ndown_revision = '9001'\n"
        "def upgrade():\n    op.create_table('yet_more', sa.Column('id', sa.Integer(), primary_key=True))\n"
    )
    latest = Schema(later.metadata, (*later.revisions, "9004"), later.migrations, later.post)
    database = opened(path, latest)
    assert revisions(path) == {"9004"}
    assert database.finish_migrations() == STEPS
    assert revisions(path) == {"9004", "9003"}
    database.close()


def test_a_finish_that_dies_changes_nothing_and_can_be_done_again(path: Path, tmp_path: Path) -> None:
    dying = later_schema(tmp_path / "dying", no_reason=NO_REASON + "    import os; os._exit(9)\n")
    opened(path, CURRENT).close()
    opened(path, dying).close()
    code = textwrap.dedent(f"""
        from pathlib import Path
        from sidestage.store import tables
        from sidestage.store.schema import Schema
        from sidestage.store.sql_database import Database
        schema = Schema(tables.metadata, {dying.revisions!r}, Path({str(dying.migrations)!r}), {dying.post!r})
        Database("sqlite:///{path}", schema).finish_migrations()
    """)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert "summary" in columns(path, "comparison")
    database = opened(path, later_schema(tmp_path / "whole"))
    assert database.finish_migrations() == STEPS
    database.close()
