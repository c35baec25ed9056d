"""Services and their leases, in memory."""

from datetime import UTC, datetime

import msgspec

from sidestage.store.service_records import ServiceNote, ServiceState
from sidestage.testing.memory_tables import MemoryPart, ServiceRow, require_zone


class MemoryServices(MemoryPart):
    """Knows who keeps which service running."""

    def hold_service(self, service: str, owner: str, *, lease: float, now: datetime) -> int | None:
        """Take a service that nobody holds, or extend the lease of ``owner``; return the fence.

        None if another owner's lease is not over.
        """
        require_zone(now)
        with self._tables.turn:
            row = self._tables.services.get(service)
            if row is None:
                state = ServiceState(service, None, 0, now.astimezone(UTC), ServiceNote("stopped"))
                row = self._tables.services[service] = ServiceRow(state, 0.0)
            mine = row.state.owner == owner
            if not mine and row.state.owner is not None and row.due > self._tables.clock():
                return None
            fence = row.state.fence if mine else row.state.fence + 1
            row.state = msgspec.structs.replace(row.state, owner=owner, fence=fence)
            row.due = self._tables.clock() + lease
            return fence

    def note_service(self, service: str, fence: int, said: ServiceNote, now: datetime) -> bool:
        """Say what becomes of a service; return False, and change nothing, if it was taken by another."""
        require_zone(now)
        with self._tables.turn:
            row = self._service_under(service, fence)
            if row is None:
                return False
            same = row.state.said.state == said.state
            since = row.state.since if same else now.astimezone(UTC)
            row.state = msgspec.structs.replace(row.state, said=said, since=since)
            return True

    def release_service(self, service: str, fence: int) -> bool:
        """Give a service back before its lease is over; return False if it was taken by another."""
        with self._tables.turn:
            row = self._service_under(service, fence)
            if row is None:
                return False
            row.state = msgspec.structs.replace(row.state, owner=None)
            return True

    def ask_service(self, service: str) -> bool:
        """Ask that a service be started anew; return False if nobody ever held one of this name."""
        with self._tables.turn:
            row = self._tables.services.get(service)
            if row is None:
                return False
            row.state = msgspec.structs.replace(row.state, asked=row.state.asked + 1)
            return True

    def services(self) -> tuple[ServiceState, ...]:
        """Return the services that anybody ever held, by name."""
        with self._tables.turn:
            now = self._tables.clock()
            return tuple(
                row.state if row.due > now else msgspec.structs.replace(row.state, owner=None)
                for _, row in sorted(self._tables.services.items())
            )

    def _service_under(self, service: str, fence: int) -> ServiceRow | None:
        row = self._tables.services.get(service)
        return None if row is None or row.state.fence != fence else row
