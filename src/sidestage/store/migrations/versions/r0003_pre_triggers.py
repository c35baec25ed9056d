"""Triggers of pipelines and their ticks."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_WORD = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_MOMENT = sa.BigInteger()


def upgrade() -> None:
    """Add what this release needs."""
    op.create_table(
        "trigger",
        sa.Column("pipeline", _WORD, nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("since", _MOMENT, nullable=False),
        sa.Column("gone_at", _MOMENT, nullable=True),
        sa.Column("held", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("pipeline", name="pk_trigger"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tick",
        sa.Column("pipeline", _WORD, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("run", _ID, nullable=True),
        sa.Column("made_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("pipeline", "at", name="pk_tick"),
        sa.ForeignKeyConstraint(["pipeline"], ["trigger.pipeline"], name="fk_tick_pipeline"),
        sa.ForeignKeyConstraint(["run"], ["run.id"], name="fk_tick_run"),
        sqlite_with_rowid=False,
    )
