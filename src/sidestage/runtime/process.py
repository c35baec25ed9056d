"""A warm child process: started once, given one message after another, gone when its parent is."""

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from sidestage.runtime.channel import connected_pair

_GONE_SECONDS = 0.5


class ChildProcess:
    """A command running in a process of its own, at the other end of a channel.

    The command gets the channel's file descriptor as its last argument, and ``output``, a descriptor, as its
    standard output and error. The child leads a process group, so that stopping it stops what it started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        directory: Path,
        environment: Mapping[str, str],
        output: int = subprocess.DEVNULL,
    ) -> None:
        self._over = False
        self.channel, theirs = connected_pair()
        try:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                cwd=directory,
                env=dict(environment),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """The operating system's number for the process."""
        return self._process.pid

    @property
    def is_dead(self) -> bool:
        """Whether the child ended, also while others hold its end of the channel: copies that it forked."""
        if self._over:
            return True
        # Not reaped here, so that its number stays its own.
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def send(self, message: bytes) -> None:
        """Send a message; a child that is gone is noticed when its end is read, not here."""
        with contextlib.suppress(OSError):
            self.channel.send(message)

    def signal(self, number: int) -> None:
        """Send a signal to the child alone."""
        if not self._over and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the child and its process group, without waiting for it to be gone."""
        if not self._over:  # once it is waited for, its number may become another process's
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def ended(self) -> int:
        """Return how the child ended, once its end of the channel is closed; what it started is killed.

        A process closes its end of the channel a little before it is gone, and must not be killed in
        between, or its own exit status would be lost.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._wait_without_reaping(_GONE_SECONDS)
        return self.end()

    def end(self) -> int:
        """Kill the child and all that it started, if still there; return how it ended, as subprocess does."""
        self.kill()
        self._over = True
        self.channel.close()
        return self._process.wait()

    def _wait_without_reaping(self, seconds: float) -> None:
        """Wait for the child to be gone; its number stays its own, so that its group can still be killed."""
        try:
            descriptor = os.pidfd_open(self._process.pid)
        except (AttributeError, OSError):  # not on every system
            self._process.wait(seconds)
            self._over = True
            return
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(seconds * 1000)
        finally:
            os.close(descriptor)


def died_of(status: int) -> str:
    """Return how a process ended, in words."""
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    return f"exited with status {status}"
