"""Tells people, once, when steps wait for longer than they should."""

from sidestage.clock import Clock
from sidestage.observe.waits import Wait, read_waits
from sidestage.pipeline.projectfile import ProjectFile
from sidestage.store.contract import Store

_LOOK_SECONDS = 5.0


class WaitAlarm:
    """Looks now and then at what waits, and returns what began to wait for too long.

    Steps of one run that wait for the same thing are one wait, however long it lasts and whichever of them is
    the first by then; once it is over, another one is news again.
    """

    def __init__(self, store: Store, file: ProjectFile, clock: Clock) -> None:
        self._store = store
        self._file = file
        self._clock = clock
        self._looked_at = clock.monotonic()
        self._told: set[tuple[int, str, str | None]] = set()

    def late(self) -> tuple[Wait, ...]:
        """Return waits beyond ``[run] wait_alert`` that are new. Cheap: it looks every few seconds only."""
        now = self._clock.monotonic()
        if now - self._looked_at < min(_LOOK_SECONDS, self._file.run.wait_alert):
            return ()
        self._looked_at = now
        found = read_waits(self._store, self._file.pool_list, self._clock.now())
        late = {
            (wait.run, wait.queue, wait.pool): wait
            for wait in found
            if wait.seconds >= self._file.run.wait_alert
        }
        new = tuple(wait for what, wait in late.items() if what not in self._told)
        self._told = set(late)
        return new
