from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidestage.data.partition import Partition
from sidestage.errors import TaskError
from sidestage.run.query import run_query

DAY = Partition("2013-01-01", datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 2, tzinfo=UTC))


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pq.write_table(pa.table({"n": [1, 2]}), tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


def test_inputs_are_relations_and_the_partition_is_bound(
    connection: duckdb.DuckDBPyConnection, file: Path
) -> None:
    query = "SELECT sum(n) AS n, $partition AS day, $end > $start AS later FROM rows"
    assert run_query(connection, query, DAY, {"rows": [file, file]}).fetchall() == [(6, "2013-01-01", True)]


def test_a_query_sees_only_its_own_tasks_inputs(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    assert run_query(connection, "FROM rows", DAY, {"rows": [file]}).fetchall() == [(1,), (2,)]
    with pytest.raises(TaskError, match="rows"):
        run_query(connection, "FROM rows", DAY, {"others": [file]})


@pytest.mark.parametrize(
    "query", ["CREATE TABLE t AS SELECT 1", "SELECT 1; SELECT 2", "", "-- nothing", "COPY rows TO 'x.csv'"]
)
def test_what_is_not_one_select_is_refused(
    connection: duckdb.DuckDBPyConnection, file: Path, query: str
) -> None:
    with pytest.raises(TaskError, match="SELECT"):
        run_query(connection, query, DAY, {"rows": [file]})


def test_a_query_that_cannot_be_understood_is_a_clear_error(connection: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(TaskError, match=r"query failed.*SELEC"):
        run_query(connection, "SELEC 1", DAY, {})


def test_names_and_paths_are_quoted(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    path = tmp_path / "it's.parquet"
    pq.write_table(pa.table({"n": [1]}), path)
    assert run_query(connection, 'FROM "select"', DAY, {"select": [path]}).fetchall() == [(1,)]
