"""Triggers and ticks: each tick is begun once, in order, in the transaction that begins its run."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, func, select, update

from sidestage.store.dialect import insert_if_absent
from sidestage.store.records import NewRun, NewStep
from sidestage.store.refusals import positions_of
from sidestage.store.sql_database import SqlPart
from sidestage.store.sql_runs import begin
from sidestage.store.tables import tick, trigger
from sidestage.store.tick_records import TRIGGER_COMES_BACK, NewTick, Tick, TriggerState

_NEWEST = (
    select(func.max(tick.c.at))
    .where(tick.c.pipeline == trigger.c.pipeline)
    .correlate(trigger)
    .scalar_subquery()
)
_STATES = (
    select(trigger, tick.c.at, tick.c.run, tick.c.made_at)
    .outerjoin(tick, (tick.c.pipeline == trigger.c.pipeline) & (tick.c.at == _NEWEST))
    .order_by(trigger.c.pipeline)
)


class SqlTicks(SqlPart):
    """Knows when pipelines were due."""

    def declare_triggers(self, triggers: Mapping[str, str], now: datetime) -> None:
        """Say which pipelines have triggers now (JSON by pipeline), all others have none any more."""
        self._database.write(partial(_declare, triggers=triggers, now=now))

    def triggers(self) -> tuple[TriggerState, ...]:
        """Return how far the ticks are of each pipeline that ever had a trigger, by name."""
        return self._database.read(
            lambda connection: tuple(_state_of(row) for row in connection.execute(_STATES))
        )

    def begin_tick(
        self, tick: NewTick, run: NewRun | None, steps: Sequence[NewStep], now: datetime
    ) -> Tick | None:
        """Record a tick together with the run that it begins, or with none if there is nothing to do.

        Return None if somebody else was first. Raises what ``begin_run`` does with ``alone``.
        """
        positions = positions_of(steps)
        work = partial(_begin_tick, new=tick, run=run, steps=steps, positions=positions, now=now)
        return self._database.write(work)

    def hold_tick(self, pipeline: str, why: str) -> None:
        """Note why the next tick, which is due, could not be begun."""
        held = update(trigger).where(trigger.c.pipeline == pipeline).values(held=why)
        self._database.write(lambda connection: connection.execute(held))

    def ticks(self, pipeline: str, *, limit: int = 20) -> tuple[Tick, ...]:
        """Return the ticks of a pipeline that were begun, newest first."""
        query = select(tick).where(tick.c.pipeline == pipeline).order_by(tick.c.at.desc()).limit(limit)
        return self._database.read(
            lambda connection: tuple(_tick_of(row) for row in connection.execute(query))
        )


def _declare(connection: Connection, triggers: Mapping[str, str], now: datetime) -> None:
    gone = trigger.c.pipeline.not_in(triggers) & trigger.c.gone_at.is_(None)
    connection.execute(update(trigger).where(gone).values(gone_at=now, held=None))
    insert = insert_if_absent(connection.dialect.name, trigger)
    long_gone = trigger.c.gone_at.is_not(None) & (trigger.c.gone_at <= now - TRIGGER_COMES_BACK)
    for pipeline, value in sorted(triggers.items()):
        # It waits for whoever declares the same one: what the second one reads is what the first one wrote.
        connection.execute(insert.values(pipeline=pipeline, trigger=value, since=now))
        this = trigger.c.pipeline == pipeline
        another = trigger.c.gone_at.is_not(None) & (trigger.c.trigger != value)
        connection.execute(update(trigger).where(this, long_gone | another).values(since=now))
        connection.execute(update(trigger).where(this).values(trigger=value, gone_at=None))


def _begin_tick(
    connection: Connection,
    new: NewTick,
    run: NewRun | None,
    steps: Sequence[NewStep],
    positions: dict[str, int],
    now: datetime,
) -> Tick | None:
    if _reached(connection, new.pipeline) != new.previous:
        return None
    run_id = None if run is None else begin(connection, run, steps, positions, now, alone=True)
    made = Tick(new.pipeline, new.at, run_id, now)
    connection.execute(tick.insert().values(pipeline=made.pipeline, at=made.at, run=run_id, made_at=now))
    connection.execute(update(trigger).where(trigger.c.pipeline == new.pipeline).values(held=None))
    return made


def _reached(connection: Connection, pipeline: str) -> datetime | None:
    """Return up to when every tick of a pipeline was begun, holding its row: nobody begins another now."""
    since: datetime | None = connection.scalar(
        select(trigger.c.since).where(trigger.c.pipeline == pipeline).with_for_update()
    )
    last: datetime | None = connection.scalar(
        select(tick.c.at).where(tick.c.pipeline == pipeline).order_by(tick.c.at.desc()).limit(1)
    )
    return max(filter(None, (since, last)), default=None)


def _state_of(row: Any) -> TriggerState:
    last = None if row.at is None else Tick(row.pipeline, row.at, row.run, row.made_at)
    given = row.trigger if row.gone_at is None else None
    return TriggerState(row.pipeline, given, row.since, last, row.held)


def _tick_of(row: Any) -> Tick:
    return Tick(row.pipeline, row.at, row.run, row.made_at)
