"""Bring a store's schema to this release: create it, migrate it, or refuse.

A fresh store is created from the tables in one transaction; an older one is migrated by Alembic, which is
imported only then. Both happen under a lock and are all or nothing, so a kill in between, or two processes at
once, leave either the old schema or the new one.

Opening a store only adds to its schema (``pre``); what nothing needs any more is taken away when a person
says so (``post``, see ``migrations``). A release refuses a store with any revision it does not know, of
either phase, and changes nothing then. Therefore a process of the previous release that has the store open
keeps working while a newer one adds to it, but cannot open it again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
from sqlalchemy import Column, Connection, MetaData, Table, Text, inspect, select

from sidestage.errors import SchemaMismatch, StoreError
from sidestage.store import lease_clock, tables
from sidestage.store.ambiguous import TOKENS
from sidestage.store.dialect import Engines, exclusive_schema, is_ready

VERSION_TABLE = "schema_version"
"""Where Alembic keeps the last revision of each phase, in the column ``version_num``."""

# Outside the metadata of the store: Alembic owns it.
_version = Table(VERSION_TABLE, MetaData(), Column("version_num", Text, primary_key=True))


@dataclass(frozen=True)
class Schema:
    """The schema a release needs, which ``metadata`` describes after the last revision of both phases.

    ``revisions`` is every one of phase ``pre`` that there ever was, oldest first; ``post`` those of phase
    ``post``. The two are chains of their own.
    """

    metadata: MetaData
    revisions: tuple[str, ...]
    migrations: Path
    post: tuple[str, ...] = ()

    @property
    def head(self) -> str:
        """The revision that a store must have to be used."""
        return self.revisions[-1]


CURRENT = Schema(tables.metadata, ("0001", "0002", "0003", "0004"), Path(__file__).parent / "migrations")


class PostMigration(msgspec.Struct, frozen=True):
    """A step that takes away what only earlier releases needed: its revision, and what it does in words."""

    revision: str
    what: str


class _Revision(NamedTuple):
    """Where a store is in both phases."""

    pre: str
    post: str | None


def bring_up(engines: Engines, place: str, schema: Schema) -> None:
    """Make the store's schema the given one; a writer is connected only if something must change.

    Raises SchemaMismatch for a store of a newer release, StoreError for a database that belongs to something
    else.
    """
    with engines.connect_reader() as connection:
        if _is_up(connection, place, schema):
            return
    with engines.turn, engines.writer.connect() as connection, exclusive_schema(connection):
        revision = _revision(connection, place, schema)
        if revision is None:
            schema.metadata.create_all(connection, checkfirst=False)
            _version.create(connection)
            for last in filter(None, (schema.head, *schema.post[-1:])):
                connection.execute(_version.insert().values(version_num=last))
        elif revision.pre != schema.head:
            _migrate(connection, schema, schema.head)
        if connection.dialect.name == "postgresql":
            TOKENS.create(connection, checkfirst=True)


def pending(connection: Connection, place: str, schema: Schema) -> tuple[PostMigration, ...]:
    """Return what ``finish`` would do, in its order. Raises SchemaMismatch for a store of a newer release."""
    revision = _revision(connection, place, schema)
    if revision is None:
        return ()
    left = schema.post[schema.post.index(revision.post) + 1 :] if revision.post else schema.post
    if not left:
        return ()
    from sidestage.store.migrations import summaries  # noqa: PLC0415 - Alembic is slow to import

    return tuple(map(PostMigration, left, summaries(schema.migrations, left)))


def finish(engines: Engines, place: str, schema: Schema) -> tuple[PostMigration, ...]:
    """Apply what is pending of phase ``post``, all or nothing; return what was done.

    Raises SchemaMismatch for a store of a newer release.
    """
    with engines.turn, engines.writer.connect() as connection, exclusive_schema(connection):
        steps = pending(connection, place, schema)
        if steps:
            _migrate(connection, schema, steps[-1].revision)
        return steps


def _migrate(connection: Connection, schema: Schema, target: str) -> None:
    from sidestage.store.migrations import migrate  # noqa: PLC0415 - Alembic is slow to import

    migrate(connection, schema.migrations, target, version_table=VERSION_TABLE)


def _is_up(connection: Connection, place: str, schema: Schema) -> bool:
    revision = _revision(connection, place, schema)
    if revision is None or revision.pre != schema.head or not is_ready(connection):
        return False
    return connection.dialect.name != "postgresql" or inspect(connection).has_table(TOKENS.name)


def _revision(connection: Connection, place: str, schema: Schema) -> _Revision | None:
    """Return where the schema is, or None if the database is empty."""
    inspector = inspect(connection)
    if not inspector.has_table(VERSION_TABLE):
        others = [name for name in inspector.get_table_names() if name != lease_clock.TABLE]
        if not others:
            return None
        raise StoreError(
            f"{place} is a database, but not a store of Sidestage: it holds the table {others[0]!r}.",
            hint="Nothing was changed. Give the store a file or database of its own.",
        )
    found = set(connection.scalars(select(_version.c.version_num)))
    unknown = found - set(schema.revisions) - set(schema.post)
    if unknown or not found:
        raise SchemaMismatch(
            f"The store {place} has schema {', '.join(sorted(unknown)) or None}; this release of Sidestage"
            f" knows none later than {max(schema.revisions + schema.post)}.",
            hint="It was used by a newer release: upgrade Sidestage here too.",
        )
    (pre,) = found & set(schema.revisions)
    return _Revision(pre, next(iter(found & set(schema.post)), None))
