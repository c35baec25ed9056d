"""Environments, pointers, versions and comparisons, in memory."""

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime

import msgspec

from sidestage.data.version import Version
from sidestage.store.contract import PointerKey
from sidestage.store.records import ComparisonRecord, Environment
from sidestage.testing.memory_tables import MemoryPart, Tables, VersionRow, require_zone


class MemoryCatalog(MemoryPart):
    """Keeps environments, pointers and versions."""

    def environment(self, name: str) -> Environment | None:
        """Return an environment, or None."""
        with self._tables.turn:
            return self._tables.environments.get(name)

    def environments(self) -> tuple[Environment, ...]:
        """Return all environments, by name."""
        with self._tables.turn:
            return tuple(each for _, each in sorted(self._tables.environments.items()))

    def save_environment(self, environment: Environment) -> None:
        """Create an environment, or replace its base, code and state."""
        require_zone(environment.created_at)
        with self._tables.turn:
            known = self._tables.environments.get(environment.name, environment)
            self._tables.environments[environment.name] = msgspec.structs.replace(
                environment, created_at=known.created_at
            )

    def pointers(
        self, environment: str, *, datasets: Collection[str] | None = None, as_of: datetime | None = None
    ) -> dict[PointerKey, str]:
        """Return the environment's *own* pointers, not those of its base: now, or as of a moment."""
        if as_of is not None:
            require_zone(as_of)
        with self._tables.turn:
            shown = (
                self._tables.pointers.get(environment, {})
                if as_of is None
                else _shown_at(self._tables, environment, as_of)
            )
            return {key: it for key, it in shown.items() if datasets is None or key[0] in datasets}

    def versions(self, ids: Iterable[str]) -> dict[str, Version]:
        """Return the versions with these ids; unknown ids are left out."""
        with self._tables.turn:
            rows = ((each, self._tables.versions.get(each)) for each in ids)
            return {each: row.version for each, row in rows if row is not None}

    def all_versions(self) -> Iterator[Version]:
        """Yield every version in the catalog, oldest first, in bounded memory."""
        with self._tables.turn:
            rows = sorted(self._tables.versions.items())
        for _, row in rows:
            yield row.version

    def data_gone(self, ids: Iterable[str]) -> frozenset[str]:
        """Return which of these versions have no data any more."""
        with self._tables.turn:
            rows = ((each, self._tables.versions.get(each)) for each in ids)
            return frozenset(each for each, row in rows if row is not None and row.gone_at is not None)

    def released(self, environment: str) -> dict[str, str]:
        """Return the fingerprint of the code that each task of the environment may run with."""
        with self._tables.turn:
            return dict(self._tables.released.get(environment, {}))

    def unreferenced_versions(self, keep_since: datetime) -> tuple[Version, ...]:
        """Return versions whose data nobody needs, oldest first.

        Those are the versions that no pointer shows, no log entry since ``keep_since`` mentions as old or
        new, no unfinished run made, and whose data is still there. That another version was made of them
        does not keep them.
        """
        require_zone(keep_since)
        with self._tables.turn:
            needed = _needed(self._tables, keep_since)
            rows = sorted(self._tables.versions.items())
            return tuple(row.version for _, row in rows if _may_go(self._tables, row, needed))

    def forget_versions(
        self, ids: Collection[str], now: datetime, *, keep_since: datetime | None = None
    ) -> int:
        """Mark versions as having no data any more, if still unreferenced; return how many.

        Without ``keep_since`` the log keeps nothing, only pointers and unfinished runs do.
        """
        require_zone(now)
        with self._tables.turn:
            needed = _needed(self._tables, keep_since)
            rows = [self._tables.versions.get(each) for each in set(ids)]
            going = [row for row in rows if row is not None and _may_go(self._tables, row, needed)]
            for row in going:
                row.gone_at = now
            return len(going)

    def save_comparison(self, record: ComparisonRecord) -> int:
        """Keep a comparison; its ``id`` is ignored and the new one returned."""
        require_zone(record.at)
        with self._tables.turn:
            number = len(self._tables.comparisons) + 1
            self._tables.comparisons.append(msgspec.structs.replace(record, id=number))
            return number

    def comparisons(self, environment: str, *, limit: int = 20) -> tuple[ComparisonRecord, ...]:
        """Return an environment's comparisons, newest first."""
        with self._tables.turn:
            found = [each for each in self._tables.comparisons if each.environment == environment]
            return tuple(found[::-1][:limit])


def _shown_at(tables: Tables, environment: str, as_of: datetime) -> dict[PointerKey, str]:
    latest = {
        line.address[1:]: line.version
        for line in tables.log
        if line.address[0] == environment and line.at <= as_of
    }
    return {key: version for key, version in latest.items() if version is not None}


def _needed(tables: Tables, keep_since: datetime | None) -> set[str | None]:
    """Return the versions that pointers, or the log since a moment, name."""
    needed: set[str | None] = {each for shown in tables.pointers.values() for each in shown.values()}
    if keep_since is not None:
        recent = [line for line in tables.log if line.at >= keep_since]
        needed.update(line.version for line in recent)
        needed.update(line.previous for line in recent)
    return needed


def _may_go(tables: Tables, row: VersionRow, needed: set[str | None]) -> bool:
    made_by = tables.runs[row.run - 1]
    return row.gone_at is None and made_by.state != "running" and row.version.id not in needed
