"""Workers, queues and pools; drivers and keys of runs; small values; how attempts were isolated."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_WORD = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_MOMENT = sa.BigInteger()


def upgrade() -> None:
    """Add what this release needs."""
    op.add_column("run", sa.Column("driver", sa.Text(), nullable=True))
    op.add_column("run", sa.Column("key", _WORD, nullable=True))
    op.create_index("ix_run_key", "run", ["key"], unique=True)
    op.add_column("step", sa.Column("queue", _WORD, nullable=False, server_default="default"))
    op.add_column("step", sa.Column("pool", _WORD, nullable=True))
    op.add_column("step", sa.Column("slots", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("step", sa.Column("ready_at", _MOMENT, nullable=True))
    _partial_index("ix_step_ready", "state = 'ready' AND pool IS NULL", "run", "position")
    _partial_index("ix_step_ready_pool", "state = 'ready' AND pool IS NOT NULL", "run", "position")
    _partial_index("ix_step_running_pool", "state = 'running' AND pool IS NOT NULL", "pool")
    _partial_index("ix_step_due", "due IS NOT NULL", "due")
    op.drop_index("ix_step_run_due", "step")
    op.add_column("attempt", sa.Column("isolation", sa.Text(), nullable=True))
    op.add_column("version", sa.Column("value", sa.Text(), nullable=True))
    _let_go_in_ended_runs()
    op.create_table(
        "worker",
        sa.Column("name", _WORD, nullable=False),
        sa.Column("queues", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.Column("started_at", _MOMENT, nullable=False),
        sa.Column("seen_at", _MOMENT, nullable=False),
        sa.Column("due", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_worker"),
        sqlite_with_rowid=False,
    )


def _partial_index(name: str, where: str, *columns: str) -> None:
    op.create_index(name, "step", list(columns), sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _let_go_in_ended_runs() -> None:
    """Steps of ended runs are not ready: from this release on, workers claim whatever is."""
    op.execute(
        "UPDATE step SET state = 'waiting', due = NULL WHERE state IN ('ready', 'waiting')"
        " AND run IN (SELECT id FROM run WHERE state <> 'running')"
    )
