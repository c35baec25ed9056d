"""Executors and a lake that exist only in virtual time."""

from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from sidestage.data.lake import Lake
from sidestage.data.version import Stored
from sidestage.errors import StaleWorld
from sidestage.pipeline.manifest import Manifest
from sidestage.run.crews import Answered, CodeLost, Found, Home, WorkerDied
from sidestage.run.messages import Execute, Failed, Written
from sidestage.testing.chaos import Chaos
from sidestage.testing.scenarios import manifest, stored

_MEAN_SECONDS = 0.15
_NOWHERE = Path("/nowhere")


class VirtualLake(Lake):
    """Files as names: what was written and not removed."""

    def __init__(self) -> None:
        super().__init__(_NOWHERE)
        self.files: set[str] = set()

    def path(self, stored: Stored) -> Path:
        """Return a path that nobody opens."""
        del stored
        return self.root

    def remove(self, relative: str | Path) -> None:
        """Remove a file, if it is there."""
        self.files.discard(str(relative))


class _Pending(NamedTuple):
    """An attempt that will end, or an answer that will come."""

    at: float
    number: int
    found: Found


class VirtualCrews:
    """The executors of one worker: attempts take virtual seconds, fail, die, and answer out of turn.

    ``now`` is the time of the world; ``sleeps_until`` says when there will be something to collect, and
    ``can_be_woken`` whether a change of the store ends the wait.
    """

    def __init__(
        self,
        slots: int,
        lease: float,
        *,
        chaos: Chaos,
        lake: VirtualLake,
        now: Callable[[], float],
        wall: Callable[[], datetime],
    ) -> None:
        self._slots = slots
        self._lease = lease
        self._chaos = chaos
        self._lake = lake
        self._now = now
        self._wall = wall
        self._running: dict[str, Execute] = {}
        self._pending: list[_Pending] = []
        self._number = 0
        self.sleeps_until = 0.0
        self.can_be_woken = False

    @property
    def free(self) -> int:
        """How many requests it would take now."""
        return self._slots - len(self._running)

    @property
    def busy(self) -> bool:
        """Whether any request is without an answer."""
        return bool(self._running)

    def manifest(self, home: Home) -> Manifest | None:
        """Return what the code of a home declares."""
        del home
        return manifest()

    def submit(self, request: Execute, home: Home) -> None:
        """Have a request run. Its answer comes from ``collect``."""
        chaos, rates = self._chaos, self._chaos.rates
        self._running[request.version] = request
        seconds = chaos.seconds(_MEAN_SECONDS)
        if chaos.strikes(rates.code_lost, "code of a run lost"):
            error = StaleWorld("The code was changed while it ran.", hint="Run again for the rest.")
            self._expect(self._now() + seconds, CodeLost(home, (request,), error))
            return
        if chaos.strikes(rates.slow, "attempt slower than a lease"):
            seconds += 1.5 * self._lease
        found = self._end(request, seconds)
        ends = self._now() + seconds
        if chaos.strikes(rates.delayed, "answer delayed"):
            ends += chaos.seconds(self._lease)
        self._expect(ends, found)
        if isinstance(found, Answered) and chaos.strikes(rates.twice, "answer delivered twice"):
            self._expect(ends + chaos.seconds(self._lease), found)

    def collect(self, timeout: float) -> list[Found]:
        """Return what came in by now; the world calls again when ``timeout`` is over or more has come."""
        now = self._now()
        due = [each for each in self._pending if each.at <= now]
        if not due:
            self.sleeps_until = min([now + timeout, *(each.at for each in self._pending)])
            return []
        self._pending = [each for each in self._pending if each.at > now]
        due.sort()
        if len(due) > 1 and self._chaos.strikes(self._chaos.rates.reordered, "answers reordered"):
            self._chaos.shuffle(due)
        for each in due:
            if self._running.pop(_request(each.found).version, None) is not None:  # the first time
                self._write(each.found)
        return [each.found for each in due]

    def wake_by(self, descriptor: int | None) -> None:
        """Let waiting end when the store changes, if the database can call."""
        self.can_be_woken = descriptor is not None

    def stop(self, versions: Collection[str]) -> None:
        """Stop the attempts that would make these versions: nothing more is heard of them."""
        for version in versions:
            self._running.pop(version, None)
        self._pending = [each for each in self._pending if _request(each.found).version not in versions]

    def _expect(self, at: float, found: Found) -> None:
        self._number += 1
        self._pending.append(_Pending(at, self._number, found))

    def _end(self, request: Execute, seconds: float) -> Answered | WorkerDied:
        """Decide how an attempt ends."""
        chaos, rates = self._chaos, self._chaos.rates
        if chaos.strikes(rates.died, "executor process died"):
            return WorkerDied(request, "was killed")
        if chaos.strikes(rates.failed, "attempt failed"):
            return Answered(request, Failed(request.step, "transient", "no luck", "", ()))
        made = stored(request.partition, request.version)
        return Answered(request, Written(request.step, made, (), seconds, seconds, self._wall()))

    def _write(self, found: Found) -> None:
        if isinstance(found, Answered) and isinstance(found.answer, Written):
            self._lake.files.add(found.answer.stored.path)


def _request(found: Found) -> Execute:
    if isinstance(found, Answered):
        return found.request
    return found.running if isinstance(found, WorkerDied) else found.requests[0]
