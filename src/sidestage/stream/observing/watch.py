"""What one worker looks at closely: the processor time of some of its chunks, and the way of those traced.

A clock of the thread's processor time costs about as much as the plumbing of thirty items, so it is read for
one chunk of sixteen. Stages that share a worker follow one another: what passed between the end of one and
the end of the next was the next one's.
"""

from time import thread_time
from typing import TYPE_CHECKING

from sidestage.stream.chunk import Chunk

if TYPE_CHECKING:
    from sidestage.stream.observing.spans import Spans, Trail
    from sidestage.stream.operators import Step

_EVERY = 16


class Watch:
    """Used by one worker only. ``on``: whether its stages are to tell of the chunk that it is at."""

    __slots__ = (
        "_last",
        "_left",
        "_measures",
        "_reads_left",
        "on",
        "read_cpu",
        "read_items",
        "spans",
        "trail",
    )

    def __init__(self, spans: "Spans | None" = None) -> None:
        self.spans = spans
        self.trail: Trail | None = None
        self.on = False
        self.read_cpu = 0.0
        """Seconds of processor time that reading took, of ``read_items`` items."""
        self.read_items = 0
        self._measures = False
        self._left = self._reads_left = 1
        self._last = 0.0

    def begin(self, chunk: Chunk) -> None:
        """Note that the worker begins with a chunk."""
        self._left -= 1
        if not self._left:
            self._left = _EVERY
            self._measures = self.on = True
            self.trail = chunk.trail
            self._last = thread_time()
        elif chunk.trail is not None:
            self.on, self._measures = True, False
            self.trail = chunk.trail
        elif self.on:
            self.rest()

    def rest(self) -> None:
        """Note that the worker has done all that it does with its chunk."""
        self.on = self._measures = False
        self.trail = None

    def follow(self, trail: "Trail | None") -> None:
        """Go on with the trace of something that was held back until now."""
        self.trail = trail
        self.on = self._measures or trail is not None

    def lap(self, stage: str, items: int, seconds: float) -> float | None:
        """Note that a stage is done; return the seconds of processor time it took, None if nobody looked."""
        if self.trail is not None:
            self.trail = self.trail.stage(stage, items, seconds)
        if not self._measures:
            return None
        now = thread_time()
        took, self._last = now - self._last, now
        return took

    def begin_reading(self) -> float | None:
        """Return the thread's processor time, if this reading is looked at."""
        self._reads_left -= 1
        if self._reads_left:
            return None
        self._reads_left = _EVERY
        return thread_time()

    def end_reading(self, began: float, items: int) -> None:
        """Note that so many items were read since then."""
        if items:
            self.read_cpu += thread_time() - began
            self.read_items += items
        else:
            self._reads_left = 1  # nothing came: the next one is looked at instead


class Watched:
    """Gives chunks to stages of a worker that did not take them from a mailbox."""

    def __init__(self, following: "Step", watch: Watch) -> None:
        self._next = following
        self._watch = watch

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        self._watch.begin(chunk)
        self._next.push(chunk)
        self._watch.rest()

    def due(self) -> float | None:
        """Return when something is due further on."""
        return self._next.due()

    def tick(self, now: float) -> None:
        """Do what is due further on."""
        self._next.tick(now)

    def flush(self) -> None:
        """Have what follows pass on what it holds."""
        self._next.flush()

    def finish(self) -> None:
        """Finish what follows."""
        self._next.finish()


class Branch(Watched):
    """One of several ways that a chunk goes: traces of the others do not go through it."""

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        watch = self._watch
        trail = watch.trail
        self._next.push(chunk)
        watch.trail = trail


class Leaving(Watched):
    """The way to other workers: a chunk takes the trace along."""

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        chunk.trail = self._watch.trail
        self._next.push(chunk)
