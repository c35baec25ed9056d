"""What cancelling a part of a stream comes to, and what is told about it."""

from typing import Literal

import msgspec

from sidestage.events import Event
from sidestage.stream.life.phases import RUNBOOK

WorkerKind = Literal["thread", "process", "coroutine"]


class WorkerAtWork(msgspec.Struct, frozen=True):
    """A worker that is at work on something it could be made to give up, for so many ``seconds`` by now.

    A process is shown with its chunk, the others with their item.
    """

    stage: str
    number: int
    kind: WorkerKind
    seconds: float


class WorkerCancellation(msgspec.Struct, frozen=True):
    """What came of cancelling a worker.

    ``item`` is what the item looks like that it had in hand and that was given up; None if it had none, and
    nothing was done (a process that had not come to an item yet was started again, and its chunk with it).
    """

    stage: str
    number: int
    kind: WorkerKind
    item: str | None


class StageCancellation(msgspec.Struct, frozen=True):
    """What came of cancelling a stage.

    ``stages`` are cancelled, it and all that works for nothing but it; their ``sinks`` are among them.
    ``waiting`` items waited there and were settled at once, ``workers`` had something in hand and were told
    to give it up.
    """

    stage: str
    stages: tuple[str, ...]
    sinks: tuple[str, ...]
    waiting: int
    workers: int


class WorkerCancelled(Event, frozen=True):
    """A worker was made to give up the item that it had in hand, and was replaced."""

    stage: str
    number: int
    kind: WorkerKind
    by: str
    why: str
    runbook: str = f"{RUNBOOK}#a-worker-or-a-branch-is-cancelled"


class StageCancelled(Event, frozen=True):
    """A branch of a stream was ended: what comes to its ``stages`` is settled and counted, and no more."""

    stage: str
    stages: tuple[str, ...]
    by: str
    why: str
    runbook: str = f"{RUNBOOK}#a-worker-or-a-branch-is-cancelled"


class SinkLeft(Event, frozen=True):
    """A sink of a branch that was cancelled could not be closed; ``why`` names the kind of error."""

    sink: str
    why: str
    runbook: str = f"{RUNBOOK}#a-worker-or-a-branch-is-cancelled"
