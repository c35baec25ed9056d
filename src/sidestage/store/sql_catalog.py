"""Environments, the pointers they consist of, versions and comparisons."""

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select, union, update

from sidestage.data.version import Version
from sidestage.store.contract import PointerKey
from sidestage.store.dialect import insert_or_replace
from sidestage.store.prepared import Prepared
from sidestage.store.records import ComparisonRecord, Environment
from sidestage.store.sql_database import SqlPart
from sidestage.store.sql_rows import batches, comparison_of, environment_of, version_of
from sidestage.store.tables import comparison, environment, pointer, pointer_log, released, run, version

_VERSIONS = select(version).where(version.c.id.in_(bindparam("ids", expanding=True)))
_VERSIONS_AFTER = (
    select(version)
    .where(version.c.id > bindparam("after"))
    .order_by(version.c.id)
    .limit(bindparam("at_most"))
)
_GONE = Prepared(
    select(version.c.id).where(
        version.c.id.in_(bindparam("ids", expanding=True)), version.c.data_gone_at.is_not(None)
    ),
    listed=["ids"],
)
_PAGE = 1000


class SqlCatalog(SqlPart):
    """Keeps environments, pointers and versions."""

    def environment(self, name: str) -> Environment | None:
        """Return an environment, or None."""
        query = select(environment).where(environment.c.name == name)
        row = self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else environment_of(row)

    def environments(self) -> tuple[Environment, ...]:
        """Return all environments, by name."""
        query = select(environment).order_by(environment.c.name)
        return self._database.read(
            lambda connection: tuple(environment_of(row) for row in connection.execute(query))
        )

    def save_environment(self, environment: Environment) -> None:
        """Create an environment, or replace its base, code and state."""
        self._database.write(partial(_save_environment, record=environment))

    def pointers(
        self, environment: str, *, datasets: Collection[str] | None = None, as_of: datetime | None = None
    ) -> dict[PointerKey, str]:
        """Return the environment's *own* pointers, not those of its base: now, or as of a moment."""
        return self._database.read(
            partial(_pointers, environment=environment, datasets=datasets, as_of=as_of)
        )

    def versions(self, ids: Iterable[str]) -> dict[str, Version]:
        """Return the versions with these ids; unknown ids are left out."""
        return self._database.read(partial(_versions, ids=tuple(ids)))

    def all_versions(self) -> Iterator[Version]:
        """Yield every version in the catalog, oldest first, in bounded memory."""
        after = ""
        while page := self._database.read(partial(_page, after=after)):
            yield from page
            after = page[-1].id

    def data_gone(self, ids: Iterable[str]) -> frozenset[str]:
        """Return which of these versions have no data any more."""
        return self._database.read(partial(_data_gone, ids=tuple(ids)))

    def released(self, environment: str) -> dict[str, str]:
        """Return the fingerprint of the code that each task of the environment may run with."""
        query = select(released.c.task, released.c.code).where(released.c.environment == environment)
        return self._database.read(
            lambda connection: {row.task: row.code for row in connection.execute(query)}
        )

    def unreferenced_versions(self, keep_since: datetime) -> tuple[Version, ...]:
        """Return versions whose data nobody needs, oldest first.

        Those are the versions that no pointer shows, no log entry since ``keep_since`` mentions as old or
        new, no unfinished run made, and whose data is still there. That another version was made of them
        does not keep them.
        """
        query = _unreferenced(keep_since).order_by(version.c.id)
        return self._database.read(
            lambda connection: tuple(version_of(row) for row in connection.execute(query))
        )

    def forget_versions(
        self, ids: Collection[str], now: datetime, *, keep_since: datetime | None = None
    ) -> int:
        """Mark versions as having no data any more, if still unreferenced; return how many.

        Without ``keep_since`` the log keeps nothing, only pointers and unfinished runs do.
        """
        return self._database.write(partial(_forget, ids=tuple(ids), now=now, keep_since=keep_since))

    def save_comparison(self, record: ComparisonRecord) -> int:
        """Keep a comparison; its ``id`` is ignored and the new one returned."""
        values = {name: getattr(record, name) for name in record.__struct_fields__ if name != "id"}
        query = comparison.insert().values(values).returning(comparison.c.id)
        return self._database.write(lambda connection: int(connection.execute(query).scalar_one()))

    def comparisons(self, environment: str, *, limit: int = 20) -> tuple[ComparisonRecord, ...]:
        """Return an environment's comparisons, newest first."""
        query = (
            select(comparison)
            .where(comparison.c.environment == environment)
            .order_by(comparison.c.id.desc())
            .limit(limit)
        )
        return self._database.read(
            lambda connection: tuple(comparison_of(row) for row in connection.execute(query))
        )


def _save_environment(connection: Connection, record: Environment) -> None:
    statement = insert_or_replace(connection.dialect.name, environment, ("base", "code", "state"))
    connection.execute(
        statement,
        {
            "name": record.name,
            "base": record.base,
            "code": record.code,
            "state": record.state,
            "created_at": record.created_at,
        },
    )


def _pointers(
    connection: Connection, environment: str, datasets: Collection[str] | None, as_of: datetime | None
) -> dict[PointerKey, str]:
    if datasets is None:
        return dict(_pointer_rows(connection, _shown(environment, None, as_of)))
    found: dict[PointerKey, str] = {}
    for some in batches(sorted(set(datasets))):
        found.update(_pointer_rows(connection, _shown(environment, some, as_of)))
    return found


def _pointer_rows(connection: Connection, query: Select[Any]) -> Iterator[tuple[PointerKey, str]]:
    for dataset, partition, shown in connection.execute(query).all():
        yield (dataset, partition), shown


def _shown(environment: str, datasets: list[str] | None, as_of: datetime | None) -> Select[Any]:
    """Select (dataset, partition, version) of an environment's pointers."""
    if as_of is None:
        query = select(pointer.c.dataset, pointer.c.partition, pointer.c.version).where(
            pointer.c.environment == environment
        )
        return query if datasets is None else query.where(pointer.c.dataset.in_(datasets))
    latest = (
        select(func.max(pointer_log.c.id))
        .where(pointer_log.c.environment == environment, pointer_log.c.at <= as_of)
        .group_by(pointer_log.c.dataset, pointer_log.c.partition)
    )
    if datasets is not None:
        latest = latest.where(pointer_log.c.dataset.in_(datasets))
    return select(pointer_log.c.dataset, pointer_log.c.partition, pointer_log.c.version).where(
        pointer_log.c.id.in_(latest), pointer_log.c.version.is_not(None)
    )


def _versions(connection: Connection, ids: tuple[str, ...]) -> dict[str, Version]:
    found: dict[str, Version] = {}
    for some in batches(dict.fromkeys(ids)):
        rows = connection.execute(_VERSIONS, {"ids": some}).all()
        found.update((made.id, made) for made in map(version_of, rows))
    return found


def _page(connection: Connection, after: str) -> list[Version]:
    rows = connection.execute(_VERSIONS_AFTER, {"after": after, "at_most": _PAGE})
    return [version_of(row) for row in rows]


def _data_gone(connection: Connection, ids: tuple[str, ...]) -> frozenset[str]:
    return frozenset(row[0] for some in batches(ids) for row in _GONE.rows(connection, {"ids": some}))


def _referenced(keep_since: datetime | None) -> Any:
    """Select the ids of versions whose data is needed, apart from those of unfinished runs."""
    shown = select(pointer.c.version.label("id"))
    if keep_since is None:
        return shown
    entries = [
        select(column.label("id")).where(pointer_log.c.at >= keep_since, column.is_not(None))
        for column in (pointer_log.c.version, pointer_log.c.previous)
    ]
    return union(shown, *entries)


def _conditions(keep_since: datetime | None) -> tuple[Any, ...]:
    unfinished = select(run.c.id).where(run.c.state == "running")
    return (
        version.c.data_gone_at.is_(None),
        version.c.run.not_in(unfinished),
        version.c.id.not_in(_referenced(keep_since)),
    )


def _unreferenced(keep_since: datetime) -> Select[Any]:
    return select(version).where(*_conditions(keep_since))


def _forget(connection: Connection, ids: tuple[str, ...], now: datetime, keep_since: datetime | None) -> int:
    count = 0
    for some in batches(sorted(ids)):
        # Held first, so that a move which is about to point at one of them is seen by the update.
        connection.execute(select(version.c.id).where(version.c.id.in_(some)).with_for_update()).all()
        statement = (
            update(version).where(version.c.id.in_(some), *_conditions(keep_since)).values(data_gone_at=now)
        )
        count += connection.execute(statement).rowcount
    return count
