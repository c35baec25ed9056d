"""A SQL task: its query run in DuckDB over its inputs."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from sidestage.checks.sql import identifier, parquet
from sidestage.data.partition import Partition
from sidestage.errors import TaskError


def run_query(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    partition: Partition,
    files: Mapping[str, Sequence[Path]],
) -> duckdb.DuckDBPyRelation:
    """Return the relation that a task's query makes of its inputs; each input is a view of that name.

    ``$partition``, ``$start`` and ``$end`` are bound where the query mentions them. Raises TaskError if the
    query is not one SELECT, or cannot be run.
    """
    # Temporary views belong to a cursor: a query sees the inputs of its own task and of no other.
    cursor = connection.cursor()
    values = {"partition": partition.key, "start": partition.start, "end": partition.end}
    used = {name: value for name, value in values.items() if re.search(rf"\${name}\b", query)}
    try:
        _require_select(cursor, query)
        for name, paths in files.items():
            source = parquet([str(path) for path in paths])
            cursor.execute(f"CREATE TEMP VIEW {identifier(name)} AS SELECT * FROM {source}")  # noqa: S608
        return cursor.sql(query, params=used or None)
    except duckdb.Error as error:
        raise TaskError(f"The query failed: {error}") from error


def _require_select(cursor: duckdb.DuckDBPyConnection, query: str) -> None:
    kinds = [statement.type for statement in cursor.extract_statements(query)]
    if kinds != [duckdb.StatementType.SELECT]:
        found = ", ".join(kind.name for kind in kinds) or "none"
        raise TaskError(
            f"A task's query must be one SELECT statement; found: {found}.",
            hint="It returns the rows of its partition; the platform writes them.",
        )


def fresh_connection(threads: int, temporary: Path) -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB connection that spills into ``temporary``. The caller closes it."""
    return duckdb.connect(config={"threads": threads, "temp_directory": str(temporary)})
