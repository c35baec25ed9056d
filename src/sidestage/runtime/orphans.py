"""Processes that a task leaves behind: found by descent or by a mark in their environment, and killed.

A worker that is a subreaper becomes the parent of whatever its tasks started and let go, also of what left
the session; so descent finds it as long as the worker lives. Once the worker is dead, the mark finds it: a
variable that says on whose behalf a process runs. A process that was started with an emptied environment, and
outlived its worker, is not found.

Everything here reads /proc (descent: with CONFIG_PROC_CHILDREN, which the common kernels have); elsewhere
nothing is found and nothing is killed.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from sidestage.runtime.lifeline import is_dead

VARIABLE = "SIDESTAGE_OWNER"
"""Name of the variable that says which process a process runs for, as ``this_process`` names it."""

_PR_SET_CHILD_SUBREAPER = 36
_NAMESPACE = f"{VARIABLE}_NAMESPACE"
_GROUP = f"{VARIABLE}_GROUP"
_STATE, _THREADS = 0, 17  # fields 3 and 20 of /proc/PID/stat, counted from behind the command
_ENDED = (b"Z", b"X")
_ROUNDS = 100  # what is killed may have started another one just before; each round sees the next
_QUIET_ROUNDS = 2  # while processes end, the system's list of children may lack one
_STUCK_MILLISECONDS = 2000


def mark(environment: Mapping[str, str], owner: str, group: str = "") -> dict[str, str]:
    """Return the environment of a process that runs for ``owner``, as ``this_process`` names it.

    ``group`` is a word that it has in common with all that it starts, and with nobody else.
    """
    return {**environment, VARIABLE: owner, _NAMESPACE: _namespace(), _GROUP: group}


def become_subreaper() -> bool:
    """Make this process the parent of all its descendants whose own parent ends; whether that worked."""
    if sys.platform != "linux":
        return False
    return int(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0


def family(pid: int) -> tuple[int, ...]:
    """Return a process and all its descendants, parents first, also those that ended and are not reaped."""
    found = [pid]
    seen = {pid}
    for each in found:  # grows while it is walked
        for child in _children(each):
            if child not in seen:
                seen.add(child)
                found.append(child)
    return tuple(found)


def glance(path: str) -> bytes:
    """Return what a file of /proc says, up to 64 KiB; nothing if the process is gone or may not be looked at.

    A third of the time of the usual ways, which counts for files that are read a hundred times a second.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # it ended in between
        return b""
    finally:
        os.close(descriptor)


def descendants(pid: int) -> tuple[int, ...]:
    """Return the living descendants of a process, parents first, without itself."""
    return tuple(each for each in family(pid)[1:] if not _ended(each))


def end_descendants(pid: int, keep: Collection[int] = ()) -> tuple[int, ...]:
    """Kill all living descendants of a process but those in ``keep``; return which, once they are gone.

    ``keep`` spares a process, not what it started. In a worker, with its own number: after an attempt, with
    ``keep`` what was there before it. Children of this process that ended are reaped, too.
    """
    killed = _end(lambda known: _held_descendants(pid, {*keep, *known}))
    if pid == os.getpid():
        _reap(keep)
    return killed


def end_orphans() -> tuple[int, ...]:
    """Kill this user's processes on this host that run for an owner who is dead; return which.

    Never kills this process, nor one whose owner lives, is unknown, or counts processes in another
    namespace.
    """
    return _end(_held_orphans) if sys.platform == "linux" else ()


def end_group(group: str) -> tuple[int, ...]:
    """Kill this user's processes on this host that are marked with a group; return which.

    For what a worker started that is gone itself, also what left its session.
    """
    if sys.platform != "linux" or not group:
        return ()
    return _end(lambda known: _held_group(group, known))


Held = tuple[int, int]
"""A process's number, and an open descriptor that means this very process whatever becomes of the number."""


def _end(find: Callable[[Collection[int]], Iterator[Held]]) -> tuple[int, ...]:
    """Kill what is found that is not known yet, until nothing is; wait until it is gone."""
    killed: dict[int, int] = {}
    quiet = 0
    try:
        for _ in range(_ROUNDS):
            known = frozenset(killed)
            for pid, descriptor in find(known):
                killed[pid] = descriptor
                with contextlib.suppress(OSError):  # it ended just now, or is somebody else's
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            quiet = quiet + 1 if len(killed) == len(known) else 0
            if quiet == _QUIET_ROUNDS:
                break
        _wait_gone(killed.values())
    finally:
        for descriptor in killed.values():
            os.close(descriptor)
    return tuple(killed)


def _held_descendants(pid: int, spared: Collection[int]) -> Iterator[Held]:
    """Yield descendants; looked for twice, for a number may change hands until the descriptor is open."""
    candidates = [each for each in descendants(pid) if each not in spared]
    held = [(each, descriptor) for each in candidates if (descriptor := _hold(each)) is not None]
    there = frozenset(descendants(pid)) if held else frozenset()
    for each, descriptor in held:
        if each in there:
            yield each, descriptor
        else:
            os.close(descriptor)


def _held_orphans(known: Collection[int]) -> Iterator[Held]:
    """Yield orphans that are not known yet.

    The descriptor is opened first. If a signal sent through it arrives, then the number was this process's
    all the time, and so was the environment that was read under the number.
    """
    namespace = _namespace()
    verdicts: dict[str, bool] = {}
    for pid in _own_processes():
        if pid in known or pid == os.getpid() or (descriptor := _hold(pid)) is None:
            continue
        marked = _marked(pid)
        owner = marked.get(VARIABLE, "")
        if owner and marked.get(_NAMESPACE) == namespace and owner not in verdicts:
            verdicts[owner] = is_dead(owner)
        if verdicts.get(owner) and marked.get(_NAMESPACE) == namespace and not _ended(pid):
            yield pid, descriptor
        else:
            os.close(descriptor)


def _held_group(group: str, known: Collection[int]) -> Iterator[Held]:
    """Yield processes of a group that are not known yet; the descriptor is opened first, as for orphans."""
    for pid in _own_processes():
        if pid in known or pid == os.getpid() or (descriptor := _hold(pid)) is None:
            continue
        if _marked(pid).get(_GROUP) == group and not _ended(pid):
            yield pid, descriptor
        else:
            os.close(descriptor)


def _hold(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:  # it ended just now
        return None


def _own_processes() -> list[int]:
    user = os.geteuid()
    found = []
    with os.scandir("/proc") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.name.isdecimal() and entry.stat().st_uid == user:
                    found.append(int(entry.name))
    return found


def _marked(pid: int) -> dict[str, str]:
    """Return our variables in a process's environment, none if it may not be read."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    entries = (entry.decode(errors="replace").partition("=") for entry in environment.split(b"\0"))
    return {name: value for name, _, value in entries if name in (VARIABLE, _NAMESPACE, _GROUP)}


def _namespace() -> str:
    """Return the name of the space in which this process's numbers mean something."""
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115  # no path, but text such as pid:[4026531836]
    except OSError:
        return ""


def _children(pid: int) -> Iterator[int]:
    """Yield the children of all threads of a process; the system keeps them by thread."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208  # names only, and often
    except OSError:
        return
    for thread in threads:
        yield from map(int, glance(f"/proc/{pid}/task/{thread}/children").split())


def _ended(pid: int) -> bool:
    """Whether a process runs no more, not one of its threads."""
    fields = glance(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return not fields or (fields[_STATE] in _ENDED and int(fields[_THREADS]) <= 1)


def _wait_gone(descriptors: Collection[int]) -> None:
    """Wait until processes are gone, but not for ever: one may hang in the kernel."""
    poll = select.poll()
    left = set(descriptors)
    for descriptor in left:
        poll.register(descriptor, select.POLLIN)
    while left and (gone := poll.poll(_STUCK_MILLISECONDS)):
        for descriptor, _ in gone:
            poll.unregister(descriptor)
            left.discard(descriptor)


def _reap(keep: Collection[int]) -> None:
    """Take note of our children that ended; nobody else would of those that were left to us."""
    for child in list(_children(os.getpid())):
        if child not in keep and _ended(child):
            with contextlib.suppress(OSError):
                os.waitpid(child, os.WNOHANG)
