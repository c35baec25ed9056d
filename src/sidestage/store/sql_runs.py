"""Runs, their steps and attempts: begun, looked at, ended, taken up again."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, or_, select, update

from sidestage.events import RunStarted
from sidestage.store.dialect import know_sizes
from sidestage.store.prepared import Prepared
from sidestage.store.records import Attempt, NewRun, NewStep, Run, RunState, Step
from sidestage.store.refusals import another_run, no_environment, no_run, positions_of
from sidestage.store.sql_database import SqlPart
from sidestage.store.sql_endings import end, end_if_over
from sidestage.store.sql_events import append
from sidestage.store.sql_rows import attempt_of, batches, run_of, step_of
from sidestage.store.tables import attempt, environment, run, step, step_order, version
from sidestage.store.wakeups import announce

_SUMMARY = [column for column in run.c if column.name != "plan"]
_RECENT = 50

_LATEST = (
    select(version.c.seconds)
    .where(version.c.task == bindparam("of_task"))
    .order_by(version.c.id.desc())
    .limit(_RECENT)
    .subquery()
)
_MEAN_SECONDS = select(func.avg(_LATEST.c.seconds))

_MADE = Prepared(
    select(step.c.id, step.c.version).where(
        step.c.run == bindparam("of_run"),
        step.c.id.in_(bindparam("ids", expanding=True)),
        step.c.version.is_not(None),
    ),
    listed=["ids"],
)


class SqlRuns(SqlPart):
    """Keeps runs."""

    def begin_run(self, run: NewRun, steps: Sequence[NewStep], now: datetime, *, alone: bool = False) -> int:
        """Record a run with all its steps; return its id. Steps without predecessors are ready at once.

        Raises NotFound for an unknown environment, StoreError if two steps have the same id, a step comes
        after one that does not stand before it, or another run is open that it should be alone with.
        """
        positions = positions_of(steps)
        work = partial(begin, new=run, steps=steps, positions=positions, now=now, alone=alone)
        return self._database.write(work)

    def open_runs(self) -> tuple[Run, ...]:
        """Return the runs that have not ended, oldest first, with an empty ``plan``."""
        query = select(*_SUMMARY).where(run.c.state == "running").order_by(run.c.id)
        return self._database.read(
            lambda connection: tuple(run_of(row, "") for row in connection.execute(query))
        )

    def run(self, run_id: int) -> Run | None:
        """Return a run, or None."""
        row = self._database.read(
            lambda connection: connection.execute(select(run).where(run.c.id == run_id)).one_or_none()
        )
        return None if row is None else run_of(row, row.plan)

    def runs(
        self, *, pipeline: str | None = None, environment: str | None = None, limit: int = 20
    ) -> tuple[Run, ...]:
        """Return runs, newest first, with an empty ``plan``."""
        query = select(*_SUMMARY).order_by(run.c.id.desc()).limit(limit)
        if pipeline is not None:
            query = query.where(run.c.pipeline == pipeline)
        if environment is not None:
            query = query.where(run.c.environment == environment)
        return self._database.read(
            lambda connection: tuple(run_of(row, "") for row in connection.execute(query))
        )

    def steps(self, run_id: int) -> tuple[Step, ...]:
        """Return the steps of a run in the order in which they were given."""
        query = select(step).where(step.c.run == run_id).order_by(step.c.position)
        return self._database.read(
            lambda connection: tuple(step_of(row) for row in connection.execute(query))
        )

    def made(self, run_id: int, steps: Collection[str]) -> dict[str, str]:
        """Return the version that each of these steps made or reused; those not done are left out."""
        return self._database.read(partial(_made, run_id=run_id, steps=steps))

    def attempts(self, run_id: int, step: str | None = None) -> tuple[Attempt, ...]:
        """Return the attempts of a run, or of one step, in the order of the plan, oldest first."""
        return self._database.read(partial(_attempts, run_id=run_id, step_id=step))

    def reopen_run(self, run_id: int, *, driver: str | None = None, alone: bool = False) -> int:
        """Make the run running and its failed steps ready again; return how many steps are still to be done.

        Steps that somebody is running are left to them. Raises NotFound, or StoreError if a run is open that
        it should be alone with.
        """
        return self._database.write(partial(_reopen, run_id=run_id, driver=driver, alone=alone))

    def end_run(self, run_id: int, state: RunState, now: datetime) -> None:
        """Record that a run came to its end, if it did not before; this is also how a run is cancelled.

        Whoever still runs a step of it loses the claim and cannot publish any more. Raises NotFound.
        """
        self._database.write(partial(_end, run_id=run_id, state=state, now=now))

    def task_seconds(self, tasks: Collection[str]) -> dict[str, float]:
        """Return the mean seconds per step of recent published versions, by task, where known."""
        return self._database.read(partial(_task_seconds, tasks=tasks))


def begin(
    connection: Connection,
    new: NewRun,
    steps: Sequence[NewStep],
    positions: dict[str, int],
    now: datetime,
    *,
    alone: bool,
) -> int:
    """Record a run, as ``begin_run`` does, in a transaction that does more; return its id."""
    require_environment(connection, new.environment)
    if new.key is not None:
        begun = connection.scalar(select(run.c.id).where(run.c.key == new.key))
        if begun is not None:
            return int(begun)
    if alone:
        _refuse_second(connection, new.pipeline, new.environment)
    key = connection.execute(
        run.insert()
        .values(
            pipeline=new.pipeline,
            environment=new.environment,
            state="running",
            code=new.code,
            by=new.by,
            reason=new.reason,
            plan=new.plan,
            created_at=now,
            driver=new.driver,
            key=new.key,
        )
        .returning(run.c.id)
    ).scalar_one()
    run_id = int(key)
    if steps:
        connection.execute(step.insert(), [_step_row(run_id, positions[s.id], s, now) for s in steps])
    order = [
        {"run": run_id, "before": positions[before], "after": positions[each.id]}
        for each in steps
        for before in set(each.after)
    ]
    if order:
        connection.execute(step_order.insert(), order)
    for table, rows in ((step, len(steps)), (step_order, len(order))):
        know_sizes(connection, table, rows)
    tasks = dict(Counter(each.task for each in steps))
    append(connection, [(run_id, RunStarted(now, str(run_id), new.environment, len(steps), tasks))])
    if not steps:
        end_if_over(connection, run_id, now)
    announce(connection)
    return run_id


def _refuse_second(connection: Connection, pipeline: str, environment_name: str) -> None:
    other = connection.execute(
        select(run.c.id, run.c.driver)
        .where(run.c.pipeline == pipeline, run.c.environment == environment_name, run.c.state == "running")
        .limit(1)
    ).one_or_none()
    if other is not None:
        raise another_run(other.id, pipeline, environment_name, other.driver)


def _step_row(run_id: int, position: int, new: NewStep, now: datetime) -> dict[str, Any]:
    before = len(set(new.after))
    return {
        "run": run_id,
        "position": position,
        "id": new.id,
        "task": new.task,
        "dataset": new.dataset,
        "partition": new.partition,
        "expects": new.expects,
        "state": "waiting" if before else "ready",
        "waiting_for": before,
        "attempt": 0,
        "fence": 0,
        "queue": new.queue,
        "pool": new.pool,
        "slots": new.slots,
        "ready_at": None if before else now,
    }


def require_environment(connection: Connection, name: str) -> str:
    """Return the name of the code that an environment runs, holding its row. Raises NotFound."""
    code = connection.scalar(select(environment.c.code).where(environment.c.name == name).with_for_update())
    if code is None:
        raise no_environment(name)
    return str(code)


def _made(connection: Connection, run_id: int, steps: Collection[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for some in batches(steps):
        found.update(_MADE.rows(connection, {"of_run": run_id, "ids": some}))
    return found


def _attempts(connection: Connection, run_id: int, step_id: str | None) -> tuple[Attempt, ...]:
    query = (
        select(attempt, step.c.id)
        .join(step, (step.c.run == attempt.c.run) & (step.c.position == attempt.c.position))
        .where(attempt.c.run == run_id)
        .order_by(attempt.c.position, attempt.c.number)
    )
    if step_id is not None:
        query = query.where(step.c.id == step_id)
    return tuple(attempt_of(row) for row in connection.execute(query))


def _reopen(connection: Connection, run_id: int, driver: str | None, *, alone: bool) -> int:
    if alone:
        whose = select(run.c.pipeline, run.c.environment).where(run.c.id == run_id)
        for pipeline, environment_name in connection.execute(whose).all():
            require_environment(connection, environment_name)
            _refuse_second(connection, pipeline, environment_name)
    to_do = and_(step.c.run == run_id, step.c.state.not_in(("done", "reused")))
    left = int(connection.scalar(select(func.count()).where(to_do)) or 0)
    if left == 0:
        _require_run(connection, run_id)
        return 0
    running = {"state": "running", "ended_at": None, "driver": driver}
    connection.execute(update(run).where(run.c.id == run_id).values(running))
    connection.execute(
        update(step)
        .where(to_do, or_(step.c.state == "failed", and_(step.c.state == "waiting", step.c.waiting_for == 0)))
        .values(state="ready", due=None)
    )
    announce(connection)
    return left


def _end(connection: Connection, run_id: int, state: RunState, now: datetime) -> None:
    if not end(connection, run_id, state, now):
        _require_run(connection, run_id)


def _require_run(connection: Connection, run_id: int) -> None:
    if connection.scalar(select(run.c.id).where(run.c.id == run_id)) is None:
        raise no_run(run_id)


def _task_seconds(connection: Connection, tasks: Collection[str]) -> dict[str, float]:
    means = {task: connection.scalar(_MEAN_SECONDS, {"of_task": task}) for task in tasks}
    return {task: float(mean) for task, mean in means.items() if mean is not None}
