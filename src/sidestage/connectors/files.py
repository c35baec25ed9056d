"""Text files as sources of a stream: lines, JSON lines, CSV rows.

Each file is a part. Its positions count bytes, or lines in a packed file (``.gz``), and lie where an item
begins, so that reading goes on exactly there. What is read are bytes; a stage named "decode" makes items of
them, so that a bad line is an error of its own: ``on_error`` says what becomes of it, else the run does.

Files may be added to while they are read, and new ones are found when a stream is started again. One that is
replaced, cut or rewritten meanwhile ends the stream with a DataError. ``paths`` may be patterns; nothing to
read is a DataError, too, unless there ``may_be_none``.
"""

import csv
from collections.abc import Callable, Sequence
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from sidestage.connectors.files_csv import CsvFile, CsvForm, CsvRecord, distinct
from sidestage.connectors.files_lines import LONGEST, LineFile, bare
from sidestage.connectors.files_reader import FilesReader, Paths, files_of, name_of
from sidestage.errors import DefinitionError
from sidestage.stream.contract import Positions, Reader
from sidestage.stream.failing import OnError

T = TypeVar("T")


class _Placed(msgspec.Struct, frozen=True):
    """Where files are: what is said first, and without its name."""

    paths: Paths


class _Files(_Placed, frozen=True, kw_only=True):
    """What all sources of text are told. ``longest`` is how many bytes a line or record may have."""

    longest: int = LONGEST
    may_be_none: bool = False

    def files(self) -> list[Path]:
        """Return what there is to read. Raises DataError if there is nothing."""
        return files_of(self.paths, may_be_none=self.may_be_none)


class RawLines(_Files, frozen=True, kw_only=True):
    """Lines as bytes, without their ends: a line feed, or carriage return and line feed."""

    @property
    def name(self) -> str:
        """What people call it."""
        return name_of("lines", self.paths)

    def open(self, resume: Positions) -> Reader[bytes]:
        """Begin to read. Raises DataError if there is nothing to read."""
        return FilesReader(self.files(), self._opened, resume)

    def _opened(self, path: Path, at: int) -> "_Bare":
        return _Bare(LineFile(path, at, self.longest), skip_blank=False)


class Lines(_Files, frozen=True, kw_only=True):
    """Lines as text, without their ends; other characters that some take for ends of lines end none.

    ``errors`` is as in ``bytes.decode``: with "strict" a line that is not of the encoding is an error of the
    stage "decode". Raises DefinitionError for an encoding in which lines do not end as in ASCII.
    """

    encoding: str = "utf-8"
    errors: str = "strict"
    on_error: OnError | None = None

    def __post_init__(self) -> None:
        check_encoding(self.encoding)

    @property
    def name(self) -> str:
        """What people call it."""
        return name_of("lines", self.paths)

    @property
    def decode(self) -> Callable[[bytes], str]:
        """What makes text of a line. Raises UnicodeDecodeError."""
        return text_decoder(self.encoding, self.errors)

    def open(self, resume: Positions) -> Reader[str]:
        """Begin to read. Raises DataError if there is nothing to read."""
        return FilesReader(self.files(), self._opened, resume)

    def _opened(self, path: Path, at: int) -> "_Bare":
        return _Bare(LineFile(path, at, self.longest), skip_blank=False)


class JsonLines(_Files, Generic[T], frozen=True, kw_only=True):
    """One value of JSON in each line, of the type ``of`` as msgspec knows it; blank lines are passed over.

    What is not JSON, or does not fit the type, raises msgspec.DecodeError in the stage "decode".
    """

    of: type[T]
    on_error: OnError | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return name_of("json", self.paths)

    @property
    def decode(self) -> Callable[[bytes], T]:
        """What makes a value of a line."""
        return msgspec.json.Decoder(self.of).decode

    def open(self, resume: Positions) -> Reader[T]:
        """Begin to read. Raises DataError if there is nothing to read."""
        return FilesReader(self.files(), self._opened, resume)

    def _opened(self, path: Path, at: int) -> "_Bare":
        return _Bare(LineFile(path, at, self.longest), skip_blank=True)


class CsvRows(_Files, frozen=True, kw_only=True):
    r"""Rows of CSV, as dicts by column; a quoted field may go over several lines.

    Columns are those of each file's first record, or ``columns`` for files that have no such record.
    ``dialect`` is one of the module ``csv`` ("excel", "unix", your own), ``delimiter`` overrides its own. A
    row with too few or too many fields, or quoted wrongly, raises in the stage "decode". Empty lines are
    passed over. Raises DefinitionError for an encoding or dialect that makes no sense.
    """

    columns: Sequence[str] | None = None
    dialect: str | type[csv.Dialect] = "excel"
    delimiter: str = ""
    encoding: str = "utf-8"
    errors: str = "strict"
    on_error: OnError | None = None

    def __post_init__(self) -> None:
        check_encoding(self.encoding)
        made = self._form  # raises
        if made.columns is not None:
            distinct(made.columns, "columns=(...)")

    @property
    def name(self) -> str:
        """What people call it."""
        return name_of("csv", self.paths)

    @property
    def decode(self) -> Callable[[CsvRecord], dict[str, str]]:
        """What makes a row of a record."""
        return partial(_row, self._form, self.errors)

    def open(self, resume: Positions) -> Reader[dict[str, str]]:
        """Begin to read. Raises DataError if there is nothing to read."""
        return FilesReader(self.files(), self._opened, resume)

    def _opened(self, path: Path, at: int) -> CsvFile:
        return CsvFile(path, at, self._form)

    @property
    def _form(self) -> CsvForm:
        more: dict[str, Any] = {"delimiter": self.delimiter} if self.delimiter else {}
        try:
            dialect = csv.reader((), self.dialect, strict=True, **more).dialect
        except (csv.Error, TypeError) as error:
            raise DefinitionError(
                f"No CSV is written like this: {error}.", hint="See the module csv on dialects."
            ) from error
        columns = None if self.columns is None else tuple(self.columns)
        return CsvForm(dialect, self.encoding, columns, self.longest)


class _Bare:
    """Gives the lines of a file without their ends, and perhaps without those that are blank."""

    def __init__(self, file: LineFile, *, skip_blank: bool) -> None:
        self._file = file
        self._skip_blank = skip_blank
        self.at = file.at

    def take(self, limit: int) -> list[bytes] | None:
        """Return the next lines; None at the end."""
        lines = self._file.take(limit)
        self.at = self._file.at
        if not lines:
            return None
        items = bare(lines)
        return [item for item in items if not item.isspace() and item] if self._skip_blank else items

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def check_encoding(encoding: str) -> None:
    """Raise DefinitionError for an unknown encoding, and for one whose lines do not end with one byte 10."""
    try:
        fits = b"\n".decode(encoding) == "\n" and b"a\n".decode(encoding) == "a\n"
    except LookupError as error:
        raise DefinitionError(f"There is no encoding {encoding!r}.", hint="Such as utf-8.") from error
    except UnicodeDecodeError:
        fits = False
    if not fits:
        raise DefinitionError(
            f"Files in {encoding} cannot be cut into lines without being decoded first.",
            hint="Convert them, or read them with Python's open(), which a stream takes as well.",
        )


def text_decoder(encoding: str, errors: str) -> Callable[[bytes], str]:
    """Return what decodes bytes."""
    return methodcaller("decode", encoding, errors)


def _row(form: CsvForm, errors: str, record: CsvRecord) -> dict[str, str]:
    fields = form.fields(record.text.decode(form.encoding, errors))
    if len(fields) != len(record.columns):
        raise ValueError(f"{len(fields)} fields, where there are {len(record.columns)} columns")
    return dict(zip(record.columns, fields, strict=True))
