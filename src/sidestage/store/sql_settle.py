"""Record what became of claimed steps: the publishing transaction, many outcomes at a time.

The rows an outcome depends on are read under lock, each outcome is judged against them and against what the
outcomes before it in the same group did, and then everything is written with conditions that repeat the
judgement: a row that no longer fits makes the whole transaction start again.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from functools import cache, partial
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, select, update

from sidestage.store.dialect import DatabaseClock, insert_if_absent, locks_rows
from sidestage.store.outcomes import Group, HeldStep, KnownVersion, Rows, judge
from sidestage.store.prepared import Prepared
from sidestage.store.records import Outcome, Publication, Reuse, Settled
from sidestage.store.sql_database import LostRaceError, SqlPart
from sidestage.store.sql_endings import end_if_over
from sidestage.store.sql_events import append
from sidestage.store.sql_rows import batches, findings_json, version_row
from sidestage.store.tables import (
    attempt,
    environment,
    pointer,
    pointer_log,
    released,
    run,
    step,
    step_order,
    version,
)
from sidestage.store.wakeups import announce

_STEPS = Prepared(
    select(
        step.c.run,
        step.c.id,
        step.c.position,
        step.c.task,
        step.c.dataset,
        step.c.partition,
        step.c.expects,
        step.c.state,
        step.c.fence,
        step.c.attempt,
        step.c.owner,
        run.c.environment,
        run.c.state.label("run_state"),
        pointer.c.version.label("shown"),
        released.c.code.label("released"),
    )  # in the order of HeldStep
    .join(run, run.c.id == step.c.run)
    .outerjoin(
        pointer,
        and_(
            pointer.c.environment == run.c.environment,
            pointer.c.dataset == step.c.dataset,
            pointer.c.partition == step.c.partition,
        ),
    )
    .outerjoin(released, and_(released.c.environment == run.c.environment, released.c.task == step.c.task))
    .where(step.c.run == bindparam("of_run"), step.c.id.in_(bindparam("ids", expanding=True)))
    .with_for_update(of=step),
    listed=["ids"],
)

# So that no move can release other code, or point elsewhere, between looking and writing.
_HOLD_ENVIRONMENTS = (
    select(environment.c.name)
    .where(
        environment.c.name.in_(
            select(run.c.environment).where(run.c.id.in_(bindparam("runs", expanding=True)))
        )
    )
    .order_by(environment.c.name)
    .with_for_update(read=True)
)

# Or else two workers that settle the last two steps of a run at once would each leave its end to the other.
_HOLD_RUNS = (
    select(run.c.id)
    .where(run.c.id.in_(bindparam("runs", expanding=True)))
    .order_by(run.c.id)
    .with_for_update()
)

_KNOWN = Prepared(
    select(version.c.id, version.c.dataset, version.c.partition, version.c.data_gone_at.is_not(None))
    .where(version.c.id.in_(bindparam("ids", expanding=True)))
    .with_for_update(read=True),
    listed=["ids"],
)

_SET_POINTER = Prepared(
    update(pointer)
    .where(
        pointer.c.environment == bindparam("at_environment"),
        pointer.c.dataset == bindparam("at_dataset"),
        pointer.c.partition == bindparam("at_partition"),
        pointer.c.version == bindparam("old"),
    )
    .values(version=bindparam("new"))
)

_HELD = and_(
    step.c.run == bindparam("of_run"),
    step.c.position == bindparam("at_position"),
    step.c.state == "running",
    step.c.fence == bindparam("at_fence"),
)

_END_STEP = Prepared(
    update(step)
    .where(_HELD)
    .values(
        state=bindparam("new_state"),
        owner=None,
        due=None,
        version=bindparam("new_version"),
        failure_class=bindparam("new_class"),
        message=bindparam("new_message"),
        seconds=bindparam("new_seconds"),
    )
)

_RETRY_STEP = Prepared(
    update(step)
    .where(_HELD)
    .values(
        state="waiting",
        owner=None,
        due=DatabaseClock() + bindparam("retry_in"),
        failure_class=bindparam("new_class"),
        message=bindparam("new_message"),
    )
)

_END_ATTEMPT = Prepared(
    update(attempt)
    .where(
        attempt.c.run == bindparam("of_run"),
        attempt.c.position == bindparam("at_position"),
        attempt.c.number == bindparam("at_number"),
    )
    .values(
        state=bindparam("new_state"),
        ended_at=bindparam("now"),
        failure_class=bindparam("new_class"),
        message=bindparam("new_message"),
        details=bindparam("new_details"),
        findings=bindparam("new_findings"),
        isolation=bindparam("new_isolation"),
    )
)

_FREE_DEPENDENTS = Prepared(
    update(step)
    .where(
        step.c.run == bindparam("of_run"),
        step.c.position.in_(
            select(step_order.c.after).where(
                step_order.c.run == bindparam("of_run"), step_order.c.before == bindparam("done_position")
            )
        ),
    )
    .values(
        waiting_for=step.c.waiting_for - 1,
        state=case((and_(step.c.waiting_for == 1, step.c.state == "waiting"), "ready"), else_=step.c.state),
        ready_at=bindparam("now"),
    )
)


_INSERT_VERSION = Prepared(version.insert())
_INSERT_LOG = Prepared(pointer_log.insert())


@cache
def _insert_pointer(dialect: str) -> Prepared:
    return Prepared(insert_if_absent(dialect, pointer))


class SqlSettle(SqlPart):
    """Publishes, and records failures."""

    def settle(self, outcomes: Sequence[Outcome], now: datetime) -> tuple[Settled, ...]:
        """Record what became of claimed steps, in one transaction (group commit).

        A publication whose version does not name the claim's run (as text), step, environment, dataset and
        partition, or whose version id exists already, fails its step with class ``bug``.
        """
        if not outcomes:
            return ()
        return self._database.write(partial(_settle, outcomes=outcomes, now=now))


def _settle(connection: Connection, outcomes: Sequence[Outcome], now: datetime) -> tuple[Settled, ...]:
    group = _look(connection, outcomes, now)
    settled = tuple(judge(group, outcome) for outcome in outcomes)
    _write(connection, group.rows)
    for run_id in sorted({row["of_run"] for row in group.rows.ended_steps}):
        end_if_over(connection, run_id, now)
    return settled


def _look(connection: Connection, outcomes: Sequence[Outcome], now: datetime) -> Group:
    by_run: dict[int, set[str]] = defaultdict(set)
    ids = set()
    for outcome in outcomes:
        by_run[outcome.claim.run].add(outcome.claim.step)
        match outcome:
            case Publication():
                ids.add(outcome.version.id)
            case Reuse():
                ids.add(outcome.version)
    group = Group(now)
    if locks_rows(connection):
        connection.execute(_HOLD_ENVIRONMENTS, {"runs": sorted(by_run)}).all()
        connection.execute(_HOLD_RUNS, {"runs": sorted(by_run)}).all()
    for run_id in sorted(by_run):
        for some in batches(sorted(by_run[run_id])):
            for row in _STEPS.rows(connection, {"of_run": run_id, "ids": some}):
                group.hold(HeldStep._make(row))
    for some in batches(sorted(ids)):
        for row in _KNOWN.rows(connection, {"ids": some}):
            known = KnownVersion._make(row)
            group.known[known.id] = known
    return group


def _write(connection: Connection, rows: Rows) -> None:
    _execute(connection, _INSERT_VERSION, [version_row(*made) for made in rows.versions])
    _execute(connection, _insert_pointer(connection.dialect.name), rows.new_pointers)
    _execute(connection, _SET_POINTER, rows.moved_pointers)
    _execute(connection, _END_STEP, rows.ended_steps)
    _execute(connection, _RETRY_STEP, rows.retried_steps)
    attempts = [{**each, "new_findings": findings_json(each["new_findings"])} for each in rows.attempts]
    _execute(connection, _END_ATTEMPT, attempts)
    _execute(connection, _INSERT_LOG, rows.log)
    if rows.done:
        _FREE_DEPENDENTS.change(connection, rows.done)
        announce(connection)
    append(connection, rows.events)


def _execute(connection: Connection, statement: Prepared, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows, each of which must take effect: if one did not, another transaction was faster."""
    if rows and statement.change(connection, rows) != len(rows):
        raise LostRaceError
