"""Files that lines are appended to: what ``write`` returned from is on the disk."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from sidestage.connectors.tail_reader import whole_until
from sidestage.data.syncing import sync_folder
from sidestage.stream.contract import Refused

T_contra = TypeVar("T_contra", contravariant=True)


class _Placed(msgspec.Struct, frozen=True):
    """Where the file is: what is said first, and without its name."""

    path: Path | str


class LinesFile(_Placed, frozen=True, kw_only=True):
    """A file that items are appended to as lines of text, or of bytes as they are.

    Several workers, and processes of one machine, may write to it at the same time. A last line that has no
    end, as a crash leaves it, is moved to a file beside it, NAME.torn, when the file is opened: its item
    comes again. An item with a line feed in it, or one that the encoding does not know, is refused.
    """

    encoding: str = "utf-8"

    @property
    def name(self) -> str:
        """What people call it."""
        return f"lines:{self.path}"

    def open(self) -> "LinesWriter[str | bytes]":
        """Begin to append, to a new file if there is none. Raises OSError."""
        return LinesWriter(Path(self.path), self._line)

    def _line(self, item: str | bytes) -> bytes:
        return item if isinstance(item, bytes) else str(item).encode(self.encoding)


class JsonLinesFile(_Placed, frozen=True, kw_only=True):
    """A file that items are appended to as JSON, one in each line; otherwise like ``LinesFile``.

    An item that msgspec cannot express as JSON is refused.
    """

    @property
    def name(self) -> str:
        """What people call it."""
        return f"json:{self.path}"

    def open(self) -> "LinesWriter[object]":
        """Begin to append, to a new file if there is none. Raises OSError."""
        return LinesWriter(Path(self.path), msgspec.json.Encoder().encode)


class LinesWriter(Generic[T_contra]):
    """Appends lines, each call as a whole or not at all."""

    def __init__(self, path: Path, line: Callable[[T_contra], bytes]) -> None:
        self._path = path
        self._line = line
        self._number: int | None = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            with self._locked() as number:
                self._mend(number)
            sync_folder(path.parent)
        except BaseException:
            self.close()
            raise

    def write(self, items: Sequence[T_contra]) -> None:
        """Append items, and return when the disk has them.

        Raises Refused for those that are no lines; OSError if none was written.
        """
        lines, errors = encoded(items, self._line)
        if lines:
            with self._locked() as number:
                append_whole(number, b"\n".join((*lines, b"")))
        if errors:
            raise Refused(errors)

    def close(self) -> None:
        """Close the file."""
        number, self._number = self._number, None
        if number is not None:
            os.close(number)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Keep all others from writing meanwhile."""
        if self._number is None:
            raise ValueError(f"{self._path} is closed.")
        fcntl.flock(self._number, fcntl.LOCK_EX)
        try:
            yield self._number
        finally:
            fcntl.flock(self._number, fcntl.LOCK_UN)

    def _mend(self, number: int) -> None:
        """Move a last line without an end aside."""
        size = os.fstat(number).st_size
        whole = whole_until(self._path, size)
        if whole == size:
            return
        aside = self._path.with_name(f"{self._path.name}.torn")
        kept = os.open(aside, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            while whole < size:  # a piece at a time: nobody knows what lies there
                piece = os.pread(number, min(size - whole, 1 << 20), whole)
                append_whole(kept, piece)
                whole += len(piece)
            append_whole(kept, b"\n")
        finally:
            os.close(kept)
        os.ftruncate(number, whole_until(self._path, size))
        os.fsync(number)


def encoded(
    items: Sequence[T_contra], line: Callable[[T_contra], bytes]
) -> tuple[list[bytes], dict[int, Exception]]:
    """Return items as lines without ends, and what is wrong with those that are none, by index."""
    lines: list[bytes] = []
    errors: dict[int, Exception] = {}
    for index, item in enumerate(items):
        try:
            made = line(item)
            if b"\n" in made:
                raise ValueError("An item with a line feed in it would be more than one line.")  # noqa: TRY301
            lines.append(made)
        except Exception as error:  # noqa: BLE001 - whatever encoding it raises
            errors[index] = error
    return lines, errors


def append_whole(number: int, data: bytes) -> None:
    """Append and sync all of it; if that fails, none of it stays. Raises OSError."""
    size = os.fstat(number).st_size
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(number, left) :]
        os.fsync(number)
    except BaseException:
        os.ftruncate(number, size)
        raise
