"""Services and their leases: each is held by one worker at a time."""

from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, case, literal, null, select, update

from sidestage.store.dialect import DatabaseClock, insert_if_absent
from sidestage.store.service_records import ServiceNote, ServiceState
from sidestage.store.sql_database import SqlPart
from sidestage.store.tables import Moment, service

_HELD = service.c.owner.is_not(None) & (service.c.due > DatabaseClock())
_KNOWN = select(service, _HELD.label("held")).order_by(service.c.name)


class SqlServices(SqlPart):
    """Knows who keeps which service running."""

    def hold_service(self, service: str, owner: str, *, lease: float, now: datetime) -> int | None:
        """Take a service that nobody holds, or extend the lease of ``owner``; return the fence.

        None if another owner's lease is not over.
        """
        work = partial(_hold, name=service, owner=owner, lease=lease, now=now)
        return self._database.write(work, lazily=True)

    def note_service(self, service: str, fence: int, said: ServiceNote, now: datetime) -> bool:
        """Say what becomes of a service; return False, and change nothing, if it was taken by another."""
        return self._database.write(partial(_note, name=service, fence=fence, said=said, now=now))

    def release_service(self, service: str, fence: int) -> bool:
        """Give a service back before its lease is over; return False if it was taken by another."""
        return self._database.write(partial(_release, name=service, fence=fence))

    def ask_service(self, service: str) -> bool:
        """Ask that a service be started anew; return False if nobody ever held one of this name."""
        return self._database.write(partial(_ask, name=service))

    def services(self) -> tuple[ServiceState, ...]:
        """Return the services that anybody ever held, by name."""
        return self._database.read(
            lambda connection: tuple(_state_of(row) for row in connection.execute(_KNOWN))
        )


def _hold(connection: Connection, name: str, owner: str, lease: float, now: datetime) -> int | None:
    empty = {"owner": None, "fence": 0, "due": 0.0, "state": "stopped", "note": "", "restarts": 0}
    first = insert_if_absent(connection.dialect.name, service)
    connection.execute(first.values(name=name, **empty, url="", since=now, asked=0))
    mine = service.c.owner == owner
    # One statement decides and takes: of two that ask at once, the second sees what the first one did.
    taken = (
        update(service)
        .where(service.c.name == name, mine | ~_HELD)
        .values(
            owner=owner,
            due=DatabaseClock() + lease,
            fence=case((mine, service.c.fence), else_=service.c.fence + 1),
        )
        .returning(service.c.fence)
    )
    fence: int | None = connection.scalar(taken)
    return fence


def _note(connection: Connection, name: str, fence: int, said: ServiceNote, now: datetime) -> bool:
    changed = (
        update(service)
        .where(service.c.name == name, service.c.fence == fence)
        .values(
            since=case((service.c.state == said.state, service.c.since), else_=literal(now, Moment)),
            state=said.state,
            note=said.note,
            restarts=said.restarts,
            url=said.url,
        )
    )
    return connection.execute(changed).rowcount > 0


def _release(connection: Connection, name: str, fence: int) -> bool:
    given = update(service).where(service.c.name == name, service.c.fence == fence).values(owner=null())
    return connection.execute(given).rowcount > 0


def _ask(connection: Connection, name: str) -> bool:
    asked = update(service).where(service.c.name == name).values(asked=service.c.asked + 1)
    return connection.execute(asked).rowcount > 0


def _state_of(row: Any) -> ServiceState:
    said = ServiceNote(row.state, row.note, row.restarts, row.url)
    return ServiceState(row.name, row.owner if row.held else None, row.fence, row.since, said, row.asked)
