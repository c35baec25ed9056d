"""Deterministic simulation: the real dispatchers, through histories full of faults, one history per seed.

Several workers share a store in memory. Everything around them (time, the database's line, executors, wall
clocks) is virtual and fails as the seed's dice say. After a while nothing fails any more: then every run must
come to its end, and what the store holds must agree with what a witness saw.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from sidestage.errors import StoreError
from sidestage.events import Event, StepPublished
from sidestage.run.active import ActiveRun
from sidestage.run.assignment import Assignment, Done
from sidestage.run.crews import Home
from sidestage.store.records import Environment, NewRun, Worker
from sidestage.testing.chaos import Chaos, Fault, Rates
from sidestage.testing.faulty_store import FaultyStore, Line
from sidestage.testing.memory_tables import Tables
from sidestage.testing.scenarios import ENVIRONMENT, PIPELINE, POOLS, Scenario, manifest, scenario
from sidestage.testing.virtual_crews import VirtualLake
from sidestage.testing.virtual_worker import VirtualWorker
from sidestage.testing.virtual_world import EPOCH, Planned, World
from sidestage.testing.witness import Witness

_LEASES = (0.5, 1.0)
_STORM_SECONDS = (2.0, 4.0)
_CALM_SECONDS = 60.0
"""By then every run must have ended, once nothing fails any more."""

_LATE_SECONDS = 3.0
"""What is still in hand then may come too late; it must not matter."""

_NUMBERS = 1 << 20
_CALLING_DATABASES = 0.9
_SECOND_RUN = 0.5
_SAME_PARTITIONS = 0.3
_MOST_ROUNDS = 20_000
_LOGS = Path("/nowhere")
_NOBODY = Worker("", ("default",), 1, draining=False, started_at=EPOCH, seen_at=EPOCH)
_HOME = Home(root="/nowhere")


class History(msgspec.Struct, frozen=True):
    """What came of one seed.

    ``seconds`` are virtual, ``recovery`` those from the last fault until all runs had ended; ``rounds``
    counts the turns of all workers.
    """

    seed: int
    violations: tuple[str, ...]
    faults: dict[Fault, int]
    seconds: float
    recovery: float
    rounds: int
    runs: int
    published: int


class Simulation:
    """One history: its world, and what all workers in it share."""

    def __init__(
        self,
        seed: int,
        store: type[FaultyStore] = FaultyStore,
        rates: Rates | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        chaos = Chaos(seed, rates)
        lease = chaos.pick(_LEASES)
        self.world = World(chaos, lease, tell)
        self.lake = VirtualLake()
        self.assignment = Assignment(_NOBODY, lease=lease, pools=POOLS)
        self.slots = 1 + int(chaos.chance() * 3)
        self._seed = seed
        self._chaos = chaos
        self._store = store
        self._tables = Tables(self.world.now)
        self._witness = Witness(self._tables, POOLS, self.world.now)
        self._ears_can_wait = chaos.chance() < _CALLING_DATABASES
        self._versions = 0
        self._planned: list[Planned] = []
        self._shapes: dict[int, Scenario] = {}
        # Whoever begins, cancels and buries: not a worker, so not part of the storm.
        self._office = self._opened(Line("office", self.world, self._tables, steady=True))
        workers = 2 + int(chaos.chance() * 2)
        self._workers = [
            VirtualWorker(self, f"w{n}", self._open_run, zero=chaos.between(0.0, 1e6)) for n in range(workers)
        ]

    def play(self) -> History:
        """Let the history happen, and judge it."""
        chaos, world = self._chaos, self.world
        self._office.save_environment(Environment(ENVIRONMENT, None, "", "open", world.wall()))
        storm = chaos.between(*_STORM_SECONDS)
        self._plan_events(storm)
        world.actors.extend(self._workers)
        world.run_until(storm, self._is_endless)
        chaos.calm = True
        calm_since = world.time
        world.run_until(calm_since + _CALM_SECONDS, self._is_over)
        recovery = world.time - calm_since
        if self._is_endless():
            self._witness.accuse(f"the workers took {world.rounds} turns: something goes round in circles")
        world.run_until(world.time + _LATE_SECONDS, self._is_idle)
        self._witness.conclude(self._office, self.lake.files)
        return History(
            self._seed,
            tuple(self._witness.violations),
            dict(chaos.counts),
            world.time,
            recovery,
            world.rounds,
            len(self._tables.runs),
            len(self._tables.versions),
        )

    def accuse(self, what: str) -> None:
        """Note a violation."""
        self._witness.accuse(what)

    def connect(self, who: str) -> tuple[FaultyStore, Line]:
        """Return a handle on the store, and the new line that it uses."""
        line = Line(who, self.world, self._tables)
        return self._opened(line), line

    def fresh_id(self) -> str:
        """Return the id of a version."""
        self._versions += 1
        return f"v{self._versions:04}"

    def hear(self, event: Event) -> None:
        """Hear what a worker says happened."""
        if isinstance(event, StepPublished):
            self._witness.heard(int(event.run), event.step, event.version)

    def hear_of(self, done: Done) -> None:
        """Hear what a worker says became of a step."""
        if done.result.step != done.outcome.claim.step:
            self._witness.accuse(f"{done.outcome.claim} was told as {done.result}")

    def bury(self, name: str) -> None:
        """Take back what a worker that is known to be dead was running, if the store can be reached."""
        with suppress(StoreError):
            self._office.abandon(name, self.world.wall())

    def _opened(self, line: Line) -> FaultyStore:
        return self._store(self._tables, line, self._witness, self._chaos, ear_can_wait=self._ears_can_wait)

    def _open_run(self, run: int) -> ActiveRun | None:
        shape = self._shapes.get(run)
        if shape is None:  # begun, but whoever asked for it has not yet heard so
            return None
        if self._chaos.strikes(self._chaos.rates.loading, "code not loaded yet"):
            return None
        return ActiveRun(run, shape.plan, manifest(), _HOME, self.lake, _LOGS)

    def _plan_events(self, storm: float) -> None:
        """Decide what is asked of the platform, and when."""
        chaos, rates = self._chaos, self._chaos.rates
        number = int(chaos.chance() * _NUMBERS)
        self._at(0.0, partial(self._begin, number))
        if chaos.chance() < _SECOND_RUN:
            # Now and then of the same partitions: one of the two must be refused as stale.
            other = number if chaos.chance() < _SAME_PARTITIONS else number + 1
            soon = storm * chaos.chance() ** 2  # mostly while the first one is still under way
            self._at(soon, partial(self._begin, other))
        if chaos.strikes(rates.cancelled, "run cancelled"):
            at = chaos.between(0.0, storm)
            self._at(at, partial(self._cancel, 1))
            if chaos.strikes(rates.taken_up, "run taken up again"):
                self._at(chaos.between(at, storm), partial(self._take_up, 1))
        if chaos.strikes(rates.drained, "worker drained"):
            self._at(chaos.between(0.0, storm), self._drain)
        if chaos.strikes(rates.power_cut, "power cut"):
            self._at(chaos.between(0.0, storm), self._cut_power)

    def _at(self, time: float, what: Callable[[], None]) -> None:
        planned = Planned(time, what)
        self._planned.append(planned)
        self.world.actors.append(planned)

    def _begin(self, number: int) -> None:
        """Begin a run; now and then two ask for the same one."""
        shape = scenario(number)
        key = f"{number} at {len(self._shapes)}"
        new = NewRun(PIPELINE, ENVIRONMENT, "tree:1", "ann", "", "", key=key)
        run = self._office.begin_run(new, shape.steps, self.world.wall())
        if self._chaos.strikes(self._chaos.rates.asked_twice, "run asked for twice"):
            again = self._office.begin_run(new, shape.steps, self.world.wall())
            if again != run:
                self._witness.accuse(f"runs {run} and {again} were begun for one key")
        self._shapes[run] = shape

    def _cancel(self, run: int) -> None:
        self._office.end_run(run, "cancelled", self.world.wall())

    def _take_up(self, run: int) -> None:
        self._office.reopen_run(run)

    def _drain(self) -> None:
        self._office.drain(self._chaos.pick(self._workers).alias)

    def _cut_power(self) -> None:
        for worker in self._workers:
            worker.kill()

    def _is_endless(self) -> bool:
        return self.world.rounds > _MOST_ROUNDS

    def _is_over(self) -> bool:
        to_come = any(not planned.is_over for planned in self._planned)
        running = any(run.state == "running" for run in self._tables.runs)
        return not (to_come or running) or self._is_endless()

    def _is_idle(self) -> bool:
        return not any(worker.busy for worker in self._workers) or self._is_endless()


def simulate(
    seed: int,
    store: type[FaultyStore] = FaultyStore,
    rates: Rates | None = None,
    tell: Callable[[str], None] | None = None,
) -> History:
    """Play one history, telling it line by line to ``tell``. The same arguments give the same history."""
    return Simulation(seed, store, rates, tell).play()
