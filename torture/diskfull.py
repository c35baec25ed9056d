"""Full disks: for the lake, for the catalog, for the logs. Filled, used, freed, used again.

While it is full nothing half becomes visible, what was published before is served, and the reason is named.
Once it is freed, the plain command finishes what is left. The lake's and the logs' disks are small tmpfs.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sidestage.data.lake import Lake
from sidestage.observe.sql import open_published
from sidestage.store.sql import open_store
from torture.mounts import small_disk, why_not
from torture.oracle import PRODUCTION, Judge, clean, judge_rest, published
from torture.publisher import Assignment, Publisher
from torture.report import Row
from torture.rig import LIMIT_SECONDS, Rig

PLACES = ("data", "metadata", "logs")
KILOBYTES = 4096
PARTITIONS = 6
ROWS = 2000

CODE = """
import pyarrow as pa

from sidestage import Dataset, Partition, Pipeline, Static

parts = Static([f"p{n}" for n in range(6)])
rows = Dataset("rows", parts, key=["n"])
pipeline = Pipeline("small")


@pipeline.task(writes=rows)
def make(part: Partition) -> pa.Table:
    print("a line for the log " * 1000)
    numbers = range(2000)
    return pa.table({"n": numbers, "x": [f"{n * 7919 % 10007}" for n in numbers]})
"""


def run(cycles: int, seed: int, folder: Path) -> Row:
    """Fill and free each kind of disk so many times; then let a publisher overlook that writing failed."""
    del seed  # nothing is left to chance here
    row = Row("disk full")
    row.skipped = why_not()
    if row.skipped:
        return row
    for place in PLACES:
        home = folder / f"full {place}"
        home.mkdir()
        with _rig(home, place) as (rig, disk):
            bench = Bench(row, rig, disk, place)
            for cycle in range(1, cycles + 1):
                bench.cycle(cycle)
            bench.finish()
        shutil.rmtree(home)
    _control(row, folder)
    return row


@contextmanager
def _rig(home: Path, place: str) -> Iterator[tuple[Rig, Path]]:
    """Yield a rig of which one kind of state lies on a small disk, and that disk."""
    root = home / "disk"
    state, lake = home / "state", home / "lake"
    if place == "data":
        lake = root / "lake"
    if place == "metadata":
        state = root / "state"
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(root, KILOBYTES))
        if place == "logs":
            state.mkdir()
            (state / "logs").symlink_to(disk)
        rig = Rig.make(home, CODE, state=state, lake=lake)
        stack.callback(rig.end_all, seconds=0.0)
        rig("run", "small")
        yield rig, disk


class Bench:
    """One rig with one small disk."""

    def __init__(self, row: Row, rig: Rig, disk: Path, place: str) -> None:
        self._row = row
        self._rig = rig
        self._disk = disk
        self._place = place
        self._judge = Judge(rig.lake)

    def cycle(self, number: int) -> None:
        """Fill the disk, run into it, look, free it, run again, look."""
        words = ("run", "small", "--partitions", f"p{number % PARTITIONS}", "--recompute", "--reason", "full")
        filler = self._disk / "filler"
        before = self._shown()
        fill(filler)
        self._row.injected[self._place] += 1
        running = self._rig.start(*words)
        status, error = running.end()
        self._judge_full(status, error, len(running.acknowledged()))
        self._row.acknowledged += len(running.acknowledged())
        self._look(before if status else None)
        filler.unlink()
        again = self._rig.start(*words)
        status, error = again.end()
        if status != 0:
            self._row.findings.stuck.append(f"{self._place}: freed, but it ended with {status}: {error}")
            self._row.manual += 1
        self._row.acknowledged += len(again.acknowledged())
        self._row.recovery.extend(each.moment - again.started for each in again.acknowledged()[:1])
        self._look(None)

    def finish(self) -> None:
        """Clean, and judge what is left."""
        with self._rig.store() as store:
            clean(store, self._rig.lake)
            self._row.findings.add(self._judge.judge(store, (), all_files=True))
            self._row.findings.add(judge_rest(store, self._rig.lake))

    def _judge_full(self, status: int | None, error: str, said: int) -> None:
        found = self._row.findings
        if status is None:
            found.stuck.append(f"{self._place}: it hung on a full disk")
        if self._place == "logs":
            if status != 0 or said != 1:
                found.stuck.append(f"logs: a full disk of logs cost the attempt: {status}: {error}")
            return
        named = "space" in error.lower() or "disk is full" in error or "(disk-full)" in error
        if status == 0 or not named:
            found.lied.append(f"{self._place}: a full disk is called something else: {status}: {error}")
        if self._place == "data":
            with self._rig.store() as store:
                steps = store.steps(store.runs(limit=1)[0].id)
            classes = {step.failure_class for step in steps}
            if classes != {"disk-full"}:
                found.lied.append(f"data: the failure class is {classes}")

    def _look(self, before: dict[tuple[str, str], str] | None) -> None:
        """Judge what production shows, and read it all as a user would."""
        try:
            with self._rig.store() as store:
                found = self._judge.judge(store, ())
                shown = open_published(store, self._rig.lake)
                try:
                    query = "SELECT count(*), count(DISTINCT _partition) FROM production.rows"
                    row = shown.connection.execute(query).fetchone()
                finally:
                    shown.connection.close()
        except Exception as error:  # noqa: BLE001  # whatever a reader meets is a finding
            self._row.findings.stuck.append(
                f"{self._place}: a reader failed: {type(error).__name__}: {error}"
            )
            return
        self._row.findings.add(found)
        if row != (PARTITIONS * ROWS, PARTITIONS):
            self._row.findings.torn.append(f"{self._place}: a reader saw {row}")
        if before is not None and before != self._shown():
            self._row.findings.lied.append(f"{self._place}: pointers moved although the command failed")

    def _shown(self) -> dict[tuple[str, str], str]:
        with self._rig.store() as store:
            return store.pointers(PRODUCTION)


def fill(path: Path) -> None:
    """Write a file until nothing more fits."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while os.write(descriptor, b"\0" * size):
                    pass
            except OSError:  # full; a smaller piece may still fit
                continue
    finally:
        os.close(descriptor)


def _control(row: Row, folder: Path) -> None:
    """A publisher that takes failed writes for done must be found to publish half files."""
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        small_disk(Path(place) / "lake", 64) as lake,
    ):
        url = f"sqlite:///{place}/catalog.db"
        assignment = Assignment(
            url=url, lake=str(lake), owner="control", rows=5000, runs=1, without=("write errors",)
        )
        Publisher(assignment).end(kill=False, seconds=LIMIT_SECONDS)
        with open_store(url) as store:
            found = Judge(Lake(lake)).judge(store, ())
            assert published(store), "the control published nothing"
    row.judge_control("write errors overlooked", found.torn)
