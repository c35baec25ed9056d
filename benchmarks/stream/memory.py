"""Whether memory stays flat: a program is watched while it sends items that would never fit at once."""

import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.orchestrators.process import proportional, started

SAMPLE_SECONDS = 0.2
EARLY, LATE = (0.2, 0.4), (0.8, 1.0)
"""Parts of the time that are compared; before them a program may still be growing to its size."""


def watch(command: Sequence[str | Path], folder: Path, timeout: float) -> tuple[list[float], str]:
    """Run a command; return the memory of all its processes in MiB, sampled evenly, and what was the matter.

    What it prints goes to ``output.log`` in the folder.
    """
    samples: list[float] = []
    deadline = time.monotonic() + timeout
    with (folder / "output.log").open("wb") as file, started(command, folder, file) as process:
        while (status := _status(process)) is None:
            if time.monotonic() > deadline:
                return samples, f"stopped after {timeout:.0f} s"
            samples.append(proportional(process.pid))
    return samples, f"status {status}" if status else ""


def flatness(samples: Sequence[float]) -> dict[str, float]:
    """Return the memory early, late and at most, in MiB, and how many percent late is above early."""
    early, late = (_middle(samples, *part) for part in (EARLY, LATE))
    return {"early": early, "late": late, "peak": max(samples), "growth": (late / early - 1) * 100}


def _middle(samples: Sequence[float], begin: float, end: float) -> float:
    first = int(len(samples) * begin)
    return statistics.median(samples[first : max(first + 1, int(len(samples) * end))])


def _status(process: "subprocess.Popen[Any]") -> int | None:
    try:
        return process.wait(SAMPLE_SECONDS)
    except subprocess.TimeoutExpired:
        return None
