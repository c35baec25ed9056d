"""Who runs which step: claims under a lease, measured by the database's clock."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    FromClause,
    Select,
    TextClause,
    and_,
    bindparam,
    column,
    func,
    literal_column,
    select,
    text,
    tuple_,
    update,
)

from sidestage.events import StepStarted
from sidestage.store.dialect import DatabaseClock, locks_rows
from sidestage.store.prepared import Prepared, change_all
from sidestage.store.records import Claim, Demand, Holding, Waiting
from sidestage.store.sql_database import SqlPart
from sidestage.store.sql_events import appended
from sidestage.store.sql_rows import batches
from sidestage.store.tables import attempt, run, step, worker
from sidestage.store.wakeups import announce

# Literals, because partial indexes are only used for conditions known when a statement is prepared.
READY = step.c.state == literal_column("'ready'")
RUNNING = step.c.state == literal_column("'running'")

# What was running and is not done: ready again, for anybody.
_LET_GO: dict[str, Any] = {"state": "ready", "owner": None, "due": None, "ready_at": bindparam("now")}
_GONE = (step.c.run, step.c.position, step.c.attempt)

_DUE = Prepared(
    update(step)
    .where(step.c.due.is_not(None), step.c.due <= DatabaseClock())
    .values(_LET_GO)
    .returning(*_GONE)
)

_HELD = and_(step.c.due.is_not(None), RUNNING)
_OWNED = and_(_HELD, step.c.owner == bindparam("by_owner"))

_ABANDON = Prepared(update(step).where(_OWNED).values(_LET_GO).returning(*_GONE))
_ABANDON_IN_RUN = Prepared(
    update(step).where(_OWNED, step.c.run == bindparam("of_run")).values(_LET_GO).returning(*_GONE)
)
_ABANDON_ALL = Prepared(
    update(step).where(step.c.run == bindparam("of_run"), RUNNING).values(_LET_GO).returning(*_GONE)
)

_OWNERS = (
    select(step.c.owner).where(step.c.run == bindparam("of_run"), RUNNING).distinct().order_by(step.c.owner)
)

_NEXT_DUE = select(func.min(step.c.due) - DatabaseClock()).where(step.c.due.is_not(None))

_ATTEMPTS_ABANDONED = (
    update(attempt)
    .where(
        tuple_(attempt.c.run, attempt.c.position, attempt.c.number).in_(bindparam("tries", expanding=True)),
        attempt.c.state == "running",
    )
    .values(state="abandoned", ended_at=bindparam("now"))
)

_INSERT_ATTEMPT = Prepared(attempt.insert())

_WAITING = (
    select(
        step.c.run, run.c.pipeline, step.c.id, step.c.queue, step.c.pool, step.c.slots, step.c.ready_at,
        run.c.created_at,
    )
    .join(run, run.c.id == step.c.run)
    .where(READY)
    .order_by(step.c.run, step.c.position)
    .limit(bindparam("at_most"))
)  # fmt: skip

_HOLDINGS = (
    select(step.c.run, run.c.pipeline, step.c.id, step.c.pool, step.c.slots, step.c.owner)
    .join(run, run.c.id == step.c.run)
    .where(RUNNING, step.c.pool.is_not(None))
    .order_by(step.c.pool, step.c.run, step.c.position)
)

_LOCK_POOLS = text("SELECT pg_advisory_xact_lock(hashtextextended('sidestage pools', 0))")


class _Taken(NamedTuple):
    """What claiming returns of a step."""

    run: int
    position: int
    id: str
    attempt: int
    fence: int


def _claim_free(source: FromClause | TextClause, *, some_runs: bool, some_queues: bool) -> Prepared:
    """Return the statement that claims ready steps that need no pool."""
    ready: Select[*tuple[Any, ...]] = select(column("run"), column("position")).select_from(source)
    ready = ready.where(literal_column("state") == literal_column("'ready'"), column("pool").is_(None))
    listed = []
    if some_runs:
        ready = ready.where(column("run").in_(bindparam("runs", expanding=True)))
        listed.append("runs")
    if some_queues:
        ready = ready.where(column("queue").in_(bindparam("queues", expanding=True)))
        listed.append("queues")
    chosen = (
        ready.order_by(column("run"), column("position"))
        .limit(bindparam("at_most"))
        .with_for_update(skip_locked=True)
        .cte("next_steps")
    )
    return _claiming(tuple_(step.c.run, step.c.position).in_(select(chosen)), listed=listed)


def _claiming(where: Any, listed: Sequence[str] = ()) -> Prepared:
    values = {
        "state": "running",
        "owner": bindparam("by_owner"),
        "fence": step.c.fence + 1,
        "attempt": step.c.attempt + 1,
        "due": DatabaseClock() + bindparam("lease"),
    }
    taken = (step.c.run, step.c.position, step.c.id, step.c.attempt, step.c.fence)
    return Prepared(update(step).where(where).values(values).returning(*taken), listed=listed)


# SQLite would rather walk through all steps of a run until it finds those that are ready.
_SOURCES: dict[bool, FromClause | TextClause] = {
    True: step,
    False: text("step INDEXED BY ix_step_ready"),
}

_CLAIM_FREE = {
    (locks, some_runs, some_queues): _claim_free(source, some_runs=some_runs, some_queues=some_queues)
    for locks, source in _SOURCES.items()
    for some_runs in (False, True)
    for some_queues in (False, True)
}

# Skipped if locked: whoever settles it may be waiting for the pools, which whoever claims it holds.
_ONE = (
    select(step.c.run, step.c.position)
    .where(step.c.run == bindparam("of_run"), step.c.position == bindparam("at_position"), READY)
    .with_for_update(skip_locked=True)
    .cte("this_step")
)
_CLAIM_ONE = _claiming(tuple_(step.c.run, step.c.position).in_(select(_ONE)))

_POOLED = Prepared(
    select(
        step.c.run, step.c.position, step.c.queue, step.c.pool, step.c.slots, run.c.pipeline
    )
    .join(run, run.c.id == step.c.run)
    .where(READY, step.c.pool.is_not(None))
    .order_by(step.c.run, step.c.position)
)  # fmt: skip


class _Pooled(NamedTuple):
    """A ready step that needs slots of a pool."""

    run: int
    position: int
    queue: str
    pool: str
    slots: int
    pipeline: str


class SqlClaims(SqlPart):
    """Gives steps to those who run them, and takes them back."""

    def claim(self, demand: Demand, now: datetime) -> tuple[Claim, ...]:
        """Claim ready steps: older runs first, then as planned."""
        return self._database.write(partial(_claim, demand=demand, now=now), lazily=True)

    def abandon(self, owner: str, now: datetime, *, run: int | None = None) -> int:
        """Make ready again all steps that an owner, known to be gone, was running; return how many."""
        return self._database.write(partial(_abandon, owner=owner, now=now, run_id=run))

    def owners(self, run_id: int) -> tuple[str, ...]:
        """Return who is running steps of the run."""
        return self._database.read(lambda connection: tuple(connection.scalars(_OWNERS, {"of_run": run_id})))

    def waiting(self, limit: int = 1000) -> tuple[Waiting, ...]:
        """Return ready steps that nobody has claimed, in the order in which they would be."""
        return self._database.read(partial(_waiting, limit=limit))

    def holdings(self) -> tuple[Holding, ...]:
        """Return the steps that run and hold slots of a pool."""
        return self._database.read(
            lambda connection: tuple(Holding(*row) for row in connection.execute(_HOLDINGS))
        )

    def next_due(self) -> float | None:
        """Return the seconds until a lease expires or a step may be tried again, whichever is first."""
        seconds = self._database.read(lambda connection: connection.scalar(_NEXT_DUE))
        return None if seconds is None else max(0.0, seconds)


def let_go_of_all(connection: Connection, run_id: int, now: datetime) -> int:
    """Make ready again all steps of a run that anybody was running; return how many."""
    return _let_go(connection, _ABANDON_ALL, {"of_run": run_id, "now": now})


def take(connection: Connection, demand: Demand, now: datetime) -> tuple[Claim, ...]:
    """Claim steps that are ready, within a transaction."""
    if demand.limit <= 0:
        return ()
    taken = _claim_pooled(connection, demand) if demand.pools else []
    if len(taken) < demand.limit:
        taken += _claim_unpooled(connection, demand, demand.limit - len(taken))
    taken.sort()
    _note(connection, taken, demand.owner, now)
    return tuple(Claim(row.run, row.id, demand.owner, row.attempt, row.fence) for row in taken)


def _claim(connection: Connection, demand: Demand, now: datetime) -> tuple[Claim, ...]:
    _let_go(connection, _DUE, {"now": now})
    return take(connection, demand, now)


def _claim_unpooled(connection: Connection, demand: Demand, limit: int) -> list[_Taken]:
    values: dict[str, Any] = {"by_owner": demand.owner, "at_most": limit, "lease": demand.lease}
    if demand.runs is not None:
        values["runs"] = sorted(set(demand.runs))
    if demand.queues is not None:
        values["queues"] = sorted(set(demand.queues))
    statement = _CLAIM_FREE[locks_rows(connection), demand.runs is not None, demand.queues is not None]
    return [_Taken._make(row) for row in statement.rows(connection, values)]


def _claim_pooled(connection: Connection, demand: Demand) -> list[_Taken]:
    """Claim steps that hold slots of a pool, as far as they are free, in order."""
    if not _POOLED.rows(connection, {}):
        return []
    if locks_rows(connection):  # what is free can be counted by one worker at a time only
        connection.execute(_LOCK_POOLS)
    pools = {pool.name: pool for pool in demand.pools}
    held: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for holding in connection.execute(_HOLDINGS):
        held[holding.pool][holding.pipeline] += holding.slots
    taken: list[_Taken] = []
    for ready in map(_Pooled._make, _POOLED.rows(connection, {})):
        pool = pools.get(ready.pool)
        if pool is None or not _serves(demand, ready):
            continue
        if min(ready.slots, pool.slots) > pool.free_for(ready.pipeline, held[pool.name]):
            continue
        values = {
            "by_owner": demand.owner,
            "lease": demand.lease,
            "of_run": ready.run,
            "at_position": ready.position,
        }
        one = [_Taken._make(row) for row in _CLAIM_ONE.rows(connection, values)]
        if not one:
            continue
        taken += one
        held[pool.name][ready.pipeline] += ready.slots
        if len(taken) == demand.limit:
            break
    return taken


def _serves(demand: Demand, ready: _Pooled) -> bool:
    return (demand.runs is None or ready.run in demand.runs) and (
        demand.queues is None or ready.queue in demand.queues
    )


def _note(connection: Connection, taken: Sequence[_Taken], owner: str, now: datetime) -> None:
    if not taken:
        return
    attempts = [
        {
            "run": row.run,
            "position": row.position,
            "number": row.attempt,
            "owner": owner,
            "state": "running",
            "started_at": now,
        }
        for row in taken
    ]
    started = ((row.run, StepStarted(now, str(row.run), row.id, row.attempt)) for row in taken)
    change_all(connection, [(_INSERT_ATTEMPT, attempts), *appended(started)])


def _abandon(connection: Connection, owner: str, now: datetime, run_id: int | None) -> int:
    values: dict[str, Any] = {"by_owner": owner, "now": now}
    if run_id is not None:
        return _let_go(connection, _ABANDON_IN_RUN, {**values, "of_run": run_id})
    connection.execute(worker.delete().where(worker.c.name == owner))
    return _let_go(connection, _ABANDON, values)


def _let_go(connection: Connection, which: Prepared, values: dict[str, Any]) -> int:
    gone = which.rows(connection, values)
    for some in batches(gone):
        connection.execute(_ATTEMPTS_ABANDONED, {"tries": some, "now": values["now"]})
    if gone:
        announce(connection)
    return len(gone)


def _waiting(connection: Connection, limit: int) -> tuple[Waiting, ...]:
    return tuple(
        Waiting(row.run, row.pipeline, row.id, row.queue, row.pool, row.slots, row.ready_at or row.created_at)
        for row in connection.execute(_WAITING, {"at_most": limit})
    )
