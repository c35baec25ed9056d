"""A SQL task: its query run in DuckDB over its inputs."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import duckdb

from sidestage.data.partition import Partition
from sidestage.errors import TaskError

_PARAMETERS = ("partition", "start", "end")


def run_query(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    partition: Partition,
    files: Mapping[str, Sequence[Path]],
) -> "duckdb.DuckDBPyRelation":
    """Return the relation that a task's query makes of its inputs; each input is a view of that name.

    ``$partition``, ``$start`` and ``$end`` are bound where the query mentions them. Raises TaskError.
    """
    cursor = connection.cursor()
    for name, paths in files.items():
        relation = cursor.read_parquet([str(path) for path in paths], union_by_name=True)
        relation.create_view(name, replace=True)
    values = {"partition": partition.key, "start": partition.start, "end": partition.end}
    used = {name: values[name] for name in _PARAMETERS if re.search(rf"\${name}\b", query)}
    try:
        return cursor.sql(query, params=used or None)
    except duckdb.Error as error:
        raise TaskError(f"The query failed: {error}") from error


@contextlib.contextmanager
def fresh_connection(threads: int, scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield an in-memory DuckDB connection that spills into ``scratch``."""
    connection = duckdb.connect(config={"threads": threads, "temp_directory": str(scratch)})
    try:
        yield connection
    finally:
        connection.close()
