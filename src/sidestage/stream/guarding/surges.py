"""Error surges of stages: told to the listener, and the end of the stream if that is wanted."""

import threading
from collections import Counter
from collections.abc import Callable

from sidestage.clock import Clock
from sidestage.errors import StreamFailed
from sidestage.events import Listener
from sidestage.policy.failure import FailureClass
from sidestage.policy.limits import seconds_text
from sidestage.policy.surge import Surge, SurgeBegan, SurgeWatch
from sidestage.stream.failing import Halt
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.observing.watch import Watch


class StageSurge:
    """Watches one stage. ``errors`` returns how many items it failed on so far, by class. For all threads."""

    def __init__(
        self,
        stage: str,
        surge: Surge,
        errors: Callable[[], Counter[FailureClass]],
        halt: Halt,
        clock: Clock,
        listener: Listener | None,
    ) -> None:
        self._watch = SurgeWatch(stage, surge, clock, listener)
        self._surge = surge
        self._errors = errors
        self._halt = halt
        self._lock = threading.Lock()
        self._seen: Counter[FailureClass] = Counter()

    def note(self, items: int) -> None:
        """Note that a chunk has been dealt with. A surge that is to stop the stream has everybody stop."""
        with self._lock:
            errors = self._errors()
            failed = errors - self._seen
            self._seen = errors
        event = self._watch.count(items, failed)
        if isinstance(event, SurgeBegan) and event.then == "stop":
            self._halt.stop(stopped_by(event, self._surge.within))


class WatchedMeter(Meter):
    """Counts that a surge is looked for in."""

    __slots__ = ("_surge",)

    def __init__(self, surge: StageSurge, stage: str = "", watch: Watch | None = None) -> None:
        super().__init__(stage, watch)
        self._surge = surge

    def took(self, items: int, seconds: float) -> None:
        """Note that so many items took so long, all together."""
        super().took(items, seconds)
        self._surge.note(items)


def stopped_by(event: SurgeBegan, within: float) -> StreamFailed:
    """Return the error that ends a stream because of a surge."""
    classes = ", ".join(f"{count:,} {name}" for name, count in Counter(event.classes).most_common())
    usual = "" if event.usual is None else f"; {event.usual:.2%} are usual"
    return StreamFailed(
        f"The stage {event.stage!r} failed on {event.failed:,} of the last {event.items:,} items"
        f" ({event.failed / event.items:.0%} within {seconds_text(within)}{usual}): {classes}.",
        hint="Look at its dead letters: did the input change? What was dealt with is acknowledged, the rest"
        ' comes again. Surge(then="alert") carries on.',
    )
