"""The only reader of time; tests turn it by hand."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Where the platform reads time."""

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go backwards, for durations and leases."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never go backwards, for durations and leases."""
        return time.monotonic()


class Uptime(NamedTuple):
    """A clock that all processes of a host share. ``boot`` names when it began, for nobody else to read."""

    boot: str
    seconds: Callable[[], float]


def host_uptime() -> Uptime:
    """Return the time since the host was started: nobody sets it, and it goes on while the host sleeps.

    Where the system does not tell (macOS, Windows, a Linux without /proc) it is the wall clock, which is the
    only other one that all processes share; it moves when somebody sets it.
    """
    try:
        boot, clock = _BOOT_ID.read_text(encoding="ascii").strip(), time.CLOCK_BOOTTIME
    except (OSError, AttributeError):
        return Uptime("wall clock", time.time)
    return Uptime(boot, lambda: time.clock_gettime(clock))
