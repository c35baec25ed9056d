"""Runs a plan in the store: begins or reopens the run, starts workers, executes, cleans up behind them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import msgspec

from sidestage.clock import Clock
from sidestage.data.lake import Lake
from sidestage.errors import StaleWorld, StoreError
from sidestage.events import Listener
from sidestage.pipeline.manifest import Manifest
from sidestage.plan.plan import Plan, PlannedStep
from sidestage.project.layout import Layout
from sidestage.run.messages import Load
from sidestage.run.runner import Runner, RunSummary
from sidestage.run.workers import Workers
from sidestage.runtime.alone import Occupied, alone
from sidestage.runtime.lifeline import is_dead, this_process
from sidestage.store.contract import Store
from sidestage.store.records import NewRun, NewStep, Run


class Execution(msgspec.Struct, frozen=True):
    """What running a plan needs besides the plan: where state lies, how many workers, who listens."""

    store: Store
    layout: Layout
    clock: Clock
    listener: Listener
    by: str

    def begin(self, plan: Plan, reason: str) -> int:
        """Record a run of a plan."""
        new = NewRun(
            pipeline=plan.pipeline,
            environment=plan.environment,
            code=plan.code_name,
            by=self.by,
            reason=reason,
            plan=msgspec.json.encode(plan).decode(),
        )
        return self.store.begin_run(new, [_new_step(plan, step) for step in plan.steps], self.clock.now())

    def reopen(self, run: Run, manifest: Manifest) -> Plan:
        """Make a failed or interrupted run go on; return its plan.

        Raises StoreError if it is being executed, StaleWorld if its code is not there any more.
        """
        self._take_over(run)
        plan = msgspec.json.decode(run.plan, type=Plan)
        changed = [
            task
            for task, fingerprint in plan.code.items()
            if task not in manifest.task_by_id or manifest.task_by_id[task].fingerprint != fingerprint
        ]
        if changed:
            raise StaleWorld(
                f"Run {run.id} was planned for other code of {', '.join(changed)}.",
                hint="Make a new plan: what was published is not made again.",
            )
        self.store.reopen_run(run.id)
        return plan

    def execute(self, run_id: int, plan: Plan, manifest: Manifest, workers: Workers) -> RunSummary:
        """Execute a run with workers that load its code."""
        runner = Runner(
            self.store,
            Lake(self.layout.lake),
            workers,
            self.clock,
            self.listener,
            owner=this_process(),
            logs=self.layout.logs,
        )
        return runner.execute(run_id, plan, manifest)

    @contextmanager
    def workers(self, count: int, code: Path) -> Iterator[Workers]:
        """Yield workers that load the code in a folder; they are gone afterwards, and so is their scratch."""
        with self.layout.workspace() as scratch:
            setup = Load(root=str(code), lake=str(self.layout.lake), scratch=str(scratch))
            workers = Workers(count, code, setup)
            try:
                yield workers
            finally:
                workers.kill()  # idle or not: what they wrote aside was either published or is nobody's

    @contextmanager
    def alone(self, pipeline: str, environment: str) -> Iterator[None]:
        """Be the only one who plans and runs a pipeline in an environment. Raises StoreError if not.

        Runs there whose process is gone are closed first, whether or not anything is left to be done.
        """
        with self._locked(pipeline, environment):
            self._end_interrupted(pipeline, environment)
            yield

    @contextmanager
    def _locked(self, pipeline: str, environment: str) -> Iterator[None]:
        try:
            with alone(self.layout.locks / f"{environment}.{pipeline}.lock", this_process()):
                yield
        except Occupied as occupied:
            raise _occupied(f"{pipeline!r} is being run in {environment!r}", occupied.holder) from None

    def running_since(self) -> datetime | None:
        """Return when the oldest of the runs began that some process is executing now."""
        begun = [run.created_at for run in self.store.runs(limit=1000) if self._is_executed(run)]
        return min(begun, default=None)

    def _is_executed(self, run: Run) -> bool:
        if run.state != "running":
            return False
        try:
            with self._locked(run.pipeline, run.environment):
                return not all(is_dead(owner) for owner in self.store.owners(run.id))
        except StoreError:
            return True

    def _end_interrupted(self, pipeline: str, environment: str) -> None:
        """Close runs whose process is gone: what they published stays, what they left is planned anew."""
        for run in self.store.runs(pipeline=pipeline, environment=environment, limit=50):
            if run.state == "running":
                self._take_over(run)
                finished = all(step.state in ("done", "reused") for step in self.store.steps(run.id))
                self.store.end_run(run.id, "done" if finished else "cancelled", self.clock.now())

    def _take_over(self, run: Run) -> None:
        # To claim nothing takes back what has run out of its lease, whoever held it, on whatever host.
        self.store.claim(run.id, this_process(), 0, lease=0.0, now=self.clock.now())
        for owner in self.store.owners(run.id):
            if not is_dead(owner):
                what = f"Run {run.id} of {run.pipeline!r} in {run.environment!r} is being executed"
                raise _occupied(what, owner)
            self.store.abandon(run.id, owner, self.clock.now())


def _occupied(what: str, holder: str) -> StoreError:
    named = f" ({holder})" if holder else ""
    return StoreError(
        f"{what} by another process{named}.",
        hint="Wait for it, or stop that process (host:pid:start), and try again.",
    )


def _new_step(plan: Plan, step: PlannedStep) -> NewStep:
    return NewStep(
        id=step.id,
        task=step.task,
        dataset=step.dataset,
        partition=step.partition,
        expects=step.expects,
        after=plan.predecessors(step),
    )
