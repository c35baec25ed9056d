"""Bring a store's schema to this release: create it, migrate it, or refuse.

A fresh store is created from the tables in one transaction; an older one is migrated by Alembic, which is
imported only then. Both happen under a lock and are all or nothing, so a kill in between, or two processes at
once, leave either the old schema or the new one.
"""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Column, Connection, Engine, MetaData, Table, Text, inspect, select

from sidestage.errors import SchemaMismatch, StoreError
from sidestage.store import tables
from sidestage.store.dialect import exclusive_schema

VERSION_TABLE = "schema_version"
"""Where Alembic keeps the revision, in the column ``version_num``."""

# Outside the metadata of the store: Alembic owns it.
_version = Table(VERSION_TABLE, MetaData(), Column("version_num", Text, primary_key=True))


@dataclass(frozen=True)
class Schema:
    """The schema a release needs. ``revisions`` is every one there ever was, oldest first."""

    metadata: MetaData
    revisions: tuple[str, ...]
    migrations: Path

    @property
    def head(self) -> str:
        """The revision that ``metadata`` describes."""
        return self.revisions[-1]


CURRENT = Schema(tables.metadata, ("0001",), Path(__file__).parent / "migrations")


def bring_up(reader: Engine, writer: Engine, place: str, schema: Schema) -> None:
    """Make the store's schema the given one; ``writer`` is connected only if something must change.

    Raises SchemaMismatch for a store of a newer
    release, StoreError for a database that belongs to something else.
    """
    with reader.connect() as connection:
        if _revision(connection, place, schema) == schema.head:
            return
    with writer.connect() as connection, exclusive_schema(connection):
        revision = _revision(connection, place, schema)
        if revision == schema.head:
            return
        if revision is None:
            schema.metadata.create_all(connection, checkfirst=False)
            _version.create(connection)
            connection.execute(_version.insert().values(version_num=schema.head))
        else:
            from sidestage.store.migrations import migrate  # noqa: PLC0415 - Alembic is slow to import

            migrate(connection, schema.migrations, schema.head, version_table=VERSION_TABLE)


def _revision(connection: Connection, place: str, schema: Schema) -> str | None:
    """Return the schema's revision, or None if the database is empty."""
    inspector = inspect(connection)
    if not inspector.has_table(VERSION_TABLE):
        others = inspector.get_table_names()
        if not others:
            return None
        raise StoreError(
            f"{place} is a database, but not a store of Sidestage: it holds the table {others[0]!r}.",
            hint="Nothing was changed. Give the store a file or database of its own.",
        )
    revision = connection.scalar(select(_version.c.version_num))
    if revision not in schema.revisions:
        raise SchemaMismatch(
            f"The store {place} has schema {revision}; this release of Sidestage knows none later"
            f" than {schema.head}.",
            hint="It was used by a newer release: upgrade Sidestage here too.",
        )
    return str(revision)
