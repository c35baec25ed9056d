"""Record what became of claimed steps: the publishing transaction, many outcomes at a time.

The rows an outcome depends on are read under lock, each outcome is judged against them and against what the
outcomes before it in the same group did, and then everything is written with conditions that repeat the
judgement: a row that no longer fits makes the whole transaction start again.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from functools import cache, partial
from itertools import chain

from sqlalchemy import Connection, and_, bindparam, case, select, update

from sidestage.store.dialect import DatabaseClock, insert_if_absent, locks_rows
from sidestage.store.outcomes import Group, HeldStep, KnownVersion, Rows, judge
from sidestage.store.prepared import Parameters, Prepared, change_all, find_all
from sidestage.store.records import Demand, Exchanged, Outcome, Publication, Reuse, Settled
from sidestage.store.sql_claims import take
from sidestage.store.sql_database import LostRaceError, SqlPart
from sidestage.store.sql_endings import end_if_over
from sidestage.store.sql_events import appended
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
from sidestage.store.wakeups import announced

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
_HOLD_ENVIRONMENTS = Prepared(
    select(environment.c.name)
    .where(
        environment.c.name.in_(
            select(run.c.environment).where(run.c.id.in_(bindparam("runs", expanding=True)))
        )
    )
    .order_by(environment.c.name)
    .with_for_update(read=True),
    listed=["runs"],
)

# Or else two workers that settle the last two steps of a run at once would each leave its end to the other.
_HOLD_RUNS = Prepared(
    select(run.c.id)
    .where(run.c.id.in_(bindparam("runs", expanding=True)))
    .order_by(run.c.id)
    .with_for_update(key_share=True),
    listed=["runs"],
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

    def exchange(self, outcomes: Sequence[Outcome], demand: Demand, now: datetime) -> Exchanged:
        """Settle, and claim what is ready then, all in one transaction."""
        first = iter([demand])
        return self._database.write(
            lambda connection: _exchange(connection, outcomes, next(first, None), now)
        )


def _settle(connection: Connection, outcomes: Sequence[Outcome], now: datetime) -> tuple[Settled, ...]:
    group = _look(connection, outcomes, now)
    settled = tuple(judge(group, outcome) for outcome in outcomes)
    _write(connection, group.rows)
    for run_id in sorted({row["of_run"] for row in group.rows.ended_steps}):
        end_if_over(connection, run_id, now)
    return settled


def _exchange(
    connection: Connection, outcomes: Sequence[Outcome], demand: Demand | None, now: datetime
) -> Exchanged:
    settled = _settle(connection, outcomes, now)
    return Exchanged(settled, None if demand is None else take(connection, demand, now))


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
    held: list[tuple[Prepared, Parameters]] = []
    if locks_rows(connection):
        runs = {"runs": sorted(by_run)}
        held = [(_HOLD_ENVIRONMENTS, runs), (_HOLD_RUNS, runs)]
    steps = [
        (_STEPS, {"of_run": run_id, "ids": some})
        for run_id in sorted(by_run)
        for some in batches(sorted(by_run[run_id]))
    ]
    known = [(_KNOWN, {"ids": some}) for some in batches(sorted(ids))]
    found = find_all(connection, [*held, *steps, *known])[len(held) :]
    group = Group(now)
    for row in chain.from_iterable(found[: len(steps)]):
        group.hold(HeldStep._make(row))
    for version_known in map(KnownVersion._make, chain.from_iterable(found[len(steps) :])):
        group.known[version_known.id] = version_known
    return group


def _write(connection: Connection, rows: Rows) -> None:
    """Write rows, each of which must take effect: if one did not, another transaction was faster."""
    attempts = [{**each, "new_findings": findings_json(each["new_findings"])} for each in rows.attempts]
    written: list[tuple[Prepared, Sequence[Parameters]]] = [
        (_INSERT_VERSION, [version_row(*made) for made in rows.versions]),
        (_insert_pointer(connection.dialect.name), rows.new_pointers),
        (_SET_POINTER, rows.moved_pointers),
        (_END_STEP, rows.ended_steps),
        (_RETRY_STEP, rows.retried_steps),
        (_END_ATTEMPT, attempts),
        (_INSERT_LOG, rows.log),
    ]
    written = [each for each in written if each[1]]
    freed: list[tuple[Prepared, Sequence[Parameters]]] = [(_FREE_DEPENDENTS, rows.done)] if rows.done else []
    if rows.attempts:
        freed += announced(connection)
    counts = change_all(connection, [*written, *freed, *appended(rows.events)])
    if any(count != len(each) for count, (_, each) in zip(counts, written, strict=False)):
        raise LostRaceError
