"""The other workers of this host: what those that died held is given back, before their leases expire."""

from sidestage.clock import Clock
from sidestage.runtime.lifeline import is_dead
from sidestage.runtime.orphans import end_orphans
from sidestage.store.contract import Store

_LOOK_SECONDS = 0.5


class Neighbours:
    """Looks now and then who of those that the store knows died on this host."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._looked_at = float("-inf")

    def look(self) -> tuple[str, ...]:
        """End what workers of this host that are certainly gone left running, and give back their steps.

        Returns their names. Cheap: it looks every half second only.
        """
        now = self._clock.monotonic()
        if now - self._looked_at < _LOOK_SECONDS:
            return ()
        self._looked_at = now
        dead = tuple(worker.name for worker in self._store.workers() if is_dead(worker.name))
        if dead:
            end_orphans()  # first, or what still runs there would begin a second time
        for name in dead:
            self._store.abandon(name, self._clock.now())
        return dead
