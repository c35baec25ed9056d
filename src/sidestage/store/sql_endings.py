"""How runs end: by themselves, when nothing is left that could run, or because somebody says so."""

from datetime import datetime

from sqlalchemy import Connection, and_, bindparam, func, literal, or_, select, update

from sidestage.events import RunEnded
from sidestage.store.prepared import Prepared
from sidestage.store.records import RunState
from sidestage.store.sql_claims import let_go_of_all
from sidestage.store.sql_events import append
from sidestage.store.tables import run, step
from sidestage.store.wakeups import announce

_OF_RUN = step.c.run == bindparam("of_run")

_UNDER_WAY = Prepared(select(literal(1)).where(_OF_RUN, step.c.state.in_(("ready", "running"))).limit(1))
_TO_BE_TRIED_AGAIN = Prepared(
    select(literal(1)).where(_OF_RUN, step.c.state == "waiting", step.c.due.is_not(None)).limit(1)
)

_END = (
    update(run)
    .where(run.c.id == bindparam("of_run"), run.c.state == "running")
    .values(state=bindparam("new_state"), ended_at=bindparam("now"))
)

_HOLD = select(run.c.id).where(run.c.id == bindparam("of_run")).with_for_update()

# Only steps of running runs are ready: a claim need not ask about the run.
_PUT_BACK = (
    update(step)
    .where(
        _OF_RUN, or_(step.c.state == "ready", and_(step.c.state == "waiting", step.c.due.is_not(None)))
    )
    .values(state="waiting", due=None)
)  # fmt: skip

_STATES = select(step.c.state, func.count().label("steps")).where(_OF_RUN).group_by(step.c.state)


def end_if_over(connection: Connection, run_id: int, now: datetime) -> None:
    """End a run, whose row is held, in which nothing is left that could run."""
    values = {"of_run": run_id}
    if _UNDER_WAY.rows(connection, values) or _TO_BE_TRIED_AGAIN.rows(connection, values):
        return
    unfinished = _counts(connection, run_id).keys() - {"done", "reused"}
    end(connection, run_id, "failed" if unfinished else "done", now)


def end(connection: Connection, run_id: int, state: RunState, now: datetime) -> bool:
    """End a run, taking back all claims; return False if it had ended, or there is none."""
    connection.execute(_HOLD, {"of_run": run_id}).all()
    if connection.execute(_END, {"of_run": run_id, "new_state": state, "now": now}).rowcount == 0:
        return False
    announce(connection)
    let_go_of_all(connection, run_id, now)
    connection.execute(_PUT_BACK, {"of_run": run_id})
    counts = _counts(connection, run_id)
    done, reused, failed = (counts.get(each, 0) for each in ("done", "reused", "failed"))
    skipped = sum(counts.values()) - done - reused - failed
    append(connection, [(run_id, RunEnded(now, str(run_id), state, done, failed, skipped))])
    return True


def _counts(connection: Connection, run_id: int) -> dict[str, int]:
    return {row.state: row.steps for row in connection.execute(_STATES, {"of_run": run_id})}
