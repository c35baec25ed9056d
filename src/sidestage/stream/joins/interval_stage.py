"""The stage that joins two streams by key and time: what waits stays here, pairs go on."""

import threading
from time import perf_counter

from sidestage.clock import Clock
from sidestage.stream.chunk import NOWHERE, Chunk, Ledger, nowhere
from sidestage.stream.columns.chunk_parts import ChunkParts
from sidestage.stream.contract import Batch
from sidestage.stream.failing import Desk, GivenUp
from sidestage.stream.joins.intervals import IntervalPlan, IntervalState, JoinOutcome
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.operators import Step
from sidestage.stream.routing import Fork
from sidestage.stream.shape_nodes import LATE
from sidestage.stream.windows.watermarks import Moment

_TICK_SECONDS = 0.1


class IntervalOperator:
    """One worker's share of the keys.

    An item is settled once its pairs are: what waits is safe only with a checkpoint, which keeps it together
    with the positions that it was read up to. Pairs that time alone gives out are under way until they are
    settled.
    """

    def __init__(
        self,
        plan: IntervalPlan,
        clock: Clock,
        desk: Desk,
        meter: Meter,
        following: Step,
        keep: threading.Event,
    ) -> None:
        self.state = IntervalState(plan)
        self.results = Ledger()
        self.lock = threading.Lock()
        """Held while anything changes here: whoever takes a snapshot holds it."""
        self._clock = clock
        self._desk = desk
        self._meter = meter
        self._next = following
        self._late = following.sides.get(LATE) if isinstance(following, Fork) else None
        self._keep = keep
        self._due = clock.monotonic() + _TICK_SECONDS
        self._parts = ChunkParts(self.state.forget)

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot. Raises DataError."""
        self.state.restore(snapshot, Moment.of(self._clock))
        self._parts.go_on_with(self.state.partitions)

    def push(self, chunk: Chunk) -> None:
        """Take in a chunk, and push on the pairs that it makes."""
        began = perf_counter()
        with self.lock:
            outcome = self.state.add(chunk.items, Moment.of(self._clock), self._parts.name(chunk))
            for place, error in outcome.failures:
                self._desk.decide(chunk, place, chunk.items[place].item, GivenUp(error, 1))
            self._meter.took(len(chunk.items), perf_counter() - began)
            self._set_aside(outcome, chunk)
            if outcome.pairs:
                self._next.push(
                    Chunk(list(outcome.pairs), chunk.tickets, chunk.born, _origins(chunk, outcome.places))
                )
            else:
                chunk.settle()

    def due(self) -> float | None:
        """Return when to look whether time alone has released something."""
        further = self._next.due()
        return self._due if further is None else min(self._due, further)

    def tick(self, now: float) -> None:
        """Let time pass."""
        if now >= self._due:
            self._due = now + _TICK_SECONDS
            with self.lock:
                self._emit(self.state.tick(Moment.of(self._clock)))
        self._next.tick(now)

    def flush(self) -> None:
        """Have what follows pass on what it holds; what waits here stays."""
        self._next.flush()

    def finish(self) -> None:
        """Release what waits, unless somebody goes on with it, and finish what follows."""
        if not self._keep.is_set():
            with self.lock:
                self._emit(self.state.drain())
        self._next.finish()

    def _emit(self, outcome: JoinOutcome) -> None:
        if outcome.pairs:
            ticket = self.results.issue(Batch("results", 0, [], 0))
            origins = nowhere(len(outcome.pairs), (ticket,))
            self._next.push(Chunk(list(outcome.pairs), (ticket,), self._clock.monotonic(), origins))

    def _set_aside(self, outcome: JoinOutcome, chunk: Chunk) -> None:
        if not outcome.aside or self._late is None:
            return
        chunk.hold()
        places = [place for place, _ in outcome.aside]
        aside = [item for _, item in outcome.aside]
        self._late.push(Chunk(list(aside), chunk.tickets, chunk.born, _origins(chunk, places)))


def _origins(chunk: Chunk, places: list[int]) -> list[int] | None:
    """Return the origins of what came of the items at these places."""
    if len(chunk.tickets) != 1 or chunk.origins is None:
        return places if len(chunk.tickets) == 1 else None
    return [NOWHERE if place == NOWHERE else chunk.origins[place] for place in places]
