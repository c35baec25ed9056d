"""Which dead letters have been replayed: a line for each in a file beside theirs."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec

from sidestage.stream.letters.file import whole_lines
from sidestage.stream.letters.line_log import LineLog


class Mark(msgspec.Struct, frozen=True):
    """The letter with this id was replayed by then."""

    id: str
    at: datetime


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Mark)


def marks_beside(file: Path) -> Path:
    """Return where the marks of a file's letters lie."""
    return file.with_name(f"{file.name}.replayed")


def read_marks(files: Iterable[Path]) -> set[str]:
    """Return the ids of the letters of these files that were replayed. Raises OSError.

    A mark that was damaged is none: its letter is replayed again.
    """
    found: set[str] = set()
    for file in map(marks_beside, files):
        if not file.exists():
            continue
        for line in whole_lines(file, file.stat().st_size):
            try:
                found.add(_decoder.decode(line).id)
            except msgspec.DecodeError:
                continue
    return found


class Marks:
    """Writes marks beside a file, which is made when there is one to write."""

    def __init__(self, file: Path) -> None:
        self._path = marks_beside(file)
        self._log: LineLog | None = None

    def add(self, ids: Iterable[str], at: datetime) -> None:
        """Note, safely, that these were replayed. Raises OSError."""
        if self._log is None:
            self._log = LineLog(self._path)
        for each in ids:
            self._log.add(_encoder.encode(Mark(each, at)))
        self._log.sync()

    def close(self) -> None:
        """Close the file."""
        if self._log is not None:
            self._log.close()
            self._log = None
