"""What other workers made of a run that this process attends to: people who watch it hear of that, too."""

from collections.abc import Iterable

from sidestage.clock import Clock
from sidestage.events import Event, Listener, StepPublished, StepReused
from sidestage.runtime.lifeline import this_process
from sidestage.store.contract import Store

_LOOK_SECONDS = 1.0
_PAUSES_PER_LOOK = 20
"""A look takes at most so small a part of the time, however many steps a run has."""


class Hearsay:
    """Passes on what happens to a run, each step that is done once, whoever did it.

    It is told what this process does, and looks now and then what others did. ``steps`` are those that are
    still to be done.
    """

    def __init__(
        self, store: Store, clock: Clock, listener: Listener, run: int, steps: Iterable[str]
    ) -> None:
        self._store = store
        self._clock = clock
        self._listener = listener
        self._run = run
        self._untold = set(steps)
        self._look_at = clock.monotonic() + _LOOK_SECONDS

    def __call__(self, event: Event, /) -> None:
        """Pass on what this process did."""
        match event:
            case StepPublished(step=step) | StepReused(step=step):
                if step in self._untold:
                    self._untold.remove(step)
                    self._listener(event)
            case _:
                self._listener(event)

    def look(self) -> None:
        """Tell what others did. Cheap: about once a second, and only while there are others."""
        now = self._clock.monotonic()
        if now < self._look_at:
            return
        if any(worker.name != this_process() for worker in self._store.workers()):
            self.catch_up()
        took = self._clock.monotonic() - now
        self._look_at = now + took + max(_LOOK_SECONDS, _PAUSES_PER_LOOK * took)

    def catch_up(self) -> None:
        """Tell all that others did until now."""
        if not self._untold:
            return
        made = self._store.made(self._run, self._untold)
        versions = self._store.versions(made.values())
        run, now = str(self._run), self._clock.now()
        for step, name in made.items():
            version = versions[name]
            if (version.run, version.step) == (run, step):
                rows = version.stored.digest.rows
                self(StepPublished(now, run, step, name, rows, version.seconds))
            else:
                self(StepReused(now, run, step, name))
