"""Everything: the first schema.

A migration says what was true when it was written, so it repeats the tables instead of importing them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_WORD = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_MOMENT = sa.BigInteger()


def upgrade() -> None:
    """Create all tables."""
    _runs()
    _steps()
    _attempts()
    _versions()
    _pointers()
    _moves()
    _comparisons_and_events()


def _runs() -> None:
    op.create_table(
        "environment",
        sa.Column("name", _WORD, nullable=False),
        sa.Column("base", _WORD, nullable=True),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_environment"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "run",
        sa.Column("id", _ID, nullable=False),
        sa.Column("pipeline", _WORD, nullable=False),
        sa.Column("environment", _WORD, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("ended_at", _MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["environment"], ["environment.name"], name="fk_run_environment"),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_run_environment_id", "run", ["environment", "id"])
    op.create_index("ix_run_pipeline_id", "run", ["pipeline", "id"])
    op.create_index("ix_run_state", "run", ["state"])


def _steps() -> None:
    op.create_table(
        "step",
        sa.Column("run", _ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("id", _WORD, nullable=False),
        sa.Column("task", _WORD, nullable=False),
        sa.Column("dataset", _WORD, nullable=False),
        sa.Column("partition", _WORD, nullable=False),
        sa.Column("expects", _WORD, nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("waiting_for", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("due", sa.Double(), nullable=True),
        sa.Column("version", _WORD, nullable=True),
        sa.Column("failure_class", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["run"], ["run.id"], name="fk_step_run"),
        sa.PrimaryKeyConstraint("run", "position", name="pk_step"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_step_run_due",
        "step",
        ["run", "due"],
        sqlite_where=sa.text("due IS NOT NULL"),
        postgresql_where=sa.text("due IS NOT NULL"),
    )
    op.create_index("ix_step_run_id", "step", ["run", "id"], unique=True)
    op.create_index("ix_step_run_state_position", "step", ["run", "state", "position"])
    op.create_table(
        "step_order",
        sa.Column("run", _ID, nullable=False),
        sa.Column("before", sa.Integer(), nullable=False),
        sa.Column("after", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("run", "before", "after", name="pk_step_order"),
        sqlite_with_rowid=False,
    )


def _attempts() -> None:
    op.create_table(
        "attempt",
        sa.Column("run", _ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("started_at", _MOMENT, nullable=False),
        sa.Column("ended_at", _MOMENT, nullable=True),
        sa.Column("failure_class", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("details", sa.Text(), nullable=True),
        sa.Column("findings", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("run", "position", "number", name="pk_attempt"),
        sqlite_with_rowid=False,
    )


def _versions() -> None:
    op.create_table(
        "version",
        sa.Column("id", _WORD, nullable=False),
        sa.Column("dataset", _WORD, nullable=False),
        sa.Column("partition", _WORD, nullable=False),
        sa.Column("environment", _WORD, nullable=False),
        sa.Column("run", _ID, nullable=False),
        sa.Column("step", _WORD, nullable=False),
        sa.Column("task", _WORD, nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("checksum", sa.Text(), nullable=False),
        sa.Column("columns", sa.Text(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("inputs", sa.Text(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("data_gone_at", _MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["run"], ["run.id"], name="fk_version_run"),
        sa.PrimaryKeyConstraint("id", name="pk_version"),
    )
    op.create_index("ix_version_task_id", "version", ["task", "id"])


def _pointers() -> None:
    op.create_table(
        "pointer",
        sa.Column("environment", _WORD, nullable=False),
        sa.Column("dataset", _WORD, nullable=False),
        sa.Column("partition", _WORD, nullable=False),
        sa.Column("version", _WORD, nullable=False),
        sa.ForeignKeyConstraint(["environment"], ["environment.name"], name="fk_pointer_environment"),
        sa.ForeignKeyConstraint(["version"], ["version.id"], name="fk_pointer_version"),
        sa.PrimaryKeyConstraint("environment", "dataset", "partition", name="pk_pointer"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "pointer_log",
        sa.Column("id", _ID, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("environment", _WORD, nullable=False),
        sa.Column("dataset", _WORD, nullable=False),
        sa.Column("partition", _WORD, nullable=False),
        sa.Column("previous", _WORD, nullable=True),
        sa.Column("version", _WORD, nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("move", _ID, nullable=True),
        sa.Column("run", _ID, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_pointer_log"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_pointer_log_environment_dataset_partition_id_at",
        "pointer_log",
        ["environment", "dataset", "partition", "id", "at"],
    )
    op.create_index(
        "ix_pointer_log_move_id",
        "pointer_log",
        ["move", "id"],
        sqlite_where=sa.text("move IS NOT NULL"),
        postgresql_where=sa.text("move IS NOT NULL"),
    )


def _moves() -> None:
    op.create_table(
        "released",
        sa.Column("environment", _WORD, nullable=False),
        sa.Column("task", _WORD, nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["environment"], ["environment.name"], name="fk_released_environment"),
        sa.PrimaryKeyConstraint("environment", "task", name="pk_released"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "move",
        sa.Column("id", _ID, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("environment", _WORD, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("pointers", sa.Integer(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("old_code_name", sa.Text(), nullable=False),
        sa.Column("new_code_name", sa.Text(), nullable=False),
        sa.Column("undoes", _ID, nullable=True),
        sa.Column("undone_by", _ID, nullable=True),
        sa.ForeignKeyConstraint(["environment"], ["environment.name"], name="fk_move_environment"),
        sa.PrimaryKeyConstraint("id", name="pk_move"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_move_environment_id", "move", ["environment", "id"])


def _comparisons_and_events() -> None:
    op.create_table(
        "comparison",
        sa.Column("id", _ID, nullable=False),
        sa.Column("environment", _WORD, nullable=False),
        sa.Column("base", _WORD, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("world", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_comparison"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_comparison_environment_id", "comparison", ["environment", "id"])
    op.create_table(
        "event",
        sa.Column("id", _ID, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("run", _ID, nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event"),
        sqlite_autoincrement=True,
    )
