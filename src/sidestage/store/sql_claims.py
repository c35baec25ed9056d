"""Who runs which step: claims under a lease, measured by the database's clock."""

from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, exists, func, select, tuple_, update

from sidestage.events import StepStarted
from sidestage.store.dialect import DatabaseClock
from sidestage.store.prepared import Prepared
from sidestage.store.records import Claim
from sidestage.store.sql_database import SqlPart
from sidestage.store.sql_events import append
from sidestage.store.sql_rows import batches
from sidestage.store.tables import attempt, run, step

# What was running and is not done: ready again, for anybody.
_LET_GO: dict[str, Any] = {"state": "ready", "owner": None, "due": None}

_DUE = Prepared(
    update(step)
    .where(step.c.run == bindparam("of_run"), step.c.due <= DatabaseClock())
    .values(_LET_GO)
    .returning(step.c.position, step.c.attempt)
)

_NEXT = (
    select(step.c.position)
    .where(
        step.c.run == bindparam("of_run"),
        step.c.state == "ready",
        exists().where(run.c.id == bindparam("of_run"), run.c.state == "running").correlate(None),
    )
    .order_by(step.c.position)
    .limit(bindparam("at_most"))
    .with_for_update(skip_locked=True)
    .cte("next_steps")
)

_CLAIM = Prepared(
    update(step)
    .where(step.c.run == bindparam("of_run"), step.c.position.in_(select(_NEXT.c.position)))
    .values(
        state="running",
        owner=bindparam("by_owner"),
        fence=step.c.fence + 1,
        attempt=step.c.attempt + 1,
        due=DatabaseClock() + bindparam("lease"),
    )
    .returning(step.c.position, step.c.id, step.c.attempt, step.c.fence)
)

_HELD = and_(step.c.run == bindparam("of_run"), step.c.state == "running")

_EXTEND = (
    update(step)
    .where(_HELD, step.c.owner == bindparam("by_owner"))
    .values(due=DatabaseClock() + bindparam("lease"))
)

_ABANDON = Prepared(
    update(step)
    .where(_HELD, step.c.owner == bindparam("by_owner"))
    .values(_LET_GO)
    .returning(step.c.position, step.c.attempt)
)

_ABANDON_ALL = Prepared(update(step).where(_HELD).values(_LET_GO).returning(step.c.position, step.c.attempt))

_OWNERS = select(step.c.owner).where(_HELD).distinct().order_by(step.c.owner)

_NEXT_RETRY = select(func.min(step.c.due) - DatabaseClock()).where(
    step.c.run == bindparam("of_run"), step.c.due.is_not(None), step.c.state == "waiting"
)

_ATTEMPTS_ABANDONED = (
    update(attempt)
    .where(
        attempt.c.run == bindparam("of_run"),
        tuple_(attempt.c.position, attempt.c.number).in_(bindparam("tries", expanding=True)),
        attempt.c.state == "running",
    )
    .values(state="abandoned", ended_at=bindparam("now"))
)

_INSERT_ATTEMPT = Prepared(attempt.insert())


class _Taken(NamedTuple):
    """What ``_CLAIM`` returns of a step."""

    position: int
    id: str
    attempt: int
    fence: int


class SqlClaims(SqlPart):
    """Gives steps to those who run them, and takes them back."""

    def claim(self, run_id: int, owner: str, limit: int, *, lease: float, now: datetime) -> tuple[Claim, ...]:
        """Claim up to ``limit`` ready steps for ``lease`` seconds, in the order of the plan."""
        return self._database.write(
            partial(_claim, run_id=run_id, owner=owner, limit=limit, lease=lease, now=now), lazily=True
        )

    def extend(self, run_id: int, owner: str, *, lease: float) -> int:
        """Extend the leases of all steps the owner runs; return how many it still holds."""
        values = {"of_run": run_id, "by_owner": owner, "lease": lease}
        return self._database.write(lambda connection: connection.execute(_EXTEND, values).rowcount)

    def abandon(self, run_id: int, owner: str, now: datetime) -> int:
        """Make ready again all steps that an owner, known to be dead, was running; return how many."""
        values = {"of_run": run_id, "by_owner": owner}
        return self._database.write(partial(_let_go, which=_ABANDON, values=values, now=now))

    def owners(self, run_id: int) -> tuple[str, ...]:
        """Return who is running steps of the run."""
        return self._database.read(lambda connection: tuple(connection.scalars(_OWNERS, {"of_run": run_id})))

    def next_retry(self, run_id: int) -> float | None:
        """Return the seconds until the next step may be tried again, or None if none waits for that."""
        seconds = self._database.read(lambda connection: connection.scalar(_NEXT_RETRY, {"of_run": run_id}))
        return None if seconds is None else max(0.0, seconds)


def let_go_of_all(connection: Connection, run_id: int, now: datetime) -> int:
    """Make ready again all steps of a run that anybody was running; return how many."""
    return _let_go(connection, _ABANDON_ALL, {"of_run": run_id}, now)


def _claim(
    connection: Connection, run_id: int, owner: str, limit: int, lease: float, now: datetime
) -> tuple[Claim, ...]:
    _let_go(connection, _DUE, {"of_run": run_id}, now)
    values = {"of_run": run_id, "by_owner": owner, "at_most": limit, "lease": lease}
    taken = [_Taken._make(row) for row in sorted(_CLAIM.rows(connection, values))]
    if not taken:
        return ()
    _INSERT_ATTEMPT.change(
        connection,
        [
            {
                "run": run_id,
                "position": row.position,
                "number": row.attempt,
                "owner": owner,
                "state": "running",
                "started_at": now,
            }
            for row in taken
        ],
    )
    append(connection, ((run_id, StepStarted(now, str(run_id), row.id, row.attempt)) for row in taken))
    return tuple(Claim(run_id, row.id, owner, row.attempt, row.fence) for row in taken)


def _let_go(connection: Connection, which: Prepared, values: dict[str, Any], now: datetime) -> int:
    gone = which.rows(connection, values)
    for some in batches(gone):
        connection.execute(
            _ATTEMPTS_ABANDONED,
            {"of_run": values["of_run"], "tries": some, "now": now},
        )
    return len(gone)
