"""A file to which several threads and processes append whole lines."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sidestage.data.blaming import blaming
from sidestage.data.syncing import sync_folder

if sys.platform != "win32":
    import fcntl

_MOST_WAITING = 1 << 16
"""How many bytes are kept back at most until somebody asks for them to be safe."""


class LineLog:
    """Appends lines, each as a whole. What a crash left of a half-written line is cut off.

    Whoever writes has the file locked meanwhile, as far as its file system can lock: a line without an end is
    nobody's who still writes. Safe for threads. Raises OSError if it cannot be opened or written to.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []
        self._held = 0
        is_new = not self.path.exists()
        self._file: int | None = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        with self._locked(self._file):
            self._end = os.fstat(self._file).st_size
            self._is_unsynced = self._mend(self._file) or is_new
        if is_new:
            with suppress(OSError):  # where folders cannot be synced
                sync_folder(self.path.parent)

    def add(self, line: bytes) -> None:
        """Append a line without an end. It is safe once ``sync`` returns. Raises ValueError when closed."""
        with self._lock:
            self._opened()
            self._waiting.append(line + b"\n")
            self._held += len(line) + 1
            if self._held >= _MOST_WAITING:
                self._write()

    def sync(self) -> None:
        """Make safe what was appended."""
        with self._lock:
            if self._waiting:
                self._write()
            if self._is_unsynced:
                os.fsync(self._opened())
                self._is_unsynced = False

    def close(self) -> None:
        """Make safe what was appended, and close the file."""
        try:
            self.sync()
        finally:
            with self._lock:
                number, self._file = self._file, None
                if number is not None:
                    os.close(number)

    def _opened(self) -> int:
        if self._file is None:
            raise ValueError(f"{self.path} is closed.")
        return self._file

    def _write(self) -> None:
        number, data = self._opened(), memoryview(b"".join(self._waiting))
        self._is_unsynced = True
        with blaming(self.path), self._locked(number):
            if os.fstat(number).st_size != self._end:  # somebody else wrote, who may have died of it
                self._mend(number)
            begin = os.fstat(number).st_size
            try:
                while data:
                    data = data[os.write(number, data) :]
            except BaseException:
                os.ftruncate(number, begin)
                raise
            self._end = os.fstat(number).st_size
        self._waiting, self._held = [], 0

    @contextmanager
    def _locked(self, number: int) -> Iterator[None]:
        if sys.platform == "win32":
            yield
            return
        with suppress(OSError):  # some network file systems cannot
            fcntl.flock(number, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(number, fcntl.LOCK_UN)

    def _mend(self, number: int) -> bool:
        """Cut off a line that was left half-written; return whether there was one."""
        size = os.fstat(number).st_size
        whole = size
        with self.path.open("rb") as file:
            while whole:
                begin = max(0, whole - _MOST_WAITING)
                file.seek(begin)
                at = file.read(whole - begin).rfind(b"\n")
                if at >= 0:
                    whole = begin + at + 1
                    break
                whole = begin
        if whole != size:
            os.ftruncate(number, whole)
        return whole != size
