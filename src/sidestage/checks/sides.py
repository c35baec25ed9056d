"""Both sides of a comparison, opened: a confined DuckDB database that sees them as two relations."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import msgspec

from sidestage.checks.layout import Layout, Schema, bring_together
from sidestage.checks.rules import AnyRule
from sidestage.checks.sql import identifier, parquet, text
from sidestage.data.version import Digest
from sidestage.errors import DataError


class Side(msgspec.Struct, frozen=True):
    """One side of a partition: a version, the absolute path of its file, its digest and its rows."""

    version: str
    path: str
    digest: Digest
    rows: int


class Pair(msgspec.Struct, frozen=True):
    """One partition on both sides: production (``base``) and candidate; None where there is none."""

    partition: str
    base: Side | None
    candidate: Side | None


class Resources(msgspec.Struct, frozen=True):
    """What comparing may use: DuckDB's memory (such as ``750MB``), threads (None: all), a directory."""

    memory_limit: str
    threads: int | None
    temp_dir: Path


@dataclass(frozen=True)
class Stage:
    """An open comparison of one dataset's unequal partitions.

    The relations ``base_side`` and ``candidate_side`` have the columns p (the partition's number, from 1),
    the key's and the compared ones; ``parts`` has p, name, rows_base and rows_candidate.
    """

    connection: duckdb.DuckDBPyConnection
    layout: Layout
    pairs: tuple[Pair, ...]

    @property
    def rows(self) -> int:
        """The rows of the larger side."""
        return max(sum(side.rows for side in sides if side) for sides in (self.bases, self.candidates))

    @property
    def bases(self) -> list[Side | None]:
        """Production's sides."""
        return [pair.base for pair in self.pairs]

    @property
    def candidates(self) -> list[Side | None]:
        """The candidate's sides."""
        return [pair.candidate for pair in self.pairs]

    def same(self, one: str, other: str, *, nulls: bool = False) -> str:
        """Return the condition that rows of two relations have the same partition and key."""
        equal = "IS NOT DISTINCT FROM" if nulls else "="
        # A single partition need not be compared: it would only make the join's table larger.
        conditions = [f"{one}.p = {other}.p"] if len(self.pairs) > 1 else []
        conditions += [f"{one}.{key} {equal} {other}.{key}" for key in self.layout.keys]
        return " AND ".join(conditions)

    def all(self, query: str) -> list[tuple[object, ...]]:
        """Run a query and return its rows."""
        rows: list[tuple[object, ...]] = self.connection.execute(query).fetchall()
        return rows

    def one(self, query: str) -> tuple[object, ...]:
        """Run a query that has one row."""
        return self.all(query)[0]


@contextmanager
def opened(
    pairs: Sequence[Pair], key: Sequence[str], rules: Sequence[AnyRule], resources: Resources
) -> Iterator[Stage]:
    """Open the given partitions for comparison; whatever was spilled is gone afterwards.

    Raises DataError if a file cannot be read or its values cannot be brought to one type.
    """
    with _connected(resources) as connection:
        try:
            paths = [
                [side.path for side in sides if side is not None]
                for sides in ([pair.base for pair in pairs], [pair.candidate for pair in pairs])
            ]
            base, candidate = (_schema(connection, files) if files else None for files in paths)
            schemas = (base or candidate or {}, candidate or base or {})
            layout = bring_together(connection, schemas, key, rules)
            stage = Stage(connection, layout, tuple(pairs))
            _view(stage, "base_side", stage.bases, schemas[0])
            _view(stage, "candidate_side", stage.candidates, schemas[1])
            _parts(stage)
            yield stage
        except duckdb.Error as error:
            names = ", ".join(pair.partition for pair in pairs[:3])
            raise DataError(
                f"Cannot compare {len(pairs)} partitions ({names} ...): {str(error).splitlines()[0]}",
                hint="If files are missing or damaged, run their steps again; if it is memory or disk, "
                "free some or allow more.",
            ) from error


def _connected(resources: Resources) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "memory_limit": resources.memory_limit,
            "temp_directory": str(resources.temp_dir),
            "preserve_insertion_order": "false",
        }
    )
    connection.execute("SET TimeZone = 'UTC'")
    if resources.threads is not None:
        connection.execute(f"SET threads = {resources.threads:d}")
    return connection


def _schema(connection: duckdb.DuckDBPyConnection, paths: list[str]) -> Schema:
    rows = connection.execute(f"DESCRIBE SELECT * FROM {parquet(paths)}").fetchall()  # noqa: S608
    return {name: kind for name, kind, *_ in rows}


def _view(stage: Stage, name: str, sides: Sequence[Side | None], schema: Schema) -> None:
    """Define one side as a relation of p, key and values."""
    paths = [side.path for side in sides if side is not None]
    selected = stage.layout.select(schema)
    if not paths:
        nothing = ", ".join(f"CAST(NULL AS {kind}) AS {identifier(one)}" for one, kind in schema.items())
        source, ordinal = f"(SELECT {nothing}) WHERE FALSE", "1"
    elif len(sides) == 1:
        source, ordinal = parquet(paths), "1"
    else:
        file = _free_name(schema)
        source = parquet(paths, filename=file)
        # Evaluated once per chunk of a file, not per row: the file's name is constant there.
        listed = ", ".join(text(side.path if side is not None else "") for side in sides)
        ordinal = f"CAST(list_position([{listed}], {identifier(file)}) AS INTEGER)"
    query = f"SELECT {', '.join(filter(None, [f'{ordinal} AS p', selected]))} FROM {source}"  # noqa: S608
    if not stage.layout.key:
        query = f"SELECT *, {stage.layout.hash()} AS k0 FROM ({query})"  # noqa: S608
    stage.connection.execute(f"CREATE TEMP VIEW {name} AS {query}")


def _free_name(schema: Schema) -> str:
    taken = {name.casefold() for name in schema}
    name = "file"
    while name in taken:
        name += "_"
    return name


def _parts(stage: Stage) -> None:
    rows = ", ".join(
        f"({number}, {text(pair.partition)}, {pair.base.rows if pair.base else 0}, "
        f"{pair.candidate.rows if pair.candidate else 0})"
        for number, pair in enumerate(stage.pairs, 1)
    )
    query = f"SELECT * FROM (VALUES {rows}) AS t(p, name, rows_base, rows_candidate)"  # noqa: S608
    stage.connection.execute(f"CREATE TEMP TABLE parts AS {query}")
