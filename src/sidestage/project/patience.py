"""Tells people, once, when steps wait for longer than they should."""

from sidestage.clock import Clock
from sidestage.observe.waits import Wait, read_waits
from sidestage.pipeline.projectfile import ProjectFile
from sidestage.store.contract import Store

_LOOK_SECONDS = 5.0


class WaitAlarm:
    """Looks now and then at what waits, and returns what has waited too long and was not returned before."""

    def __init__(self, store: Store, file: ProjectFile, clock: Clock) -> None:
        self._store = store
        self._file = file
        self._clock = clock
        self._looked_at = clock.monotonic()
        self._told: set[tuple[int, str]] = set()

    def late(self) -> tuple[Wait, ...]:
        """Return waits beyond ``[run] wait_alert`` that are new. Cheap: it looks every few seconds only."""
        now = self._clock.monotonic()
        if now - self._looked_at < min(_LOOK_SECONDS, self._file.run.wait_alert):
            return ()
        self._looked_at = now
        found = read_waits(self._store, self._file.pool_list, self._clock.now())
        late = tuple(
            wait
            for wait in found
            if wait.seconds >= self._file.run.wait_alert and (wait.run, wait.first) not in self._told
        )
        self._told.update((wait.run, wait.first) for wait in late)
        return late
