"""Triggers and ticks, in memory."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from sidestage.store.records import NewRun, NewStep
from sidestage.store.refusals import positions_of
from sidestage.store.tick_records import TRIGGER_COMES_BACK, NewTick, Tick, TriggerState
from sidestage.testing.memory_runs import begin
from sidestage.testing.memory_tables import MemoryPart, require_zone


class MemoryTicks(MemoryPart):
    """Knows when pipelines were due."""

    def declare_triggers(self, triggers: Mapping[str, str], now: datetime) -> None:
        """Say which pipelines have triggers now (JSON by pipeline), all others have none any more."""
        require_zone(now)
        with self._tables.turn:
            known, gone = self._tables.triggers, self._tables.triggers_gone
            for pipeline in known.keys() - triggers.keys() - gone.keys():
                known[pipeline] = msgspec.structs.replace(known[pipeline], held=None)
                gone[pipeline] = now
            for pipeline, value in triggers.items():
                before, gone_at = known.get(pipeline), gone.pop(pipeline, None)
                if before is None:
                    known[pipeline] = TriggerState(pipeline, value, now.astimezone(UTC))
                    continue
                came_back = gone_at is None or (
                    gone_at > now - TRIGGER_COMES_BACK and before.trigger == value
                )
                since = before.since if came_back else now.astimezone(UTC)
                known[pipeline] = msgspec.structs.replace(before, trigger=value, since=since)

    def triggers(self) -> tuple[TriggerState, ...]:
        """Return how far the ticks are of each pipeline that ever had a trigger, by name."""
        with self._tables.turn:
            gone = self._tables.triggers_gone
            return tuple(
                msgspec.structs.replace(state, trigger=None) if name in gone else state
                for name, state in sorted(self._tables.triggers.items())
            )

    def begin_tick(
        self, tick: NewTick, run: NewRun | None, steps: Sequence[NewStep], now: datetime
    ) -> Tick | None:
        """Record a tick together with the run that it begins, or with none if there is nothing to do.

        Return None if somebody else was first. Raises what ``begin_run`` does with ``alone``.
        """
        for moment in (tick.at, tick.previous, now):
            require_zone(moment)
        positions_of(steps)
        tables = self._tables
        with tables.turn:
            state = tables.triggers.get(tick.pipeline)
            if state is None or state.reached != tick.previous:
                return None
            run_id = None if run is None else begin(tables, run, steps, now, alone=True)
            made = Tick(tick.pipeline, tick.at.astimezone(UTC), run_id, now.astimezone(UTC))
            tables.ticks.setdefault(tick.pipeline, []).append(made)
            tables.triggers[tick.pipeline] = msgspec.structs.replace(state, last=made, held=None)
            return made

    def hold_tick(self, pipeline: str, why: str) -> None:
        """Note why the next tick, which is due, could not be begun."""
        with self._tables.turn:
            state = self._tables.triggers.get(pipeline)
            if state is not None:
                self._tables.triggers[pipeline] = msgspec.structs.replace(state, held=why)

    def ticks(self, pipeline: str, *, limit: int = 20) -> tuple[Tick, ...]:
        """Return the ticks of a pipeline that were begun, newest first."""
        with self._tables.turn:
            return tuple(reversed(self._tables.ticks.get(pipeline, [])))[:limit]
