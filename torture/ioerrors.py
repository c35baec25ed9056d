"""Errors of the disk, injected by strace into system calls of a publisher: EIO, ENOSPC, death at a rename.

Nothing of this needs root. What was written when a sync failed must never be acknowledged, by nobody, and a
commit whose sync failed not before another one succeeded; the trace tells the order of both.
"""

import random
import re
import signal
import tempfile
from pathlib import Path

from torture import tracing
from torture.bench import Bench
from torture.report import Row
from torture.rig import LIMIT_SECONDS
from torture.tracing import Trace

TRACED = "openat,write,pwrite64,rename,fsync,fdatasync"
FAULTS = (
    # name, the call it strikes, what happens, at which of these calls at most
    ("EIO at fsync", "fsync", "error=EIO", 6),
    ("EIO at fdatasync", "fdatasync", "error=EIO", 4),
    ("EIO at write", "write", "error=EIO", 4),
    ("ENOSPC at write", "write", "error=ENOSPC", 4),
    ("ENOSPC at pwrite64", "pwrite64", "error=ENOSPC", 12),
    ("EIO at rename", "rename", "error=EIO", 2),
    ("SIGKILL at rename", "rename", "signal=SIGKILL", 2),
)
_VERSION = re.compile(r"~([0-9a-f]{24})\.parquet")
_INJECTED = re.compile(r"^\d+ +(\w+)\((.*)\(INJECTED\)$")
_SPOKEN = re.compile(r'^\d+ +write\(\d+<pipe:\[\d+\]>, "\d+\.\d+ \d+ \S+ ([0-9a-f]{24})\\n"')
_SYNCED = re.compile(r"^\d+ +f(?:data)?sync\(\d+<[^>]*catalog\.db(?:-wal)?>\) += 0$")


def run(errors: int, seed: int, folder: Path) -> Row:
    """Inject so many errors, each kind at random calls; then again with errors of syncs overlooked."""
    row = Row("io errors")
    row.skipped = row.missing = tracing.why_not()
    if row.skipped:
        return row
    chance = random.Random(f"io errors {seed}")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        bench = Bench(Path(place), row)
        # Some come to nothing, because so little was left of a run that there was no such call.
        for number in range(3 * errors):
            name, call, fault, most = FAULTS[number % len(FAULTS)]
            strike(bench, name, call, f"{fault}:when={chance.randint(1, most)}")
            if row.injected.total() == errors:
                break
        bench.finish()
        row.findings.add(bench.findings)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        weak = Bench(Path(place), Row("control"), without=("sync errors",))
        for number in range(3, 6):
            strike(weak, "EIO at fsync", "fsync", f"error=EIO:when={number}")
        row.judge_control("sync errors overlooked", weak.findings.lied)
    return row


def strike(bench: Bench, name: str, call: str, fault: str) -> None:
    """Let a publisher publish a run with one call failing, and judge what it said and left."""
    publisher = bench.start(runs=1, batch=2)
    try:
        if not publisher.wait_until_ready():
            raise RuntimeError("a publisher did not start")
        with tracing.traced(publisher.pid, TRACED, fault, only=call) as trace:
            publisher.go()
            publisher.process.join(LIMIT_SECONDS)
    finally:
        status, said = publisher.end(kill=True)
    was_killed = status == -signal.SIGKILL
    bench.row.injected[name] += was_killed or any("(INJECTED)" in line for line in trace.lines)
    bench.findings.lied.extend(lies(trace, {each.version for each in said}))
    bench.judge(said)


def lies(trace: Trace, said: set[str]) -> list[str]:
    """Return what was acknowledged although a system call had failed that it stands on."""
    found, writing, doubtful = [], "", False
    for line in trace.lines:
        if version := _VERSION.search(line):
            writing = version[1]
        if injected := _INJECTED.match(line):
            call, what = injected[1], injected[2]
            if "catalog.db" in what:
                doubtful = True
            elif "pipe:" not in what and writing in said:
                found.append(f"{writing} was acknowledged although {call} had failed: {what[:200]}")
        elif _SYNCED.match(line):
            doubtful = False
        elif doubtful and _SPOKEN.match(line):
            found.append(f"acknowledged although the last sync of the catalog had failed: {line[:200]}")
    return found
