"""One look at what is due; a loop only calls it. Any number of processes may look at the same time.

Who begins a tick is decided by the store, in the transaction that records the tick and begins its run: it
refuses a tick that does not follow the last one. So nothing here needs to be alone, or to survive.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from itertools import chain
from typing import NamedTuple, Protocol

import msgspec

from sidestage.clock import Clock
from sidestage.errors import SidestageError, StoreError
from sidestage.pipeline.trigger import AnyTrigger, between
from sidestage.store.contract import Ticks
from sidestage.store.records import NewRun, NewStep
from sidestage.store.tick_records import NewTick, Tick, TriggerState

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 60.0
_AT_A_TIME_SECONDS = 1.0
"""How long the ticks of one pipeline that piled up keep those of the others waiting."""


class Planned(NamedTuple):
    """What is to be begun for a tick; no run if there is nothing to do."""

    run: NewRun | None = None
    steps: tuple[NewStep, ...] = ()


class Planner(Protocol):
    """Plans what a tick begins."""

    def alone(self, pipeline: str) -> AbstractContextManager[bool]:
        """Keep neighbours from planning the same meanwhile; False while one does, or a run is open."""
        ...

    def plan(self, pipeline: str, at: datetime) -> Planned | None:
        """Return what is to be done now for the tick at a moment; None if somebody else is about to do it.

        Raises SidestageError if it cannot be planned.
        """
        ...


class Held(NamedTuple):
    """A tick that is due and could not be begun; it is tried again."""

    pipeline: str
    at: datetime
    error: SidestageError


class Looked(NamedTuple):
    """What came of a look: what was begun, what is held up by something that was not said before.

    ``pending``: more is due, and nothing but time, or somebody's run, is in its way.
    """

    begun: tuple[Tick, ...]
    held: tuple[Held, ...]
    pending: bool


class _Pause(NamedTuple):
    until: float
    seconds: float


class Scheduler:
    """Begins the ticks of some pipelines as they become due. Not to be used by two threads at once."""

    def __init__(
        self, store: Ticks, clock: Clock, planner: Planner, triggers: Mapping[str, AnyTrigger]
    ) -> None:
        self._store = store
        self._clock = clock
        self._planner = planner
        self._triggers = triggers
        self._texts = {name: msgspec.json.encode(trigger).decode() for name, trigger in triggers.items()}
        self._declared = False
        self._pauses: dict[str, _Pause] = {}
        self._said: set[tuple[str, str]] = set()

    def look(self) -> Looked:
        """Begin what is due and can be begun, in order. Raises StoreError if the store cannot be reached."""
        states = self._states()
        now = self._clock.now()
        begun: list[Tick] = []
        held: list[Held] = []
        pending = False
        for pipeline, trigger in self._triggers.items():
            due = between(trigger, states[pipeline].reached, now)
            first = next(due, None)
            if first is None:
                self._pauses.pop(pipeline, None)
            elif not self._pauses_now(pipeline):
                try:
                    pending |= not self._begin(states[pipeline], chain([first], due), begun)
                    self._pauses.pop(pipeline, None)
                except SidestageError as error:
                    if isinstance(error, StoreError) and error.transient:
                        raise
                    held += self._hold(states[pipeline], Held(pipeline, first, error))
        return Looked(tuple(begun), tuple(held), pending)

    def _states(self) -> dict[str, TriggerState]:
        """Return how far each pipeline is, saying first which triggers there are, if that is news."""
        states = {state.pipeline: state for state in self._store.triggers()}
        there = {name: state.trigger for name, state in states.items() if state.trigger is not None}
        # Others are contradicted once only: processes with different code would go on for ever.
        wanted = {**self._texts, **there} if self._declared else self._texts
        if wanted != there:
            self._store.declare_triggers(wanted, self._clock.now())
            states = {state.pipeline: state for state in self._store.triggers()}
        self._declared = True
        return states

    def _begin(self, state: TriggerState, due: Iterator[datetime], begun: list[Tick]) -> bool:
        """Begin the ticks that are due until one begins a run; return whether none is left."""
        previous, deadline = state.reached, self._clock.monotonic() + _AT_A_TIME_SECONDS
        planned: Planned | None = None
        with self._planner.alone(state.pipeline) as mine:
            if not mine:
                return False
            for at in due:
                # Where there was nothing to do just now, there is nothing to do for what piled up behind it.
                planned = planned or self._planner.plan(state.pipeline, at)
                if planned is None:
                    return False
                new = NewTick(state.pipeline, at, previous)
                made = self._store.begin_tick(new, planned.run, planned.steps, self._clock.now())
                if made is None:  # somebody else was first
                    return False
                begun.append(made)
                previous = at
                if made.run is not None or self._clock.monotonic() > deadline:
                    return False
        return True

    def _pauses_now(self, pipeline: str) -> bool:
        pause = self._pauses.get(pipeline)
        return pause is not None and self._clock.monotonic() < pause.until

    def _hold(self, state: TriggerState, held: Held) -> list[Held]:
        """Try a tick again after a while, longer each time; return it if its reason is news."""
        pipeline, why = held.pipeline, held.error.message
        before = self._pauses.get(pipeline)
        seconds = _FIRST_PAUSE_SECONDS if before is None else min(before.seconds * 2, _LONGEST_PAUSE_SECONDS)
        self._pauses[pipeline] = _Pause(self._clock.monotonic() + seconds, seconds)
        if state.held != why:
            self._store.hold_tick(pipeline, why)
        if (pipeline, why) in self._said:
            return []
        self._said.add((pipeline, why))
        return [held]
