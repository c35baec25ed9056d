"""Whose turn it is: locks beside a file that threads and processes queue for.

SQLite lets one transaction write and tells everybody else to look again later, which is neither fair nor
sure to end well: the answer to too many looks is "database is locked". Here the operating system keeps the
queue. Nobody polls, a lock is gone with the process that held it, and asking costs about a microsecond. A
process that is paused while it has its turn keeps the others waiting until it goes on or is killed.
"""

import contextlib
import errno
import os
import sys
import threading
import weakref
from functools import partial

if sys.platform != "win32":
    import fcntl

_UNSUPPORTED = frozenset(
    (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.EDEADLK)
)
"""What a file system answers that cannot lock so."""


class FileLock:
    """A lock for all threads of all processes that name the same file, which is created and never removed.

    Where the file cannot be made or locked (a read-only directory, some network file systems, Windows) it
    holds only for the threads that share this object. It must not be taken twice by one thread.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._threads = threading.Lock()
        self._descriptor: int | None = None
        self._supported = sys.platform != "win32"
        if hasattr(os, "register_at_fork"):
            # A child that lived on would hold the lock for a parent that died with it.
            os.register_at_fork(after_in_child=partial(_let_go, weakref.ref(self)))

    def __enter__(self) -> None:
        self._threads.acquire()
        try:
            if self._supported:
                self._wait()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_error: object) -> None:
        try:
            if self._descriptor is not None and sys.platform != "win32":
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    @property
    def is_for_all(self) -> bool:
        """Whether the lock, while it is held, keeps out other processes too."""
        return self._descriptor is not None

    def close(self) -> None:
        """Close the file, unless the lock is held. It can still be taken; the file is opened again then."""
        if self._threads.acquire(blocking=False):
            try:
                self._forget()
            finally:
                self._threads.release()

    def _wait(self) -> None:
        if self._descriptor is None:
            try:
                self._descriptor = _opened(self._path)
            except OSError:
                return  # what is wrong with the directory, the database says better
        if sys.platform != "win32":
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self._supported = False
                self._forget()

    def _forget(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self._forget()


class Turn:
    """A fair lock: whoever lets go of it and wants it again stands behind those who are waiting.

    One waits at the front, all others behind that one. The lock alone would go to whoever asks first after
    it is free, and that is the process that just had it and is still running.
    """

    def __init__(self, path: str) -> None:
        self._front = FileLock(f"{path}-next")
        self._held = FileLock(f"{path}-turn")

    def __enter__(self) -> None:
        with self._front:
            self._held.__enter__()

    def __exit__(self, *_error: object) -> None:
        self._held.__exit__()

    def close(self) -> None:
        """Close the files; see ``FileLock.close``."""
        self._front.close()
        self._held.close()


def _opened(path: str) -> int:
    # Reading is all that a lock needs, and all that another user's file may allow.
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)


def _let_go(lock: "weakref.ref[FileLock]") -> None:
    held = lock()
    if held is not None:
        held._forget()  # noqa: SLF001 - a callback that must not keep its lock alive
