"""Processes that are killed while they write and follow files: nothing written is lost, what was torn is set apart."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from sidestage.connectors.line_files import LinesFile
from sidestage.connectors.parquet_folder import ParquetFolder, ParquetTransactionalFolder

SECONDS = 180.0
KILLS = 4

COPY = """
import sys, time
from pathlib import Path
import pyarrow as pa
from sidestage.connectors.line_files import JsonLinesFile, LinesFile
from sidestage.connectors.parquet_folder import ParquetFolder, ParquetTransactionalFolder
from sidestage.connectors.files import Lines
from sidestage.connectors.tail import Tail
from sidestage.stream import Checkpoint, Settings, Stream

kind, origin, target, last = sys.argv[1:]
schema = pa.schema([("n", pa.int64())])
rows = lambda line: {"n": int(line)}
sink, make, checkpoint = {
    "lines": lambda: (LinesFile(target), str, Checkpoint(target + ".checkpoint")),
    "json": lambda: (JsonLinesFile(target), rows, Checkpoint(target + ".checkpoint")),
    "parquet": lambda: (ParquetFolder(target, schema=schema), rows, Checkpoint(target + ".checkpoint")),
    "transactions": lambda: (ParquetTransactionalFolder(target, schema=schema, rows=700), rows, None),
    "tail": lambda: (LinesFile(target), str, Checkpoint(target + ".checkpoint")),
}[kind]()
source = Tail(origin, poll=0.01, patience=0.3) if kind == "tail" else Lines(origin)


def held_at_the_last(line):
    if line == last:  # it ends only if it may, so that it is always killed before
        Path(target + ".held").touch()
        while not Path(target + ".may-end").exists():
            time.sleep(0.01)
    return make(line)


print("begins", flush=True)
flow = Stream(source).map(held_at_the_last, name="make").to(sink)
flow.run(checkpoint=checkpoint, settings=Settings(chunk=64, commit_every=0.02))
print("done", flush=True)
"""


@contextmanager
def process(kind: str, origin: Path, target: Path, last: str = "") -> Iterator["subprocess.Popen[str]"]:
    """A process that copies lines, which is killed in the end; at the line ``last`` it waits until it may end."""
    words = [sys.executable, "-c", COPY, kind, str(origin), str(target), last]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "begins\n"
            yield started
        finally:
            started.kill()


def size_of(target: Path) -> int:
    """How much was written, also aside."""
    files = [target] if target.is_file() else target.rglob("*") if target.exists() else []
    return sum(file.stat().st_size for file in files if file.is_file())


def wait_until(holds: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def found_in(kind: str, target: Path) -> list[int]:
    if kind in ("parquet", "transactions"):
        files = sorted(target.glob("*.parquet"))
        return [row["n"] for file in files for row in parquet.read_table(file).to_pylist()]
    text = target.read_text()
    assert text.endswith("\n"), "a torn line was left at the end"
    return [json.loads(line)["n"] if kind == "json" else int(line) for line in text.splitlines()]


@pytest.mark.parametrize("kind", ["lines", "json", "parquet", "transactions"])
def test_what_is_killed_while_it_writes_loses_nothing(tmp_path, kind):
    total = 60_000
    origin, target = tmp_path / "in", tmp_path / "out"
    origin.write_text("".join(f"{n}\n" for n in range(total)))
    last, held = str(total - 1), tmp_path / "out.held"
    for _ in range(KILLS):
        before = size_of(target)
        with process(kind, origin, target, last) as running:
            wait_until(lambda before=before: size_of(target) > before + 500 or held.exists())
            running.kill()
            assert running.wait(SECONDS) == -signal.SIGKILL
    (tmp_path / "out.may-end").touch()
    with process(kind, origin, target, last) as running:
        assert running.stdout.readline() == "done\n"
        assert running.wait(SECONDS) == 0
    found = found_in(kind, target)
    assert set(found) == set(range(total))
    if kind == "transactions":
        assert len(found) == total
        assert found == sorted(found)
    assert list(target.rglob("*.aside")) == []


def test_a_follower_that_is_killed_misses_nothing_through_rotations(tmp_path):
    log, target, checkpoint = tmp_path / "log", tmp_path / "out", tmp_path / "out.checkpoint"
    count = 0

    def write(lines: int) -> None:
        nonlocal count
        with log.open("a") as file:
            for _ in range(lines):
                file.write(f"{count}\n")
                count += 1

    def rotate() -> None:
        for number in range(9, 0, -1):
            older = tmp_path / f"log.{number}"
            if older.exists():
                older.rename(tmp_path / f"log.{number + 1}")
        log.rename(tmp_path / "log.1")

    def lines() -> int:
        return target.read_bytes().count(b"\n") if target.exists() else 0

    write(500)
    for _ in range(3):
        before = lines()
        with process("tail", log, target) as running:
            # Before there is a checkpoint nobody knows that another file was begun with.
            wait_until(lambda before=before: lines() > before and checkpoint.exists())
            write(300)
            rotate()
            write(300)
            running.send_signal(signal.SIGKILL)
            running.wait(SECONDS)
        write(50)
        time.sleep(0.02)  # files are told apart by when they were last written to
        rotate()
        write(50)
    with process("tail", log, target):
        wait_until(lambda: target.exists() and str(count - 1) in target.read_text().splitlines())
    found = [int(line) for line in target.read_text().splitlines()]
    once = Counter(found)
    assert set(once) == set(range(count))
    firsts = list(dict.fromkeys(found))
    assert firsts == sorted(firsts), "what comes again comes in one piece, in its order"


WRITE = """
import sys
from pathlib import Path
import pyarrow as pa
from sidestage.connectors.line_files import LinesFile
from sidestage.connectors.parquet_folder import ParquetFolder, ParquetTransactionalFolder
from sidestage.stream.contract import Progress

kind, target = sys.argv[1:]
make = {"lines": LinesFile, "parquet": ParquetFolder, "transactions": ParquetTransactionalFolder}[kind]
writer = make(target).open()
for first in range(0, 1_000_000, 50):
    items = range(first, first + 50)
    writer.write([f"{n} {'x' * 2000}" for n in items] if kind == "lines" else [{"n": n} for n in items])
    if kind == "transactions":
        writer.commit(Progress(first // 50 + 1, {}), {})
    print(first + 50, flush=True)
"""


@pytest.mark.parametrize("kind", ["lines", "parquet", "transactions"])
def test_what_a_killed_process_said_was_written_is_there(tmp_path, kind):
    target = tmp_path / "out"
    command = [sys.executable, "-c", WRITE, kind, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        for _ in range(40):
            said = int(running.stdout.readline())
        os.kill(running.pid, signal.SIGKILL)
        said = max([said, *map(int, running.stdout.read().split()[-1:])])
    if kind == "lines":
        LinesFile(target).open().close()
        found = [int(line.split()[0]) for line in target.read_text().splitlines()]
        assert {len(line.split()[1]) for line in target.read_text().splitlines()} == {2000}
    else:
        place: Any = {"parquet": ParquetFolder, "transactions": ParquetTransactionalFolder}[kind](target)
        place.open().close()
        found = found_in(kind, target)
        assert list(target.rglob("*.aside")) == []
    assert found[:said] == list(range(said))
    assert len(found) in (said, said + 50)
    if kind == "transactions":
        assert place.progress().number * 50 == len(found)
