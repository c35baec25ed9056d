"""A world with one clock: its workers, the database between them, and how time passes.

One thread runs it all. A worker that is paused in the middle of a call stays where it is, on the stack, while
the others go on; that makes a history a function of its seed alone.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from sidestage.errors import StoreError
from sidestage.testing.chaos import Chaos

EPOCH = datetime(2013, 1, 1, 12, tzinfo=UTC)
_CUT_OFF_SECONDS = (0.2, 2.0)
_HOURS = 3600.0
_AGAIN_SECONDS = 0.1
_CALL_SECONDS = 0.001


class Actor(Protocol):
    """Somebody whose turn comes: a worker, or an event that was planned."""

    wakes_at: float

    def act(self) -> None:
        """Take a turn, and say when the next one is."""
        ...

    def wake(self, at: float) -> None:
        """Hear that the store changed."""
        ...


class WorldClock:
    """One host's clocks: its own zero, and a wall clock that somebody may set. A ``Clock``."""

    def __init__(self, now: Callable[[], float], zero: float) -> None:
        self._now = now
        self._zero = zero
        self._wall_ahead = 0.0

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        return EPOCH + timedelta(seconds=self._now() + self._wall_ahead)

    def monotonic(self) -> float:
        """Return seconds that never go backwards, for durations and leases."""
        return self._now() + self._zero

    def step(self, hours: float) -> None:
        """Set the wall clock forwards or backwards."""
        self._wall_ahead += hours * _HOURS


class World:
    """Virtual time, and everybody who lives in it.

    ``rounds`` counts the turns that were taken; ``tell`` hears what happens, line by line.
    """

    def __init__(self, chaos: Chaos, lease: float, tell: Callable[[str], None] | None = None) -> None:
        self.chaos = chaos
        self._tell = tell
        self.time = 0.0
        self.rounds = 0
        self.actors: list[Actor] = []
        self._lease = lease
        self._on_stack: list[Actor] = []
        self._unreachable_until = 0.0
        self._changes = 0

    def now(self) -> float:
        """Return the seconds since the world began: the clock of its database."""
        return self.time

    def wall(self) -> datetime:
        """Return the wall-clock time of whoever has a clock that nobody sets."""
        return EPOCH + timedelta(seconds=self.time)

    @property
    def is_told(self) -> bool:
        """Whether anybody wants to read the history."""
        return self._tell is not None

    @property
    def is_unreachable(self) -> bool:
        """Whether nobody can reach the database now."""
        return self.time < self._unreachable_until

    def cut_off(self) -> None:
        """Make the database unreachable for a while."""
        self._unreachable_until = self.time + self.chaos.between(*_CUT_OFF_SECONDS)

    def pause(self) -> None:
        """Let longer than a lease pass for everybody who is not in the middle of a turn."""
        self.run_until(self.time + self._lease * self.chaos.between(1.0, 2.0))

    def ring(self, changes: int) -> None:
        """Wake everybody, if there were changes since this was asked last."""
        if changes == self._changes:
            return
        self._changes = changes
        for actor in self.actors:
            actor.wake(self.time + _CALL_SECONDS)

    def note(self, who: str, what: str) -> None:
        """Write the history down, if anybody wants to read it."""
        if self._tell is not None:
            self._tell(f"{self.time:9.3f}  {who:6} {what}")

    def run_until(self, time: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, and everybody act as their turn comes, until ``time`` or ``enough``."""
        while not enough():
            actor = self._next()
            if actor is None or actor.wakes_at > time:
                self.time = max(self.time, time)
                return
            self.time = max(self.time, actor.wakes_at)
            self.rounds += 1
            self._on_stack.append(actor)
            try:
                actor.act()
            finally:
                self._on_stack.pop()

    def _next(self) -> Actor | None:
        found = None
        for actor in self.actors:
            if (found is None or actor.wakes_at < found.wakes_at) and actor not in self._on_stack:
                found = actor
        return found


class Planned:
    """Something that happens once, at its time; tried again while the store does not answer.

    ``is_over`` once it happened.
    """

    def __init__(self, at: float, what: Callable[[], None]) -> None:
        self.wakes_at = at
        self.is_over = False
        self._what = what

    def wake(self, at: float) -> None:
        """Wait all the same."""

    def act(self) -> None:
        """Do it."""
        try:
            self._what()
        except StoreError:
            self.wakes_at += _AGAIN_SECONDS
        else:
            self.is_over = True
            self.wakes_at = float("inf")
