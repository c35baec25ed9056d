"""What follows a growing file: one generation of it at a time, and the way from one to the next."""

import os
import stat
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import xxhash

from sidestage.connectors.files_lines import BLOCK, Cutter, bare
from sidestage.connectors.tail import Tail
from sidestage.errors import DataError, DefinitionError
from sidestage.stream.contract import Batch, Position, Positions

PART = "all"
MARK = 256
"""How many bytes of its beginning a file is known by, at most."""

MOST_DONE = 16


class Place(NamedTuple):
    """A position: in which file, known by its number and how its first ``length`` bytes begin, and where."""

    number: int
    length: int
    digest: str
    offset: int

    def text(self) -> str:
        """Return it as it is kept."""
        return f"{self.number}-{self.length}-{self.digest}@{self.offset}"

    def is_in(self, number: int, begin: bytes, size: int) -> bool:
        """Whether this is a position in a file with this number, beginning, and size."""
        return (
            self.number == number
            and self.offset <= size
            and self.length <= len(begin)
            and _digest(begin[: self.length]) == self.digest
        )


class Generation:
    """One file under whatever name, being followed from a byte on. ``at`` is where the next line begins."""

    def __init__(self, path: Path, at: int, longest: int) -> None:
        self._file = path.open("rb", buffering=0)
        status = os.fstat(self._file.fileno())
        self.number = status.st_ino
        self.at = at
        self._end = at
        self._begin = os.pread(self._file.fileno(), min(at, MARK), 0)
        self._file.seek(at)
        self._cutter = Cutter(str(path), longest)
        self._lines: list[bytes] = []
        self._next = 0

    @property
    def place(self) -> Place:
        """The position of the next line."""
        begin = self._begin[: min(self.at, MARK)]
        return Place(self.number, len(begin), _digest(begin), self.at)

    def fill(self) -> bool:
        """Read until a line is there; return False if none has come whole. Raises DataError, OSError."""
        while self._next == len(self._lines):
            data = self._file.read(BLOCK)
            if not data or self.was_cut():
                return False
            self._end += len(data)
            if len(self._begin) < MARK:
                self._begin += data[: MARK - len(self._begin)]
            self._lines, self._next = self._cutter.cut(data), 0
        return True

    def was_cut(self) -> bool:
        """Whether it ends, or begins, otherwise than what was read of it."""
        number = self._file.fileno()
        is_shorter = os.fstat(number).st_size < self._end
        return is_shorter or os.pread(number, len(self._begin), 0) != self._begin

    def give_up_waiting(self) -> bool:
        """Take what has no end for a line; return whether there was such."""
        rest = self._cutter.rest()
        self._lines, self._next = ([rest] if rest else []), 0
        return bool(rest)

    def take(self, limit: int) -> list[bytes]:
        """Return the lines that are there, with their ends."""
        taken = self._lines[self._next : self._next + limit]
        self._next += len(taken)
        self.at += sum(map(len, taken))
        return taken

    def written_at(self) -> int:
        """Return when it was last written to, in nanoseconds of the file system."""
        return os.fstat(self._file.fileno()).st_mtime_ns

    def is_begun_by(self, path: Path) -> bool:
        """Whether a file is this one or a copy: whether it begins as what was read of this one."""
        return bool(self._begin) and _begin_of(path, len(self._begin)) == self._begin

    def close(self) -> None:
        """Close it."""
        self._file.close()


class Successor(NamedTuple):
    """A file that was written to later, by the time of that."""

    written_at: int
    path: Path
    number: int


class TailReader:
    """Reads what a file has become since the position, and what comes to it."""

    def __init__(self, tail: Tail, resume: Positions) -> None:
        self._tail = tail
        self._path = Path(tail.path)
        self._done: tuple[Generation, ...] = ()
        self._left_at: float | None = None
        self._stopped = False
        self._file: Generation | None = None
        self._reached: Position | None = resume.get(PART)
        self._is_news = False
        if self._reached is not None:
            self._file = self._found(_place_of(self._reached, tail.name))
        elif tail.start == "end":
            self._begin_at_the_end()

    def read(self, limit: int, wait: float) -> Sequence[Batch] | None:
        """Return the lines that are there; else look once more, ``poll`` or ``wait`` seconds later.

        None once it was told to stop. Raises DataError, OSError.
        """
        if self._stopped:
            return None
        if limit < 1:
            return ()
        if not self._look():
            if wait > 0 and not self._is_news:
                threading.Event().wait(min(wait, self._tail.poll))
            if not self._look():
                return self._batch([]) if self._is_news else ()
        assert self._file is not None
        return self._batch(bare(self._file.take(limit)))

    def stop(self) -> None:
        """Read nothing more."""
        self._stopped = True

    def commit(self, positions: Positions) -> None:
        """Do nothing: a file keeps no positions. A checkpoint does."""

    def lost(self) -> Collection[str]:
        """Return nothing: a file is not taken away."""
        return ()

    def close(self) -> None:
        """Close what is open."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _batch(self, items: list[bytes]) -> Sequence[Batch]:
        """Return a batch from where the last one ended, even if that was in another file."""
        assert self._file is not None
        after = self._file.place.text()
        first = after if self._reached is None else self._reached
        self._reached, self._is_news = after, False
        return (Batch(PART, first, items, after),)

    def _look(self) -> bool:
        """Return whether there are lines, in this file or in those that came after it."""
        while True:
            if self._file is None and not self._open_first():
                return False
            file = self._file
            assert file is not None
            if file.fill():
                return True
            was_cut = file.was_cut()
            if not (was_cut or self._is_over(file)):
                return False
            if file.give_up_waiting():
                return True
            if was_cut:
                self.close()
            elif not self._go_on_after(file):
                return False

    def _open_first(self) -> bool:
        try:
            self._file = Generation(self._path, 0, self._tail.longest)
        except FileNotFoundError:
            return False
        self._left_at = None
        if self._reached is None:
            self._reached = self._file.place.text()
        return True

    def _is_over(self, file: Generation) -> bool:
        """Whether nothing more comes to a file: others came after it, or its name has long been another's."""
        now_there = _status(self._path)
        if now_there is None or now_there.st_ino == file.number:
            self._left_at = None
            return False
        now = self._tail.clock.monotonic()
        if self._left_at is None:
            self._left_at = now
        return now - self._left_at >= self._tail.patience or bool(self._successors(file))

    def _go_on_after(self, file: Generation) -> bool:
        """Go to the next file; return False if it is not there yet."""
        while True:
            later = self._successors(file)
            try:
                opened = Generation(later[0].path if later else self._path, 0, self._tail.longest)
            except FileNotFoundError:
                if later:
                    continue  # it was just given another name
                return False
            if opened.number == later[0].number if later else not self._successors(file):
                break
            opened.close()
        file.close()
        self._done = (*self._done[-MOST_DONE:], file)
        self._file, self._left_at = opened, None
        return True

    def _successors(self, file: Generation) -> list["Successor"]:
        """Return the files that were written to after this one, but for the one that has the name now."""
        later = []
        for path in self._tail.relatives():
            status = _status(path)
            if status is None or not stat.S_ISREG(status.st_mode) or status.st_mtime_ns < file.written_at():
                continue
            if status.st_ino != file.number and not any(
                each.is_begun_by(path) for each in (*self._done, file)
            ):
                later.append(Successor(status.st_mtime_ns, path, status.st_ino))
        return sorted(later)

    def _begin_at_the_end(self) -> None:
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            return
        self._file = Generation(self._path, whole_until(self._path, size), self._tail.longest)
        self._is_news = True  # where it began is to be kept, or a restart would begin at another end

    def _found(self, place: Place) -> Generation | None:
        """Return the file of a position, under whichever name; None to begin with the one that is there."""
        for path in (self._path, *self._tail.relatives()):
            status = _status(path)
            if status is None or status.st_ino != place.number:
                continue
            if place.is_in(status.st_ino, _begin_of(path, place.length), status.st_size):
                return Generation(path, place.offset, self._tail.longest)
            if path == self._path:
                return None  # cut, and written anew
        if self._tail.if_gone == "raise":
            raise DataError(
                f"The file that {self._tail.name} was read from is gone, and with it perhaps lines that were "
                "never read.",
                hint='Put it back under a name that begins the same, or go on with Tail(if_gone="go-on").',
            )
        return None


def whole_until(path: Path, size: int) -> int:
    """Return where the last line that has an end ends, within the first ``size`` bytes."""
    with path.open("rb", buffering=0) as file:
        while size:
            begin = max(0, size - BLOCK)
            at = os.pread(file.fileno(), size - begin, begin).rfind(b"\n")
            if at >= 0:
                return begin + at + 1
            size = begin
    return 0


def _place_of(position: Position, name: str) -> Place:
    try:
        file, _, offset = str(position).partition("@")
        number, length, digest = file.split("-")
        return Place(int(number), int(length), digest, int(offset))
    except ValueError as error:
        raise DefinitionError(
            f"{name} cannot go on from {position!r}.", hint="The checkpoint belongs to another source."
        ) from error


def _digest(begin: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(begin)


def _begin_of(path: Path, length: int) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, 0)
    except FileNotFoundError:
        return b""


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
