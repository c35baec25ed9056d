"""A worker that serves whatever is open: ``sidestage worker``."""

import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec

from sidestage.clock import Clock
from sidestage.data.dataset import RESERVED
from sidestage.data.lake import Lake
from sidestage.errors import NotFound, SchemaMismatch, StaleWorld, StoreError
from sidestage.events import Listener
from sidestage.pipeline.manifest import Manifest
from sidestage.pipeline.projectfile import ProjectFile
from sidestage.plan.plan import Plan
from sidestage.project.execution import Execution, changed_tasks
from sidestage.project.keeping import Keeping
from sidestage.project.layout import Layout
from sidestage.project.neighbours import Neighbours
from sidestage.project.patience import WaitAlarm
from sidestage.project.ticking import BY, Ticking
from sidestage.project.workshop import candidate_home, home_of, new_dispatcher, open_crew
from sidestage.project.worlds import PRODUCTION
from sidestage.release.code import find_laid_out, lay_out
from sidestage.run.active import ActiveRun
from sidestage.run.assignment import Assignment, Audience
from sidestage.run.crew import Crew
from sidestage.run.crews import Home
from sidestage.run.dispatcher import Dispatcher
from sidestage.run.summary import Tally
from sidestage.runtime.lifeline import this_process
from sidestage.store.contract import Store
from sidestage.store.records import Run, Worker

_TROUBLE_SECONDS = 1.0
_TICK_SECONDS = 1.0
_DRAINING_TICK_SECONDS = 0.1


class Said(msgspec.Struct, frozen=True):
    """Something that a worker has to say to the people who started it."""

    message: str
    hint: str = ""


class Working(msgspec.Struct, frozen=True):
    """A worker of a project: where state lies, whom it serves, who listens.

    ``queues`` empty: every queue. ``say`` hears what people should know. Without ``triggers`` it leaves it to
    others to begin runs that are due, without ``services`` to keep these running.
    """

    store: Store
    layout: Layout
    file: ProjectFile
    clock: Clock
    listener: Listener
    slots: int
    queues: tuple[str, ...]
    say: Callable[[Said], None]
    triggers: bool = True
    services: bool = True

    def work(self, *, until_idle: bool = False) -> Tally:
        """Serve open runs until told to stop by SIGTERM or SIGINT, or with ``until_idle`` until none is open.

        Runs that are due are begun, also before it is idle; nobody waits for those that will be.

        The first signal drains: what runs is finished, nothing new is claimed. The second one stops what
        runs, and gives it back. Services are drained and cancelled likewise; a worker that is to end by
        itself keeps none.
        """
        tally = Tally()
        neighbours = Neighbours(self.store, self.clock)
        neighbours.look()
        with open_crew(self.layout, self.file, self.clock, self.slots) as crew:
            dispatcher = new_dispatcher(
                self.store,
                self.layout,
                crew,
                self.clock,
                assignment=Assignment(
                    self._worker(),
                    lease=self.file.run.lease,
                    queues=self.queues or None,
                    pools=self.file.pool_list,
                ),
                open_run=_Opener(self, crew),
                audience=Audience(self.listener, tally),
            )
            watch = _Watch(neighbours, WaitAlarm(self.store, self.file, self.clock), self.say)
            told = _Told()
            keeps = self.services and not until_idle
            with told.by_signals(), self._ticking(crew) as ticking, self._keeping(keeps=keeps) as keeping:
                beside = _Beside(crew, ticking, keeping)
                self._loop(dispatcher, watch, beside, told, until_idle=until_idle)
                if told.twice:
                    crew.end()  # first, or another worker would begin what still runs here
                else:
                    crew.wind_down()
                dispatcher.close()
        return tally

    @contextmanager
    def _ticking(self, crew: Crew) -> Iterator[Ticking | None]:
        """Yield what begins the runs that are due, if this worker is to do that."""
        if not self.triggers:
            yield None
            return
        execution = Execution(self.store, self.layout, self.file, self.clock, self.listener, BY)
        ticking = Ticking(execution, crew, lambda message, hint: self.say(Said(message, hint)))
        try:
            yield ticking
        finally:
            ticking.close()

    @contextmanager
    def _keeping(self, *, keeps: bool) -> Iterator[Keeping | None]:
        """Yield what keeps services running, if this worker is to do that."""
        if not keeps:
            yield None
            return
        lease, queues = self.file.run.lease, self.queues
        keeping = Keeping(
            self.store,
            self.layout,
            self.clock,
            lease,
            queues,
            lambda message, hint: self.say(Said(message, hint)),
        )
        try:
            yield keeping
        finally:
            keeping.close(within=self.file.run.stop)

    def _loop(
        self,
        dispatcher: Dispatcher,
        watch: "_Watch",
        beside: "_Beside",
        told: "_Told",
        *,
        until_idle: bool,
    ) -> None:
        while not told.twice:
            if told.once and not dispatcher.draining:
                dispatcher.drain()
            try:
                dispatcher.tick(_TICK_SECONDS if not told.once else _DRAINING_TICK_SECONDS)
                watch.look(dispatcher)
                beside.look(draining=dispatcher.draining)
                if dispatcher.draining and not dispatcher.busy and beside.is_over:
                    return
                if until_idle and not dispatcher.busy and self._is_idle(dispatcher.refused, beside.ticking):
                    return
            except StoreError as error:
                if not error.transient:
                    raise
                # What was finished is kept and settled as soon as the store can be reached again.
                self.say(Said(error.message, error.hint))
                time.sleep(_TROUBLE_SECONDS)

    def _is_idle(self, refused: Collection[int], ticking: Ticking | None) -> bool:
        """Whether there is nothing that this worker could do; what is due may wait for a run it refused."""
        there = [run.id for run in self.store.open_runs() if run.pipeline != RESERVED]
        settled = ticking is None or ticking.settled or bool(there)
        return settled and all(run in refused for run in there)

    def find(self, run_id: int) -> tuple[Run, Home]:
        """Return a run and where its code is loaded. Raises NotFound if either is not there."""
        run = self.store.run(run_id)
        if run is None:
            raise NotFound(f"There is no run {run_id}.")
        return run, self._home(run)

    def take_up(self, run: Run, home: Home, manifest: Manifest) -> ActiveRun:
        """Return a run as it is executed here. Raises SchemaMismatch or StaleWorld if it cannot be."""
        try:
            plan = msgspec.json.decode(run.plan, type=Plan)
        except msgspec.MsgspecError as error:
            raise SchemaMismatch(
                f"its plan cannot be read here: {error}.",
                hint="Was it made by another release of Sidestage? Bring all hosts to the same one.",
            ) from error
        changed = changed_tasks(plan, manifest)
        if changed:
            raise StaleWorld(
                f"it was planned for other code of {', '.join(changed)} than lies here.",
                hint="Bring this host's copy to the same commit and start the worker again.",
            )
        lake = Lake(self.layout.lake)
        return ActiveRun(run.id, plan, manifest, home_of(home, run.id), lake, self.layout.logs)

    def _home(self, run: Run) -> Home:
        if run.environment == PRODUCTION:
            return Home(str(self.layout.root))
        found = find_laid_out(run.code, self.layout.root, self.layout.releases)
        if found is None and run.code.startswith("git:"):
            found = Path(lay_out(run.code, self.layout.root, self.layout.releases).root)
        if found is None:
            raise NotFound(
                f"its code {run.code} was never laid out on this host.",
                hint="Stage commits (--code git:REF) where several hosts work together.",
            )
        return candidate_home(found, self.file)

    def _worker(self) -> Worker:
        now = self.clock.now()
        return Worker(this_process(), self.queues, self.slots, draining=False, started_at=now, seen_at=now)


class _Beside:
    """What a worker does beside serving steps: it begins what is due, and keeps services running."""

    def __init__(self, crew: Crew, ticking: Ticking | None, keeping: Keeping | None) -> None:
        self.ticking = ticking
        self._crew = crew
        self._keeping = keeping

    def look(self, *, draining: bool) -> None:
        """See to it. Raises StoreError."""
        if draining and self._keeping is not None:
            self._keeping.drain()
        if self.ticking is not None and not draining:
            self.ticking.look()
        if self._keeping is not None:
            self._keeping.look(self._crew)

    @property
    def is_over(self) -> bool:
        """Whether no service is held any more."""
        return self._keeping is None or self._keeping.is_idle


class _Opener:
    """Takes runs up. While the code of one is being loaded it is asked again and again, but finds it once."""

    def __init__(self, working: Working, crew: Crew) -> None:
        self._working = working
        self._crew = crew
        self._found: dict[int, tuple[Run, Home]] = {}

    def __call__(self, run_id: int) -> ActiveRun | None:
        run, home = self._found.pop(run_id) if run_id in self._found else self._working.find(run_id)
        manifest = self._crew.manifest(home)
        if manifest is None:
            self._found[run_id] = run, home
            return None
        return self._working.take_up(run, home, manifest)


class _Watch:
    """What a worker looks at after each round, and tells people of."""

    def __init__(self, neighbours: Neighbours, alarm: WaitAlarm, say: Callable[[Said], None]) -> None:
        self._neighbours = neighbours
        self._alarm = alarm
        self._say = say
        self._refused: set[int] = set()

    def look(self, dispatcher: Dispatcher) -> None:
        """Say which runs are left to others and what waits for too long; see to neighbours that died."""
        for run_id in sorted(dispatcher.refused.keys() - self._refused):
            self._refused.add(run_id)
            error = dispatcher.refused[run_id]
            self._say(Said(f"Run {run_id} is left to other workers: {error.message}", error.hint))
        for wait in self._alarm.late():
            self._say(Said(f"Run {wait.run}: {wait.first} is {wait.why}."))
        for worker in self._neighbours.look():
            self._say(Said(f"The worker {worker} is gone; what it ran is given to others."))


class _Told:
    """How often this process was told to stop."""

    def __init__(self) -> None:
        self._times = 0

    @property
    def once(self) -> bool:
        return self._times > 0

    @property
    def twice(self) -> bool:
        return self._times > 1

    @contextmanager
    def by_signals(self) -> Iterator[None]:
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in before:
            signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        self._times += 1
