"""A child that must not outlive its parent, and telling whether a process still lives."""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 1.0
_STAT_STATE, _STAT_START_TIME = 0, 19  # fields 3 and 22 of /proc/PID/stat, counted from behind the command
_FIRST_SPACE = 0xEFFFFFFC  # the number that Linux gives to the process numbers of the host itself
_ENDED = (b"Z", b"X")  # such a process runs no more; it only waits for its parent to ask how it ended


def end_with_parent(parent: int) -> None:
    """Make this process end when its parent does, even if the parent was killed.

    Linux does it by itself (prctl(2), PR_SET_PDEATHSIG); elsewhere a thread looks once a second.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="lifeline").start()
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def this_process() -> str:
    """Return a name for this process that no other process of this or another host has had."""
    return f"{_host()}:{os.getpid()}:{_started_at(os.getpid())}"


def scratch_name(unique: str) -> str:
    """Return a name for a folder of temporary files that says whose it is."""
    return f"{this_process().replace(':', ',')},{unique}"


def scratch_is_dead(name: str) -> bool:
    """Whether a folder, named by ``scratch_name``, belongs to a process that is certainly gone."""
    return is_dead(name.rpartition(",")[0].replace(",", ":"))


def is_dead(owner: str) -> bool:
    """Whether a process, named by ``this_process``, ran on this host and is certainly gone."""
    return _runs_here(owner) is False


def is_living(owner: str) -> bool:
    """Whether a process, named by ``this_process``, runs on this host now, however slowly."""
    return _runs_here(owner) is True


def _runs_here(owner: str) -> bool | None:
    """Whether a process runs; None if it is not this host's to say."""
    place, _, started = owner.rpartition(":")
    host, _, pid = place.rpartition(":")
    if host != _host() or not pid.isdecimal():
        return None
    return _started_at(int(pid)) == started


def _host() -> str:
    """Return a name for where process numbers mean something: containers may share the name of their host."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116  # a link that only the system can follow
    except OSError:
        space = _FIRST_SPACE
    return socket.gethostname() + (f"~{space}" if space != _FIRST_SPACE else "")


def _started_at(pid: int) -> str:
    """Return when a process started, in the system's own ticks ("" if there is none such, or it ended)."""
    with contextlib.suppress(OSError, IndexError):
        # Bytes: a command may be called anything, also what is no text.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return "" if fields[_STAT_STATE] in _ENDED else fields[_STAT_START_TIME].decode()
    if sys.platform == "linux":
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"
