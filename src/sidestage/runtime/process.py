"""A warm child process: started once, given one message after another, gone when its parent is."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from pathlib import Path

from sidestage.runtime.channel import connected_pair

_GONE_SECONDS = 2.0


class ChildProcess:
    """A Python module running in a process of its own, at the other end of a channel.

    The module gets the channel's file descriptor as its last argument. The child leads a process group, so
    that stopping it stops what it started, too.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        *,
        directory: Path,
        environment: Mapping[str, str],
    ) -> None:
        self._over = False
        self._connection, theirs = connected_pair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments, str(theirs.fileno())],
                cwd=directory,
                env=dict(environment),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """The operating system's number for the process."""
        return self._process.pid

    @property
    def connection(self) -> Connection:
        """Our end of the channel, for waiting on several children at once."""
        return self._connection

    def send(self, message: bytes) -> None:
        """Send a message; a child that is gone is noticed at the next receive, not here."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send_bytes(message)

    def receive(self) -> bytes | None:
        """Return the next message, waiting for it, or None if the child is gone."""
        try:
            return self._connection.recv_bytes()
        except (EOFError, ConnectionResetError, OSError):
            return None

    def ended(self) -> int:
        """Return how the child ended, once ``receive`` returned None; what it started is killed.

        A process closes its end of the channel a little before it is gone, and must not be killed in
        between, or its own exit status would be lost.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GONE_SECONDS)
        return self.end()

    def end(self) -> int:
        """Kill the child and all that it started, if still there; return how it ended, as subprocess does."""
        if not self._over:  # once it is waited for, its number may become another process's
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._over = True
        self._connection.close()
        return self._process.wait()


def ready(children: Sequence[ChildProcess], timeout: float | None) -> list[ChildProcess]:
    """Return the children that sent something or are gone, waiting up to ``timeout`` seconds."""
    by_connection = {child.connection: child for child in children}
    return [
        by_connection[found] for found in wait_for(list(by_connection), timeout) if found in by_connection
    ]


def died_of(status: int) -> str:
    """Return how a process ended, in words."""
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    return f"exited with status {status}"
