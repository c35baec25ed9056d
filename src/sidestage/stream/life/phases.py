"""The phases of a run, and what is told about them. Every event names its section of the runbook."""

from typing import Literal

import msgspec

from sidestage.events import Event, Phase

Outcome = Literal["complete", "drained", "cancelled", "crashed"]

RUNBOOK = "docs/guide/stream-runbook.md"


class StreamTurned(Event, frozen=True):
    """A stream came into another phase. ``why`` says who wanted that: a signal, a request, an error."""

    stream: str
    why: str


class StreamStarted(StreamTurned, frozen=True):
    """A stream is in its boot: sources, sinks and processes are being opened; nothing is read yet."""

    runbook: str = f"{RUNBOOK}#boot"


class StreamBooted(StreamTurned, frozen=True):
    """Everything is open, and a stream is in its steady phase."""

    runbook: str = f"{RUNBOOK}#steady"


class StreamDraining(StreamTurned, frozen=True):
    """A stream reads nothing more, and finishes what is under way."""

    runbook: str = f"{RUNBOOK}#drain"


class StreamCancelled(StreamTurned, frozen=True):
    """A stream stops at once; what is under way is not acknowledged, and comes again."""

    runbook: str = f"{RUNBOOK}#cancel"


class StreamCrashed(StreamTurned, frozen=True):
    """A stream stops at once because of an error, which ``why`` shows."""

    runbook: str = f"{RUNBOOK}#crash"


class StreamEnded(StreamTurned, frozen=True):
    """All workers of a stream have ended, and closed what they had opened, after so many seconds."""

    outcome: Outcome
    seconds: float
    runbook: str = f"{RUNBOOK}#ended"


class ThreadsHang(Event, frozen=True):
    """Threads of a stream did not end within so many seconds: somebody's code does not return."""

    stream: str
    threads: tuple[str, ...]
    seconds: float
    runbook: str = f"{RUNBOOK}#threads-that-hang"


class SignalsUnheard(Event, frozen=True):
    """A stream that was to heed signals cannot: only the main thread of a process may ask for them."""

    stream: str
    thread: str
    runbook: str = f"{RUNBOOK}#signals-that-are-not-heard"


class ItemRevoked(Event, frozen=True):
    """An item was taken out on its way because its key was revoked, and cleaned up after."""

    stage: str
    key: str
    runbook: str = f"{RUNBOOK}#items-that-are-revoked"


TURNS: dict[Phase, type[StreamTurned]] = {
    "boot": StreamStarted,
    "steady": StreamBooted,
    "drain": StreamDraining,
    "cancel": StreamCancelled,
    "crash": StreamCrashed,
}

_OTHERS = {
    "CircuitTurned": f"{RUNBOOK}#a-circuit-is-open",
    "FallbackTurned": f"{RUNBOOK}#answers-are-makeshift",
    "SurgeBegan": f"{RUNBOOK}#errors-surge",
    "SurgeEnded": f"{RUNBOOK}#errors-surge",
    "ThreadWrittenOff": f"{RUNBOOK}#threads-that-hang",
    "ThreadReturned": f"{RUNBOOK}#threads-that-hang",
}


def runbook_of(kind: type[Event]) -> str:
    """Return the section of the runbook that says what to do about an event; empty if there is none."""
    given = {each.name: each.default for each in msgspec.structs.fields(kind)}
    return str(given.get("runbook", _OTHERS.get(kind.__name__, "")))
