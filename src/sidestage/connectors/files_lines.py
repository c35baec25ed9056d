"""Lines of one file, cut from blocks of bytes. A line ends with a line feed and with nothing else."""

import gzip
import io
import os
import zlib
from pathlib import Path
from typing import IO, cast

from sidestage.errors import DataError

BLOCK = 256 * 1024
LONGEST = 16 * 1024 * 1024
"""How many bytes a line may have, if nobody says otherwise."""


class Cutter:
    """Cuts lines from bytes as these come, and keeps what has no end yet."""

    def __init__(self, where: str, longest: int = LONGEST) -> None:
        self._where = where
        self._longest = longest
        self._pieces: list[bytes] = []
        self._held = 0

    def cut(self, data: bytes) -> list[bytes]:
        """Return the lines that end within ``data``, each with its end.

        Raises DataError for one that is too long.
        """
        end = data.rfind(b"\n") + 1
        if not end:
            self._hold(data)
            return []
        whole = b"".join((*self._pieces, data[:end]))
        self._pieces, self._held = [], 0
        self._hold(data[end:])
        return io.BytesIO(whole).readlines()

    def rest(self) -> bytes:
        """Return, once, what came after the last line's end."""
        rest, self._pieces, self._held = b"".join(self._pieces), [], 0
        return rest

    def _hold(self, data: bytes) -> None:
        if data:
            self._pieces.append(data)
            self._held += len(data)
            if self._held > self._longest:
                raise DataError(
                    f"{self._where} has a line of more than {self._longest:,} bytes.",
                    hint="Is it a text file? If it is, say longest=...",
                )


class LineFile:
    """A file of lines, being read from a position on; a name that ends with ``.gz`` is unpacked.

    ``at`` is the position of the next line: how many bytes lie before it, or, in a packed file, lines.
    Raises DataError if the file is gone, is shorter than the position, or has no line that begins there.
    """

    def __init__(self, path: Path, at: int = 0, longest: int = LONGEST) -> None:
        self.path = path
        self.at = 0
        self.is_packed = path.name.endswith(".gz")
        self._cutter = Cutter(str(path), longest)
        self._lines: list[bytes] = []
        self._next = 0
        self._raw = opened(path)
        self._found = os.fstat(self._raw.fileno())
        self._file = cast("IO[bytes]", gzip.GzipFile(fileobj=self._raw)) if self.is_packed else self._raw
        try:
            self._go_to(at)
        except BaseException:
            self.close()
            raise

    def take(self, limit: int) -> list[bytes]:
        """Return the next lines with their ends; none at the end of the file. Raises DataError, OSError."""
        while self._next == len(self._lines):
            if not self._fill():
                return []
        taken = self._lines[self._next : self._next + limit]
        self._next += len(taken)
        self.at += len(taken) if self.is_packed else sum(map(len, taken))
        return taken

    def close(self) -> None:
        """Close the file."""
        self._raw.close()

    def check(self) -> None:
        """Raise DataError if the file is another one, or was written to other than at its end, meanwhile."""
        now = os.fstat(self._raw.fileno())
        is_rewritten = now.st_size == self._found.st_size and now.st_mtime_ns != self._found.st_mtime_ns
        if is_rewritten or now.st_size < self._found.st_size:
            raise changed(self.path)
        check_same(self.path, self._found)

    def _fill(self) -> bool:
        """Read until a line has ended; return False at the end of the file."""
        while True:
            try:
                data = self._file.read(BLOCK)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise DataError(
                    f"{self.path} cannot be unpacked behind line {self.at + len(self._lines) - self._next}: "
                    f"{error}.",
                    hint="Is the copy complete?",
                ) from error
            lines = self._cutter.cut(data) if data else [rest] if (rest := self._cutter.rest()) else []
            if lines:
                self._lines, self._next = lines, 0
                return True
            if not data:
                self.check()
                return False

    def _go_to(self, at: int) -> None:
        if self.is_packed:
            while self.at < at:
                if not self.take(at - self.at):
                    raise shorter(self.path, at)
            return
        if at > self._found.st_size:
            raise shorter(self.path, at)
        if at:
            self._raw.seek(at - 1)
            if self._raw.read(1) != b"\n" and at < self._found.st_size:
                raise DataError(
                    f"{self.path} has no line that begins at byte {at}, where reading was to go on.",
                    hint="It is another file, or its last line was added to after it was read: a file that "
                    "still grows is read with Tail.",
                )
        self.at = at


def bare(lines: list[bytes]) -> list[bytes]:
    """Return lines without their ends, which are a line feed or carriage return and line feed."""
    return [
        line[:-2] if line.endswith(b"\r\n") else line[:-1] if line.endswith(b"\n") else line for line in lines
    ]


def opened(path: Path) -> IO[bytes]:
    """Open a file for reading by blocks. Raises DataError if it is not there."""
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is gone: it was there when reading began.",
            hint="Put it back, or begin again: what is read already is in the checkpoint.",
        ) from error


def check_same(path: Path, found: os.stat_result) -> None:
    """Raise DataError if another file lies at a path than was found. One that is gone was read in time."""
    try:
        now = path.stat()
    except FileNotFoundError:
        return
    if (now.st_dev, now.st_ino) != (found.st_dev, found.st_ino):
        raise DataError(
            f"{path} was replaced while it was read.",
            hint="Give each file a name of its own; a file that is rotated is read with Tail.",
        )


def changed(path: Path) -> DataError:
    """Return that a file was changed."""
    return DataError(
        f"{path} was changed while it was read.",
        hint="Files may be added to at their end; write others aside and rename them when they are complete.",
    )


def shorter(path: Path, at: int) -> DataError:
    """Return that a file ends before a position."""
    return DataError(
        f"{path} ends before position {at}, where reading was to go on.",
        hint="It is another file than was read before. Remove its position, or give it another name.",
    )
