"""Workers that are started again: how often they may be, and who hears of it."""

import threading
from collections.abc import Callable

from sidestage.clock import Clock
from sidestage.events import Event, Listener
from sidestage.policy.restart import Restart, Restarts
from sidestage.stream.life.phases import RUNBOOK


class WorkerRestarted(Event, frozen=True):
    """A worker died, and goes on as a new one after so many seconds; so many restarts are left."""

    worker: str
    pause: float
    left: int
    runbook: str = f"{RUNBOOK}#workers-keep-dying"


class ToldRestarts(Restarts):
    """Restarts that somebody hears of. Asked by the thread of the worker in question."""

    def __init__(
        self, restart: Restart, chance: Callable[[], float], clock: Clock, listener: Listener
    ) -> None:
        super().__init__(restart, chance)
        self._clock = clock
        self._listener = listener

    def next_pause(self, now: float) -> float | None:
        """Return the seconds to pause before the next restart, or None to crash instead."""
        pause = super().next_pause(now)
        if pause is not None:
            worker = threading.current_thread().name
            self._listener(WorkerRestarted(self._clock.now(), worker, pause, self.left(now)))
        return pause
