"""What a worker does for triggers: it begins runs that are due, beside the steps that it serves."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import msgspec

from sidestage.errors import SidestageError, StoreError
from sidestage.pipeline.manifest import Manifest
from sidestage.plan.production import plan_production
from sidestage.plan.world import Selection
from sidestage.project.execution import Execution, new_step, require_pools
from sidestage.project.production import ensure_production, require_given, require_released
from sidestage.project.worlds import PRODUCTION, read_world
from sidestage.release.code import name_of_working_tree
from sidestage.run.crews import Crews, Home
from sidestage.runtime.alone import Occupied, alone
from sidestage.runtime.lifeline import this_process
from sidestage.schedule.scheduler import Looked, Planned, Scheduler
from sidestage.store.records import NewRun

_LOOK_SECONDS = 0.25
BY = "trigger"
"""Who asks for runs that begin by themselves."""


class TickPlanner:
    """Plans production for ticks, exactly as a person's ``run --detach`` does."""

    def __init__(self, execution: Execution, manifest: Manifest) -> None:
        self._execution = execution
        self._manifest = manifest
        self._code_name = name_of_working_tree(execution.layout.root)

    @contextmanager
    def alone(self, pipeline: str) -> Iterator[bool]:
        """Keep other workers of this host from planning the same; False while one does, or a run is open."""
        # Not the lock of those who run it: a person would be refused because a worker happens to look.
        lock = self._execution.layout.locks / f"{PRODUCTION}.{pipeline}.ticks"
        with ExitStack() as stack:
            try:
                stack.enter_context(alone(lock, this_process()))
                mine = True
            except Occupied:
                mine = False
            yield mine and self._is_free(pipeline)

    def _is_free(self, pipeline: str) -> bool:
        """Whether no run of the pipeline is open, after closing one whose driver is gone."""
        for run in self._execution.store.open_runs():
            if (run.pipeline, run.environment) == (pipeline, PRODUCTION):
                return run.driver is not None and self._nobody_runs(pipeline)
        return True

    def _nobody_runs(self, pipeline: str) -> bool:
        """Whether nobody on this host is about to run the pipeline, nor anybody running it."""
        try:
            with self._execution.alone(pipeline, PRODUCTION):
                return True
        except StoreError as error:
            if error.transient:
                raise
            return False

    def plan(self, pipeline: str, at: datetime) -> Planned | None:
        """Return what is to be done now for the tick at a moment; None if somebody is about to do it.

        Raises GateClosed, ConfigurationError.
        """
        store, clock, manifest = self._execution.store, self._execution.clock, self._manifest
        ensure_production(store, clock)
        world = read_world(store, manifest, None, self._code_name, clock.now())
        plan = plan_production(world, Selection(pipeline))
        require_released(plan)
        require_given(store, plan)
        if not plan.steps:
            return Planned()
        if not self._nobody_runs(pipeline):
            return None
        require_pools(plan, manifest, self._execution.file)
        run = NewRun(
            pipeline=pipeline,
            environment=PRODUCTION,
            code=plan.code_name,
            by=BY,
            reason=f"due at {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
            plan=msgspec.json.encode(plan).decode(),
            key=f"tick:{pipeline}:{at.astimezone(UTC).isoformat()}",
        )
        return Planned(run, tuple(new_step(plan, step, manifest) for step in plan.steps))


class Ticking:
    """Looks now and then what is due, in a thread of its own: a long plan must not cost a worker its leases.

    ``say`` hears a message and a hint: what holds ticks up, once for each reason.
    """

    def __init__(self, execution: Execution, crew: Crews, say: Callable[[str, str], None]) -> None:
        self._execution = execution
        self._crew = crew
        self._say = say
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ticking")
        self._opening: Future[Scheduler] | None = None
        self._looking: Future[Looked] | None = None
        self._looked_at = float("-inf")
        self._over = self._once = False
        self.settled = False
        """Whether, as far as it knows, nothing is due that could be begun."""

    def look(self) -> None:
        """Take in what was found, and look again when it is time. Never waits. Raises StoreError."""
        if self._over:
            return
        try:
            opening = self._opening or self._open()
        except SidestageError as error:
            self._over = self.settled = True
            self._say(f"Triggers are left to other workers: {error.message}", error.hint)
            return
        if opening is None or not opening.done():
            return
        if self._looking is not None:
            if not self._looking.done():
                return
            looking, self._looking = self._looking, None
            self._take_in(looking.result())
        now = self._execution.clock.monotonic()
        if not self._over and now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._looking = self._thread.submit(opening.result().look)

    def close(self) -> None:
        """Finish what is being looked at."""
        self._over = True
        self._thread.shutdown()

    def _open(self) -> Future[Scheduler] | None:
        """Begin to look, once it is known what the project's code declares."""
        manifest = self._crew.manifest(Home(str(self._execution.layout.root)))
        if manifest is not None:
            self._opening = self._thread.submit(self._scheduler, manifest)
        return self._opening

    def _scheduler(self, manifest: Manifest) -> Scheduler:
        triggers = {each.name: each.trigger for each in manifest.pipelines if each.trigger is not None}
        self._once = not triggers  # one look says that there are none any more, should there have been some
        planner = TickPlanner(self._execution, manifest)
        return Scheduler(self._execution.store, self._execution.clock, planner, triggers)

    def _take_in(self, looked: Looked) -> None:
        self.settled = not looked.pending
        self._over = self._over or self._once
        for pipeline, at, error in looked.held:
            due = f"{at:%Y-%m-%d %H:%M:%S} UTC"
            self._say(f"{pipeline!r} is due since {due}, but cannot begin: {error.message}", error.hint)
