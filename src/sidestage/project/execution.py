"""Executes a run in this process: begins or reopens it, drives it to its end, or gives it back."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import msgspec

from sidestage.clock import Clock
from sidestage.data.lake import Lake
from sidestage.errors import ConfigurationError, StaleWorld, StoreError
from sidestage.events import Listener, RunEnded, RunStarted, StepWaits
from sidestage.pipeline.manifest import Manifest
from sidestage.pipeline.projectfile import ProjectFile
from sidestage.plan.plan import Plan, PlannedStep
from sidestage.project.hearsay import Hearsay
from sidestage.project.layout import Layout
from sidestage.project.neighbours import Neighbours
from sidestage.project.patience import WaitAlarm
from sidestage.project.workshop import home_of, new_dispatcher
from sidestage.run.active import ActiveRun
from sidestage.run.assignment import Assignment, Audience
from sidestage.run.crew import Crew
from sidestage.run.crews import Home
from sidestage.run.dispatcher import Dispatcher
from sidestage.run.summary import RunSummary, Tally
from sidestage.runtime.alone import Occupied, alone
from sidestage.runtime.lifeline import is_dead, is_living, this_process
from sidestage.store.contract import Store
from sidestage.store.records import NewRun, NewStep, Run, Worker

_RECORDING_SECONDS = 60.0


class Execution(msgspec.Struct, frozen=True):
    """What running a plan needs besides the plan: where state lies, on what terms, who listens."""

    store: Store
    layout: Layout
    file: ProjectFile
    clock: Clock
    listener: Listener
    by: str

    def begin(self, plan: Plan, manifest: Manifest, reason: str, crew: Crew | None) -> int:
        """Record a run of a plan; this process drives it with its ``crew``, or if that is None, workers do.

        Raises StoreError while another run of the pipeline is open in the environment, ConfigurationError if
        a task holds slots of a pool that the project does not define.
        """
        require_pools(plan, manifest, self.file)
        if crew is not None:
            self._say_that_we_live(crew)
        new = NewRun(
            pipeline=plan.pipeline,
            environment=plan.environment,
            code=plan.code_name,
            by=self.by,
            reason=reason,
            plan=msgspec.json.encode(plan).decode(),
            driver=None if crew is None else this_process(),
        )
        steps = [new_step(plan, step, manifest) for step in plan.steps]
        return self.store.begin_run(new, steps, self.clock.now(), alone=True)

    def reopen(self, run: Run, manifest: Manifest, crew: Crew) -> Plan:
        """Make a failed or interrupted run go on; return its plan.

        Raises StaleWorld if its code is not there any more, StoreError while another run of its pipeline is
        open.
        """
        plan = msgspec.json.decode(run.plan, type=Plan)
        changed = changed_tasks(plan, manifest)
        if changed:
            raise StaleWorld(
                f"Run {run.id} was planned for other code of {', '.join(changed)}.",
                hint="Make a new plan: what was published is not made again.",
            )
        require_pools(plan, manifest, self.file)
        self._say_that_we_live(crew)
        self.store.reopen_run(run.id, driver=this_process(), alone=True)
        return plan

    def execute(
        self,
        run_id: int,
        plan: Plan,
        manifest: Manifest,
        home: Home,
        crew: Crew,
        *,
        done: frozenset[str] = frozenset(),
    ) -> RunSummary:
        """Execute a run to its end, and return how it ended; steps that were ``done`` before do not count.

        An interruption (KeyboardInterrupt) kills the workers, gives their steps back and ends the run as
        cancelled before it is raised again. Told to drain, it finishes what it runs and ends the run as
        cancelled. Raises what loading the code raised.
        """
        started = self.clock.monotonic()
        tasks: dict[str, int] = {}
        for step in plan.steps:
            tasks[step.task] = tasks.get(step.task, 0) + 1
        self.listener(RunStarted(self.clock.now(), str(run_id), plan.environment, len(plan.steps), tasks))
        tally = Tally()
        left = (step.id for step in plan.steps if step.id not in done)
        hearsay = Hearsay(self.store, self.clock, self.listener, run_id, left)
        active = ActiveRun(
            run_id, plan, manifest, home_of(home, run_id), Lake(self.layout.lake), self.layout.logs
        )
        dispatcher = new_dispatcher(
            self.store,
            self.layout,
            crew,
            self.clock,
            assignment=Assignment(
                self._worker(crew), lease=self.file.run.lease, pools=self.file.pool_list, only=run_id
            ),
            open_run=lambda _: active,
            audience=Audience(hearsay, tally),
        )
        try:
            self._drive(dispatcher, run_id, hearsay)
            crew.wind_down()
            dispatcher.close()
        except BaseException:
            crew.end()
            self.store.abandon(this_process(), self.clock.now())
            self.store.end_run(run_id, "cancelled", self.clock.now())
            raise
        return self._summary(run_id, tally, started, done)

    def _drive(self, dispatcher: Dispatcher, run_id: int, hearsay: Hearsay) -> None:
        """Let a dispatcher work until the run has ended, or until it is told to drain and has."""
        alarm = WaitAlarm(self.store, self.file, self.clock)
        neighbours = Neighbours(self.store, self.clock)
        while dispatcher.tick(1.0) or dispatcher.is_open(run_id):
            dispatcher.require_served(run_id)
            if dispatcher.draining and not dispatcher.busy:
                self.store.end_run(run_id, "cancelled", self.clock.now())
            for wait in alarm.late():
                self.listener(StepWaits(self.clock.now(), str(wait.run), wait.first, wait.why))
            neighbours.look()
            hearsay.look()
        hearsay.catch_up()

    def done(self, run_id: int) -> frozenset[str]:
        """Return the steps of a run that are done."""
        return frozenset(step.id for step in self.store.steps(run_id) if step.state in ("done", "reused"))

    def _summary(self, run_id: int, tally: Tally, started: float, before: frozenset[str]) -> RunSummary:
        run = self.store.run(run_id)
        assert run is not None
        steps = [step for step in self.store.steps(run_id) if step.id not in before]
        made = [step.version for step in steps if step.state == "done" and step.version is not None]
        if len(made) != tally.published:  # workers helped
            stored = [version.stored for version in self.store.versions(made).values()]
            tally.rows, tally.bytes = (
                sum(each.digest.rows for each in stored),
                sum(each.bytes for each in stored),
            )
        failed = sum(step.state == "failed" for step in steps)
        skipped = sum(step.state in ("waiting", "ready", "running") for step in steps)
        self.listener(RunEnded(self.clock.now(), str(run_id), run.state, len(made), failed, skipped))
        return RunSummary(
            run=run_id,
            state=run.state,
            published=len(made),
            reused=sum(step.state == "reused" for step in steps),
            failed=failed,
            skipped=skipped,
            rows=tally.rows,
            bytes=tally.bytes,
            seconds=self.clock.monotonic() - started,
            user_seconds=tally.user_seconds,
        )

    @contextmanager
    def alone(self, pipeline: str, environment: str) -> Iterator[None]:
        """Be the only one on this host who plans and runs a pipeline in an environment.

        Runs there whose driver is gone are closed first, whether or not anything is left to be done. Raises
        StoreError if another process plans or drives a run there.
        """
        try:
            with alone(self.layout.locks / f"{environment}.{pipeline}.lock", this_process()):
                self._end_interrupted(pipeline, environment)
                yield
        except Occupied as occupied:
            raise _occupied(f"{pipeline!r} is being run in {environment!r}", occupied.holder) from None

    def running_since(self) -> datetime | None:
        """Return when the oldest of the runs began that are being executed, or wait for workers."""
        alive = self._alive()
        begun = [
            run.created_at
            for run in self.store.open_runs()
            if run.driver is None or run.driver in alive or not alive.isdisjoint(self.store.owners(run.id))
        ]
        return min(begun, default=None)

    def _end_interrupted(self, pipeline: str, environment: str) -> None:
        """Close runs whose driver is gone: what they published stays, what they left is planned anew."""
        alive = self._alive()
        for run in self.store.open_runs():
            if (run.pipeline, run.environment) != (pipeline, environment) or run.driver is None:
                continue
            if run.driver in alive:
                what = f"Run {run.id} of {run.pipeline!r} in {run.environment!r} is being executed"
                raise _occupied(what, run.driver)
            self.store.abandon(run.driver, self.clock.now())
            self.store.end_run(run.id, "cancelled", self.clock.now())

    def _alive(self) -> set[str]:
        """Return the workers that live: those whose heart beats, and on this host all that are there.

        One whose heartbeat is late, on a disk that others keep busy, still writes what it is writing.
        """
        return {
            worker.name
            for worker in self.store.workers()
            if is_living(worker.name) or (worker.alive and not is_dead(worker.name))
        }

    def _say_that_we_live(self, crew: Crew) -> None:
        """Or another process could take this one, which is to drive a run, for dead.

        It holds no lease yet, but what it is about to record may take longer than one.
        """
        lease = max(_RECORDING_SECONDS, self.file.run.lease)
        self.store.beat(self._worker(crew), lease=lease, now=self.clock.now())

    def _worker(self, crew: Crew) -> Worker:
        now = self.clock.now()
        return Worker(this_process(), (), crew.slots, draining=False, started_at=now, seen_at=now)


def changed_tasks(plan: Plan, manifest: Manifest) -> list[str]:
    """Return the tasks whose code is not the one that a plan was made for."""
    return [
        task
        for task, fingerprint in plan.code.items()
        if task not in manifest.task_by_id or manifest.task_by_id[task].fingerprint != fingerprint
    ]


def require_pools(plan: Plan, manifest: Manifest, file: ProjectFile) -> None:
    """Refuse steps that would wait for ever. Raises ConfigurationError."""
    for name in sorted({step.task for step in plan.steps}):
        pool = manifest.task_by_id[name].pool
        if pool is not None and pool not in file.pools:
            raise ConfigurationError(
                f"The task {name} holds slots of the pool {pool!r}, which sidestage.toml does not define.",
                hint=f"Define it there: [pools.{pool}] and below it slots = 1, or another number.",
            )


def _occupied(what: str, holder: str) -> StoreError:
    named = f" ({holder})" if holder else ""
    return StoreError(
        f"{what} by another process{named}.",
        hint="Wait for it, or stop that process (host:pid:start), and try again.",
    )


def new_step(plan: Plan, step: PlannedStep, manifest: Manifest) -> NewStep:
    """Return a planned step as it is recorded."""
    task = manifest.task_by_id[step.task]
    return NewStep(
        id=step.id,
        task=step.task,
        dataset=step.dataset,
        partition=step.partition,
        expects=step.expects,
        after=plan.predecessors(step),
        queue=task.queue,
        pool=task.pool,
        slots=task.slots,
    )
