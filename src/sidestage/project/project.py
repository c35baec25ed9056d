"""A project and its verbs. Delegates only: what a verb means is decided in the rooms below."""

import getpass
import os
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from sidestage.clock import Clock, SystemClock
from sidestage.data.lake import Lake
from sidestage.errors import NotFound
from sidestage.events import Event, Listener, PointersMoved
from sidestage.pipeline.manifest import Manifest
from sidestage.pipeline.projectfile import find_root, read_project_file
from sidestage.plan.plan import Plan
from sidestage.plan.production import plan_production
from sidestage.plan.select import selected_pipeline
from sidestage.plan.staging import plan_staging
from sidestage.plan.world import Selection, World
from sidestage.project.candidates import Candidates, new_environment
from sidestage.project.execution import Execution, require_pools
from sidestage.project.layout import Layout
from sidestage.project.manifests import Manifests
from sidestage.project.production import (
    ensure_production,
    release_first_code,
    require_given,
    require_released,
)
from sidestage.project.working import Said, Working
from sidestage.project.workshop import candidate_home, load, open_crew
from sidestage.project.worlds import PRODUCTION, read_world
from sidestage.recovery.cleanup import Cleanup, Spared, clear_scratch, collect_garbage, find_garbage
from sidestage.release.code import lay_out, name_of_working_tree
from sidestage.release.gate import Gate
from sidestage.run.crew import Crew
from sidestage.run.crews import Home
from sidestage.run.summary import RunSummary, Tally
from sidestage.runtime.unused import remove_environments, unused_environments
from sidestage.store.contract import Store, Upgradable
from sidestage.store.records import Environment, Move, NewMove, PointerChange, Run

if TYPE_CHECKING:
    from sidestage.connectors.datasets import DatasetRows, DatasetTables
    from sidestage.project.comparing import Compared


def silent(event: Event, /) -> None:
    """Hear events and do nothing."""


class Project:
    """A project on disk: its code, its catalog, its data.

    ``by`` names the person on whose behalf it acts. Close it, or use it in a ``with`` statement.
    """

    def __init__(
        self,
        root: Path,
        *,
        store: Store | None = None,
        clock: Clock | None = None,
        listener: Listener = silent,
        by: str | None = None,
    ) -> None:
        self.file = read_project_file(root)
        self.layout = Layout.of(root, self.file)
        self.layout.prepare()
        self.clock: Clock = SystemClock() if clock is None else clock
        self.listener = listener
        self.by = by or _person()
        self._store = store

    @classmethod
    def open(
        cls, start: Path | str = ".", *, listener: Listener = silent, by: str | None = None
    ) -> "Project":
        """Open the project at or above a folder. Raises ConfigurationError or StoreError."""
        return cls(find_root(Path(start).resolve()), listener=listener, by=by)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the catalog."""
        if self._store is not None:
            self._store.close()

    @property
    def store(self) -> Store:
        """The catalog, opened when it is first asked for. Raises StoreError, ConfigurationError."""
        if self._store is None:
            # The database's libraries take as long to load as a worker takes to load the user's code: a run
            # starts its first worker before, and both load at once.
            from sidestage.store.sql import open_store  # noqa: PLC0415

            self._store = open_store(self.layout.store_url)
        return self._store

    def plan(self, selection: Selection) -> Plan:
        """Return what would run in production, and why. Runs nothing."""
        with self._loader() as crew:
            manifest = self._loaded(crew, self._home)
            plan = plan_production(self._world(manifest, None), selection)
        require_pools(plan, manifest, self.file)
        return plan

    def plan_candidate(self, selection: Selection, code: str, name: str) -> Plan:
        """Return what staging a candidate would run, and why. Runs nothing."""
        laid_out = lay_out(code, self.layout.root, self.layout.releases)
        candidate = new_environment(name, laid_out.name, self.clock.now())
        with self._loader() as crew:
            manifest = self._loaded(crew, candidate_home(Path(laid_out.root), self.file))
            plan = plan_staging(self._world(manifest, candidate), selection)
        require_pools(plan, manifest, self.file)
        return plan

    def run(self, selection: Selection, *, workers: int | None = None, reason: str = "") -> RunSummary | None:
        """Plan and run in production; None if there was nothing to do.

        Raises GateClosed if the code to be run differs from what production was given.
        """
        with self._crew(workers) as crew:
            manifest = self._loaded(crew, self._home)
            pipeline = selected_pipeline(manifest, selection)
            ensure_production(self.store, self.clock)
            with self._execution.alone(pipeline, PRODUCTION):
                plan = plan_production(self._world(manifest, None), selection)
                require_released(plan)
                summary = self._execute(plan, manifest, self._home, crew, reason) if plan.steps else None
                complete = selection.partitions is None and not selection.tasks and not plan.blocked
                if complete and (summary is None or summary.state == "done"):
                    release_first_code(self.store, self.clock, plan, self.by)
            return summary

    def resume(self, pipeline: str | None = None, *, workers: int | None = None) -> RunSummary:
        """Finish the newest run of a pipeline in production that failed or was interrupted."""
        with self._crew(workers) as crew:
            manifest = self._loaded(crew, self._home)
            chosen = selected_pipeline(manifest, Selection(pipeline))
            with self._execution.alone(chosen, PRODUCTION):
                run = self._unfinished(chosen)
                done = self._execution.done(run.id)
                plan = self._execution.reopen(run, manifest, crew)
                return self._execution.execute(run.id, plan, manifest, self._home, crew, done=done)

    def stage(
        self, selection: Selection, code: str, name: str, *, workers: int | None = None, reason: str = ""
    ) -> RunSummary:
        """Run a candidate's code on production's inputs in an environment of its own.

        Where nothing differs from production the run has no steps, but is recorded: it is the evidence that
        the gates ask for.

        Raises NotFound if production has nothing yet, or there is no such code.
        """
        if self.store.environment(PRODUCTION) is None:
            raise NotFound(
                "Production has nothing to rehearse on yet.", hint="Run the pipeline: sidestage run"
            )
        laid_out = lay_out(code, self.layout.root, self.layout.releases)
        candidate = new_environment(name, laid_out.name, self.clock.now())
        home = candidate_home(Path(laid_out.root), self.file)
        with self._crew(workers) as crew:
            manifest = self._loaded(crew, home)
            pipeline = selected_pipeline(manifest, selection)
            with self._execution.alone(pipeline, name):
                self._manifests.keep(laid_out.name, manifest)
                self.store.save_environment(candidate)
                plan = plan_staging(self._world(manifest, candidate), selection)
                self._withdraw(plan)
                return self._execute(plan, manifest, home, crew, reason or f"rehearse {laid_out.label}")

    def compare(self, name: str) -> "Compared":
        """Compare a candidate with production, and keep the comparison and its report."""
        # DuckDB and the report's templates take longer to load than most verbs take as a whole.
        from sidestage.project.comparing import compare_candidate  # noqa: PLC0415

        manifest = self._manifests.of(self._candidates.environment(name))
        return compare_candidate(self.store, self.layout, self.clock, self._candidates, name, manifest)

    def gates(self, pipeline: str, name: str) -> tuple[Gate, ...]:
        """Return the state of every gate between a candidate and production."""
        candidate = self._candidates.environment(name)
        manifest = self._manifests.of(candidate)
        world = self._world(manifest, candidate)
        return self._candidates.gates(candidate, world, plan_staging(world, Selection(pipeline)))

    def promote(self, pipeline: str, name: str, *, reason: str = "") -> Move:
        """Make what a candidate staged production's. Raises GateClosed and StaleWorld."""
        candidate = self._candidates.environment(name)
        manifest = self._manifests.of(candidate)
        world = self._world(manifest, candidate)
        plan = plan_staging(world, Selection(pipeline))
        return self._moved(self._candidates.promote(candidate, world, plan, reason))

    def rollback(self, pipeline: str | None = None, *, reason: str = "") -> Move:
        """Take the newest promotion back, at once; of one pipeline, if named. Raises NotFound."""
        return self._moved(self._candidates.rollback(pipeline, reason))

    def submit(self, selection: Selection, *, reason: str = "") -> int | None:
        """Plan, and begin a run in production that workers execute; None if there is nothing to do.

        Raises GateClosed if production was never given code: the first complete run does that, attended.
        """
        with self._loader() as crew:
            manifest = self._loaded(crew, self._home)
        pipeline = selected_pipeline(manifest, selection)
        ensure_production(self.store, self.clock)
        with self._execution.alone(pipeline, PRODUCTION):
            plan = plan_production(self._world(manifest, None), selection)
            require_released(plan)
            require_given(self.store, plan)
            return self._execution.begin(plan, manifest, reason, None) if plan.steps else None

    def work(
        self,
        *,
        slots: int | None = None,
        queues: tuple[str, ...] = (),
        until_idle: bool = False,
        triggers: bool = True,
        services: bool = True,
        say: Callable[[Said], None] = lambda _: None,
    ) -> Tally:
        """Serve open runs and services, and begin runs that are due; see ``Working.work``."""
        working = Working(
            self.store,
            self.layout,
            self.file,
            self.clock,
            self.listener,
            self._slots(slots),
            queues,
            say,
            triggers,
            services,
        )
        return working.work(until_idle=until_idle)

    def cancel(self, run_id: int) -> Run:
        """End a run; what it published stays, what runs is stopped. Raises NotFound.

        Returned without its plan.
        """
        self.store.end_run(run_id, "cancelled", self.clock.now())
        run = self.store.run(run_id)
        assert run is not None
        return msgspec.structs.replace(run, plan="")

    def drain(self, worker: str) -> None:
        """Have a worker, on whatever host, finish what it runs and claim nothing new. Raises NotFound."""
        if not self.store.drain(worker):
            known = ", ".join(each.name for each in self.store.workers() if each.alive) or "none"
            raise NotFound(f"There is no worker {worker!r}.", hint=f"Known: {known}.")

    def restart_service(self, service: str) -> None:
        """Have the worker that holds a service, or takes it, start it anew. Raises NotFound."""
        if not self.store.ask_service(service):
            known = ", ".join(each.service for each in self.store.services()) or "none"
            raise NotFound(f"No worker ever held a service {service!r}.", hint=f"Known: {known}.")

    def migrate(self, *, post: bool) -> tuple[str, ...]:
        """Return what an upgrade left to be done in the catalog; with ``post`` do it, and return that."""
        store = self.store
        if not isinstance(store, Upgradable):
            return ()
        return store.finish_migrations() if post else store.pending_post()

    def clean(self, *, keep_days: int, grace: float, delete: bool) -> Cleanup:
        """Delete what nothing refers to any more, or only say what; see ``recovery.cleanup``."""
        lake, now = Lake(self.layout.lake), self.clock.now()
        spared = Spared(keep_days, grace, self._execution.running_since())
        garbage = find_garbage(self.store, lake, spared, now)
        folder, since = self.layout.environments, spared.used_since(now)
        unused = unused_environments(folder, since)
        if delete:
            clear_scratch(self.layout.scratch)
            garbage = collect_garbage(self.store, lake, garbage, now)
            unused = remove_environments(folder, unused, since)
        return msgspec.structs.replace(garbage, environments=unused)

    def pipeline_of(self, name: str) -> str:
        """Return the pipeline that a candidate staged. Raises NotFound."""
        run = self._candidates.newest_run(self._candidates.environment(name))
        if run is None:
            raise NotFound(f"The candidate {name!r} was never staged.", hint=f"sidestage stage --name {name}")
        return run.pipeline

    def rows(
        self,
        dataset: str,
        *,
        partitions: Collection[str] | None = None,
        environment: str = PRODUCTION,
        partition_as: str = "",
    ) -> "DatasetRows":
        """Return the published rows of a dataset as a source for a ``Stream``; see ``DatasetRows``.

        Keep the project open until the stream has begun.
        """
        from sidestage.connectors.datasets import DatasetRows  # noqa: PLC0415 - few commands need it

        chosen: dict[str, Any] = {"partitions": partitions, "environment": environment}
        return DatasetRows(self.store, Lake(self.layout.lake), dataset, partition_as=partition_as, **chosen)

    def tables(
        self,
        dataset: str,
        *,
        partitions: Collection[str] | None = None,
        environment: str = PRODUCTION,
        partition_as: str = "",
    ) -> "DatasetTables":
        """Return the same as ``rows`` does, as pyarrow Tables of many rows each."""
        from sidestage.connectors.datasets import DatasetTables  # noqa: PLC0415 - few commands need it

        chosen: dict[str, Any] = {"partitions": partitions, "environment": environment}
        return DatasetTables(self.store, Lake(self.layout.lake), dataset, partition_as=partition_as, **chosen)

    @property
    def _execution(self) -> Execution:
        return Execution(self.store, self.layout, self.file, self.clock, self.listener, self.by)

    @property
    def _manifests(self) -> Manifests:
        return Manifests(self.layout.releases / "manifests")

    @property
    def _candidates(self) -> Candidates:
        return Candidates(self.store, self.clock, self.by)

    def _loaded(self, crew: Crew, home: Home) -> Manifest:
        """Return what the code of a home declares; the catalog is opened while that is loaded."""
        crew.manifest(home)
        _ = self.store
        return load(crew, home)

    @property
    def _home(self) -> Home:
        return Home(str(self.layout.root))

    def _crew(self, slots: int | None) -> AbstractContextManager[Crew]:
        return open_crew(self.layout, self.file, self.clock, self._slots(slots))

    def _loader(self) -> AbstractContextManager[Crew]:
        return open_crew(self.layout, self.file, self.clock, 1, only_loads=True)

    def _slots(self, asked: int | None) -> int:
        return max(1, asked or self.file.run.workers or os.cpu_count() or 1)

    def _world(self, manifest: Manifest, candidate: Environment | None) -> World:
        name = candidate.code if candidate else name_of_working_tree(self.layout.root)
        return read_world(self.store, manifest, candidate, name, self.clock.now())

    def _execute(self, plan: Plan, manifest: Manifest, home: Home, crew: Crew, reason: str) -> RunSummary:
        run_id = self._execution.begin(plan, manifest, reason, crew)
        return self._execution.execute(run_id, plan, manifest, home, crew)

    def _withdraw(self, plan: Plan) -> None:
        if plan.withdrawals:
            changes = tuple(
                PointerChange(entry.dataset, entry.partition, entry.version, None)
                for entry in plan.withdrawals
            )
            move = NewMove("withdraw", plan.environment, self.by, "same as the base again", "", changes)
            self.store.move(move, self.clock.now())

    def _unfinished(self, pipeline: str) -> Run:
        # Only the newest: what an older one left undone, a newer one has planned anew.
        for run in self.store.runs(pipeline=pipeline, environment=PRODUCTION, limit=1):
            if run.state != "done":
                found = self.store.run(run.id)
                assert found is not None
                return found
        raise NotFound(
            f"The newest run of {pipeline!r} is done, or there is none.", hint="See: sidestage status"
        )

    def _moved(self, move: Move) -> Move:
        self.listener(PointersMoved(move.at, str(move.id), move.environment, move.kind, move.pointers))
        return move


def _person() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
