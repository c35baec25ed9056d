"""Limits that the system sets on a worker from within, around one attempt.

They are the near wall: they turn too much into an exception, with a traceback of where. They see one
process, not those it started, and cannot interrupt a library that computes for minutes. The far wall is
``runtime.watch``, which the parent holds.
"""

import contextlib
import errno
import math
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from sidestage.errors import TaskError
from sidestage.policy.failure import FailureClass
from sidestage.policy.limits import Limits, seconds_text, size_text

_RESERVED_BYTES = 512 << 20
_RESERVED_BYTES_PER_PROCESSOR = 32 << 20  # four pools of threads, each with a stack of 8 MiB

_TOO_MANY_FILES = frozenset({errno.EMFILE, errno.ENFILE})


class LimitExceeded(TaskError):
    """An attempt needed more than its limits allow; it is in the failure class "resource"."""

    failure_class: FailureClass = "resource"


def reserved_bytes() -> int:
    """Return the memory that an attempt may set aside without using it, beyond its limit.

    The system counts what is set aside: stacks of threads, and what allocators keep in hand. Measured with
    pyarrow, DuckDB and polars together on two processors: 250 to 400 MB more than what they used.
    Allocators that ask for a whole gigabyte at once are refused it and do with less.
    """
    return _RESERVED_BYTES + _RESERVED_BYTES_PER_PROCESSOR * (os.cpu_count() or 1)


@contextmanager
def attempt_limits(limits: Limits) -> Iterator[None]:
    """Hold this process to the limits of one attempt; afterwards it has those that it had before.

    To be used in the main thread. Raises LimitExceeded in the block when the processor time is used up (again
    each second, should the block go on), and in place of a refusal that leaves the block: of memory, of one
    more open file, or of a file that is larger than the system lets this process write. Processes that the
    block starts inherit the limits. An attempt that crashes writes no core file.
    """
    with contextlib.ExitStack() as undo:
        _set(undo, resource.RLIMIT_CORE, 0)
        if limits.files is not None:
            _set(undo, resource.RLIMIT_NOFILE, limits.files)
        if limits.memory is not None and (aside := _set_aside_bytes()) is not None:
            _set(undo, resource.RLIMIT_DATA, limits.memory + aside + reserved_bytes())
        if limits.cpu is not None:
            undo.enter_context(_cpu(limits.cpu))
        try:
            yield
        except (MemoryError, OSError) as error:
            found = _exceeded_by(error, limits)
            if found is None:
                raise
            raise found from error


def _exceeded_by(error: MemoryError | OSError, limits: Limits) -> LimitExceeded | None:
    """Return what is to be said of a refusal of the system, None if it was due to no limit that we know."""
    refused = errno.ENOMEM if isinstance(error, MemoryError) else error.errno
    if refused == errno.ENOMEM and limits.memory is not None:
        return _exceeded(f"Needed more memory than its limit of {size_text(limits.memory)}.")
    if refused in _TOO_MANY_FILES and limits.files is not None:
        return _exceeded(f"Opened more files than its limit of {limits.files}.")
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if refused == errno.EFBIG and most != resource.RLIM_INFINITY:
        return LimitExceeded(
            f"Wrote a file larger than the {size_text(most)} that the system lets this process write.",
            hint="Write smaller files, or raise that limit where the command is started: ulimit -f",
        )
    return None


@contextmanager
def _cpu(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("Limits of processor time can be set in the main thread only.")
    armed = True

    def used_up(_signal: int, _frame: FrameType | None) -> None:
        if armed:
            limit = seconds_text(seconds)
            raise _exceeded(f"Used more processor time than its limit of {limit}.")

    before = signal.signal(signal.SIGXCPU, used_up)
    used = resource.getrusage(resource.RUSAGE_SELF)
    try:
        with contextlib.ExitStack() as undo:
            # The system counts whole seconds.
            _set(undo, resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + seconds))
            try:
                yield
            finally:
                armed = False
    finally:
        armed = False  # the signal may have come while the inner one was being reached
        signal.signal(signal.SIGXCPU, before)


def _set(undo: contextlib.ExitStack, kind: int, soft: int) -> None:
    """Set a soft limit, as far as the hard one allows, until ``undo`` ends."""
    before, hard = resource.getrlimit(kind)
    capped = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(kind, (capped, hard))
    undo.callback(_set_back, kind, before, hard)


def _set_back(kind: int, soft: int, hard: int) -> None:
    """Give a limit its old value, as far as the block did not lower the hard one for good."""
    try:
        resource.setrlimit(kind, (soft, hard))
    except (ValueError, OSError):
        lowered = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (lowered, lowered))


def _set_aside_bytes() -> int | None:
    """Return what this process has set aside and does not use; None where the system does not say.

    What it does use counts against the limit: a warm worker is no excuse.
    """
    if sys.platform != "linux":  # elsewhere the limit counts only part of the heap
        return None
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    sizes = [int(fields[name].split()[0]) << 10 for name in ("VmData", "RssAnon")]
    return max(0, sizes[0] - sizes[1])


def _exceeded(message: str) -> LimitExceeded:
    return LimitExceeded(message, hint="Raise the task's limit, or make it need less at a time.")
