"""Runs, their steps and attempts: begun, looked at, ended, taken up again."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from sidestage.errors import NotFound, StoreError
from sidestage.events import RunEnded, RunStarted
from sidestage.store.records import Attempt, NewRun, NewStep, Run, RunState, Step
from sidestage.store.sql_claims import let_go_of_all
from sidestage.store.sql_database import SqlPart
from sidestage.store.sql_events import append
from sidestage.store.sql_rows import attempt_of, run_of, step_of
from sidestage.store.tables import attempt, environment, run, step, step_order, version

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

_STATES = (
    select(step.c.state, func.count().label("steps"))
    .where(step.c.run == bindparam("of_run"))
    .group_by(step.c.state)
)


class SqlRuns(SqlPart):
    """Keeps runs."""

    def begin_run(self, run: NewRun, steps: Sequence[NewStep], now: datetime) -> int:
        """Record a run with all its steps; return its id. Steps without predecessors are ready at once.

        Raises NotFound for an unknown environment, StoreError if two steps have the same id or a step comes
        after one that does not stand before it.
        """
        positions = _positions(steps)
        return self._database.write(partial(_begin, new=run, steps=steps, positions=positions, now=now))

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

    def attempts(self, run_id: int, step: str | None = None) -> tuple[Attempt, ...]:
        """Return the attempts of a run, or of one step, in the order of the plan, oldest first."""
        return self._database.read(partial(_attempts, run_id=run_id, step_id=step))

    def reopen_run(self, run_id: int) -> int:
        """Make the run running and its failed steps ready again; return how many steps are still to be done.

        Steps that somebody is running are left to them. Raises NotFound.
        """
        return self._database.write(partial(_reopen, run_id=run_id))

    def end_run(self, run_id: int, state: RunState, now: datetime) -> None:
        """Record that a run came to its end.

        Whoever still runs a step of it loses the claim and cannot publish any more. Raises NotFound.
        """
        self._database.write(partial(_end, run_id=run_id, state=state, now=now))

    def task_seconds(self, tasks: Collection[str]) -> dict[str, float]:
        """Return the mean seconds per step of recent published versions, by task, where known."""
        return self._database.read(partial(_task_seconds, tasks=tasks))


def _positions(steps: Sequence[NewStep]) -> dict[str, int]:
    positions: dict[str, int] = {}
    for position, each in enumerate(steps):
        for before in each.after:
            if before not in positions:
                raise StoreError(
                    f"Step {each.id!r} comes after {before!r}, which does not stand before it in the plan."
                )
        if each.id in positions:
            raise StoreError(f"Two steps of the plan have the id {each.id!r}.")
        positions[each.id] = position
    return positions


def _begin(
    connection: Connection,
    new: NewRun,
    steps: Sequence[NewStep],
    positions: dict[str, int],
    now: datetime,
) -> int:
    require_environment(connection, new.environment)
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
        )
        .returning(run.c.id)
    ).scalar_one()
    run_id = int(key)
    if steps:
        connection.execute(step.insert(), [_step_row(run_id, positions[s.id], s) for s in steps])
    order = [
        {"run": run_id, "before": positions[before], "after": positions[each.id]}
        for each in steps
        for before in set(each.after)
    ]
    if order:
        connection.execute(step_order.insert(), order)
    tasks = dict(Counter(each.task for each in steps))
    append(connection, [(run_id, RunStarted(now, str(run_id), new.environment, len(steps), tasks))])
    return run_id


def _step_row(run_id: int, position: int, new: NewStep) -> dict[str, Any]:
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
    }


def require_environment(connection: Connection, name: str) -> str:
    """Return the name of the code that an environment runs, holding its row. Raises NotFound."""
    code = connection.scalar(select(environment.c.code).where(environment.c.name == name).with_for_update())
    if code is None:
        raise NotFound(f"There is no environment {name!r}.", hint="Is its name spelt right?")
    return str(code)


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


def _reopen(connection: Connection, run_id: int) -> int:
    _set_state(connection, run_id, state="running", ended_at=None)
    connection.execute(
        update(step).where(step.c.run == run_id, step.c.state == "failed").values(state="ready")
    )
    left = select(func.count()).where(step.c.run == run_id, step.c.state.not_in(("done", "reused")))
    return int(connection.scalar(left) or 0)


def _end(connection: Connection, run_id: int, state: RunState, now: datetime) -> None:
    _set_state(connection, run_id, state=state, ended_at=now)
    let_go_of_all(connection, run_id, now)
    counts = {row.state: row.steps for row in connection.execute(_STATES, {"of_run": run_id})}
    done, reused, failed = (counts.get(each, 0) for each in ("done", "reused", "failed"))
    skipped = sum(counts.values()) - done - reused - failed
    append(connection, [(run_id, RunEnded(now, str(run_id), state, done, failed, skipped))])


def _set_state(connection: Connection, run_id: int, **values: Any) -> None:
    if connection.execute(update(run).where(run.c.id == run_id).values(values)).rowcount == 0:
        raise NotFound(f"There is no run {run_id}.", hint="Is its number right?")


def _task_seconds(connection: Connection, tasks: Collection[str]) -> dict[str, float]:
    means = {task: connection.scalar(_MEAN_SECONDS, {"of_task": task}) for task in tasks}
    return {task: float(mean) for task, mean in means.items() if mean is not None}
