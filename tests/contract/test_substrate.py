"""What every substrate must keep; add an implementation to ``MAKERS`` and it is held to all of it."""

import os
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidestage.data.lake_writer import LakeWriter
from sidestage.data.substrate import Substrate
from sidestage.data.version import new_version_id
from sidestage.errors import DataError, NameRefused, OutputError

MAKERS = [LakeWriter]
SCHEMA = pa.schema({"n": pa.int64(), "s": pa.string()})
FIRST, SECOND = (new_version_id(milliseconds, bytes(6)) for milliseconds in (1, 2))


@pytest.fixture(params=MAKERS)
def place(request, tmp_path) -> Substrate:
    return request.param(tmp_path / "place")


def batches(*sizes):
    return [
        pa.record_batch({"n": range(size), "s": [f"row {row}" for row in range(size)]}, schema=SCHEMA)
        for size in sizes
    ]


def orphans(place, known=()):
    return list(place.orphans(known, unchanged_since=datetime.now(UTC) + timedelta(minutes=1)))


def test_what_is_written_can_be_read_and_verified(place):
    stored = place.write("flights/raw", "2013-01-01", FIRST, SCHEMA, iter(batches(3, 0, 2)))
    table = pq.read_table(place.path(stored))
    assert table.schema.equals(SCHEMA)
    assert table["n"].to_pylist() == [0, 1, 2, 0, 1]
    assert (stored.digest.rows, stored.bytes) == (5, place.path(stored).stat().st_size)
    assert [column.name for column in stored.schema] == ["n", "s"]
    place.verify(stored)


def test_nothing_at_all_is_a_version_with_columns(place):
    stored = place.write("d", "p", FIRST, SCHEMA, [])
    assert pq.read_table(place.path(stored)).schema.equals(SCHEMA)
    assert stored.digest.rows == 0


def test_versions_and_partitions_lie_side_by_side(place):
    written = [
        place.write("d", partition, version, SCHEMA, batches(1))
        for partition in ("a", "A", "a|b", "é" * 5_120, "", "..", "/etc")
        for version in (FIRST, SECOND)
    ]
    assert len({stored.path.casefold() for stored in written}) == len(written)
    for stored in written:
        place.verify(stored)


def test_a_version_is_never_written_twice(place):
    stored = place.write("d", "p", FIRST, SCHEMA, batches(1))
    with pytest.raises(DataError, match="exists already"):
        place.write("d", "p", FIRST, SCHEMA, batches(2))
    place.verify(stored)
    assert orphans(place, {stored.path}) == []


@pytest.mark.parametrize("failure", [RuntimeError("half-way"), KeyboardInterrupt(), SystemExit(3)])
def test_a_generator_that_fails_half_way_leaves_nothing(place, failure):
    closed = []

    def rows():
        try:
            yield from batches(10, 10)
            raise failure
        finally:
            closed.append(True)

    with pytest.raises(type(failure)):
        place.write("d", "p", FIRST, SCHEMA, rows())
    assert closed == [True]
    assert orphans(place) == []
    place.write("d", "p", FIRST, SCHEMA, batches(1))


def test_a_batch_of_another_schema_is_refused_and_the_generator_closed(place):
    closed = []

    def rows():
        try:
            yield from batches(1)
            yield pa.record_batch({"n": [1]})
            yield from batches(1)
        finally:
            closed.append(True)

    with pytest.raises(OutputError, match="n: int64; announced were n: int64, s: string"):
        place.write("d", "p", FIRST, SCHEMA, rows())
    assert closed == [True]
    assert orphans(place) == []


@pytest.mark.parametrize("name", ["../d", "/d", "d/../../e", "", "d\0"])
def test_names_that_would_lead_elsewhere_are_refused(place, name):
    with pytest.raises(NameRefused):
        place.write(name, "p", FIRST, SCHEMA, batches(1))
    with pytest.raises(NameRefused):
        place.write("d", "p", "../../x", SCHEMA, batches(1))


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_found_and_named(place, damage):
    stored = place.write("d", "p", FIRST, SCHEMA, batches(100))
    path = place.path(stored)
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "flip":
        content[len(content) // 2] ^= 1
    if damage == "cut":
        del content[-1]
    if damage != "remove":
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path.name}.*({'checksum|bytes|cannot be read'})"):
        place.verify(stored)


def test_orphans_are_what_is_unknown_and_old_enough(place):
    known = place.write("d/e", "p", FIRST, SCHEMA, batches(1))
    unknown = place.write("d/e", "p", SECOND, SCHEMA, batches(1))
    assert [path.as_posix() for path in orphans(place, {known.path})] == [unknown.path]
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    for seconds, found in ((0, 1), (-1, 1), (1, 0)):
        changed = moment.timestamp() + seconds
        os.utime(place.path(unknown), (changed, changed))
        assert len(list(place.orphans({known.path}, unchanged_since=moment))) == found


def test_removing_is_repeatable_and_only_for_versions(place, tmp_path):
    stored = place.write("d", "p", FIRST, SCHEMA, batches(1))
    place.remove(stored.path)
    place.remove(stored.path)
    assert not place.path(stored).exists()
    outside = tmp_path / f"p~{FIRST}.parquet"
    outside.write_bytes(b"")
    for path in ("notes.txt", "d/notes.txt", f"../{outside.name}", str(outside), "d", f"{outside.name}"):
        with pytest.raises(DataError):
            place.remove(path)
    assert outside.exists()
