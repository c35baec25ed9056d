"""One simulated worker: the real dispatcher, over a line that breaks, with executors in virtual time."""

import traceback
from pathlib import Path
from typing import Protocol

import msgspec

from sidestage.errors import StoreError
from sidestage.events import Event
from sidestage.run.active import OpenRun
from sidestage.run.assignment import Assignment, Audience, Chance, Done
from sidestage.run.dispatcher import Dispatcher
from sidestage.store.records import Worker
from sidestage.testing.faulty_store import Crashed, FaultyStore, Line
from sidestage.testing.virtual_crews import VirtualCrews, VirtualLake
from sidestage.testing.virtual_world import World, WorldClock

_TURN_SECONDS = 0.002
_RESTART_SECONDS = (0.1, 1.0)
_MOST_RESTLESS_TURNS = 20
_PATIENCE_SECONDS = (0.05, 0.3)
"""How long a worker waits whose store did not answer."""

_WAIT_SECONDS = 1.0


class Site(Protocol):
    """What all workers of a world share."""

    world: World
    lake: VirtualLake
    assignment: Assignment
    slots: int

    def connect(self, who: str) -> tuple[FaultyStore, Line]:
        """Return a new line to the store, and a handle on it."""
        ...

    def accuse(self, what: str) -> None:
        """Note a violation."""
        ...

    def fresh_id(self) -> str:
        """Return the id of a version."""
        ...

    def hear(self, event: Event) -> None:
        """Hear what a worker says happened."""
        ...

    def hear_of(self, done: Done) -> None:
        """Hear what a worker says became of a step."""
        ...

    def bury(self, name: str) -> None:
        """Take back what a worker that is known to be dead was running."""
        ...


class VirtualWorker:
    """A worker's process and its successors: crashes, is drained, starts again under another name."""

    def __init__(self, site: Site, name: str, open_run: OpenRun, zero: float) -> None:
        self._site = site
        self._name = name
        self._open_run = open_run
        self._zero = zero
        self._starts = 0
        self._restless = 0
        self.wakes_at = 0.0
        self.dispatcher: Dispatcher | None = None
        self._line: Line
        self._crews: VirtualCrews
        self._clock: WorldClock
        self._alias = name

    def wake(self, at: float) -> None:
        """End its wait for changes, if it can be woken."""
        if self.dispatcher is not None and self._crews.can_be_woken:
            self.wakes_at = min(self.wakes_at, at)

    @property
    def busy(self) -> bool:
        """Whether it has anything in hand."""
        return self.dispatcher is not None and self.dispatcher.busy

    @property
    def alias(self) -> str:
        """The name under which it claims now."""
        return self._alias

    def kill(self) -> None:
        """End the process, wherever it is."""
        if self.dispatcher is not None:
            self._line.is_dead = True
            self._forget()

    def act(self) -> None:
        """Do one round of the worker's loop, or begin a new process: also where a run's code was refused."""
        world = self._site.world
        if self.dispatcher is None:
            self._start()
        chaos = world.chaos
        if chaos.strikes(chaos.rates.clock_step, "wall clock stepped"):
            self._clock.step(chaos.between(-2.0, 2.0))
        dispatcher, crews = self.dispatcher, self._crews
        assert dispatcher is not None
        self.wakes_at = float("inf")
        crews.sleeps_until = 0.0
        try:
            did = dispatcher.tick(_WAIT_SECONDS)
            leaves = not dispatcher.busy and (dispatcher.draining or bool(dispatcher.refused))
            if leaves:
                dispatcher.close()
        except Crashed:
            self._forget()
        except StoreError:
            self.wakes_at = world.time + chaos.between(*_PATIENCE_SECONDS)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a fault of the dispatcher
            self._site.accuse(f"{self._alias} stopped: {_told(error)}")
            self._forget()
        else:
            if leaves:
                self._forget()
            else:
                self._wait(did=did)

    def _wait(self, *, did: bool) -> None:
        """Sleep as long as the dispatcher wants to; a real one that never does burns a processor."""
        now = self._site.world.time
        until = self._crews.sleeps_until
        self._restless = 0 if did or until > now else self._restless + 1
        if self._restless == _MOST_RESTLESS_TURNS:
            self._site.accuse(f"{self._alias} goes round and round without waiting")
        self.wakes_at = now + _TURN_SECONDS if did else max(now + _TURN_SECONDS, until)

    def _start(self) -> None:
        site = self._site
        self._starts += 1
        self._alias = f"{self._name}.{self._starts}"
        world = site.world
        self._clock = WorldClock(world.now, self._zero)
        store, self._line = site.connect(self._alias)
        self._crews = VirtualCrews(
            site.slots,
            site.assignment.lease,
            chaos=world.chaos,
            lake=site.lake,
            now=world.now,
            wall=self._clock.now,
        )
        started = self._clock.now()
        who = Worker(
            self._alias, ("default",), site.slots, draining=False, started_at=started, seen_at=started
        )
        self.dispatcher = Dispatcher(
            store,
            site.lake,
            self._crews,
            self._clock,
            msgspec.structs.replace(site.assignment, worker=who),
            self._open_run,
            Audience(site.hear, site.hear_of),
            Chance(site.fresh_id, world.chaos.chance),
        )

    def _forget(self) -> None:
        """Leave nothing of the process; another is started after a while."""
        world = self._site.world
        if self.dispatcher is None:  # killed while it was in the middle of a call
            return
        self.dispatcher = None
        self.wakes_at = world.time + world.chaos.between(*_RESTART_SECONDS)
        if world.chaos.chance() < 0.3:  # noqa: PLR2004  # whoever started it saw it end
            self._site.bury(self._alias)


def _told(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}({error}) in {last.name} of {Path(last.filename).name}, line {last.lineno}"
