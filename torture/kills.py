"""SIGKILL of worker processes, of the main process, of all at once, and of lone publishers.

A publisher is the platform's lake writer and store in one process that starts at once, so that most kills
can strike while something is being published. The rest strike the command: each of its projects is filled
from nothing, then made again by changed code over what is there, while a thread reads everything published as
a user would. Every task appends a line to a ledger (one write(2) with O_APPEND) when its code runs, so that
it is known what ran again although it was published.

A command whose workers are killed four times running before they have loaded the code takes the code for
broken and ends with that word. This is counted, and no finding: the next plain command must go on.
"""

import contextlib
import os
import random
import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Self

from sidestage.data.lake import Lake
from sidestage.observe.sql import open_published
from sidestage.store.sql import SqlStore
from torture.bench import Bench
from torture.oracle import PRODUCTION, Findings, Judge, judge_rest, missing, published
from torture.report import Row
from torture.rig import LIMIT_SECONDS, Rig, Running

DAYS = 40
DATASETS = ("left", "right", "both")
STEPS = len(DATASETS) * DAYS
ROWS = 50
KILLS_EACH = 17
"""Kills of one phase; a project has two phases."""
AT_ONCE = 0.15
"""Share of kills that strike at a random moment of the start instead of after some progress."""
START_SECONDS = 1.5
COMMAND_SHARE = 0.25
LIVES_OF_A_BENCH = 40
LONGEST_SECONDS = 0.15
CODE_IS_LOST = 2
"""Exit status of a command whose workers cannot load the code."""
VICTIMS = ("main", "worker", "worker", "both")
STARTS_OF_A_WORKER = 4
"""A command whose workers die so often in a row while they load the code ends: it may be the code."""

CODE = """
import os, time

from sidestage import Daily, Dataset, Partition, Pipeline, Retry, window
from sidestage.checks import row_count, unique
import pyarrow as pa

GENERATION = 1
days = Daily(start="2026-01-01", end="2026-02-09")
left, right, both = (
    Dataset(name, days, key=["n"], checks=[unique("n"), row_count(at_least=50)])
    for name in ("left", "right", "both")
)
pipeline = Pipeline("small", retry=Retry(times=50, delay=0.01, longest=0.05))


def note(step):
    file = os.open("{LEDGER}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{step}\\n".encode())
    os.close(file)
    time.sleep(0.001 + hash(step) % 5 / 1000)


def rows(day, bias):
    numbers = range(50)
    made = [n * GENERATION + bias for n in numbers]
    return pa.table({"n": numbers, "x": made, "generation": [GENERATION] * 50})


@pipeline.task(writes=left)
def make_left(day: Partition) -> pa.Table:
    note(f"small.make_left@{day.key}")
    return rows(day, 1)


@pipeline.task(writes=right)
def make_right(day: Partition) -> pa.Table:
    note(f"small.make_right@{day.key}")
    return rows(day, 2)


@pipeline.task(reads={"a": left, "b": window(right, before=1)}, writes=both)
def join(day: Partition, a: pa.Table, b: pa.Table) -> pa.Table:
    note(f"small.join@{day.key}")
    total = sum(a["x"].to_pylist()) + sum(b["x"].to_pylist())
    return rows(day, total)
"""

# Only part of the pipeline is asked for: a complete run releases its code, which may not be changed then.
ALL = ("--partitions", "2026-01-01:2026-02-09")


@dataclass
class Reader:
    """A thread that reads everything published as a user would, over and over; it keeps what was wrong."""

    rig: Rig
    pause: float = 0.2
    wrong: list[str] = field(default_factory=list)
    looks: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._read_on, name="reader")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()

    def _read_on(self) -> None:
        while not self._stop.wait(self.pause):
            with self.rig.store() as store:
                try:
                    self.wrong.extend(look(store, self.rig.lake))
                except Exception as error:  # noqa: BLE001  # whatever a reader meets is a finding
                    self.wrong.append(f"a reader failed: {type(error).__name__}: {error}")
            self.looks += 1


def look(store: SqlStore, lake: Lake) -> list[str]:
    """Read all that is published once; return what is partial or mixed."""
    shown = open_published(store, lake)
    wrong: list[str] = []
    try:
        for view in shown.views:
            query = "SELECT _partition, count(*), count(DISTINCT generation) FROM production.{} GROUP BY 1"
            found = shown.connection.execute(query.format(f'"{view.name}"')).fetchall()
            wrong.extend(f"{view.name} {row} is partial or mixed" for row in found if row[1:] != (ROWS, 1))
            if len(found) != view.partitions:
                wrong.append(f"{view.name} shows {len(found)} of {view.partitions} partitions")
    finally:
        shown.connection.close()
    return wrong


class Campaign:
    """Starts the command, waits for a random amount of progress, kills, starts again; then judges."""

    def __init__(self, rig: Rig, chance: random.Random, row: Row, *more: str) -> None:
        self.rig = rig
        self.row = row
        self.more = more
        self.starts = 0
        self.gave_up = 0
        """How many commands ended because their workers were killed over and over before they could begin."""
        self._chance = chance
        self._judge = Judge(rig.lake)
        self._first_run = 1

    def complete(self, kills: int, steps: int = STEPS) -> int:
        """Kill up to ``kills`` times over ``steps`` steps, then let the run finish; return how often."""
        with self.rig.store() as store:
            newest = store.runs(limit=1)
        self._first_run = newest[0].id + 1 if newest else 1
        struck, after_kill = 0, False
        stride = max(2, 2 * steps // max(1, kills + 1))
        while struck < kills:
            ended, count = self._cycle(kills - struck, stride, after_kill=after_kill)
            struck, after_kill = struck + count, True
            if ended:
                break
        self.cycle(after_kill=struck > 0)
        self._judge_publications(steps)
        return struck

    def cycle(self, *, after_kill: bool = False) -> None:
        """Run to the end without a kill, and judge that run."""
        self._cycle(0, 0, after_kill=after_kill)

    def _cycle(self, kills: int, stride: int, *, after_kill: bool) -> tuple[bool, int]:
        """Start once; return whether the command came to its end by itself, and how many kills it took."""
        shown, before = self._published(), len(self.rig.done())
        running = self.rig.start("run", "small", *self.more)
        self.starts += 1
        struck, ended, target, workers = 0, kills == 0, 0, 0
        try:
            while kills > struck and not ended:
                target = max(target, running.count()) + self._chance.randrange(stride)
                ended = not self._wait(running, target)
                if not ended:
                    whom = self._chance.choice(VICTIMS)
                    hit = self._strike(running, whom)
                    struck, workers = struck + hit, workers + hit
                    if whom != "worker":
                        break
        finally:
            if not ended:
                running.kill()
            status, error = running.end()
        if workers >= STARTS_OF_A_WORKER and status == CODE_IS_LOST and "keep dying" in error:
            self.gave_up += 1
        else:
            self._judge_end(status, error, expect_success=ended)
        self._judge_cycle(running, before, shown)
        if after_kill and running.count():
            self.row.recovery.append(running.acknowledged()[0].moment - running.started)
        return ended, struck

    def _wait(self, running: Running, target: int) -> bool:
        """Wait for a moment to strike; return False if the command ended before."""
        if self._chance.random() < AT_ONCE:
            return running.sleep(self._chance.random() * START_SECONDS)
        return running.wait(target)

    def _strike(self, running: Running, whom: str) -> int:
        workers = [] if whom == "main" else running.children()
        if whom == "worker":
            victims = [self._chance.choice(workers).pid] if workers else []
        else:
            victims = [running.process.pid, *(worker.pid for worker in workers)]
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        self.row.injected[whom] += bool(victims)
        return int(bool(victims))

    def _judge_end(self, status: int | None, error: str, *, expect_success: bool) -> None:
        if status is None:
            self.row.findings.stuck.append(f"the command did not end in {LIMIT_SECONDS} s: {error}")
        elif status != 0 and (expect_success or status != -signal.SIGKILL):
            self.row.findings.stuck.append(f"the command ended with {status}: {error}")
            self.row.manual += 1

    def _judge_cycle(self, running: Running, before: int, shown: set[str]) -> None:
        said = running.acknowledged()
        self.row.acknowledged += len(said)
        with self.rig.store() as store:
            self.row.findings.add(self._judge.judge(store, said))
        again = sorted(shown & set(self.rig.done()[before:]))
        if again:
            self.row.findings.twice.append(f"ran again although published before: {again}")

    def _published(self) -> set[str]:
        """Return the steps that the current phase has published by now."""
        with self.rig.store() as store:
            versions = store.versions(store.pointers(PRODUCTION).values()).values()
        return {version.step for version in versions if int(version.run) >= self._first_run}

    def _judge_publications(self, steps: int) -> None:
        with self.rig.store() as store:
            log, newest = published(store), store.runs(limit=1)
        places = Counter((e.dataset, e.partition) for e in log if (e.run or 0) >= self._first_run)
        self.row.findings.twice.extend(
            f"{place} was published {count} times" for place, count in places.items() if count > 1
        )
        if len(places) != steps:
            self.row.findings.stuck.append(f"{len(places)} of {steps} partitions were published")
        if [run.state for run in newest] != ["done"]:
            self.row.findings.stuck.append(f"the last run is not done: {[run.state for run in newest]}")


def judge_project(rig: Rig) -> Findings:
    """Return what is wrong with a finished project: its pointers, files, digests, leftovers."""
    rig("clean", "--yes", "--grace", "0", "--keep-days", "0")
    with rig.store() as store:
        found = Judge(rig.lake).judge(store, ())
        found.add(judge_rest(store, rig.lake))
        found.stuck.extend(missing(store, {(name, day) for name in DATASETS for day in days()}))
    found.orphans.extend(f"left in scratch: {path.name}" for path in (rig.state / "scratch").iterdir())
    found.orphans.extend(f"left running: {named}" for named in rig.end_all())
    return found


def days() -> list[str]:
    """Return the keys of the project's partitions."""
    return [(date(2026, 1, 1) + timedelta(days=number)).isoformat() for number in range(DAYS)]


def run(kills: int, seed: int, folder: Path) -> Row:
    """Kill so many times: publishers, and the command's processes."""
    by_command = max(1, round(kills * COMMAND_SHARE))
    row = kill_commands(by_command, seed, folder)
    chance = random.Random(f"publishers {seed}")
    while (left := kills - row.injected.total()) > 0:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            bench = Bench(Path(place), row)
            for _ in range(min(left, LIVES_OF_A_BENCH)):
                _kill_publisher(bench, chance)
            bench.finish()
            row.findings.add(bench.findings)
    return row


def _kill_publisher(bench: Bench, chance: random.Random) -> None:
    publisher = bench.start()
    try:
        publisher.wait_until_ready()
        publisher.go()
        publisher.process.join(chance.random() * LONGEST_SECONDS)
    finally:
        _, said = publisher.end(kill=True)
    bench.row.injected["publisher"] += 1
    bench.judge(said)


def kill_commands(kills: int, seed: int, folder: Path, make: Callable[[Path, str], Rig] = Rig.make) -> Row:
    """Kill processes of the command, in as many projects as that takes; one that was judged is removed."""
    row, chance, number, looks, gave_up = Row("kills"), random.Random(f"kills {seed}"), 0, 0, 0
    while (left := kills - row.injected.total()) > 0 and not row.findings.all():
        number += 1
        home = folder / f"kills{number}"
        home.mkdir()
        rig = make(home, CODE)
        try:
            rig("status")  # makes the catalog
            campaign = Campaign(rig, chance, row, *ALL)
            with Reader(rig, pause=1.0) as reader:
                campaign.complete(min(left, KILLS_EACH))
                rig.edit("GENERATION = 1\n", "GENERATION = 2\n")
                campaign.complete(max(0, min(kills - row.injected.total(), KILLS_EACH)))
            looks, gave_up = looks + reader.looks, gave_up + campaign.gave_up
            row.findings.torn.extend(reader.wrong)
            row.findings.add(judge_project(rig))
        finally:
            rig.end_all(seconds=0.0)
            shutil.rmtree(home)
    row.notes.append(f"{number} projects, {looks} looks of a reader at everything published")
    if gave_up:
        row.notes.append(
            f"{gave_up} commands gave up on workers that were killed as often as they were started"
        )
    return row
