"""A parent's look at what a worker and all it started use: memory, processor, time, temporary files.

It is the far wall: it sees what no worker can be trusted to tell, also when the worker is busy in a library,
stopped, or hostile. It only looks; who asks ends the worker. Where /proc does not exist, it sees time and
temporary files only.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from sidestage.clock import Clock
from sidestage.policy.limits import Limits, seconds_text, size_text
from sidestage.runtime.orphans import family, glance

_FILES_PER_LOOK = 100
"""Entries of the temporary folder that one look reads; the next look goes on from there."""

_BLOCK = 512  # of st_blocks, whatever the file system
_CPU_FIELDS = slice(11, 15)  # fields 14 to 17 of /proc/PID/stat, counted from behind the command
_RESIDENT = (b"RssAnon:", b"RssShmem:", b"VmSwap:")
_PROPORTIONAL = (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")


class Usage(msgspec.Struct, frozen=True):
    """What one look saw: bytes and seconds since the watch began; 0 for what was not looked at."""

    time: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    temporary: int = 0


class Watch:
    """Watches one attempt: from now on, process ``pid`` and its descendants, and the folder ``temporary``.

    ``pid`` is a child that nobody has waited for yet, so that its number stays its own. What its tasks
    start and let go is seen if it is a subreaper (``orphans.become_subreaper``).

    A look costs 0.1 to 0.5 ms for a worker without children, and is made only at what is limited. It costs
    more, 10 microseconds for each MB, while processes that share memory hold together more than the limit,
    counting shared pages more than once: only then each page is counted once.
    """

    def __init__(self, pid: int, limits: Limits, temporary: Path, clock: Clock) -> None:
        self._pid = pid
        self._limits = limits
        self._clock = clock
        self._began = clock.monotonic()
        self._cpu_before = 0.0 if limits.cpu is None else _cpu_seconds(family(pid))
        self._files = _Folder(temporary)

    def exceeded(self) -> str | None:
        """Return which limit is exceeded and by what, in words that follow a name; None if none is."""
        limits, used = self._limits, self.usage()
        if limits.time is not None and used.time > limits.time:
            return f"ran for {seconds_text(used.time)}, longer than its limit of {seconds_text(limits.time)}"
        if limits.cpu is not None and used.cpu > limits.cpu:
            took, most = seconds_text(used.cpu), seconds_text(limits.cpu)
            return f"used {took} of processor time, more than its limit of {most}"
        if limits.memory is not None and used.memory > limits.memory:
            took, most = size_text(used.memory), size_text(limits.memory)
            return f"used {took} of memory, more than its limit of {most}"
        if limits.temporary is not None and used.temporary > limits.temporary:
            took, most = size_text(used.temporary), size_text(limits.temporary)
            return f"wrote {took} of temporary files, more than its limit of {most}"
        return None

    def usage(self) -> Usage:
        """Look at what is limited, and return it."""
        limits = self._limits
        asks = (limits.cpu, limits.memory, limits.temporary)
        pids = () if asks == (None, None, None) else family(self._pid)
        return Usage(
            time=self._clock.monotonic() - self._began,
            cpu=0.0 if limits.cpu is None else max(0.0, _cpu_seconds(pids) - self._cpu_before),
            memory=0 if limits.memory is None else _memory(pids, limits.memory),
            temporary=0 if limits.temporary is None else self._files.look() + self._files.unnamed(pids),
        )


def _memory(pids: tuple[int, ...], limit: int) -> int:
    """Return the bytes that processes hold together, exactly only if they might be more than the limit.

    Counted is what they made: not files that are mapped, which the system takes back when it needs room.
    """
    at_most = sum(_held(f"/proc/{pid}/status", _RESIDENT) or 0 for pid in pids)
    if at_most <= limit or len(pids) == 1:
        return at_most
    return sum(_shared_out(pid) for pid in pids)


def _shared_out(pid: int) -> int:
    """Return the bytes that a process holds, pages that several share divided among them."""
    exact = _held(f"/proc/{pid}/smaps_rollup", _PROPORTIONAL)
    return (_held(f"/proc/{pid}/status", _RESIDENT) or 0) if exact is None else exact


def _held(path: str, names: tuple[bytes, ...]) -> int | None:
    """Return the sum of named lines in kB of a file in /proc as bytes; None if they cannot be read."""
    content = glance(path)
    found = [line.split() for line in content.splitlines() if line.startswith(names)]
    return sum(int(words[1]) << 10 for words in found) if found else None


def _cpu_seconds(pids: tuple[int, ...]) -> float:
    """Return the processor time of processes and of those that they waited for."""
    ticks = 0
    for pid in pids:
        fields = glance(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        ticks += sum(map(int, fields[_CPU_FIELDS]))
    return ticks / os.sysconf("SC_CLK_TCK")


class _Folder:
    """Adds up the disk space of a folder's files, some in each look, and starts again when it is through."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._entries = _sizes(root)
        self._running = 0
        self._last = 0

    def look(self) -> int:
        """Return the bytes found in the last full pass, or in this one if that is more already."""
        for _ in range(_FILES_PER_LOOK):
            size = next(self._entries, None)
            if size is None:
                self._last, self._running = self._running, 0
                self._entries = _sizes(self._root)
                return self._last
            self._running += size
        return max(self._last, self._running)

    def unnamed(self, pids: tuple[int, ...]) -> int:
        """Return the bytes of open files of this folder that have no name any more, or never had one."""
        sizes: dict[tuple[int, int], int] = {}
        for path in _nameless(pids, f"{os.path.realpath(self._root)}/"):
            with contextlib.suppress(OSError):  # closed just now
                found = os.stat(path)  # noqa: PTH116  # a link that only the system can follow
                sizes[found.st_dev, found.st_ino] = found.st_blocks * _BLOCK
        return sum(sizes.values())


def _sizes(folder: Path) -> Iterator[int]:
    """Yield the disk space of each entry below a folder, following no link."""
    waiting = [str(folder)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # removed just now
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append(entry.path)
                    yield found.st_blocks * _BLOCK // (1 if stat.S_ISDIR(found.st_mode) else found.st_nlink)


def _nameless(pids: tuple[int, ...], folder: str) -> Iterator[str]:
    """Yield open files of a folder that were removed from it.

    Told by what the link says: to ask each open file itself could hang, if it lies on another host.
    """
    for pid in pids:
        with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    target = os.readlink(entry.path)  # noqa: PTH115  # text, not a path
                    if target.startswith(folder) and target.endswith(" (deleted)"):
                        yield entry.path
