"""Circuit breaker: a place that fails is left alone for a while, then tried with a few calls.

A closed circuit lets every call through and watches the answers. Too many failures open it: nobody calls
until a pause has passed. Then it is half-open: a few trial calls go through. Once they all succeed it
closes; when one fails it opens again, for twice as long. Whoever is refused learns how many seconds to wait,
so that a stage can pause its upstream instead of burning its retries.
"""

import math
import threading
from collections import deque
from typing import Literal

import msgspec

from sidestage.clock import Clock
from sidestage.errors import DefinitionError, TaskError
from sidestage.events import Event, Listener
from sidestage.policy.failure import RETRYABLE, FailureClass
from sidestage.policy.news import News

CircuitState = Literal["closed", "open", "half-open"]

COUNTED: frozenset[FailureClass] = RETRYABLE | {"authentication", "disk-full"}
"""Classes that say something about the place that was called, rather than about one item."""

_GROWTHS = 60  # 2.0 to this power is beyond any pause


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """When to leave a failing place alone, and for how long.

    It opens when at least ``share`` (0 to 1) of the last ``window`` calls failed, once there were ``least``
    calls, or after ``in_a_row`` failures one after another (None: never for that reason). ``pause`` is the
    first time it stays open, in seconds, doubled each time it opens again before it has recovered, up to
    ``longest``. Half-open, ``trials`` calls go through; one that has not answered after ``patience`` seconds
    has failed. Only failures of the classes in ``counts`` count; others are answers of a healthy place.

    Raises DefinitionError for numbers that make no sense.
    """

    share: float = 0.5
    window: int = 100
    least: int = 20
    in_a_row: int | None = 10
    pause: float = 5.0
    longest: float = 300.0
    trials: int = 1
    patience: float = 60.0
    counts: frozenset[FailureClass] = COUNTED

    def __post_init__(self) -> None:
        counts_hold = 1 <= self.least <= self.window and self.trials >= 1
        row_holds = self.in_a_row is None or self.in_a_row >= 1
        times_hold = 0 < self.pause <= self.longest < math.inf and 0 < self.patience < math.inf
        if not (0 < self.share <= 1 and counts_hold and row_holds and times_hold):  # so that nan fails, too
            raise DefinitionError(
                f"Breaker(share={self.share}, window={self.window}, least={self.least}, "
                f"in_a_row={self.in_a_row}, pause={self.pause}, longest={self.longest}, "
                f"trials={self.trials}, patience={self.patience}) makes no sense.",
                hint="share lies above 0 and up to 1, least is at most window, pause at most longest; "
                "all are positive.",
            )

    def pause_after(self, openings: int) -> float:
        """Return the seconds to stay open for, when it opened ``openings`` times before it recovered."""
        return min(self.pause * 2.0 ** min(openings - 1, _GROWTHS), self.longest)


class Permit(msgspec.Struct, frozen=True):
    """Leave to make one call; handed back to its circuit with the answer."""

    turn: int
    number: int


class CircuitOpen(TaskError):
    """A call was not made because the circuit is open; it is in the failure class "transient"."""

    transient = True
    failure_class: FailureClass = "transient"


class CircuitTurned(Event, frozen=True):
    """A circuit breaker opened, closed or became half-open; it stays open for ``pause`` seconds."""

    circuit: str
    before: CircuitState
    after: CircuitState
    why: str
    pause: float


class CircuitSnapshot(msgspec.Struct, frozen=True):
    """A circuit at a moment: calls and failures that it remembers, and the seconds until it tries again."""

    state: CircuitState
    calls: int
    failures: int
    openings: int
    wait: float


class Circuit:
    """A circuit breaker at work. Safe for threads; time is that of ``clock``.

    The listener hears a ``CircuitTurned`` for each change of state, in order, outside all locks.
    """

    def __init__(self, name: str, breaker: Breaker, clock: Clock, listener: Listener | None = None) -> None:
        self._name = name
        self._breaker = breaker
        self._clock = clock
        self._news = News(listener)
        self._lock = threading.Lock()
        self._state: CircuitState = "closed"
        self._turn = 0  # rises with each change of state: answers of an earlier time are ignored
        self._number = 0
        self._answers: deque[bool] = deque()  # of the last calls, True for a failure
        self._failures = 0
        self._in_a_row = 0
        self._openings = 0
        self._until = 0.0
        self._trials: dict[int, float] = {}
        self._passed = 0

    @property
    def state(self) -> CircuitState:
        """The state now; an open circuit becomes half-open when a permit is asked for after its pause."""
        return self._state

    @property
    def name(self) -> str:
        """What people call it."""
        return self._name

    def permit(self) -> Permit | float:
        """Return leave for one call, or the seconds to wait before asking again (more than zero).

        Whoever got a permit hands it back with ``succeeded``, ``failed`` or ``withdrawn``.
        """
        with self._lock:
            answer = self._permit()
        self._news.tell()
        return answer

    def succeeded(self, permit: Permit) -> None:
        """Say that the call was answered."""
        with self._lock:
            self._settle(permit, failed=False, why="")
        self._news.tell()

    def failed(self, permit: Permit, failure: FailureClass = "transient") -> None:
        """Say that the call failed; a failure of a class that does not count is an answer all the same.

        One that somebody cancelled says nothing about the place.
        """
        if failure == "cancelled":
            self.withdrawn(permit)
            return
        with self._lock:
            self._settle(permit, failed=failure in self._breaker.counts, why=failure)
        self._news.tell()

    def withdrawn(self, permit: Permit) -> None:
        """Say that the call was not made after all, or was cancelled: it says nothing about the place."""
        with self._lock:
            if permit.turn == self._turn:
                self._trials.pop(permit.number, None)

    def snapshot(self) -> CircuitSnapshot:
        """Return what there is to see."""
        with self._lock:
            wait = max(0.0, self._until - self._clock.monotonic()) if self._state == "open" else 0.0
            return CircuitSnapshot(self._state, len(self._answers), self._failures, self._openings, wait)

    def _permit(self) -> Permit | float:
        if self._state == "closed":
            return self._issue()
        now = self._clock.monotonic()
        if self._state == "half-open" and any(until <= now for until in self._trials.values()):
            patience = self._breaker.patience
            self._open(f"a trial call was not answered within {patience:g} s")
        if self._state == "open":
            if now < self._until:
                return self._until - now
            self._change("half-open", "its pause has passed", 0.0)
            self._passed = 0
        if self._passed + len(self._trials) < self._breaker.trials:
            permit = self._issue()
            self._trials[permit.number] = now + self._breaker.patience
            return permit
        return min(min(self._trials.values()) - now, self._breaker.pause)

    def _issue(self) -> Permit:
        self._number += 1
        return Permit(self._turn, self._number)

    def _settle(self, permit: Permit, *, failed: bool, why: str) -> None:
        if permit.turn != self._turn:
            return
        if self._state == "closed":
            self._remember(failed, why)
        elif self._trials.pop(permit.number, None) is not None:
            if failed:
                self._open(f"a trial call failed ({why})")
            else:
                self._passed += 1
                if self._passed == self._breaker.trials:
                    self._change("closed", "the trial calls were answered", 0.0)

    def _remember(self, failed: bool, why: str) -> None:
        breaker = self._breaker
        self._answers.append(failed)
        self._failures += failed
        if len(self._answers) > breaker.window:
            self._failures -= self._answers.popleft()
        self._in_a_row = self._in_a_row + 1 if failed else 0
        calls = len(self._answers)
        if failed and self._in_a_row == breaker.in_a_row:
            self._open(f"{self._in_a_row} calls in a row failed, the last one {why}")
        elif calls >= breaker.least:
            if failed and self._failures >= breaker.share * calls:
                self._open(f"{self._failures} of the last {calls} calls failed, the last one {why}")
            elif self._failures < breaker.share * calls:
                self._openings = 0  # it has recovered: the next pause is a short one again

    def _open(self, why: str) -> None:
        self._openings += 1
        pause = self._breaker.pause_after(self._openings)
        self._until = self._clock.monotonic() + pause
        self._change("open", why, pause)

    def _change(self, after: CircuitState, why: str, pause: float) -> None:
        before, self._state = self._state, after
        self._turn += 1
        self._answers.clear()
        self._failures = self._in_a_row = 0
        self._trials.clear()
        self._news.note(CircuitTurned(self._clock.now(), self._name, before, after, why, pause))
