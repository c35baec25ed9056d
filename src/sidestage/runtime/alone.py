"""Being the only process that does something on this host: held by a lock that dies with its holder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Occupied(Exception):  # it says what is the case, and never reaches a user
    """Another process holds the lock.

    ``holder`` names it, as ``this_process`` does, or is "" if it did not say so yet.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


@contextmanager
def alone(path: Path, holder: str) -> Iterator[None]:
    """Hold the lock of a file, which stays where it is; raise Occupied if another process holds it.

    The system gives the lock back when its holder ends, however it ends. Children do not inherit it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Occupied(os.pread(descriptor, 500, 0).decode(errors="replace").strip()) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{holder}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
