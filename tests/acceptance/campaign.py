"""A campaign of SIGKILLs against one project, and the oracle that says whether it stood them.

Every task appends a line to a ledger (one write(2) with O_APPEND) when its code runs, so the campaign sees
progress without asking the platform, and knows afterwards what ran in which run.
"""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil
import pyarrow.parquet as pq

from conftest import MARK, SmallProject
from sidestage.data.digest import DigestBuilder
from sidestage.data.lake import Lake
from sidestage.data.version import Version
from sidestage.errors import SidestageError
from sidestage.observe.sql import open_published
from sidestage.store.sql import SqlStore, open_store

DAYS = 40
DATASETS = ("left", "right", "both")
ROWS = 50
LIMIT_SECONDS = 60.0
AT_ONCE = 0.15
"""Share of kills that strike at a random moment of the start instead of after some progress."""

CODE = """
import os, time

from sidestage import Daily, Dataset, Partition, Pipeline, Retry, window
from sidestage.checks import row_count, unique
import pyarrow as pa

GENERATION = 1
days = Daily(start="2026-01-01", end="2026-02-09")
left, right, both = (
    Dataset(name, days, key=["n"], checks=[unique("n"), row_count(at_least=50)]) for name in ("left", "right", "both")
)
pipeline = Pipeline("small", retry=Retry(times=50, delay=0.01, longest=0.05))


def note(step):
    file = os.open("{LEDGER}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{step}\\n".encode())
    os.close(file)
    time.sleep(0.001 + hash(step) % 5 / 1000)


def rows(day, bias):
    numbers = range(50)
    return pa.table({"n": numbers, "x": [n * GENERATION + bias for n in numbers], "generation": [GENERATION] * 50})


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


@dataclass
class Readers:
    """Threads that read everything published, over and over, as a user would; they keep what they saw wrong."""

    project: SmallProject
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
        while not self._stop.wait(0.2):
            with catalog(self.project) as store:
                try:
                    self.wrong.extend(look(store, lake_of(self.project)))
                except Exception as error:  # noqa: BLE001  # whatever a reader meets is a finding
                    self.wrong.append(f"a reader failed: {type(error).__name__}: {error}")
            self.looks += 1


def look(store: SqlStore, lake: Lake) -> list[str]:
    """Read all that is published once; return what is partial or mixed."""
    published = open_published(store, lake)
    wrong = []
    try:
        for view in published.views:
            found = published.connection.execute(
                f'SELECT _partition, count(*), count(DISTINCT generation) FROM production."{view.name}" GROUP BY 1'
            ).fetchall()
            wrong.extend(f"{view.name} {row} is partial or mixed" for row in found if row[1:] != (ROWS, 1))
            if len(found) != view.partitions:
                wrong.append(f"{view.name} shows {len(found)} of {view.partitions} partitions")
    finally:
        published.connection.close()
    return wrong


def catalog(project: SmallProject) -> SqlStore:
    """Open the project's catalog."""
    return open_store(f"sqlite:///{project.root}/.sidestage/catalog.db")


def lake_of(project: SmallProject) -> Lake:
    """Return the project's lake."""
    return Lake(project.root / ".sidestage" / "lake")


@dataclass
class Tally:
    """What a campaign did."""

    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    looks: int = 0
    to_publication: list[float] = field(default_factory=list)
    """Seconds from the start of a run after a kill to the first pointer that it moved."""


class Campaign:
    """Starts the command, waits for a random amount of progress, kills, starts again; then judges."""

    def __init__(self, project: SmallProject, chance: random.Random, tally: Tally, *more: str) -> None:
        self.project = project
        self.chance = chance
        self.tally = tally
        self.more = more
        self.wrong: list[str] = []
        self._first_run = 1

    def complete(self, kills: int, steps: int) -> int:
        """Kill up to ``kills`` times, about evenly over ``steps`` steps, then let the run finish; return how
        often it was killed.
        """
        with catalog(self.project) as store:
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
        published = self._published()
        before = len(self.project.done())
        started, clock = time.time(), time.monotonic()
        process = self._start()
        self.tally.starts += 1
        struck, ended, target = 0, kills == 0, before
        while kills > struck and not ended:
            target += self.chance.randrange(stride)
            ended = not self._wait(process, target, clock)
            if not ended:
                whom = self.chance.choice(("main", "worker", "worker", "both"))
                struck += self._strike(process, whom)
                if whom != "worker":
                    break
        self._end(process, expect_success=ended)
        self._judge_cycle(before, published)
        if after_kill:
            self._measure(started)
        return ended, struck

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self.project.sidestage.arguments("run", "small", *self.more),
            cwd=self.project.root,
            env=dict(self.project.sidestage.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def _wait(self, process: "subprocess.Popen[bytes]", target: int, clock: float) -> bool:
        """Wait until the ledger has ``target`` lines; return False if the command ended before."""
        if self.chance.random() < AT_ONCE:
            moment = clock + self.chance.random() * 1.5
            while time.monotonic() < moment and process.poll() is None:
                time.sleep(0.002)
            return process.poll() is None
        while process.poll() is None:
            if len(self.project.done()) >= target and self._workers(process):
                return True
            if time.monotonic() - clock > LIMIT_SECONDS:
                process.kill()
                raise AssertionError(
                    f"no progress in {LIMIT_SECONDS} s: {len(self.project.done())} < {target}"
                )
            time.sleep(0.002)
        return False

    def _workers(self, process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
        try:
            return psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _strike(self, process: "subprocess.Popen[bytes]", whom: str) -> int:
        workers = self._workers(process)
        if whom == "worker":
            victims = [self.chance.choice(workers).pid] if workers else []
        else:
            victims = [process.pid, *(worker.pid for worker in workers if whom == "both")]
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        self.tally.kills[whom] += bool(victims)
        return int(bool(victims))

    def _end(self, process: "subprocess.Popen[bytes]", *, expect_success: bool) -> None:
        try:
            _, error = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            _, error = process.communicate()
            self.wrong.append(f"the command hung: {error.decode()}")
        if process.returncode != 0 and (expect_success or process.returncode != -signal.SIGKILL):
            self.wrong.append(f"the command ended with {process.returncode}: {error.decode()}")

    def _published(self) -> set[str]:
        """Return the steps that the current phase has published by now."""
        with catalog(self.project) as store:
            versions = store.versions(store.pointers("production").values()).values()
        return {version.step for version in versions if int(version.run) >= self._first_run}

    def _judge_cycle(self, before: int, published: set[str]) -> None:
        again = sorted(published & set(self.project.done()[before:]))
        if again:
            self.wrong.append(f"ran again although published before: {again}")

    def _judge_publications(self, steps: int) -> None:
        with catalog(self.project) as store:
            log = store.pointer_log(environment="production", limit=100_000)
            newest = store.runs(limit=1)
        places = Counter((e.dataset, e.partition) for e in log if (e.run or 0) >= self._first_run)
        self.wrong.extend(
            f"{place} was published {count} times" for place, count in places.items() if count > 1
        )
        if len(places) != steps:
            self.wrong.append(f"{len(places)} of {steps} partitions were published")
        if [run.state for run in newest] != ["done"]:
            self.wrong.append(f"the last run is not done: {newest}")

    def _measure(self, started: float) -> None:
        with catalog(self.project) as store:
            log = store.pointer_log(environment="production", limit=len(DATASETS) * DAYS)
        own = [entry.at.timestamp() - started for entry in log if entry.at.timestamp() >= started]
        if own:
            self.tally.to_publication.append(min(own))


def judge_project(project: SmallProject) -> list[str]:
    """Return what is wrong with a project at rest: its pointers, files, digests, temporary files, processes."""
    project("clean", "--yes", "--grace", "0", "--keep-days", "0")
    lake = lake_of(project)
    with catalog(project) as store:
        pointers = store.pointers("production")
        versions = store.versions(pointers.values())
        unfinished = [run.id for run in store.runs(limit=10_000) if run.state == "running"]
    wrong = [f"run {run} is still running in the catalog" for run in unfinished]
    expected = {(name, day) for name in DATASETS for day in days()}
    if set(pointers) != expected:
        wrong.append(f"pointers differ: {sorted(expected ^ set(pointers))}")
    for place, shown in pointers.items():
        version = versions.get(shown)
        wrong.extend(
            [f"{place} shows {shown}, which is unknown"] if version is None else judge_file(lake, version)
        )
    left = {path.relative_to(lake.root).as_posix() for path in lake.root.rglob("*") if path.is_file()}
    stray = sorted(left - {version.stored.path for version in versions.values()})
    wrong.extend(f"left in the lake: {path}" for path in stray)
    scratch = project.root / ".sidestage" / "scratch"
    wrong.extend(f"left in scratch: {path.name}" for path in scratch.iterdir())
    return wrong


def judge_file(lake: Lake, version: Version) -> list[str]:
    """Return what is wrong with a version's file: it must be there, have its bytes, and hold its rows."""
    try:
        lake.verify(version.stored)
        table = pq.read_table(lake.path(version.stored))
    except (SidestageError, OSError) as error:
        return [f"{version.dataset}/{version.partition}: {error}"]
    builder = DigestBuilder(table.schema)
    for batch in table.to_batches():
        builder.add(batch)
    if not builder.finish().proves_equal(version.stored.digest):
        return [f"{version.dataset}/{version.partition}: its rows are not those of its digest"]
    return []


def days() -> list[str]:
    """Return the keys of the project's partitions."""
    from datetime import date, timedelta

    return [(date(2026, 1, 1) + timedelta(days=number)).isoformat() for number in range(DAYS)]


def orphan_processes(project: SmallProject) -> list[str]:
    """Return processes of the project that outlived their command."""
    mark = project.sidestage.environment[MARK]
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            own = process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
            if own and Path(process.cwd()).is_relative_to(project.root):
                found.append(f"{process.pid}: {' '.join(process.cmdline())}")
    return found
