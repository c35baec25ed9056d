"""What every benchmark says about where it ran, and how figures are summed up."""

import os
import platform
import sqlite3
import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import sidestage


def describe(*libraries: str) -> None:
    """Print the machine, the versions of Python, SQLite and ``libraries``, and the command."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(f"machine: {os.cpu_count()} x {_processor()}, {memory:.0f} GiB, {platform.platform()}")
    print(f"load when started: {', '.join(f'{load:.1f}' for load in os.getloadavg())} (1, 5, 15 minutes)")
    named = ", ".join(f"{library} {_version(library)}" for library in libraries)
    print(f"python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {named}")
    print(
        f"command: python {Path(sys.argv[0]).parent.name}/{' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}"
    )


def milliseconds(seconds: Sequence[float]) -> str:
    """Return the median and the quartiles of some times, in milliseconds."""
    if len(seconds) == 1:
        return f"{seconds[0] * 1000:9.3f} ms"
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return f"{middle * 1000:9.3f} ms (quartiles {low * 1000:.3f} to {high * 1000:.3f})"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # run from a source tree
        return sidestage.__version__ if library == "sidestage" else "not installed"
