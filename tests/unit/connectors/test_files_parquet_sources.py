"""Parquet files as sources: rows and tables, from any row on."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from tests.unit.connectors.test_files import batches, drained, items, resumed_anywhere, values

from sidestage.connectors import parquet_files
from sidestage.connectors.parquet_files import ParquetRows, ParquetTables
from sidestage.errors import DataError, DefinitionError


def written(path, count, group):
    table = pa.table({"n": list(range(count)), "text": [f"t{n}" for n in range(count)]})
    parquet.write_table(table, path, row_group_size=group)
    return path


def rows(count):
    return [{"n": n, "text": f"t{n}"} for n in range(count)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 25), st.integers(1, 9), st.integers(1, 6))
def test_rows_come_once_from_wherever_reading_goes_on(tmp_path_factory, count, group, unpacked):
    path = written(tmp_path_factory.mktemp("parquet") / "x.parquet", count, group)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parquet_files, "_ROWS", unpacked)
        assert values(ParquetRows(path)) == rows(count)
        resumed_anywhere(ParquetRows(path), path)
        tables = ParquetTables(path, rows=unpacked)
        assert [row for table in items(tables) for row in table.to_pylist()] == rows(count)
        assert all(table.num_rows <= min(group, unpacked) for table in items(tables))
        resumed_anywhere(tables, path)


def test_columns_may_be_chosen_and_must_be_there(tmp_path):
    path = written(tmp_path / "x.parquet", 3, 2)
    assert values(ParquetRows(path, columns=("n",))) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert [table.column_names for table in values(ParquetTables(path, columns=("text",)))] == [["text"]] * 2
    with pytest.raises(DataError, match=r"no column 'm'. It has n, text"):
        values(ParquetRows(path, columns=("n", "m")))
    with pytest.raises(DefinitionError, match="cannot have 0 rows"):
        ParquetTables(path, rows=0)


def test_what_is_no_parquet_or_is_another_file_is_told(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        values(ParquetRows(path))
    written(path, 3, 2)
    with pytest.raises(DataError, match="has 3 rows; reading was to go on behind 4"):
        items(ParquetRows(path), {str(path): 4})
    data = bytearray(path.read_bytes())
    data[4:40] = b"\xff" * 36
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        values(ParquetRows(path))
    written(path, 30, 2)
    reader = ParquetRows(path).open({})
    reader.read(1, 0.0)
    written(tmp_path / "other", 30, 2).replace(path)
    with pytest.raises(DataError, match="was replaced"):
        drained(reader)
    reader = ParquetRows([path, written(tmp_path / "y", 1, 1)]).open({})
    (tmp_path / "y").unlink()
    with pytest.raises(DataError, match="y is gone"):
        drained(reader)


def test_each_table_is_a_batch(tmp_path):
    path = written(tmp_path / "x.parquet", 5, 2)
    assert [(batch.first, batch.next, len(batch.items)) for batch in batches(ParquetTables(path))] == [
        (0, 2, 1),
        (2, 4, 1),
        (4, 5, 1),
    ]
