"""Where items go that a stage cannot keep up with: into memory, and what does not fit there into files."""

import os
import tempfile
import threading
from pathlib import Path
from typing import IO

import msgspec

from sidestage.errors import DefinitionError

_FILE_BYTES, _FILE_SHARE = 16 * 1024**2, 8
"""When a file is this large, or has this share of what is allowed, another one is begun: a file is given back
when all of it has been read."""


class Spill(msgspec.Struct, frozen=True):
    """How much may wait for keys that hold up the others. Raises DefinitionError for what makes no sense.

    ``memory`` and ``most`` are bytes, in memory and after that in files in the folder ``path``; without one
    nothing goes to disk. Items are pickled (protocol 5), so what comes back is equal, not the same object.
    """

    path: Path | str | None = None
    memory: int = 64 * 1024**2
    most: int = 1024**3

    def __post_init__(self) -> None:
        if self.memory < 0 or self.most < 0 or (self.path is None and not self.memory):
            raise DefinitionError(
                f"{self} makes no sense.", hint="memory and most are bytes; without memory, name a path."
            )


class _File:
    """A file without a name: it is gone with the last process that has it open, however that ends."""

    def __init__(self, folder: Path) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=folder, prefix="sidestage-spill-", buffering=0)  # noqa: SIM115
        self.size = 0
        self.unread = 0

    def append(self, data: bytes) -> int:
        """Return where the data lies now. Raises OSError, and is as it was then."""
        begin, view = self.size, memoryview(data)
        try:
            self.file.seek(begin)
            while view:
                view = view[self.file.write(view) :]
        except OSError:
            self.file.truncate(begin)
            raise
        self.size += len(data)
        self.unread += 1
        return begin

    def read(self, begin: int, length: int) -> bytes:
        """Return data that was appended. Raises OSError."""
        self.file.seek(begin)
        parts = []
        while length:
            part = self.file.read(length)
            if not part:
                raise OSError(f"a spill file ends {length} bytes too early")
            parts.append(part)
            length -= len(part)
        self.unread -= 1
        return b"".join(parts)


class Place(msgspec.Struct, frozen=True, eq=False):
    """Where data was put: in memory, or in a file."""

    data: bytes | None
    file: "_File | None" = None
    begin: int = 0
    length: int = 0


class Store:
    """The bytes of one ``by_key`` that wait, first in memory, then in files. Safe for threads.

    ``refusal`` says why the last data was refused.
    """

    def __init__(self, spill: Spill) -> None:
        self._spill = spill
        self._folder = None if spill.path is None else _folder(Path(spill.path))
        self._most_in_file = min(_FILE_BYTES, spill.most // _FILE_SHARE)
        self._lock = threading.Lock()
        self._current: dict[object, _File] = {}
        self._files: set[_File] = set()
        self.in_memory = 0
        self.on_disk = 0
        self.refusal = ""

    def keep(self, line: object, data: bytes) -> Place | None:
        """Return where data of a line is kept until it is read, or None if there is no room for it."""
        with self._lock:
            if self.in_memory + len(data) <= self._spill.memory:
                self.in_memory += len(data)
                return Place(data)
            if self._folder is None:
                self.refusal = f"{self._spill.memory:,} bytes of memory are full"
            elif self.on_disk + len(data) > self._spill.most:
                self.refusal = f"{self._spill.most:,} bytes on disk are full"
            else:
                try:
                    return self._written(self._folder, line, data)
                except OSError as error:
                    self.refusal = f"{self._folder}: {os.strerror(error.errno) if error.errno else error}"
            return None

    def take(self, place: Place) -> bytes:
        """Return, once, what was kept. Raises OSError."""
        with self._lock:
            if place.data is not None:
                self.in_memory -= len(place.data)
                return place.data
            file = place.file
            assert file is not None
            data = file.read(place.begin, place.length)
            if not file.unread:
                self._forget(file)
            return data

    def close(self) -> None:
        """Give back all there is."""
        with self._lock:
            for file in list(self._files):
                self._forget(file)

    def _written(self, folder: Path, line: object, data: bytes) -> Place:
        file = self._current.get(line)
        if file is None or file.size >= self._most_in_file:
            file = self._current[line] = _File(folder)
            self._files.add(file)
        try:
            begin = file.append(data)
        finally:
            if not file.unread:  # nothing of it was ever written
                self._forget(file)
        self.on_disk += len(data)
        return Place(None, file, begin, len(data))

    def _forget(self, file: _File) -> None:
        self.on_disk -= file.size
        file.file.close()
        self._files.discard(file)
        for line in [each for each, current in self._current.items() if current is file]:
            del self._current[line]


def _folder(path: Path) -> Path:
    """Return a folder that can be written to. Raises DefinitionError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise DefinitionError(
            f"Nothing can be spilled to {path}: {error}", hint="Name a folder that can be written to."
        ) from error
