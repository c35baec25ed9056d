"""Published data in DuckDB: one schema for each environment, one view for each dataset."""

from collections.abc import Iterable, Mapping
from datetime import datetime

import duckdb
import msgspec

from sidestage.checks.sql import identifier, parquet, text
from sidestage.data.lake import Lake
from sidestage.data.version import Version
from sidestage.errors import NotFound
from sidestage.store.contract import PointerKey, Store
from sidestage.store.records import Environment


class PublishedView(msgspec.Struct, frozen=True):
    """A view: its schema, its names, how many partitions and rows it shows."""

    schema: str
    name: str
    short_name: str
    partitions: int
    rows: int


class Published(msgspec.Struct, frozen=True):
    """An open DuckDB connection, and the views in it."""

    connection: duckdb.DuckDBPyConnection
    views: tuple[PublishedView, ...]


def open_published(store: Store, lake: Lake, *, as_of: datetime | None = None) -> Published:
    """Open DuckDB in memory with every environment's datasets; only published versions are visible.

    A dataset ``flights/delays`` of an environment ``fix-tz`` is ``fix_tz."flights/delays"``, and also
    ``fix_tz.delays`` while no other dataset ends in that word. Each view has a column ``_partition``; a view
    of values has one column more, ``value``, which is JSON as text. An environment shows its base's versions
    where it has none of its own. ``as_of`` looks back in time.
    """
    connection = duckdb.connect()
    # The names that users write are their datasets', so the default environment needs no prefix.
    views: list[PublishedView] = []
    for environment in _production_first(store.environments()):
        pointers = visible_pointers(store, environment, as_of)
        if pointers or environment.base is None:
            schema = schema_name(environment.name)
            connection.execute(f"CREATE SCHEMA {identifier(schema)}")
            views.extend(_views(connection, schema, pointers, store.versions(pointers.values()), lake))
    return Published(connection, tuple(views))


def visible_pointers(store: Store, environment: Environment, as_of: datetime | None) -> dict[PointerKey, str]:
    """Return what an environment shows: its own versions, and its base's where it has none."""
    base = {} if environment.base is None else store.pointers(environment.base, as_of=as_of)
    return {**base, **store.pointers(environment.name, as_of=as_of)}


def schema_name(environment: str) -> str:
    """Return the name of an environment's schema, usable without quotes."""
    return environment.replace("-", "_")


def named_environment(store: Store, name: str) -> Environment:
    """Return an environment by its own name or its schema's. Raises NotFound."""
    known = store.environments()
    for environment in known:
        if name in (environment.name, schema_name(environment.name)):
            return environment
    names = ", ".join(environment.name for environment in known) or "none yet"
    raise NotFound(f"There is no environment {name!r}.", hint=f"Known: {names}.")


def _production_first(environments: Iterable[Environment]) -> list[Environment]:
    return sorted(environments, key=lambda environment: (environment.base is not None, environment.name))


def _views(
    connection: duckdb.DuckDBPyConnection,
    schema: str,
    pointers: Mapping[PointerKey, str],
    versions: Mapping[str, Version],
    lake: Lake,
) -> Iterable[PublishedView]:
    by_dataset: dict[str, list[Version]] = {}
    for (dataset, _), version in sorted(pointers.items()):
        by_dataset.setdefault(dataset, []).append(versions[version])
    last_words = [dataset.rsplit("/", 1)[-1] for dataset in by_dataset]
    for dataset, shown in by_dataset.items():
        word = dataset.rsplit("/", 1)[-1].replace("-", "_")
        short = word if last_words.count(dataset.rsplit("/", 1)[-1]) == 1 and word != dataset else ""
        source = _source(shown, lake)
        for name in filter(None, (dataset, short)):
            connection.execute(f"CREATE VIEW {identifier(schema)}.{identifier(name)} AS {source}")
        rows = sum(version.stored.digest.rows for version in shown)
        yield PublishedView(schema, dataset, short, len(shown), rows)


def _source(shown: list[Version], lake: Lake) -> str:
    files = [version for version in shown if version.stored.value is None]
    values = [version for version in shown if version.stored.value is not None]
    # Both, if the dataset was declared as the one once and as the other now.
    sources = ([_files(files, lake)] if files else []) + ([_values(values)] if values else [])
    return " UNION ALL BY NAME ".join(sources)


def _values(shown: list[Version]) -> str:
    rows = ", ".join(f"({text(each.stored.value or '')}, {text(each.partition)})" for each in shown)
    return f"SELECT * FROM (VALUES {rows}) AS t(value, _partition)"  # noqa: S608


def _files(shown: list[Version], lake: Lake) -> str:
    paths = [lake.path(version.stored) for version in shown]
    keys = ", ".join(text(version.partition) for version in shown)
    names = ", ".join(text(path.name) for path in paths)
    files = parquet([str(path) for path in paths], filename="_file")
    # File names are unique in the lake, so they tell which partition a row came from.
    return (
        f"SELECT * EXCLUDE (_file), ([{keys}])[list_position([{names}], parse_filename(_file))] "  # noqa: S608
        f"AS _partition FROM {files}"
    )
