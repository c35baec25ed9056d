"""Workers and their heartbeats."""

from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from sidestage.store.dialect import DatabaseClock, insert_or_replace
from sidestage.store.prepared import Prepared
from sidestage.store.records import Beat, Worker
from sidestage.store.sql_claims import RUNNING
from sidestage.store.sql_database import SqlPart
from sidestage.store.tables import step, worker

_FORGOTTEN_AFTER_SECONDS = 24 * 3600.0
_SAID = ("queues", "slots", "seen_at", "due")

_OWNED = (step.c.due.is_not(None), RUNNING, step.c.owner == bindparam("by_owner"))

_EXTEND = Prepared(
    update(step)
    .where(*_OWNED)
    .values(due=DatabaseClock() + bindparam("lease"))
    .returning(step.c.run, step.c.id, step.c.fence)
)

_KNOWN = select(worker, (worker.c.due > DatabaseClock()).label("alive")).order_by(worker.c.name)
_DRAINING = select(worker.c.draining).where(worker.c.name == bindparam("called"))
_FORGET = worker.delete().where(worker.c.due < DatabaseClock() - _FORGOTTEN_AFTER_SECONDS)


class SqlWorkers(SqlPart):
    """Knows who works."""

    def beat(self, worker: Worker, *, lease: float, now: datetime) -> Beat:
        """Say that a worker lives: extend the leases of all that it runs, and return what it still holds."""
        return self._database.write(partial(_beat, who=worker, lease=lease, now=now), lazily=True)

    def workers(self) -> tuple[Worker, ...]:
        """Return the workers that are known, by name; those long dead are forgotten."""
        return self._database.read(
            lambda connection: tuple(_worker_of(row) for row in connection.execute(_KNOWN))
        )

    def drain(self, worker: str) -> bool:
        """Have a worker finish what it runs and claim nothing new; return False if there is no such."""
        return self._database.write(partial(_drain, name=worker))


def _beat(connection: Connection, who: Worker, lease: float, now: datetime) -> Beat:
    held = _EXTEND.rows(connection, {"by_owner": who.name, "lease": lease})
    draining = connection.scalar(_DRAINING, {"called": who.name})
    if draining is None:
        connection.execute(_FORGET)
    values: dict[str, Any] = {
        "name": who.name,
        "queues": " ".join(who.queues),
        "slots": who.slots,
        "draining": bool(draining) or who.draining,
        "started_at": who.started_at,
        "seen_at": now,
        "due": DatabaseClock() + lease,
    }
    said = (*_SAID, "draining") if who.draining else _SAID
    connection.execute(insert_or_replace(connection.dialect.name, worker, said).values(values))
    return Beat(frozenset((row[0], row[1], row[2]) for row in held), values["draining"])


def _drain(connection: Connection, name: str) -> bool:
    told = update(worker).where(worker.c.name == name).values(draining=True)
    return connection.execute(told).rowcount > 0


def _worker_of(row: Any) -> Worker:
    return Worker(
        name=row.name,
        queues=tuple(row.queues.split()),
        slots=row.slots,
        draining=bool(row.draining),
        started_at=row.started_at,
        seen_at=row.seen_at,
        alive=bool(row.alive),
    )
