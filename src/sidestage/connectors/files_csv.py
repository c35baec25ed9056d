"""Records of one CSV file. Where one ends is what the standard library's reader says, and nobody else."""

import contextlib
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sidestage.connectors.files_lines import LONGEST, LineFile
from sidestage.errors import DataError

_MANY = 1024


class CsvRecord(NamedTuple):
    """A record as it lies in its file, over several lines if need be, and the names of its columns."""

    columns: tuple[str, ...]
    text: bytes


class CsvForm(NamedTuple):
    """How a file is written. ``dialect`` is what ``csv.reader`` made of it: that costs more than a row."""

    dialect: Any
    encoding: str
    columns: tuple[str, ...] | None
    longest: int = LONGEST

    def fields(self, text: str) -> list[str]:
        """Return the fields of one record. Raises csv.Error, ValueError."""
        return next(csv.reader((text,), self.dialect), [])


class CsvFile:
    """A file of records, being read from a position on: that of the line with which a record begins.

    The columns are those of the first record, unless they are given. Raises DataError as ``LineFile`` does,
    and for columns of the same name.
    """

    def __init__(self, path: Path, at: int, form: CsvForm) -> None:
        self._form = form
        marks = filter(None, (form.dialect.quotechar, form.dialect.escapechar))
        self._marks = tuple(mark.encode(form.encoding) for mark in marks)
        self._columns, begin = (form.columns, 0) if form.columns else self._read_columns(path)
        self.at = max(at, begin)
        self._file = LineFile(path, self.at, form.longest)
        self._lines = self._each_line()

    def take(self, limit: int) -> list[CsvRecord] | None:
        """Return the next records; None at the end of the file. Lines with nothing in them are none."""
        records: list[CsvRecord] = []
        for line in self._lines:
            record = self._whole(line)
            self.at += self._size(record)
            text = b"".join(record)
            if text.strip(b"\r\n"):
                records.append(CsvRecord(self._columns, text))
                if len(records) >= limit:
                    break
        return records or None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _each_line(self) -> Iterator[bytes]:
        while lines := self._file.take(_MANY):
            yield from lines

    def _whole(self, line: bytes) -> list[bytes]:
        """Return the lines of the record that begins with this one."""
        if not any(mark in line for mark in self._marks):
            return [line]
        record = [line]
        with contextlib.suppress(csv.Error, ValueError):  # whoever decodes the record finds it, too
            next(csv.reader(self._pulled(record), self._form.dialect), None)
        return record

    def _pulled(self, record: list[bytes]) -> Iterator[str]:
        """Yield a record's first line, and as many as are asked for, which become a part of it."""
        encoding = self._form.encoding
        yield record[0].decode(encoding, "replace")
        size = len(record[0])
        for line in self._lines:
            record.append(line)
            size += len(line)
            if size > self._form.longest:
                raise DataError(
                    f"{self._file.path} has a record of more than {self._form.longest:,} bytes.",
                    hint="Is a quotation mark missing? If not, say longest=...",
                )
            yield line.decode(encoding, "replace")

    def _size(self, record: list[bytes]) -> int:
        """Return how far a record brings us."""
        return len(record) if self._file.is_packed else sum(map(len, record))

    def _read_columns(self, path: Path) -> tuple[tuple[str, ...], int]:
        """Return the columns by a file's first record, and where that ends."""
        self._file = LineFile(path, 0, self._form.longest)
        self._lines = self._each_line()
        end = 0
        try:
            for line in self._lines:
                record = self._whole(line)
                end += self._size(record)
                text = b"".join(record)
                if text.strip(b"\r\n"):
                    return self._names(path, text), end
        finally:
            self._file.close()
        return (), end

    def _names(self, path: Path, text: bytes) -> tuple[str, ...]:
        try:
            names = self._form.fields(text.decode(self._form.encoding).removeprefix("\ufeff"))
        except (csv.Error, ValueError) as error:
            raise DataError(f"The header of {path} cannot be read: {error}.") from error
        return distinct(names, str(path))


def distinct(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Return names of columns. Raises DataError if two are the same."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{where} has two columns {twice[0]!r}.", hint="Say columns=(...) with names of your own."
        )
    return tuple(names)
