"""Runs, their steps and attempts, in memory."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import islice

import msgspec

from sidestage.events import RunEnded, RunStarted
from sidestage.store.records import Attempt, EventEntry, NewRun, NewStep, Run, RunState, Step
from sidestage.store.refusals import another_run, no_environment, no_run, positions_of
from sidestage.testing.memory_claims import let_go
from sidestage.testing.memory_tables import MemoryPart, RunRow, StepRow, Tables, require_zone

_RECENT = 50
_FINISHED = ("done", "reused")


class MemoryRuns(MemoryPart):
    """Keeps runs."""

    def begin_run(self, run: NewRun, steps: Sequence[NewStep], now: datetime, *, alone: bool = False) -> int:
        """Record a run with all its steps; return its id. Steps without predecessors are ready at once.

        Raises NotFound for an unknown environment, StoreError if two steps have the same id, a step comes
        after one that does not stand before it, or another run is open that it should be alone with.
        """
        require_zone(now)
        positions_of(steps)
        with self._tables.turn:
            return begin(self._tables, run, steps, now, alone=alone)

    def open_runs(self) -> tuple[Run, ...]:
        """Return the runs that have not ended, oldest first, with an empty ``plan``."""
        with self._tables.turn:
            return tuple(_run_of(row, "") for row in self._tables.runs if row.state == "running")

    def run(self, run_id: int) -> Run | None:
        """Return a run, or None."""
        with self._tables.turn:
            row = self._tables.run(run_id)
            return None if row is None else _run_of(row, row.plan.plan)

    def runs(
        self, *, pipeline: str | None = None, environment: str | None = None, limit: int = 20
    ) -> tuple[Run, ...]:
        """Return runs, newest first, with an empty ``plan``."""
        with self._tables.turn:
            wanted = (
                row
                for row in reversed(self._tables.runs)
                if pipeline in (None, row.plan.pipeline) and environment in (None, row.plan.environment)
            )
            return tuple(_run_of(row, "") for row in islice(wanted, limit))

    def steps(self, run_id: int) -> tuple[Step, ...]:
        """Return the steps of a run in the order in which they were given."""
        with self._tables.turn:
            row = self._tables.run(run_id)
            return () if row is None else tuple(_step_of(step) for step in row.steps)

    def made(self, run_id: int, steps: Collection[str]) -> dict[str, str]:
        """Return the version that each of these steps made or reused; those not done are left out."""
        with self._tables.turn:
            row = self._tables.run(run_id)
            found = () if row is None else (row.by_id.get(each) for each in steps)
            return {s.plan.id: s.version for s in found if s is not None and s.version is not None}

    def attempts(self, run_id: int, step: str | None = None) -> tuple[Attempt, ...]:
        """Return the attempts of a run, or of one step, in the order of the plan, oldest first."""
        with self._tables.turn:
            row = self._tables.run(run_id)
            steps = () if row is None else row.steps
            return tuple(each for s in steps if step in (None, s.plan.id) for each in s.attempts)

    def reopen_run(self, run_id: int, *, driver: str | None = None, alone: bool = False) -> int:
        """Make the run running and its failed steps ready again; return how many steps are still to be done.

        Steps that somebody is running are left to them. Raises NotFound, or StoreError if a run is open that
        it should be alone with.
        """
        tables = self._tables
        with tables.turn:
            row = _require_run(tables, run_id)
            if alone:
                _refuse_second(tables, row.plan)
            left = [step for step in row.steps if step.state not in _FINISHED]
            if left:
                row.state, row.ended_at, row.driver = "running", None, driver
                for step in left:
                    if step.state == "failed" or (step.state == "waiting" and step.waiting_for == 0):
                        tables.make_ready(step, None)
                tables.changes += 1
            return len(left)

    def end_run(self, run_id: int, state: RunState, now: datetime) -> None:
        """Record that a run came to its end, if it did not before; this is also how a run is cancelled.

        Whoever still runs a step of it loses the claim and cannot publish any more. Raises NotFound.
        """
        require_zone(now)
        with self._tables.turn:
            end(self._tables, _require_run(self._tables, run_id), state, now)

    def events(self, after: int = 0, limit: int = 1000) -> tuple[EventEntry, ...]:
        """Return what happened after the event with id ``after``, oldest first."""
        with self._tables.turn:
            found = enumerate(islice(self._tables.events, max(0, after), max(0, after) + limit), after + 1)
            return tuple(
                EventEntry(number, event.at, run, type(event).__name__, msgspec.json.encode(event).decode())
                for number, (run, event) in found
            )

    def task_seconds(self, tasks: Collection[str]) -> dict[str, float]:
        """Return the mean seconds per step of recent published versions, by task, where known."""
        with self._tables.turn:
            seconds: dict[str, list[float]] = {}
            for _, row in sorted(self._tables.versions.items(), reverse=True):
                seconds.setdefault(row.task, []).append(row.version.seconds)
        return {
            task: sum(recent) / len(recent) for task in tasks if (recent := seconds.get(task, [])[:_RECENT])
        }


def require_environment(tables: Tables, name: str) -> str:
    """Return the name of the code that an environment runs. Raises NotFound."""
    environment = tables.environments.get(name)
    if environment is None:
        raise no_environment(name)
    return environment.code


def end_if_over(tables: Tables, run: RunRow, now: datetime) -> None:
    """End a run in which nothing is left that could run."""
    if run.under_way == 0:
        unfinished = any(step.state not in _FINISHED for step in run.steps)
        end(tables, run, "failed" if unfinished else "done", now)


def end(tables: Tables, run: RunRow, state: RunState, now: datetime) -> None:
    """End a run that has not ended, taking back all claims."""
    if run.state != "running":
        return
    run.state, run.ended_at = state, now
    let_go(tables, [step for step in run.steps if step.state == "running"], now)
    # Only steps of running runs are ready: a claim need not ask about the run.
    for step in run.steps:
        if step.state == "ready" or step.due is not None:
            tables.make_waiting(step, None)
    counts = Counter(step.state for step in run.steps)
    done, reused, failed = counts["done"], counts["reused"], counts["failed"]
    skipped = len(run.steps) - done - reused - failed
    tables.events.append((run.id, RunEnded(now, str(run.id), state, done, failed, skipped)))
    tables.changes += 1


def _refuse_second(tables: Tables, new: NewRun) -> None:
    for other in tables.runs:
        if other.state == "running" and (other.plan.pipeline, other.plan.environment) == (
            new.pipeline,
            new.environment,
        ):
            raise another_run(other.id, new.pipeline, new.environment, other.driver)


def begin(tables: Tables, new: NewRun, steps: Sequence[NewStep], now: datetime, *, alone: bool) -> int:
    """Record a run, as ``begin_run`` does, whose steps are in good order; return its id."""
    require_environment(tables, new.environment)
    if new.key is not None and new.key in tables.keys:
        return tables.keys[new.key]
    if alone:
        _refuse_second(tables, new)
    run = RunRow(len(tables.runs) + 1, new, now, driver=new.driver)
    for position, plan in enumerate(steps):
        before = set(plan.after)
        step = StepRow(run, position, plan, len(before))
        for other in before:
            run.by_id[other].dependents.append(step)
        run.steps.append(step)
        run.by_id[plan.id] = step
    tables.runs.append(run)
    if new.key is not None:
        tables.keys[new.key] = run.id
    for step in run.steps:
        if step.waiting_for == 0:
            tables.make_ready(step, now)
    tasks = dict(Counter(step.task for step in steps))
    tables.events.append((run.id, RunStarted(now, str(run.id), new.environment, len(steps), tasks)))
    tables.changes += 1
    if not steps:
        end_if_over(tables, run, now)
    return run.id


def _require_run(tables: Tables, run_id: int) -> RunRow:
    row = tables.run(run_id)
    if row is None:
        raise no_run(run_id)
    return row


def _run_of(row: RunRow, plan: str) -> Run:
    new = row.plan
    return Run(
        row.id,
        new.pipeline,
        new.environment,
        row.state,
        new.code,
        new.by,
        new.reason,
        plan,
        row.created_at,
        row.ended_at,
        row.driver,
    )


def _step_of(step: StepRow) -> Step:
    plan = step.plan
    return Step(
        step.of.id,
        plan.id,
        plan.task,
        plan.dataset,
        plan.partition,
        step.state,
        step.attempt,
        step.fence,
        step.owner,
        step.version,
        step.failure_class,
        step.message,
        step.seconds,
        plan.queue,
        plan.pool,
        plan.slots,
        step.ready_at,
    )
