"""Folders of Parquet: what fits is written, files have their names when they are complete, transactions are whole."""

import fcntl
from collections import OrderedDict
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from sidestage.connectors import parquet_manifest, parquet_transactions
from sidestage.connectors.failure import ConnectorError
from sidestage.connectors.parquet_folder import ParquetFolder, ParquetTransactionalFolder
from sidestage.connectors.parquet_manifest import Manifest, Notes
from sidestage.errors import DataError, DefinitionError
from sidestage.stream.contract import Progress, Refused, TransactionLost
from sidestage.stream.stream import Stream

SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False), ("text", pa.string())])


def rows_in(folder: Any) -> list[Any]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in parquet.read_table(file).to_pylist()]


def test_a_stream_of_lists_becomes_files_of_that_size(tmp_path):
    folder = tmp_path / "deep" / "out"
    Stream({"n": n} for n in range(10)).batch(4).to(ParquetFolder(folder)).run()
    assert rows_in(folder) == [{"n": n} for n in range(10)]
    assert all(path.suffix == ".parquet" for path in folder.iterdir())


def test_rows_lists_and_tables_go_together_in_their_order(tmp_path):
    writer = ParquetFolder(tmp_path, schema=SCHEMA).open()
    table = pa.table({"text": ["c", "d"], "n": pa.array([3, 4], pa.int32())})
    writer.write(
        [{"n": 1}, [OrderedDict(n=2, text="b")], table, table.to_batches()[0].slice(1), [], {"n": 5}]
    )
    writer.close()
    texts = [(row["n"], row["text"]) for row in rows_in(tmp_path)]
    assert texts == [(1, None), (2, "b"), (3, "c"), (4, "d"), (4, "d"), (5, None)]


def test_each_item_that_does_not_fit_is_refused(tmp_path):
    writer = ParquetFolder(tmp_path, schema=SCHEMA).open()
    bad = [
        {"n": "x"},
        {"n": None},
        {"n": 1, "more": 2},
        7,
        [{"n": 1}, {"n": 1.5}],
        pa.table({"other": [1]}),
        pa.table({"n": ["x"], "text": ["y"]}),
        {"n": 1 << 80},
        {"n": 3, 4: 5},
    ]
    mixed = [{"n": 0}, *bad, [{"n": 1}, {"n": 2}]]
    with pytest.raises(Refused) as caught:
        writer.write(mixed)
    assert sorted(caught.value.errors) == list(range(1, len(bad) + 1))
    assert "no column 'more'" in str(caught.value.errors[3])
    assert "must not be empty" in str(caught.value.errors[2])
    assert [row["n"] for row in rows_in(tmp_path)] == [0, 1, 2]


def test_what_arrow_would_cut_silently_is_refused(tmp_path):
    inner = pa.struct([("a", pa.int64()), ("b", pa.list_(pa.int32()))])
    schema = pa.schema([("s", inner), ("at", pa.timestamp("us"))])
    writer = ParquetFolder(tmp_path, schema=schema).open()
    good = {"s": {"a": 1, "b": [1, None]}, "at": None}
    cut = [{"s": {"a": 1.0}}, {"s": {"c": 1}}, {"s": {"b": [1, 2.5]}}, {"at": 1.5}]
    with pytest.raises(Refused) as caught:
        writer.write([good, *cut, {"s": None}])
    assert [str(error) for error in caught.value.errors.values()] == [
        "The column 's.a' is of int64, which has no fractions.",
        "'s' has no field 'c'.",
        "The column 's.b' is of int32, which has no fractions.",
        "The column 'at' is of timestamp[us], which has no fractions.",
    ]
    assert rows_in(tmp_path) == [good, {"s": None, "at": None}]


def test_without_a_schema_the_first_rows_decide(tmp_path):
    writer = ParquetFolder(tmp_path).open()
    with pytest.raises(DefinitionError, match="do not say what the column 'b' holds"):
        writer.write([{"a": 1, "b": None}])
    writer.write([{"a": 1}, {"a": None, "b": "x"}])
    with pytest.raises(Refused) as caught:
        writer.write([{"a": "x"}, {"b": "y"}])
    assert list(caught.value.errors) == [0]
    assert rows_in(tmp_path) == [{"a": 1, "b": None}, {"a": None, "b": "x"}, {"a": None, "b": "y"}]


def test_what_failed_leaves_nothing_and_what_a_crash_left_is_swept(tmp_path, monkeypatch):
    writer = ParquetFolder(tmp_path).open()
    with monkeypatch.context() as patched:
        patched.setattr(parquet, "write_table", lambda *_args, **_more: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            writer.write([{"a": 1}])
    assert list(tmp_path.iterdir()) == []
    crashed, busy = tmp_path / ".part-1.parquet.aside", tmp_path / ".part-2.parquet.aside"
    crashed.write_bytes(b"half")
    with busy.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ParquetFolder(tmp_path).open()
        assert list(tmp_path.iterdir()) == [busy]


def transacted(folder: Any, rows: int = 1000) -> ParquetTransactionalFolder:
    return ParquetTransactionalFolder(folder, schema=SCHEMA, rows=rows)


def number(n: int) -> Progress:
    return Progress(n, {"source": {"all": n}})


def row(n: int) -> dict[str, Any]:
    return {"n": n, "text": None}


def test_files_have_no_more_rows_than_was_said(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_transactions, "_GROUP", 7)
    writer = transacted(tmp_path, rows=10).open()
    for n in range(26):
        writer.write([row(n)])
    writer.commit(number(1), {})
    writer.write([row(26)])
    writer.commit(number(2), {})
    writer.close()
    files = sorted(tmp_path.glob("*.parquet"))
    assert [parquet.ParquetFile(file).metadata.num_rows for file in files] == [10, 10, 6, 1]
    assert [file.name for file in files] == [
        "part-00000001-0000.parquet",
        "part-00000001-0001.parquet",
        "part-00000001-0002.parquet",
        "part-00000002-0000.parquet",
    ]
    assert [each["n"] for each in rows_in(tmp_path)] == list(range(27))
    assert sorted(path.name for path in (tmp_path / "_sidestage").iterdir()) == ["lock", "manifest.json"]


class PowerCut(BaseException):
    """Nothing happens any more."""


def cut(*_args: object) -> None:
    raise PowerCut


@pytest.mark.parametrize("moment", ["before the note", "after the note", "between two names"])
def test_a_transaction_is_whole_wherever_the_power_is_cut(tmp_path, monkeypatch, moment):
    sink = transacted(tmp_path, rows=2)
    writer = sink.open()
    writer.write([row(0)])
    writer.commit(number(1), {})
    writer.write([row(n) for n in range(1, 5)])
    with monkeypatch.context() as patched:
        if moment == "before the note":
            patched.setattr(Notes, "_save", cut)
        elif moment == "after the note":
            patched.setattr(Notes, "_publish", cut)
        else:
            patched.setattr(parquet_manifest, "sync_folder", lambda path: path != tmp_path or cut())
            real = Notes._publish

            def half(self: Notes, manifest: Manifest) -> None:
                first = dict(list(manifest.files.items())[:1])
                real(self, Manifest(files=first))

            patched.setattr(Notes, "_publish", half)
        with pytest.raises(PowerCut):
            writer.commit(number(2), {})
    seen = [each["n"] for each in rows_in(tmp_path)]
    if moment == "before the note":
        assert seen == [0]
        assert sink.progress() == number(1)
        again = sink.open()
        assert rows_in(tmp_path) == [row(0)]
    else:
        assert seen == ([0] if moment == "after the note" else [0, 1, 2])
        again = sink.open()
        assert [each["n"] for each in rows_in(tmp_path)] == [0, 1, 2, 3, 4]
        assert sink.progress() == number(2)
    again.write([row(9)])
    again.commit(number(3), {})
    again.close()
    assert [each["n"] for each in rows_in(tmp_path)][-1] == 9
    assert sink.progress() == number(3)


def test_asking_for_progress_gives_the_files_their_names_too(tmp_path, monkeypatch):
    sink = transacted(tmp_path)
    writer = sink.open()
    writer.write([row(0)])
    with monkeypatch.context() as patched:
        patched.setattr(Notes, "_publish", cut)
        with pytest.raises(PowerCut):
            writer.commit(number(1), {})
    assert rows_in(tmp_path) == []
    assert sink.progress() == number(1)
    assert rows_in(tmp_path) == [row(0)]


def test_a_transaction_that_failed_can_only_be_undone(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_transactions, "_GROUP", 1)
    sink = transacted(tmp_path)
    writer = sink.open()
    writer.write([row(0)])
    part = writer._part
    assert part is not None
    with monkeypatch.context() as patched:
        patched.setattr(part, "put", lambda _table: 1 / 0)
        with pytest.raises(TransactionLost, match="division by zero"):
            writer.write([row(1)])
    for call in (lambda: writer.write([row(1)]), lambda: writer.commit(number(1), {})):
        with pytest.raises(TransactionLost, match="undid the transaction"):
            call()
    writer.close()
    assert rows_in(tmp_path) == []
    assert sink.progress() == Progress(0, {})


def test_who_is_fenced_off_while_writing_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_transactions, "_GROUP", 1)
    sink = transacted(tmp_path, rows=1)
    first, idle = sink.open(), None
    first.write([row(0)])
    idle = sink.open()
    with pytest.raises(TransactionLost, match="No such file"):
        first.write([row(1)])
    first.close()
    second = sink.open()
    with pytest.raises(ConnectorError, match="somebody else") as caught:
        idle.commit(number(5), {})
    assert caught.value.failure_class == "stale"
    idle.close()
    second.write([row(2)])
    second.commit(number(1), {})
    second.close()
    assert rows_in(tmp_path) == [row(2)]


def test_a_folder_that_cannot_be_trusted_is_refused(tmp_path):
    parquet.write_table(pa.table({"n": [1]}), tmp_path / "mine.parquet")
    with pytest.raises(DataError, match=r"holds mine.parquet, but no note"):
        transacted(tmp_path).open()
    sink = transacted(tmp_path / "other")
    sink.open().close()
    note = tmp_path / "other" / "_sidestage" / "manifest.json"
    for text, what in (("{", "is damaged"), ('{"version": 2}', "later release")):
        note.write_text(text)
        with pytest.raises(DataError, match=what):
            sink.open()
        with pytest.raises(DataError, match=what):
            sink.progress()
    with pytest.raises(DefinitionError, match="cannot have 0 rows"):
        transacted(tmp_path, rows=0)
