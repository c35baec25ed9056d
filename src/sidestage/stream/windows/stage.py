"""The stage that counts in windows: what is open stays here, what is over goes on."""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from time import perf_counter
from typing import Any

from sidestage.clock import Clock
from sidestage.errors import DataError
from sidestage.stream.chunk import Chunk, nowhere
from sidestage.stream.columns.frames import is_frame
from sidestage.stream.contract import Batch, Writer
from sidestage.stream.failing import Desk, GivenUp
from sidestage.stream.keeping import KeepingOperator, KeptState
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.operators import Step
from sidestage.stream.windows.arrivals import Arrivals, Awaited
from sidestage.stream.windows.plan import EarlyItem, LateItem, Outcome, WindowPlan
from sidestage.stream.windows.state import WindowState
from sidestage.stream.windows.tables import add_tables
from sidestage.stream.windows.watermarks import Moment

Beside = Writer[LateItem | EarlyItem]


class WindowOperator(KeepingOperator[WindowState]):
    """One worker's windows. ``beside`` is written what came too late, or too early."""

    def __init__(
        self,
        plan: WindowPlan,
        clock: Clock,
        desk: Desk,
        meter: Meter,
        following: Step,
        beside: Beside | None,
        keep: threading.Event,
    ) -> None:
        super().__init__(WindowState(plan), clock, following, keep)
        self._desk = desk
        self._meter = meter
        self._beside = beside
        self._awaited: Awaited | None = None

    def heed(self, arrivals: Arrivals, sources: Collection[str]) -> None:
        """Heed which of the sources before it are still to come, and which are over, from now on."""
        self._awaited = Awaited(self.state, sources, arrivals, Moment.of(self._clock))

    def push(self, chunk: Chunk) -> None:
        """Count a chunk, and push on the windows that are over."""
        began = perf_counter()
        with self.lock:
            self._allow()
            if self._awaited is not None:
                self._awaited.meet(chunk)
            outcome = self._tables(chunk) if is_frame(chunk.items[0]) else self._rows(chunk)
            self._weigh()
            self._meter.took(chunk.load, perf_counter() - began)
            self._set_aside(outcome, chunk)
            self._fail(outcome)
            if outcome.emitted:
                origins = nowhere(len(outcome.emitted), chunk.tickets)
                self._next.push(Chunk(list(outcome.emitted), chunk.tickets, chunk.born, origins))
            else:
                chunk.settle()

    def _rows(self, chunk: Chunk) -> Outcome:
        outcome = self.state.add(chunk.items, Moment.of(self._clock), self._parts.name(chunk))
        for failure in outcome.failures:
            if failure.place is not None:
                item = chunk.items[failure.place]
                self._desk.decide(chunk, failure.place, item, GivenUp(failure.error, 1))
        return outcome

    def _tables(self, chunk: Chunk) -> Outcome:
        outcome, failures = add_tables(self.state, chunk, Moment.of(self._clock), self._parts.name(chunk))
        for failure in failures:
            self._desk.decide(chunk, failure.place, failure.item, GivenUp(failure.error, 1))
        return outcome

    def _released(self) -> Sequence[Any]:
        if self._awaited is not None:
            self._awaited.look()
        return self._told(self.state.tick(Moment.of(self._clock)))

    def _rest(self) -> Sequence[Any]:
        return self._told(self.state.drain(Moment.of(self._clock)))

    def _told(self, outcome: Outcome) -> Sequence[Any]:
        self._fail(outcome)
        return outcome.emitted

    def _fail(self, outcome: Outcome) -> None:
        """Decide about windows whose results could not be computed: what they counted is settled by now."""
        for window, error in [(each.window, each.error) for each in outcome.failures if each.window]:
            ticket = self.results.issue(Batch("results", 0, [], 0))
            one = Chunk([window], (ticket,), self._clock.monotonic(), nowhere(1, (ticket,)))
            self._desk.decide(one, 0, window, GivenUp(error, 1))
            one.settle()

    def _set_aside(self, outcome: Outcome, chunk: Chunk) -> None:
        """Send what came too late or too early where it is to go; only items that come can be either."""
        aside: list[LateItem | EarlyItem] = [*outcome.late, *outcome.early]
        if aside and self._beside is not None:
            self._beside.write(aside)
        if aside and self._late is not None:
            chunk.hold()
            self._late.push(Chunk(list(aside), chunk.tickets, chunk.born, _origins(chunk, aside)))


def _origins(chunk: Chunk, aside: Sequence[LateItem | EarlyItem]) -> list[int] | None:
    if len(chunk.tickets) != 1:
        return None
    places = [each.place for each in aside]
    return places if chunk.origins is None else [chunk.origins[place] for place in places]


class Windows:
    """All the windows of one run, and what waits for joins, one for each of ``names``."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self._lock = threading.Lock()
        self._operators: dict[str, KeepingOperator[Any]] = {}
        self._restored: Mapping[str, bytes] = {}

    def go_on_from(self, states: Mapping[str, bytes]) -> None:
        """Note what was open when a checkpoint was taken. Raises DataError if there is no place for it."""
        left = sorted(states.keys() - self.names)
        if left:
            raise DataError(
                f"The checkpoint holds windows of {', '.join(left)}, which this stream has not.",
                hint="Run it with the names and numbers of workers that it had, or begin from the start.",
            )
        self._restored = states

    def add(self, name: str, operator: KeepingOperator[Any]) -> None:
        """Note that a worker has windows, and let it go on with those it had. Raises DataError."""
        if name in self._restored:
            operator.restore(self._restored[name])
        with self._lock:
            self._operators[name] = operator

    def state(self, name: str) -> KeptState | None:
        """Return what a worker keeps, by the name under which it is kept; None before the worker began."""
        with self._lock:
            operator = self._operators.get(name)
        return None if operator is None else operator.state

    def keep_if_quiet(self, is_quiet: Callable[[], bool], save: Callable[[dict[str, bytes]], None]) -> bool:
        """Have the state of all windows saved unless anything is still under way; return whether it was.

        Both are called while nothing can be counted or given out: a result that came after the state was
        taken, and before it is saved, would be in the same transaction, and come again. Never waits: whoever
        counts may be waiting for others.
        """
        with self._lock:
            operators = dict(self._operators)
        if operators.keys() != self.names:
            return False
        with ExitStack() as stack:
            for operator in operators.values():
                if not operator.lock.acquire(blocking=False):
                    return False
                stack.callback(operator.lock.release)
            if any(operator.results.unsettled for operator in operators.values()) or not is_quiet():
                return False
            save({name: operator.state.snapshot() for name, operator in operators.items()})
            return True
