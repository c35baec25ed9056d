"""The tables of the store, for SQLite and PostgreSQL alike.

Moments that are shown to people are whole microseconds since 1970 (UTC), so that they sort and compare the
same in every database. Leases and retries are seconds by the database's own clock. What is only ever read
back whole (digests, inputs, findings) is JSON text.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)
from sqlalchemy.types import TypeDecorator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Moment(TypeDecorator[datetime]):
    """An aware datetime, kept as microseconds since 1970 UTC. Raises ValueError for a naive one."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Return the microseconds of a moment."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            message = f"{value!r} has no time zone, and the store keeps no guesses"
            raise ValueError(message)
        return (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return the moment, in UTC."""
        del dialect
        return None if value is None else _EPOCH + timedelta(microseconds=value)


# Plain code point order in every database, so that ids and names sort alike everywhere.
Word = Text().with_variant(Text(collation="C"), "postgresql")
# SQLite numbers rows by itself only in a column declared INTEGER.
Id = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _partial_index(name: str, where: str, *columns: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


environment = Table(
    "environment",
    metadata,
    Column("name", Word, primary_key=True),
    Column("base", Word, nullable=True),
    Column("code", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)

run = Table(
    "run",
    metadata,
    Column("id", Id, primary_key=True),
    Column("pipeline", Word, nullable=False),
    Column("environment", Word, ForeignKey("environment.name"), nullable=False),
    Column("state", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("plan", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("ended_at", Moment, nullable=True),
    Column("driver", Text, nullable=True),
    Column("key", Word, nullable=True),
    Index(None, "key", unique=True),
    Index(None, "pipeline", "id"),
    Index(None, "environment", "id"),
    Index(None, "state"),
    sqlite_autoincrement=True,
)

# ``due`` is when the step becomes ready by itself: the end of its lease while it is running, the time of its
# next try while it is waiting. ``waiting_for`` counts the steps before it that are not done.
step = Table(
    "step",
    metadata,
    Column("run", Id, ForeignKey("run.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("id", Word, nullable=False),
    Column("task", Word, nullable=False),
    Column("dataset", Word, nullable=False),
    Column("partition", Word, nullable=False),
    Column("expects", Word, nullable=True),
    Column("state", Text, nullable=False),
    Column("waiting_for", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("owner", Text, nullable=True),
    Column("due", Double, nullable=True),
    Column("version", Word, nullable=True),
    Column("failure_class", Text, nullable=True),
    Column("message", Text, nullable=True),
    Column("seconds", Double, nullable=True),
    Column("queue", Word, nullable=False, server_default="default"),
    Column("pool", Word, nullable=True),
    Column("slots", Integer, nullable=False, server_default="1"),
    Column("ready_at", Moment, nullable=True),
    Index(None, "run", "id", unique=True),
    Index(None, "run", "state", "position"),
    # What a claim looks for is found at once, however long the queue and the history are.
    _partial_index("ix_step_ready", "state = 'ready' AND pool IS NULL", "run", "position"),
    _partial_index("ix_step_ready_pool", "state = 'ready' AND pool IS NOT NULL", "run", "position"),
    _partial_index("ix_step_running_pool", "state = 'running' AND pool IS NOT NULL", "pool"),
    _partial_index("ix_step_due", "due IS NOT NULL", "due"),
    sqlite_with_rowid=False,
)

# Processes that claim steps. ``due`` is when the worker counts as dead, by the database's clock.
worker = Table(
    "worker",
    metadata,
    Column("name", Word, primary_key=True),
    Column("queues", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("draining", Boolean, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("seen_at", Moment, nullable=False),
    Column("due", Double, nullable=False),
    sqlite_with_rowid=False,
)

# Step ``before`` must be done before step ``after`` can start; both are positions.
step_order = Table(
    "step_order",
    metadata,
    Column("run", Id, primary_key=True),
    Column("before", Integer, primary_key=True),
    Column("after", Integer, primary_key=True),
    sqlite_with_rowid=False,
)

attempt = Table(
    "attempt",
    metadata,
    Column("run", Id, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("ended_at", Moment, nullable=True),
    Column("failure_class", Text, nullable=True),
    Column("message", Text, nullable=True),
    Column("details", Text, nullable=True),
    Column("findings", Text, nullable=True),
    Column("isolation", Text, nullable=True),
    sqlite_with_rowid=False,
)

# ``columns`` is empty where the digest names the same columns in the same order. ``value`` is the JSON of a
# version that is a single small value: it lies here, and there is no file.
version = Table(
    "version",
    metadata,
    Column("id", Word, primary_key=True),
    Column("dataset", Word, nullable=False),
    Column("partition", Word, nullable=False),
    Column("environment", Word, nullable=False),
    Column("run", Id, ForeignKey("run.id"), nullable=False),
    Column("step", Word, nullable=False),
    Column("task", Word, nullable=False),
    Column("code", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("checksum", Text, nullable=False),
    Column("columns", Text, nullable=True),
    Column("digest", Text, nullable=False),
    Column("inputs", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("data_gone_at", Moment, nullable=True),
    Column("value", Text, nullable=True),
    Index(None, "task", "id"),
)

# Triggers of pipelines, as JSON (NULL: it has none any more), and why the next tick could not be begun.
trigger = Table(
    "trigger",
    metadata,
    Column("pipeline", Word, primary_key=True),
    Column("trigger", Text, nullable=False),
    Column("since", Moment, nullable=False),
    Column("gone_at", Moment, nullable=True),
    Column("held", Text, nullable=True),
    sqlite_with_rowid=False,
)

# Append-only. ``run`` is NULL where there was nothing to do.
tick = Table(
    "tick",
    metadata,
    Column("pipeline", Word, ForeignKey("trigger.pipeline"), primary_key=True),
    Column("at", Moment, primary_key=True),
    Column("run", Id, ForeignKey("run.id"), nullable=True),
    Column("made_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)

# Streams that workers keep running. ``due`` is the end of the lease by the database's clock.
service = Table(
    "service",
    metadata,
    Column("name", Word, primary_key=True),
    Column("owner", Text, nullable=True),
    Column("fence", Integer, nullable=False),
    Column("due", Double, nullable=False),
    Column("state", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("restarts", Integer, nullable=False),
    Column("url", Text, nullable=False),
    Column("since", Moment, nullable=False),
    Column("asked", Integer, nullable=False),
    sqlite_with_rowid=False,
)

pointer = Table(
    "pointer",
    metadata,
    Column("environment", Word, ForeignKey("environment.name"), primary_key=True),
    Column("dataset", Word, primary_key=True),
    Column("partition", Word, primary_key=True),
    Column("version", Word, ForeignKey("version.id"), nullable=False),
    sqlite_with_rowid=False,
)

# Append-only. ``previous`` is what the pointer showed before; the changes of a move are its lines here.
pointer_log = Table(
    "pointer_log",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("environment", Word, nullable=False),
    Column("dataset", Word, nullable=False),
    Column("partition", Word, nullable=False),
    Column("previous", Word, nullable=True),
    Column("version", Word, nullable=True),
    Column("kind", Text, nullable=False),
    Column("move", Id, nullable=True),
    Column("run", Id, nullable=True),
    Index(None, "environment", "dataset", "partition", "id", "at"),
    Index(
        None,
        "move",
        "id",
        sqlite_where=text("move IS NOT NULL"),
        postgresql_where=text("move IS NOT NULL"),
    ),
    sqlite_autoincrement=True,
)

released = Table(
    "released",
    metadata,
    Column("environment", Word, ForeignKey("environment.name"), primary_key=True),
    Column("task", Word, primary_key=True),
    Column("code", Text, nullable=False),
    sqlite_with_rowid=False,
)

move = Table(
    "move",
    metadata,
    Column("id", Id, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("environment", Word, ForeignKey("environment.name"), nullable=False),
    Column("at", Moment, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("pointers", Integer, nullable=False),
    Column("code", Text, nullable=False),
    Column("old_code_name", Text, nullable=False),
    Column("new_code_name", Text, nullable=False),
    Column("undoes", Id, nullable=True),
    Column("undone_by", Id, nullable=True),
    Index(None, "environment", "id"),
    sqlite_autoincrement=True,
)

comparison = Table(
    "comparison",
    metadata,
    Column("id", Id, primary_key=True),
    Column("environment", Word, nullable=False),
    Column("base", Word, nullable=False),
    Column("at", Moment, nullable=False),
    Column("passed", Boolean, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("world", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("report", Text, nullable=False),
    Index(None, "environment", "id"),
    sqlite_autoincrement=True,
)

# Append-only.
event = Table(
    "event",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("run", Id, nullable=True),
    Column("kind", Text, nullable=False),
    Column("body", Text, nullable=False),
    sqlite_autoincrement=True,
)
