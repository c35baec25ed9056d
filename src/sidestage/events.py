"""What happened, as frozen values, and who wants to hear of it."""

from datetime import datetime
from typing import Literal, Protocol

import msgspec

Phase = Literal["boot", "steady", "drain", "cancel", "crash", "ended"]
"""boot: everything is being opened; steady: items flow; drain: nothing more is read, the rest is finished;
cancel: everybody stops at once; crash: an error stops everybody; ended: every worker has ended."""


class Event(msgspec.Struct, frozen=True, tag=True):
    """Something that happened at a moment."""

    at: datetime


class RunStarted(Event, frozen=True):
    """A plan began to be executed; ``tasks`` counts the steps of each task."""

    run: str
    environment: str
    steps: int
    tasks: dict[str, int]


class StepStarted(Event, frozen=True):
    """A worker took a step."""

    run: str
    step: str
    attempt: int


class StepWaits(Event, frozen=True):
    """A step has been ready for longer than it should; ``why`` says what it waits for."""

    run: str
    step: str
    why: str


class StepPublished(Event, frozen=True):
    """A step's output became the current version of its partition."""

    run: str
    step: str
    version: str
    rows: int
    seconds: float


class StepReused(Event, frozen=True):
    """A step was not run: its inputs turned out to be the same as those of an existing version."""

    run: str
    step: str
    version: str


class StepFailed(Event, frozen=True):
    """An attempt failed; ``final`` says that it will not be tried again in this run."""

    run: str
    step: str
    attempt: int
    failure_class: str
    message: str
    final: bool


class RunEnded(Event, frozen=True):
    """A run came to its end; ``state`` is done, failed or cancelled."""

    run: str
    state: str
    published: int
    failed: int
    skipped: int


class PointersMoved(Event, frozen=True):
    """Pointers of an environment were moved together: promotion or rollback."""

    move: str
    environment: str
    kind: str
    pointers: int


class Listener(Protocol):
    """Hears events as they happen, in the process that ran the plan."""

    def __call__(self, event: Event, /) -> None:
        """Take note of an event; must return quickly and never raise."""
        ...
