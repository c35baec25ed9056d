"""All sources and sinks that need no server keep the contracts."""

import gzip
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from pyarrow import parquet

from sidestage.connectors.files import CsvRows, JsonLines, Lines, RawLines
from sidestage.connectors.files_csv import CsvRecord
from sidestage.connectors.line_files import JsonLinesFile, LinesFile
from sidestage.connectors.parquet_files import ParquetRows, ParquetTables
from sidestage.connectors.parquet_folder import ParquetFolder, ParquetTransactionalFolder
from sidestage.connectors.standard_output import StandardOutput
from sidestage.connectors.tail import Tail
from sidestage.stream.contract import Reader, Source
from sidestage.stream.places.sinks import Called, Collected
from sidestage.stream.places.sources import source_of
from sidestage.testing.streams import (
    SinkContract,
    SourceContract,
    TransactionalSinkContract,
    Unsuitable,
)


class Values:
    """Items in memory."""

    def __init__(self, *, iterated: bool) -> None:
        self.items: list[str] = []
        self.iterated = iterated

    def put(self, count: int) -> Sequence[str]:
        self.items += [f"item {n}" for n in range(count)]
        return self.items

    def source(self) -> Source[str]:
        return source_of(dict.fromkeys(self.items) if self.iterated else self.items, "values")


class TestSequence(SourceContract):
    @pytest.fixture
    def place(self) -> Values:
        return Values(iterated=False)


class TestIterable(SourceContract):
    @pytest.fixture
    def place(self) -> Values:
        return Values(iterated=True)


class TextFiles:
    """Two files of items, each with its own way to be written."""

    def __init__(self, kind: str, folder: Path, ending: str = "") -> None:
        self.kind = kind
        self.folder = folder
        self.ending = ending
        self.put(0)

    def put(self, count: int) -> Sequence[Any]:
        half = count // 2
        read: list[Any] = []
        for name, numbers in (("a", range(half)), ("b", range(half, count))):
            texts, items = self._made(numbers)
            data = "".join(texts).encode()
            path = self.folder / f"{name}.{self.kind}{self.ending}"
            path.write_bytes(gzip.compress(data) if self.ending else data)
            read += items
        return read

    def _made(self, numbers: range) -> tuple[list[str], list[Any]]:
        if self.kind == "csv":
            records = [f'{n},"two\n""lines"" {n}"\r\n' for n in numbers]
            items = [CsvRecord(("number", "text"), each.encode()) for each in records]
            return ["number,text\n", "\n", *records], items
        if self.kind == "json":
            lines = [json.dumps({"n": n}) for n in numbers]
            return [f"{line}\n\n" for line in lines], [line.encode() for line in lines]
        lines = [f"line {n}\u2028 €" for n in numbers]
        return [f"{line}\r\n" for line in lines], [line.encode() for line in lines]

    def source(self) -> Source[Any]:
        pattern = f"{self.folder}/*.{self.kind}{self.ending}"
        match self.kind:
            case "csv":
                return CsvRows(pattern)
            case "json":
                return JsonLines(pattern, of=dict)
            case "raw":
                return RawLines(pattern)
        return Lines(pattern)


class TestTextFiles(SourceContract):
    @pytest.fixture(params=["txt", "raw", "json", "csv"])
    def place(self, request: pytest.FixtureRequest, tmp_path: Path) -> TextFiles:
        return TextFiles(request.param, tmp_path)


class TestPackedFiles(SourceContract):
    @pytest.fixture(params=["txt", "csv"])
    def place(self, request: pytest.FixtureRequest, tmp_path: Path) -> TextFiles:
        return TextFiles(request.param, tmp_path, ".gz")


class ParquetParts:
    """Two files of several row groups."""

    def __init__(self, folder: Path, *, tables: bool) -> None:
        self.folder = folder
        self.tables = tables
        self.put(0)

    def put(self, count: int) -> Sequence[Any]:
        half = count // 2
        width = 3 if self.tables else 1
        read: list[Any] = []
        for name, numbers in (("a", range(half)), ("b", range(half, count))):
            rows = [n * width + each for n in numbers for each in range(width)]
            table = pa.table({"n": pa.array(rows, pa.int64())})
            parquet.write_table(table, self.folder / f"{name}.parquet", row_group_size=3)
            read += (
                [table.slice(at, 3) for at in range(0, len(rows), 3)] if self.tables else table.to_pylist()
            )
        return read

    def source(self) -> Source[Any]:
        pattern = f"{self.folder}/*.parquet"
        return ParquetTables(pattern) if self.tables else ParquetRows(pattern)


class TestParquetFiles(SourceContract):
    @pytest.fixture(params=["rows", "tables"])
    def place(self, request: pytest.FixtureRequest, tmp_path: Path) -> ParquetParts:
        return ParquetParts(tmp_path, tables=request.param == "tables")


class Log:
    """A log that is not there at first."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "log"
        self.count = 0

    def put(self, count: int) -> Sequence[bytes]:
        lines = [b"line %d" % number for number in range(self.count, self.count + count)]
        self.count += count
        with self.path.open("ab") as file:
            file.write(b"".join(line + b"\n" for line in lines))
        return lines

    def source(self) -> Source[str]:
        return Tail(self.path, poll=0.005)


class TestTail(SourceContract):
    ends = False
    grows = True

    @pytest.fixture
    def place(self, tmp_path: Path) -> Log:
        return Log(tmp_path)


class TextLines:
    """A file that lines are appended to."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "out"

    def item(self, number: int) -> str:
        return f"item {number}\u2028"

    def bad(self) -> str:
        return "two\nlines"

    def sink(self) -> LinesFile:
        return LinesFile(self.path)

    def written(self) -> list[str]:
        text = self.path.read_text() if self.path.exists() else ""
        return text.split("\n")[:-1]


class TestLinesFile(SinkContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> TextLines:
        return TextLines(tmp_path)


class JsonText(TextLines):
    def item(self, number: int) -> Any:
        return {"n": number, "text": "two\nlines"}

    def bad(self) -> Any:
        return {1: object()}

    def sink(self) -> Any:
        return JsonLinesFile(self.path)

    def written(self) -> list[Any]:
        return [json.loads(line) for line in super().written()]


class TestJsonLinesFile(SinkContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> JsonText:
        return JsonText(tmp_path)


class Shown(TextLines):
    """What standard output shows, which is a file here."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)
        self.out = io.TextIOWrapper(io.FileIO(os.open(self.path, os.O_WRONLY | os.O_CREAT), "w"), "utf-8")
        self.monkeypatch = monkeypatch

    def sink(self) -> Any:
        self.monkeypatch.setattr("sys.stdout", self.out)
        return StandardOutput()


class TestStandardOutput(SinkContract):
    @pytest.fixture
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shown]:
        with monkeypatch.context() as patched:
            made = Shown(tmp_path, patched)
            yield made
        made.out.close()


class Memory:
    """A list, or a function that fills one."""

    def __init__(self, *, called: bool) -> None:
        self.items: list[str] = []
        self.sink_of_all: Any = Called(self.items.extend) if called else Collected()
        if not called:
            self.items = self.sink_of_all.items

    def item(self, number: int) -> str:
        return f"item {number}"

    def bad(self) -> str:
        raise Unsuitable

    def sink(self) -> Any:
        return self.sink_of_all

    def written(self) -> list[str]:
        return list(self.items)


class TestCollected(SinkContract):
    @pytest.fixture(params=["collected", "called"])
    def place(self, request: pytest.FixtureRequest) -> Memory:
        return Memory(called=request.param == "called")


class PartFiles:
    """A folder of Parquet files, read in the order of their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "parts"

    def item(self, number: int) -> Any:
        return {"n": number, "text": f"row {number}"}

    def bad(self) -> Any:
        return {"n": "not a number", "text": "x"}

    def sink(self) -> Any:
        return ParquetFolder(self.folder)

    def written(self) -> list[Any]:
        files = sorted(self.folder.glob("*.parquet"))
        return [row for file in files for row in parquet.read_table(file).to_pylist()]


SCHEMA = pa.schema([("n", pa.int64()), ("text", pa.string())])


class PartFilesOfSchema(PartFiles):
    def bad(self) -> Any:
        return {"n": 1, "more": 2}

    def sink(self) -> Any:
        return ParquetFolder(self.folder, schema=SCHEMA)


class TestParquetFolder(SinkContract):
    places: ClassVar[Mapping[str, type[PartFiles]]] = {"inferred": PartFiles, "schema": PartFilesOfSchema}

    @pytest.fixture(params=["inferred", "schema"])
    def place(self, request: pytest.FixtureRequest, tmp_path: Path) -> PartFiles:
        return self.places[request.param](tmp_path)


class TransactedFiles(PartFiles):
    def bad(self) -> Any:
        return {"n": "not a number", "text": "x"}

    def sink(self) -> Any:
        return ParquetTransactionalFolder(self.folder, schema=SCHEMA, rows=3)

    def readers(self) -> Mapping[str, Reader[Any]]:
        return {}


class TestParquetTransactionalFolder(TransactionalSinkContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> TransactedFiles:
        return TransactedFiles(tmp_path)
