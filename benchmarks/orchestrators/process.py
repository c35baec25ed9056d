"""One process group at a time: started, watched, and ended with all that it started."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from msgspec import Struct

SETTLE_SECONDS = 3.0
SAMPLE_SECONDS = 0.2
MIB = 2**20


class Ended(Struct, frozen=True):
    """What came of a process: its answer or what was the matter; memory in MiB, where it was watched."""

    answer: dict[str, Any]
    error: str = ""
    idle: float = 0.0
    peak: float = 0.0


def run(command: Sequence[str | Path], folder: Path, timeout: float, *, watch: bool = False) -> Ended:
    """Run a peer's script, whose last line is its answer in JSON, in a folder of its own.

    With ``watch`` the script is told to hold when all is up; its memory is measured then, and until it ends.
    """
    output = folder / "output.log"
    idle = peak = 0.0
    deadline = time.monotonic() + timeout
    with output.open("wb") as file, started(command, folder, file) as process:
        try:
            if watch:
                idle, peak = memory(process, folder / "ready", deadline)
            status = process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return Ended({}, f"stopped after {timeout:.0f} s")
    lines = output.read_text(errors="replace").splitlines()
    answers = [line for line in lines if line.startswith('{"case"')]
    if status or not answers:
        return Ended({}, f"status {status}: {lines[-1][:120] if lines else 'no output'}")
    return Ended(json.loads(answers[-1]), "", idle, peak)


@contextlib.contextmanager
def started(command: Sequence[str | Path], folder: Path, output: Any) -> "Iterator[subprocess.Popen[bytes]]":
    """Start a process in a session of its own, and leave nothing of the session behind."""
    (folder / "tmp").mkdir(exist_ok=True)
    environment = {**os.environ, "HOME": str(folder), "TMPDIR": str(folder / "tmp")}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        while alive := members(process.pid):
            for each in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGKILL)
            process.poll()  # or it would stay among them for ever
            psutil.wait_procs(alive, timeout=1)


def members(leader: int) -> list[psutil.Process]:
    """Return the processes of a session and their descendants that have not ended."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = process
                found |= {child.pid: child for child in process.children(recursive=True)}
    return [*found.values()]


def memory(process: "subprocess.Popen[bytes]", ready: Path, deadline: float) -> tuple[float, float]:
    """Return the memory of a session when all is up, and the most it had afterwards, in MiB."""
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            return 0.0, 0.0
        time.sleep(0.05)
    time.sleep(SETTLE_SECONDS)
    idle = peak = proportional(process.pid)
    ready.unlink()
    while process.poll() is None and time.monotonic() < deadline:
        peak = max(peak, proportional(process.pid))
        time.sleep(SAMPLE_SECONDS)
    return idle, peak


def proportional(leader: int) -> float:
    """Return the proportional set size of a session, which counts a shared page once, in MiB."""
    total = 0
    for process in members(leader):
        with contextlib.suppress(psutil.Error, OSError):
            total += process.memory_full_info().pss
    return total / MIB


def wait_until_quiet(patience: float, limit: float) -> float:
    """Wait until other programs use at most so many percent of the processors; return what they use now."""
    deadline = time.monotonic() + patience
    while (used := float(psutil.cpu_percent(interval=0.5))) > limit and time.monotonic() < deadline:
        pass
    return used
