"""The stage that joins two streams by key and time: what waits stays here, pairs go on."""

import threading
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from sidestage.clock import Clock
from sidestage.stream.chunk import NOWHERE, Chunk
from sidestage.stream.failing import Desk, GivenUp
from sidestage.stream.joins.interval_plan import IntervalPlan
from sidestage.stream.joins.intervals import IntervalState, JoinOutcome
from sidestage.stream.joins.pacing import Pacing
from sidestage.stream.keeping import KeepingOperator
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.operators import Step
from sidestage.stream.windows.watermarks import Moment


class IntervalOperator(KeepingOperator[IntervalState]):
    """One worker's share of the keys. An item is settled once its pairs are."""

    def __init__(
        self,
        plan: IntervalPlan,
        clock: Clock,
        desk: Desk,
        meter: Meter,
        following: Step,
        keep: threading.Event,
    ) -> None:
        super().__init__(IntervalState(plan), clock, following, keep)
        self._desk = desk
        self._meter = meter
        self._pacing: Pacing | None = None
        self._worker = 0

    def pace_with(self, pacing: Pacing, worker: int) -> None:
        """Tell how far the sides have come, so that one that is far ahead may wait."""
        self._pacing, self._worker = pacing, worker

    def push(self, chunk: Chunk) -> None:
        """Take in a chunk, and push on the pairs that it makes."""
        began = perf_counter()
        with self.lock:
            self._allow()
            self._hold()
            outcome = self.state.add(chunk.items, Moment.of(self._clock), self._parts.name(chunk))
            self._tell()
            self._weigh()
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

    def _released(self) -> Sequence[Any]:
        self._hold()
        pairs = self.state.tick(Moment.of(self._clock)).pairs
        self._tell()
        return pairs

    def _rest(self) -> Sequence[Any]:
        return self.state.drain().pairs

    def _hold(self) -> None:
        if self._pacing is not None:
            self.state.hold(self._pacing.waits)

    def _tell(self) -> None:
        if self._pacing is not None:
            self._pacing.tell(self._worker, self.state.standing)

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
