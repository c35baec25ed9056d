"""Files as sources: each item once, wherever reading is broken off, and bad ones alone."""

import csv
import gzip
import io
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestage.connectors import files_lines
from sidestage.connectors.files import CsvRows, JsonLines, Lines, RawLines
from sidestage.errors import DataError, DefinitionError
from sidestage.stream.contract import Batch, Source
from sidestage.stream.failing import DeadLetter, Skip
from sidestage.stream.places.sinks import Collected
from sidestage.stream.stream import Stream

TEXTS = st.lists(st.text(alphabet="a€\x0b\x0c\x1c\x85\u2028\u2029 \"',;\r", max_size=6), max_size=12)
ENDS = st.sampled_from(["\n", "\r\n"])


def batches(source: Source[Any], resume: Any = None, limit: int = 3) -> list[Batch]:
    reader = source.open(resume or {})
    read: list[Batch] = []
    try:
        while (some := reader.read(limit, 0.0)) is not None:
            read += some
    finally:
        reader.close()
    return read


def items(source: Source[Any], resume: Any = None) -> list[Any]:
    return [item for batch in batches(source, resume) for item in batch.items]


def values(source: Source[Any]) -> list[Any]:
    return list(Stream(source))


def pack(path: Path, data: bytes, packed: bool) -> Path:
    if packed:
        path = path.with_name(f"{path.name}.gz")
        path.write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)
    return path


def resumed_anywhere(source: Source[Any], path: Path) -> None:
    """Break off after each batch and go on from there: nothing is lost, nothing comes twice."""
    read = batches(source)
    everything = [item for batch in read for item in batch.items]
    done: list[Any] = []
    for batch in read:
        done += batch.items
        assert done + items(source, {str(path): batch.next}) == everything
    for one, other in itertools.pairwise(read):
        assert one.next == other.first


@given(TEXTS, ENDS, st.booleans(), st.booleans(), st.sampled_from([1, 2, 5, 1 << 18]))
def test_lines_end_with_a_line_feed_and_nothing_else(tmp_path_factory, texts, end, packed, is_ended, block):
    folder = tmp_path_factory.mktemp("lines")
    lines = [text.rstrip("\r") for text in texts]
    text = "".join(line + end for line in lines)
    if not is_ended and lines and lines[-1]:
        text = text.removesuffix(end)
    path = pack(folder / "x", text.encode(), packed)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files_lines, "BLOCK", block)
        assert values(Lines(path)) == lines
        resumed_anywhere(Lines(path), path)


@given(st.binary(max_size=60).map(lambda data: data.replace(b"a", b"\n").replace(b"b", b"\r")))
def test_bytes_of_any_kind_are_cut_and_put_together_again(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("raw") / "x"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files_lines, "BLOCK", 7)
        wanted = [
            line.removesuffix(b"\n") if not line.endswith(b"\r\n") else line[:-2] for line in io.BytesIO(data)
        ]
        assert items(RawLines(path)) == wanted
        resumed_anywhere(RawLines(path), path)


ROWS = st.lists(
    st.lists(st.text(alphabet='a€ ",\n\r;\u2028', max_size=5), min_size=2, max_size=2), max_size=8
)


@given(ROWS, st.booleans(), st.sampled_from(["excel", "unix", "excel-tab"]), st.sampled_from([3, 1 << 18]))
def test_what_csv_writes_comes_back_over_several_lines(tmp_path_factory, rows, packed, dialect, block):
    folder = tmp_path_factory.mktemp("csv")
    written = io.StringIO(newline="")
    writer = csv.writer(written, dialect)
    writer.writerows([["one", "two"], *rows])
    path = pack(folder / "x.csv", written.getvalue().encode(), packed)
    source = CsvRows(path, dialect=dialect)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files_lines, "BLOCK", block)
        assert values(source) == [{"one": one, "two": two} for one, two in rows]
        resumed_anywhere(source, path)


def failing(source: Source[Any]) -> tuple[list[Any], list[DeadLetter]]:
    kept, letters = Collected[Any](), list[DeadLetter]()
    Stream(source).to(kept).run(fail="soft", dead_letters=letters.append)
    return kept.items, letters


def test_a_bad_line_is_an_error_of_its_own(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"good\nb\xe4d\nalso good\n")
    kept, letters = failing(Lines(path))
    assert kept == ["good", "also good"]
    assert [(each.stage, each.item, type(each.error)) for each in letters] == [
        ("decode", b"b\xe4d", UnicodeDecodeError)
    ]
    assert letters[0].origin is not None
    assert (letters[0].origin.part, letters[0].origin.index) == (str(path), 1)
    assert values(Lines(path, errors="replace"))[1] == "b\ufffdd"
    assert values(Lines(path, on_error=Skip())) == ["good", "also good"]
    assert values(Lines(path, encoding="latin-1"))[1] == "bäd"


class Order(msgspec.Struct):
    id: int


def test_json_that_does_not_fit_is_an_error_of_its_own(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": 1}\n\n{"id": "two"}\n  \r\n{"id"\n{"id": 4}')
    kept, letters = failing(JsonLines(path, of=Order))
    assert kept == [Order(1), Order(4)]
    assert [each.item for each in letters] == [b'{"id": "two"}', b'{"id"']
    assert values(JsonLines(path, of=dict, on_error=Skip())) == [{"id": 1}, {"id": "two"}, {"id": 4}]
    resumed_anywhere(JsonLines(path, of=Order), path)


def test_rows_that_are_no_rows_are_errors_of_their_own(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'\na,b\n1,2\n\n3\n4,5,6\n"x"y,7\n5" disk,8\n\xff,9\n"open,10\n11,12\n')
    kept, letters = failing(CsvRows(path))
    assert kept == [{"a": "1", "b": "2"}, {"a": '5" disk', "b": "8"}]
    messages = [str(each.error) for each in letters]
    assert messages[:2] == ["1 fields, where there are 2 columns", "3 fields, where there are 2 columns"]
    assert [each.item.text for each in letters][2:] == [b'"x"y,7\n', b"\xff,9\n", b'"open,10\n11,12\n']
    resumed_anywhere(CsvRows(path), path)


def test_columns_come_from_each_file_or_are_given(tmp_path):
    (tmp_path / "1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "2.csv").write_bytes("\ufeffb;a\n3;4\n".encode())
    (tmp_path / "3.csv").write_text("")
    (tmp_path / "4.csv").write_text("a,a\n1,2\n")
    assert values(CsvRows(tmp_path / "1.csv")) == [{"a": "1", "b": "2"}]
    assert values(CsvRows(tmp_path / "2.csv", delimiter=";")) == [{"b": "3", "a": "4"}]
    assert values(CsvRows(tmp_path / "3.csv")) == []
    assert values(CsvRows(tmp_path / "1.csv", columns=("x", "y")))[0] == {"x": "a", "y": "b"}
    with pytest.raises(DataError, match="two columns 'a'"):
        values(CsvRows(tmp_path / "4.csv"))
    with pytest.raises(DataError, match="two columns 'x'"):
        CsvRows(tmp_path / "1.csv", columns=("x", "x"))
    with pytest.raises(DefinitionError, match="No CSV is written like this"):
        CsvRows(tmp_path / "1.csv", delimiter="ab")
    with pytest.raises(DefinitionError, match="No CSV is written like this"):
        CsvRows(tmp_path / "1.csv", dialect="french")


def test_many_files_are_parts_in_the_order_of_their_names(tmp_path):
    for name in ("b.log", "a.log", "c.txt", "deep/d.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{name} 1\n{name} 2\n")
    source = Lines([f"{tmp_path}/**/*.log", tmp_path / "a.log"])
    assert values(source) == [f"{name} {n}" for name in ("a.log", "b.log", "deep/d.log") for n in (1, 2)]
    read = batches(source)
    assert [Path(batch.part).name for batch in read] == ["a.log", "b.log", "d.log"]
    reached = {batch.part: batch.next for batch in read[:2]}
    assert items(source, reached) == [b"deep/d.log 1", b"deep/d.log 2"]
    assert items(source, {"archived meanwhile": 7, **reached}) == [b"deep/d.log 1", b"deep/d.log 2"]


def test_nothing_to_read_is_told_unless_there_may_be_nothing(tmp_path):
    for path in (tmp_path / "missing", f"{tmp_path}/*.log"):
        with pytest.raises(DataError, match="There is no file"):
            Lines(path).open({})
        assert values(Lines(path, may_be_none=True)) == []


def broken_off(path: Path, text: str = "one\ntwo\nthree\n") -> Any:
    path.write_text(text)
    reader = Lines(path).open({})
    assert reader.read(1, 0.0)[0].items == [b"one"]
    return reader


def drained(reader: Any) -> None:
    try:
        while reader.read(1, 0.0) is not None:
            pass
    finally:
        reader.close()


def test_a_file_that_changes_under_the_reader_is_told_of(tmp_path):
    path = tmp_path / "x"
    reader = broken_off(path)
    path.write_text("o\n")
    with pytest.raises(DataError, match="was changed while it was read"):
        drained(reader)
    reader = broken_off(path)
    path.write_text("ONE\nTWO\nTHREE\n")
    os.utime(path, (1, 1))
    with pytest.raises(DataError, match="was changed while it was read"):
        drained(reader)
    reader = broken_off(path)
    (tmp_path / "other").write_text("one\ntwo\nthree\n")
    (tmp_path / "other").replace(path)
    with pytest.raises(DataError, match="was replaced while it was read"):
        drained(reader)
    (tmp_path / "y").write_text("y\n")
    reader = Lines([path, tmp_path / "y"]).open({})
    (tmp_path / "y").unlink()
    with pytest.raises(DataError, match="y is gone"):
        drained(reader)


def test_a_file_may_grow_at_its_end_and_is_gone_when_it_is_read(tmp_path):
    path = tmp_path / "x"
    reader = broken_off(path)
    with path.open("a") as file:
        file.write("four\n")
    drained(reader)
    reader = broken_off(path)
    path.unlink()
    drained(reader)


def test_a_position_that_does_not_fit_is_told_of(tmp_path):
    path, packed = tmp_path / "x", tmp_path / "x.gz"
    path.write_text("one\ntwo")
    packed.write_bytes(gzip.compress(b"one\ntwo\n"))
    for at, what in ((9, "ends before position 9"), (2, "no line that begins at byte 2")):
        with pytest.raises(DataError, match=what):
            items(Lines(path), {str(path): at})
    assert items(Lines(path), {str(path): 7}) == []
    with path.open("a") as file:
        file.write("fold\n")
    with pytest.raises(DataError, match="last line was added to"):
        items(Lines(path), {str(path): 7})
    with pytest.raises(DataError, match="ends before position 3"):
        items(Lines(packed), {str(packed): 3})
    for wrong in ("3", -1, True):
        with pytest.raises(DefinitionError, match="positions in files are numbers"):
            Lines(path).open({str(path): wrong})


def test_a_packed_file_that_is_damaged_or_cut_is_told_of(tmp_path):
    path = tmp_path / "x.gz"
    whole = gzip.compress(os.urandom(3000))
    for data in (whole[:-20], b"not packed", whole[:100] + b"\0" * 60 + whole[160:]):
        path.write_bytes(data)
        with pytest.raises(DataError, match="cannot be unpacked behind line"):
            items(RawLines(path))


def test_a_line_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(files_lines, "BLOCK", 64)
    path = tmp_path / "x"
    path.write_text("short\n" + "x" * 1000)
    with pytest.raises(DataError, match="a line of more than 200 bytes"):
        items(Lines(path, longest=200))
    path.write_text("a\n" + '"x\n' + "x\n" * 1000)
    with pytest.raises(DataError, match="a record of more than 200 bytes"):
        items(CsvRows(path, longest=200))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "cp037", "nonsense"])
def test_encodings_that_cannot_be_cut_into_lines_are_refused(encoding):
    for make in (Lines, CsvRows):
        with pytest.raises(DefinitionError, match=r"encoding|without being decoded"):
            make("x", encoding=encoding)


def test_a_byte_order_mark_is_dropped_where_it_is_said_to_be(tmp_path):
    path = tmp_path / "x"
    path.write_text("one\ntwo\n", encoding="utf-8-sig")
    assert values(Lines(path, encoding="utf-8-sig")) == ["one", "two"]


def test_stopping_ends_it_and_reading_goes_on_from_there(tmp_path):
    path = tmp_path / "x"
    reader = broken_off(path)
    reader.stop()
    assert reader.read(1, 0.0) is None
    reader.close()
    reader.close()
    assert items(Lines(path), {str(path): 4}) == [b"two", b"three"]


def sizes(read: Sequence[Batch]) -> list[int]:
    return [len(batch.items) for batch in read]


def test_batches_hold_no_more_than_was_asked_for(tmp_path):
    path = tmp_path / "x"
    path.write_text("x\n" * 10)
    assert sizes(batches(Lines(path), limit=4)) == [4, 4, 2]
    reader = Lines(path).open({})
    assert reader.read(0, 0.0) == ()
    reader.close()
