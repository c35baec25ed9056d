"""Wall clocks that jump two hours, forwards or backwards, under a run that lives. Needs libfaketime.

A second worker stands by, and would take what seems to be nobody's. Leases must not move: no step is taken
from who runs it, none is run twice, and no retry waits for two hours. The control is a Sidestage whose leases
run by the wall clock.
"""

import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from torture.oracle import Judge, clean, judge_rest, published
from torture.report import Row
from torture.rig import Rig, Running
from torture.weakened import WITHOUT

LIBRARY = "libfaketime.so.1"
PLACES = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/local/lib/faketime", "/usr/lib64/faketime")
JUMPS = ("+7200", "-7200")
STUCK_SECONDS = 90.0
"""A run of a second that takes so long waits for a clock."""
STEPS = 24

CODE = """
import os, select

from sidestage import Dataset, Partition, Pipeline, Retry, Static
import pyarrow as pa

parts = Static([f"p{n:02}" for n in range(24)])
rows = Dataset("rows", parts, key=["n"])
pipeline = Pipeline("small", retry=Retry(times=5, delay=0.4, longest=0.4))


@pipeline.task(writes=rows)
def make(part: Partition) -> pa.Table:
    file = os.open("{LEDGER}", os.O_RDWR | os.O_APPEND | os.O_CREAT)
    again = f"small.make@{part.key}\\n".encode() in os.pread(file, 1_000_000, 0)
    os.write(file, f"small.make@{part.key}\\n".encode())
    os.close(file)
    number = int(part.key[1:])
    if number % 6 == 1 and not again:
        raise ConnectionError("for the first time")
    # libfaketime cannot sleep until a moment of the monotonic clock, which is how time.sleep does it.
    select.select([], [], [], 0.5 if number % 6 == 0 else 0.02)
    return pa.table({"n": [1]})
"""
TRIES = {f"small.make@p{number:02}": 2 if number % 6 == 1 else 1 for number in range(STEPS)}


def library() -> Path | None:
    """Return where libfaketime is, or None."""
    folders = [folder for place in PLACES for folder in sorted(Path("/").glob(place.lstrip("/")))]
    return next((folder / LIBRARY for folder in folders if (folder / LIBRARY).exists()), None)


def run(jumps: int, seed: int, folder: Path) -> Row:
    """Let the clock jump so many times, each in a run of its own that is some way on."""
    row, chance = Row("clock"), random.Random(f"clock {seed}")
    found = library()
    if found is None:
        row.skipped = row.missing = "needs libfaketime (Debian: apt-get install faketime)"
        return row
    for number in range(jumps):
        home = folder / f"clock{number}"
        home.mkdir()
        rig, clock = _rig(home, found)
        try:
            _jump(row, rig, clock, JUMPS[number % 2], chance.randint(1, STEPS // 2))
        finally:
            rig.end_all(seconds=0.0)
            shutil.rmtree(home)
    _control(row, folder, found)
    return row


def _control(row: Row, folder: Path, found: Path) -> None:
    """Let the clock jump under a run that goes by it: it must be found to lose its own leases."""
    scratch = Row("control")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        rig, clock = _rig(Path(place), found)
        rig.environment[WITHOUT] = "uptime"
        rig.edit("0.5 if", "6.0 if")  # a step that runs while the other worker loads the code and looks
        try:
            _jump(scratch, rig, clock, "+7200", 1)
        finally:
            rig.end_all(seconds=0.0)
    row.judge_control("leases by the wall clock", scratch.findings.twice)


def _rig(home: Path, found: Path) -> tuple[Rig, Path]:
    clock = home / "clock"
    clock.write_text("+0\n")
    faking = {
        "LD_PRELOAD": str(found),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    # Hearts beat more rarely than workers look for what they could take.
    settings = "[run]\nworkers = 2\nlease = 60.0\n"
    return Rig.make(home, CODE, settings=settings, environment=faking), clock


def _jump(row: Row, rig: Rig, clock: Path, jump: str, after: int) -> None:
    """Turn the clock under a run once it has published ``after`` steps."""
    standing_by = rig.start("worker", "--slots", "6")  # so that it has one free in any case
    running = rig.start("run", "small")
    if not running.wait(after):
        row.findings.stuck.append(f"no run under a false clock: {running.end()}")
        return
    clock.write_text(f"{jump}\n")
    row.injected[f"{jump} s"] += 1
    status, error = running.end(STUCK_SECONDS)
    _judge_run(row, rig, running, f"{jump} s after {after} publications", status, error)
    if status is None:
        clock.write_text("+0\n")
    standing_by.process.terminate()
    helped, error = standing_by.end(STUCK_SECONDS)
    if helped != 0:
        row.findings.stuck.append(f"{jump}: the worker that stood by ended with {helped}: {error}")
    again = rig.start("run", "small")
    status, error = again.end(STUCK_SECONDS)
    if status != 0:
        row.findings.stuck.append(f"{jump}: the next command ended with {status}: {error}")
        row.manual += 1
    said = [each for one in (running, standing_by, again) for each in one.acknowledged()]
    row.acknowledged += len(said)
    with rig.store() as store:
        clean(store, rig.lake)
        row.findings.add(Judge(rig.lake).judge(store, said, all_files=True))
        row.findings.add(judge_rest(store, rig.lake))
        if len(published(store)) != STEPS:
            row.findings.twice.append(f"{jump}: {len(published(store))} publications of {STEPS} steps")


def _judge_run(row: Row, rig: Rig, running: Running, what: str, status: int | None, error: str) -> None:
    if status is None:
        left = STEPS - running.count()
        row.findings.stuck.append(f"{what}: {left} steps were still left after {STUCK_SECONDS:.0f} s")
    elif status != 0:
        row.findings.stuck.append(f"{what}: it ended with {status}: {error}")
    tries = Counter(rig.done())
    more = {step: count for step, count in tries.items() if count > TRIES[step]}
    if more:
        row.findings.twice.append(f"{what}: ran more often than needed: {more}")
    with rig.store() as store:
        taken = [each.step for each in store.attempts(1) if each.state == "abandoned"]
    if taken and status is not None:
        row.findings.twice.append(f"{what}: a lease moved with the clock, and its step was taken: {taken}")
