"""Published datasets of a real project as sources of streams."""

import json
from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest

from sidestage import Project, Stream
from sidestage.errors import DataError, DefinitionError, NotFound
from sidestage.stream import Checkpoint, Collected
from sidestage.stream.contract import Batch

CODE = """
import pyarrow as pa
from sidestage import Daily, Dataset, Partition, Pipeline, Value

days = Daily(start="2026-01-01", end="2026-01-03")
rows = Dataset("shop/rows", days)
total = Value("shop/total", days)
pipeline = Pipeline("small")
FACTOR = 1

@pipeline.task(writes=rows)
def make(day: Partition) -> pa.Table:
    count = 20_000 if day.key.endswith("02") else 3
    return pa.table({"n": [n * FACTOR for n in range(count)], "day": [day.key] * count})

@pipeline.task(reads=rows, writes=total)
def add(day: Partition, rows: pa.Table) -> int:
    return rows.num_rows
"""
FIRST, SECOND, THIRD = "2026-01-01", "2026-01-02", "2026-01-03"


@pytest.fixture
def project(new_project):
    made = new_project(CODE)
    made("run")
    return made


@pytest.fixture
def opened(project):
    with Project.open(project.root) as made:
        yield made


def batches_of(source: Any, resume: dict[str, Any] | None = None, limit: int = 7000) -> list[Batch]:
    with closing(source.open(resume or {})) as reader:
        found: list[Batch] = []
        while (read := reader.read(limit, 0.0)) is not None:
            found += read
        return found


def items_of(batches: list[Batch]) -> list[Any]:
    return [item for each in batches for item in each.items]


def test_rows_and_tables_of_what_is_published(opened):
    few = [{"n": n, "day": FIRST} for n in range(3)]
    many = [{"n": n, "day": SECOND} for n in range(20_000)]
    last = [{"n": n, "day": THIRD} for n in range(3)]
    rows = opened.rows("shop/rows")
    batches = batches_of(rows)
    assert items_of(batches) == few + many + last
    assert [each.part for each in batches] == [FIRST, *([SECOND] * (len(batches) - 2)), THIRD]
    for index in range(1, len(batches) - 1):
        resume = {FIRST: batches[0].next, SECOND: batches[index].next}
        assert items_of(batches_of(rows, resume)) == items_of(batches[index + 1 :])
    tables = batches_of(opened.tables("shop/rows", partitions=[SECOND, THIRD]), limit=1)
    assert pa.concat_tables(items_of(tables)).to_pylist() == many + last
    assert json.loads(str(tables[0].next))[1] == tables[0].items[0].num_rows
    named = opened.rows("shop/rows", partitions=[THIRD], partition_as="part")
    assert items_of(batches_of(named))[0] == {"n": 0, "day": THIRD, "part": THIRD}


def test_values_are_rows_of_one_column(opened):
    source = opened.rows("shop/total", partition_as="day")
    assert items_of(batches_of(source)) == [
        {"value": 3, "day": FIRST},
        {"value": 20_000, "day": SECOND},
        {"value": 3, "day": THIRD},
    ]


def test_a_stream_reads_each_partition_once(opened, tmp_path):
    for expected in (20_006, 0):
        kept: Collected[int] = Collected()
        point = Checkpoint(tmp_path / "point")
        Stream(opened.rows("shop/rows")).map(lambda row: row["n"]).to(kept).run(checkpoint=point)
        assert len(kept.items) == expected


def test_what_is_not_there_is_said(opened):
    with pytest.raises(NotFound, match="Nothing of 'no' is published"):
        opened.rows("no").open({})
    with pytest.raises(NotFound, match="no published partition '1999'"):
        opened.rows("shop/rows", partitions=["1999"]).open({})
    with pytest.raises(NotFound, match="no environment"):
        opened.rows("shop/rows", environment="no").open({})
    with pytest.raises(DefinitionError, match="one text"):
        opened.rows("shop/rows", partitions=FIRST)
    for position in (3, "x", '["v"]'):
        with pytest.raises(DefinitionError, match="cannot go on"):
            opened.rows("shop/rows").open({FIRST: position})


def test_a_version_that_was_begun_is_read_on_after_it_was_replaced(project, opened):
    source = opened.rows("shop/rows")
    batches = batches_of(source, limit=5)
    begun = {FIRST: batches[0].next, SECOND: batches[1].next}
    project.edit("FACTOR = 1", "FACTOR = -1")
    project("stage", "--code", ".", "--name", "fix")
    theirs = opened.rows("shop/rows", environment="fix", partitions=[FIRST])
    assert [row["n"] for row in items_of(batches_of(theirs))] == [0, -1, -2]
    project("compare", "fix", expect=None)
    project("promote", "fix")
    assert [row["n"] for row in items_of(batches_of(source))][:3] == [0, -1, -2]
    on = items_of(batches_of(source, begun))
    assert [row["n"] for row in on if row["day"] == FIRST] == []  # it had been read to its end
    assert [row["n"] for row in on if row["day"] == SECOND] == list(range(5, 20_000))
    assert [row["n"] for row in on if row["day"] == THIRD] == [0, -1, -2]  # it had not been begun
    version = json.loads(str(begun[SECOND]))[0]
    opened.store.forget_versions([version], opened.clock.now())
    with pytest.raises(DataError, match=f"version {version} of '{SECOND}', which was replaced"):
        source.open(begun)


def test_a_file_that_is_gone_or_damaged_is_said(opened):
    (path,) = (opened.layout.lake / "shop" / "rows").glob(f"{SECOND}*")
    path.write_bytes(b"PAR1" + b"x" * 50)
    with pytest.raises(DataError, match=r"cannot be read") as damaged:
        batches_of(opened.rows("shop/rows"))
    assert path.name in str(damaged.value)
    path.unlink()
    with pytest.raises(DataError, match=r"cannot be read"):
        batches_of(opened.rows("shop/rows"))
