"""The lake's own promises: syncs, links, space, memory, what lies on disk."""

import errno
import itertools
import os
import stat
import subprocess
import sys
import weakref
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from sidestage.data import lake_writer as lake_module
from sidestage.data.digest import DigestBuilder
from sidestage.data.lake_writer import LakeWriter, TooLarge
from sidestage.data.version import new_version_id
from sidestage.errors import DataError, OutputError

SCHEMA = pa.schema({"n": pa.int64()})
ID = new_version_id(1, bytes(6))
LATER = datetime(2100, 1, 1, tzinfo=UTC)


def batch(rows=1):
    return pa.record_batch({"n": np.arange(rows)})


@pytest.fixture
def lake(tmp_path):
    return LakeWriter(tmp_path / "lake")


@pytest.fixture
def everything(tmp_path):
    return lambda: sorted(
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()
    )


def test_file_name_mode_and_checksum(lake, everything):
    stored = lake.write("flights/raw", "2013-01-01", ID, SCHEMA, [batch()])
    assert everything() == [f"lake/flights/raw/2013-01-01~{ID}.parquet"]
    path = lake.path(stored)
    assert stat.S_IMODE(path.stat().st_mode) & 0o333 == 0
    assert stored.checksum == xxhash.xxh3_128_hexdigest(path.read_bytes())


def test_equal_rows_give_equal_bytes(lake):
    one, other = (lake.write("d", key, ID, SCHEMA, [batch(1_000)]) for key in ("a", "b"))
    assert one.checksum == other.checksum


def test_order_of_syncs(lake, monkeypatch):
    lake.write("d", "first", ID, SCHEMA, [batch()])
    calls = []
    sync, rename = os.fsync, Path.rename

    def recorded_sync(descriptor):
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        calls.append(f"sync {kind}")
        sync(descriptor)

    def recorded_rename(self, target):
        calls.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(Path, "rename", recorded_rename)
    lake.write("d", "second", ID, SCHEMA, [batch()])
    assert calls == ["sync file", "rename", "sync folder"]
    calls.clear()
    lake.write("e/f", "p", ID, SCHEMA, [batch()])
    assert calls == ["sync folder", "sync folder", "sync file", "rename", "sync folder"]


@pytest.mark.parametrize("failing_call", [1, 2])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_sync_that_fails_leaves_nothing(lake, everything, monkeypatch, failing_call, number):
    first = lake.write("d", "p", ID, SCHEMA, [batch()])
    calls = []

    def failing(_):
        calls.append(True)
        if len(calls) == failing_call:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(DataError if number == errno.ENOSPC else OSError) as caught:
        lake.write("d", "q", ID, SCHEMA, [batch()])
    assert everything() == [f"lake/{first.path}"]
    if number == errno.ENOSPC:
        assert caught.value.__cause__.errno == errno.ENOSPC


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from sidestage.data.lake_writer import LakeWriter
from sidestage.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
def batches():
    for seed in range(40):
        yield pa.record_batch({"n": np.random.default_rng(seed).random(100_000)})
try:
    LakeWriter(Path(sys.argv[1])).write("d", "p", "0" * 24, pa.schema({"n": pa.float64()}), batches())
except DataError as error:
    print(error)
"""


def test_a_file_that_may_not_grow_is_removed(tmp_path, everything):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path / "lake"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "may not grow any larger: File too large. Make smaller partitions" in done.stdout
    assert "ulimit -f" in done.stdout
    assert "current before still is" in done.stdout
    assert everything() == []


def test_no_more_is_written_than_may_be_however_long_the_output_is(lake, everything):
    drawn = []

    def endless():
        for seed in itertools.count():
            drawn.append(seed)
            yield pa.record_batch({"n": np.random.default_rng(seed).integers(0, 2**60, 100_000)})

    with pytest.raises(TooLarge, match="more than 1,000,000 bytes"):
        lake.write("d", "p", ID, SCHEMA, endless(), most_bytes=1_000_000)
    assert len(drawn) < 10
    assert everything() == []
    written = lake.write("d", "p", ID, SCHEMA, [batch()])
    exactly = lake.write("d", "q", ID, SCHEMA, [batch()], most_bytes=written.bytes)
    assert exactly.bytes == written.bytes
    with pytest.raises(TooLarge):
        lake.write("d", "r", ID, SCHEMA, [batch()], most_bytes=written.bytes - 1)
    assert everything() == sorted([f"lake/{written.path}", f"lake/{exactly.path}"])


def test_a_full_disk_leaves_nothing(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "sidestage-test", small],
            check=False,
            capture_output=True,
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting a small file system needs root: a full disk was NOT tried")
    try:
        lake = LakeWriter(small / "lake")
        before = lake.write("d", "p", ID, SCHEMA, [batch(10)])
        noise = pa.record_batch({"n": np.random.default_rng(1).integers(0, 2**60, 100_000)})
        with pytest.raises(DataError, match="No space to write") as caught:
            lake.write("d", "q", ID, SCHEMA, [noise])
        assert caught.value.__cause__.errno == errno.ENOSPC
        assert [path.name for path in small.rglob("*.*")] == [Path(before.path).name]
        lake.verify(before)
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("link", ["flights", "flights/raw"])
def test_links_out_of_the_root_are_not_followed(lake, tmp_path, link):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "lake" / link).parent.mkdir(parents=True)
    (tmp_path / "lake" / link).symlink_to(outside, target_is_directory=True)
    with pytest.raises(DataError, match="not a folder but a link"):
        lake.write("flights/raw", "p", ID, SCHEMA, [batch()])
    assert list(outside.iterdir()) == []
    victim = outside / f"p~{ID}.parquet"
    victim.write_bytes(b"")
    assert list(lake.orphans((), unchanged_since=LATER)) == []
    with pytest.raises(DataError):
        lake.remove(f"{link}/{victim.name}")
    assert victim.exists()


def test_a_link_under_the_temporary_name_is_not_followed(lake, tmp_path):
    lake.write("d", "other", ID, SCHEMA, [batch()])
    target = tmp_path / "target"
    (tmp_path / "lake" / "d" / f".p~{ID}.parquet.tmp").symlink_to(target)
    with pytest.raises(DataError, match="exists already"):
        lake.write("d", "p", ID, SCHEMA, [batch()])
    assert not target.exists()


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "d/../../x", "d/notes.txt", f"d/.p~{ID}.parquet.tmp", ""]
)
def test_paths_from_a_damaged_catalog_are_refused(lake, path):
    stored = lake.write("d", "p", ID, SCHEMA, [batch()])
    with pytest.raises(DataError, match="not the path of a version"):
        lake.path(msgspec.structs.replace(stored, path=path))


def test_orphans_are_temporaries_too_but_never_files_of_others(lake, tmp_path):
    stored = lake.write("d", "p", ID, SCHEMA, [batch()])
    folder = tmp_path / "lake" / "d"
    (folder / f".q~{ID}.parquet.tmp").write_bytes(b"half")
    for name in ("notes.txt", "table.parquet", f"P~{ID}.parquet", f".q~{ID}.parquet", "q~12.parquet"):
        (folder / name).write_bytes(b"")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / f"q~{ID}.parquet").write_bytes(b"")
    found = list(lake.orphans({stored.path}, unchanged_since=LATER))
    assert [path.as_posix() for path in found] == [f"d/.q~{ID}.parquet.tmp"]
    for path in found:
        lake.remove(path)
    assert list(lake.orphans({stored.path}, unchanged_since=LATER)) == []


def test_a_lake_that_was_never_written_has_no_orphans(lake):
    assert list(lake.orphans((), unchanged_since=LATER)) == []


def test_many_tiny_batches_become_few_row_groups_in_order(lake, monkeypatch):
    monkeypatch.setattr(lake_module, "ROW_GROUP_ROWS", 1_000)
    rows = [pa.record_batch({"n": [row]}) for row in range(2_500)]
    stored = lake.write("d", "p", ID, SCHEMA, iter(rows))
    file = pq.ParquetFile(lake.path(stored))
    with file:
        assert [file.metadata.row_group(group).num_rows for group in range(3)] == [1_000, 1_000, 500]
        assert file.read()["n"].to_pylist() == list(range(2_500))
    builder = DigestBuilder(SCHEMA)
    builder.add(batch(2_500))
    assert stored.digest == builder.finish()


def test_large_batches_and_large_values_are_cut_into_row_groups(lake, monkeypatch):
    monkeypatch.setattr(lake_module, "ROW_GROUP_BYTES", 10_000)
    wide = pa.record_batch({"s": ["x" * 1_000] * 100})
    stored = lake.write("d", "p", ID, wide.schema, [wide])
    with pq.ParquetFile(lake.path(stored)) as file:
        assert file.metadata.num_row_groups >= 10
        assert file.read().num_rows == 100


def test_a_long_generator_is_held_in_bounded_part_only(lake):
    drawn, most = [], 0

    def batches():
        nonlocal most
        for start in range(0, 600_000, 10_000):
            values = np.arange(start, start + 10_000)
            drawn.append(weakref.ref(values))
            most = max(most, sum(array() is not None for array in drawn))
            yield pa.record_batch({"n": values})

    stored = lake.write("d", "p", ID, SCHEMA, batches())
    assert stored.digest.rows == 600_000
    assert len(drawn) == 60
    assert most <= lake_module.ROW_GROUP_ROWS // 10_000 + 2


def test_dictionaries_that_differ_between_batches_are_joined(lake):
    kind = pa.dictionary(pa.int8(), pa.string())
    batches = [pa.record_batch({"s": pa.array([value, None], kind)}) for value in ("a", "b")]
    stored = lake.write("d", "p", ID, batches[0].schema, batches)
    assert pq.read_table(lake.path(stored))["s"].to_pylist() == ["a", None, "b", None]
    assert (stored.digest.columns[0].nulls, stored.digest.columns[0].type) == (2, "string")


def test_null_where_the_schema_forbids_it_is_refused(lake, everything):
    schema = pa.schema([pa.field("n", pa.int64(), nullable=False)])
    rows = pa.RecordBatch.from_arrays([pa.array([1, None])], schema=schema)
    with pytest.raises(OutputError, match="cannot be stored"):
        lake.write("d", "p", ID, schema, [rows])
    assert everything() == []


def test_a_dataset_folder_that_vanished_is_made_again(lake):
    stored = lake.write("d/e", "p", ID, SCHEMA, [batch()])
    lake.remove(stored.path)
    lake.path(stored).parent.rmdir()
    lake.verify(lake.write("d/e", "p", ID, SCHEMA, [batch()]))
