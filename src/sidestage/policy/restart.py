"""Restarts: what becomes of a worker that died."""

import math
import threading
from collections import deque
from collections.abc import Callable

import msgspec

from sidestage.errors import DefinitionError
from sidestage.policy.retry import Retry


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """Start a worker again, at most ``times`` in ``within`` seconds; beyond that, crash.

    ``delay`` is the first pause in seconds, doubled with each restart that still counts, up to ``longest``.
    ``Restart(times=0)`` never starts anything again: crash, and let somebody look. Raises DefinitionError for
    numbers that make no sense.
    """

    times: int = 5
    within: float = 300.0
    delay: float = 1.0
    longest: float = 60.0

    def __post_init__(self) -> None:
        pauses_hold = 0 <= self.delay <= self.longest < math.inf
        if not (self.times >= 0 and 0 < self.within < math.inf and pauses_hold):  # so that nan fails, too
            raise DefinitionError(
                f"Restart(times={self.times}, within={self.within}, delay={self.delay}, "
                f"longest={self.longest}) makes no sense.",
                hint="times and delay must not be negative, within be above zero, longest not below delay.",
            )


class Restarts:
    """The restarts of one worker or stage. Safe for threads.

    ``chance`` returns a number in [0, 1) and spreads the pauses, as for ``Retry``.
    """

    def __init__(self, restart: Restart, chance: Callable[[], float]) -> None:
        self._restart = restart
        self._backoff = Retry(restart.times, restart.delay, restart.longest)
        self._chance = chance
        self._lock = threading.Lock()
        self._counted: deque[float] = deque()

    def next_pause(self, now: float) -> float | None:
        """Return the seconds to pause before the next restart, or None to crash instead.

        A pause counts against the budget from ``now`` (seconds of a monotonic clock) on; a crash does not.
        """
        with self._lock:
            self._forget(now)
            pause = self._backoff.wait_before(len(self._counted) + 1, "worker-died", self._chance())
            if pause is not None:
                self._counted.append(now)
            return pause

    def left(self, now: float) -> int:
        """Return how many restarts the budget still holds."""
        with self._lock:
            self._forget(now)
            return self._restart.times - len(self._counted)

    def _forget(self, now: float) -> None:
        while self._counted and self._counted[0] <= now - self._restart.within:
            self._counted.popleft()
