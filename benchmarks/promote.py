"""What promoting and rolling back a year of four datasets costs: 1,460 pointers moved at once.

A real project is run, its candidate (all four tasks changed) staged and compared. Then, in turns:

- promote, rollback: the verbs of ``Project``, which read the world, ask every gate, and move
- move: the part of it in which the store moves pointers, logs them and commits (``Store.move``)
- bare: the least that this takes in SQLite: 1,460 rows updated, 1,460 inserted into a log, one synced commit
- command: ``sidestage promote`` and ``rollback`` as processes of their own, Python's start included

Usage: python benchmarks/promote.py [--rounds 10] [--quick]
"""

import argparse
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from machine import describe, milliseconds
from sidestage import Project, Selection

DATASETS = 4
FIRST_DAY = date(2025, 1, 1)
GOAL = "at most 100 ms"
CONFIGURATION = """
[project]
name = "year"
pipelines = ["year.pipeline"]

[run]
workers = 2
"""
MODULE = """
import pyarrow as pa
from sidestage import Daily, Dataset, Partition, Pipeline

days = Daily(start="{start}", end="{end}", tz="UTC")
pipeline = Pipeline("year", owner="benchmark@example")
zero, one, two, three = (Dataset(f"year/d{{number}}", days, key=["id"]) for number in range(4))


@pipeline.task(writes=zero)
def make_zero(day: Partition) -> pa.Table:
    return pa.table({{"id": [1, 2, 3], "value": [{factor}, 2, 3]}})


@pipeline.task(reads=zero, writes=one)
def make_one(day: Partition, before: pa.Table) -> pa.Table:
    return before.append_column("one", [[{factor}, {factor}, {factor}]])


@pipeline.task(reads=one, writes=two)
def make_two(day: Partition, before: pa.Table) -> pa.Table:
    return before.append_column("two", [[{factor}, {factor}, {factor}]])


@pipeline.task(reads=two, writes=three)
def make_three(day: Partition, before: pa.Table) -> pa.Table:
    return before.append_column("three", [[{factor}, {factor}, {factor}]])
"""


def write_code(root: Path, end: str, factor: int) -> None:
    package = root / "src" / "year"
    package.mkdir(parents=True, exist_ok=True)
    (root / "sidestage.toml").write_text(CONFIGURATION)
    (package / "__init__.py").write_text("")
    (package / "pipeline.py").write_text(MODULE.format(start=FIRST_DAY, end=end, factor=factor))


def prepare(root: Path, end: str) -> None:
    """Run production, then stage and compare a candidate whose every version differs."""
    write_code(root, end, 10)
    with Project.open(root) as project:
        run = project.run(Selection("year"))
        assert run is not None
        assert run.state == "done", run
        write_code(root, end, 11)
        staged = project.stage(Selection("year"), ".", "candidate")
        assert staged is not None
        assert staged.state == "done", staged
        started = time.perf_counter()
        compared = project.compare("candidate")
        assert compared.comparison.passed, compared.comparison
    print(
        f"prepared: {run.published:,} steps run in {run.seconds:.1f} s, {staged.published:,} staged in"
        f" {staged.seconds:.1f} s, compared in {time.perf_counter() - started:.1f} s"
    )


class Bare:
    """A table of pointers and a log, moved back and forth."""

    def __init__(self, path: Path, pointers: int) -> None:
        self.database = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = FULL"):
            self.database.execute(f"PRAGMA {pragma}")
        self.database.execute("CREATE TABLE pointer (place TEXT PRIMARY KEY, version TEXT) WITHOUT ROWID")
        self.database.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, place TEXT, old TEXT, new TEXT)")
        self.places = [f"year/d{number % DATASETS}/{number // DATASETS:04}" for number in range(pointers)]
        self.database.execute("BEGIN")
        self.database.executemany("INSERT INTO pointer VALUES (?, 'a')", [(place,) for place in self.places])
        self.database.execute("COMMIT")

    def move(self, old: str, new: str) -> None:
        """Move every pointer, if it shows ``old``."""
        self.database.execute("BEGIN IMMEDIATE")
        moved = self.database.executemany(
            "UPDATE pointer SET version = ? WHERE place = ? AND version = ?",
            [(new, place, old) for place in self.places],
        )
        assert moved.rowcount == len(self.places)
        self.database.executemany(
            "INSERT INTO log (place, old, new) VALUES (?, ?, ?)", [(place, old, new) for place in self.places]
        )
        self.database.execute("COMMIT")

    def close(self) -> None:
        """Close the database."""
        self.database.close()


Times = dict[str, list[float]]
"""Seconds of everything, by what was done."""


@contextmanager
def timed(times: Times, name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    times.setdefault(name, []).append(time.perf_counter() - started)


def measure(root: Path, days: int, rounds: int) -> Times:
    times: Times = {}
    with Project.open(root) as project, closing(Bare(root / "bare.db", DATASETS * days)) as bare:
        verb = ""
        move: Callable[..., Any] = project.store.move

        def timed_move(*arguments: Any) -> Any:
            with timed(times, f"{verb}: move"):
                return move(*arguments)

        project.store.move = timed_move  # type: ignore[method-assign, assignment]
        for _ in range(rounds):
            verb = "promote"
            with timed(times, verb):
                promoted = project.promote("year", "candidate", reason="benchmark")
            assert promoted.pointers == DATASETS * days, promoted
            with timed(times, "bare"):
                bare.move("a", "b")
            verb = "rollback"
            with timed(times, verb):
                project.rollback("year", reason="benchmark")
            with timed(times, "bare"):
                bare.move("b", "a")
            for command in (["promote", "candidate"], ["rollback", "year"]):
                with timed(times, f"{command[0]}: command"):
                    run(root, *command)
    return times


def run(root: Path, *words: str) -> None:
    command = [sys.executable, "-m", "sidestage", *words, "--project", str(root), "--reason", "benchmark"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def report(times: Times, pointers: int) -> None:
    print(f"{pointers:,} pointers of {DATASETS} datasets, {len(times['promote'])} rounds:")
    for name, taken in times.items():
        print(f"  {name:18} {milliseconds(taken)}")
    bare = statistics.median(times["bare"])
    for verb in ("promote", "rollback"):
        whole, move = (statistics.median(times[name]) for name in (verb, f"{verb}: move"))
        print(
            f"ratio {verb} to bare: {whole / bare:.2f}, its move alone {move / bare:.2f};"
            f" {whole * 1000:.1f} ms and {move * 1000:.1f} ms (goal: {GOAL} for the verb)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of promoting and rolling back.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="3 days and 2 rounds")
    options = parser.parse_args()
    describe("sidestage", "sqlalchemy", "msgspec")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        days, rounds = (3, 2) if options.quick else (365, options.rounds)
        prepare(root, f"{FIRST_DAY + timedelta(days=days - 1)}")
        report(measure(root, days, rounds), DATASETS * days)


if __name__ == "__main__":
    main()
