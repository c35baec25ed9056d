"""Buffers that follow what stages do: bounds of mailboxes, set anew while the stream runs.

The rule is that of the source document ("Pipeline", Buffer sizing): twice the P99 of a stage over its median,
4 at least, of what is handed over at a time - and here those are chunks. So a steady stage has room for four
chunks of the size that really come, and one that sometimes takes ten times as long for twenty.
"""

import math
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sidestage.clock import Clock
from sidestage.events import Event, Listener
from sidestage.stream.failing import Halt
from sidestage.stream.life.phases import RUNBOOK
from sidestage.stream.mailbox import Bounded
from sidestage.stream.observing.advice import buffer_for
from sidestage.stream.observing.metrics import StageCounts
from sidestage.stream.observing.recent import since

RETUNE_SECONDS = 2.0
MOST_CHUNKS = 64
"""How many full chunks may wait before a worker at most."""

_LEAST_ITEMS = 100
"""Of how many items the times must be known, or nothing is changed."""

_WORTH = 1.25
"""How many times larger or smaller a bound must be to be worth a change."""

_LOOK_SECONDS = 0.1


class BufferRetuned(Event, frozen=True):
    """Another number of items may wait before a stage, for all its workers together."""

    stage: str
    before: int
    after: int
    why: str
    runbook: str = f"{RUNBOOK}#items-pile-up"


class Bound(NamedTuple):
    """How many items are to be able to wait before each worker, and why."""

    items: int
    why: str


def decide(now: int, stage: StageCounts, mean_chunk: float, chunk: int) -> Bound | None:
    """Return another bound for the mailboxes before a stage, None if the present one will do.

    ``stage`` is what it did since this was last decided, ``mean_chunk`` how many items came at a time, and
    ``chunk`` how many may. The bound is never below one chunk, and never above ``MOST_CHUNKS`` of them.
    """
    if sum(stage.buckets) < _LEAST_ITEMS or not mean_chunk:
        return None
    chunks = buffer_for(stage)
    wanted = min(max(math.ceil(chunks * mean_chunk), chunk), MOST_CHUNKS * chunk)
    if now / _WORTH < wanted < now * _WORTH:
        return None
    why = f"room for {chunks} chunks by the times of {stage.name}, of {mean_chunk:,.0f} items each"
    return Bound(wanted, why)


class Tuned(NamedTuple):
    """Mailboxes that are set together: those before the stages that the same workers do, the first named."""

    name: str
    mailboxes: tuple[Bounded, ...]
    stages: tuple[str, ...]


class Retuner:
    """Looks at the stages of a run now and then, and sets the bounds of their mailboxes."""

    def __init__(
        self,
        tuned: Sequence[Tuned],
        chunk: int,
        counts: Callable[[], tuple[StageCounts, ...]],
        clock: Clock,
        tell: Listener,
    ) -> None:
        self._tuned = tuned
        self._chunk = chunk
        self._counts = counts
        self._clock = clock
        self._tell = tell
        self._before: tuple[StageCounts, ...] = ()
        self._came: dict[str, tuple[int, int]] = {}

    def watch(self, over: threading.Event, halt: Halt) -> None:
        """Look every ``RETUNE_SECONDS`` until the run is over or stopped."""
        due = self._clock.monotonic() + RETUNE_SECONDS
        while not (halt.is_set or over.wait(_LOOK_SECONDS)):
            if self._clock.monotonic() >= due:
                self.look()
                due = self._clock.monotonic() + RETUNE_SECONDS

    def look(self) -> None:
        """Set what has to be set, and tell of it."""
        counts = self._counts()
        done = {each.name: each for each in since(counts, self._before)}
        self._before = counts
        for tuned in self._tuned:
            mean = self._mean_chunk(tuned)
            slowest = max(
                (done[name] for name in tuned.stages if name in done), key=lambda each: each.seconds
            )
            before = tuned.mailboxes[0].most_items
            bound = decide(before, slowest, mean, self._chunk)
            if bound is not None:
                for mailbox in tuned.mailboxes:
                    mailbox.most_items = bound.items
                count = len(tuned.mailboxes)
                now = self._clock.now()
                self._tell(BufferRetuned(now, tuned.name, before * count, bound.items * count, bound.why))

    def _mean_chunk(self, tuned: Tuned) -> float:
        """Return how many items came at a time since this was last asked."""
        items = sum(each.came for each in tuned.mailboxes)
        chunks = sum(each.chunks for each in tuned.mailboxes)
        items_before, chunks_before = self._came.get(tuned.name, (0, 0))
        self._came[tuned.name] = items, chunks
        return (items - items_before) / (chunks - chunks_before) if chunks > chunks_before else 0.0
