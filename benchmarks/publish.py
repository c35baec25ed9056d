"""What publishing a tiny partition costs, against the least that any durable publication could do.

Four ways, alternating in one process and on one file system, each with a catalog and folder of its own:

- bare: write Parquet to a temporary file, fsync, rename, insert one row into SQLite (WAL, synchronous=FULL)
- bare+: the same with the folder synced after the rename, or else a power cut may take the file away
- one: ``claim``, ``LakeWriter.write`` (digest, checksum, folder synced) and ``settle`` (version, pointer,
  log, step, attempt and event in one transaction), one step at a time
- ten: the same, ten steps claimed and settled together, as the runner does when answers come quickly

The ratio must stay what it is from the first partition to the last, so it is shown by tenths, too. It depends
on the disk: the faster an fsync, the more of it is computation.

Usage: python benchmarks/publish.py [--partitions 10000] [--quick]
"""

import argparse
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from machine import describe, milliseconds
from sidestage.data.lake_writer import LakeWriter
from sidestage.data.version import Version, new_version_id
from sidestage.store.records import Claim, Demand, Environment, NewRun, NewStep, Publication
from sidestage.store.sql import SqlStore, open_store

DATASET = "benchmark/tiny"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FIRST_DAY = date(2000, 1, 1)
LEASE = 60.0
TOGETHER = 10


ROWS = pa.RecordBatch.from_pydict(
    {
        "id": pa.array(range(10), pa.int64()),
        "name": [f"name {number}" for number in range(10)],
        "amount": [number / 7 for number in range(10)],
        "seen_at": pa.array([NOW] * 10, pa.timestamp("us", "UTC")),
    }
)
"""What every partition holds."""


class Bare:
    """The least: a file that is all there or not at all, and one committed row."""

    def __init__(self, folder: Path, *, sync_folder: bool) -> None:
        self.folder = folder
        self.folder.mkdir()
        self.table = pa.Table.from_batches([ROWS])
        self.sync_folder = sync_folder
        self.database = sqlite3.connect(folder / "bare.db", isolation_level=None)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = FULL")
        self.database.execute("CREATE TABLE published (partition TEXT PRIMARY KEY, path TEXT NOT NULL)")

    def __call__(self, partitions: Sequence[int]) -> None:
        """Publish some partitions."""
        for number in partitions:
            final = self.folder / f"{number}.parquet"
            temporary = self.folder / f".{number}.tmp"
            with temporary.open("wb") as file:
                pq.write_table(self.table, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(final)
            if self.sync_folder:
                descriptor = os.open(self.folder, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
            self.database.execute("INSERT INTO published VALUES (?, ?)", (str(number), final.name))

    def close(self) -> None:
        """Close the database."""
        self.database.close()


class Platform:
    """Publication with every guarantee on."""

    def __init__(self, folder: Path, partitions: int) -> None:
        folder.mkdir()
        self.store: SqlStore = open_store(f"sqlite:///{folder / 'catalog.db'}")
        self.store.save_environment(Environment("production", None, "", "open", NOW))
        new = NewRun("benchmark", "production", "git:0", "benchmark", "", "{}")
        keys = [f"{FIRST_DAY + timedelta(days=number)}" for number in range(partitions)]
        steps = [NewStep(f"benchmark.make@{key}", "benchmark.make", DATASET, key, None) for key in keys]
        self.run = self.store.begin_run(new, steps, NOW)
        self.lake = LakeWriter(folder / "lake")

    def __call__(self, partitions: Sequence[int]) -> None:
        """Publish the next steps, as many as there are partitions named."""
        claims = self.store.claim(Demand("benchmark", len(partitions), lease=LEASE, runs=[self.run]), NOW)
        made = [self._publication(claim) for claim in claims]
        settled = self.store.settle(made, NOW)
        assert all(each.result == "done" for each in settled), settled

    def _publication(self, claim: Claim) -> Publication:
        key = claim.step.partition("@")[2]
        identity = new_version_id(int(time.time() * 1000), os.urandom(6))
        stored = self.lake.write(DATASET, key, identity, ROWS.schema, [ROWS])
        run = str(claim.run)
        version = Version(identity, DATASET, key, stored, "production", run, claim.step, "code", (), NOW, 0.0)
        return Publication(claim, version)

    def close(self) -> None:
        """Close the store."""
        self.store.close()


def measure(folder: Path, partitions: int) -> dict[str, list[float]]:
    """Return the seconds of each partition, by way; what is done in tens counts a tenth each."""
    ways: dict[str, Bare | Platform] = {
        "bare": Bare(folder / "bare", sync_folder=False),
        "bare+": Bare(folder / "bare-synced", sync_folder=True),
        "one": Platform(folder / "one", partitions),
        "ten": Platform(folder / "ten", partitions),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    try:
        for start in range(0, partitions, TOGETHER):
            tens = range(start, min(start + TOGETHER, partitions))
            for number in tens:
                for name in ("bare", "bare+", "one"):
                    times[name].append(seconds(ways[name], [number]))
            times["ten"] += [seconds(ways["ten"], tens) / len(tens)] * len(tens)
    finally:
        for way in ways.values():
            way.close()
    return times


def seconds(work: Callable[[Sequence[int]], None], partitions: Sequence[int]) -> float:
    started = time.perf_counter()
    work(partitions)
    return time.perf_counter() - started


def ratio(times: dict[str, list[float]], way: str, part: slice, to: str = "bare") -> float:
    """Return the ratio of the medians: both were measured alternating, through the same disturbances."""
    return statistics.median(times[way][part]) / statistics.median(times[to][part])


def report(times: dict[str, list[float]]) -> None:
    count = len(times["bare"])
    tenth = max(1, count // 10)
    print(f"{count:,} partitions of ten rows and four columns each; per partition:")
    for name, taken in times.items():
        print(f"  {name:6} {milliseconds(taken)}")
    for way in ("bare+", "one", "ten"):
        print(f"ratio {way} to bare: {ratio(times, way, slice(None)):.2f} (mean {mean(times, way):.2f})")
    print("goal: ratio one to bare at most 3, and the same from the first partition to the last")
    for name, part in (("first", slice(0, tenth)), ("last", slice(-tenth, None))):
        shown = ", ".join(
            f"{way} {statistics.median(taken[part]) * 1000:.3f} ms" for way, taken in times.items()
        )
        print(f"{name} {tenth:,}: {shown}; ratio one to bare {ratio(times, 'one', part):.2f}")
    tenths = [ratio(times, "one", slice(start, start + tenth)) for start in range(0, count, tenth)]
    print(f"ratio one to bare by tenths: {', '.join(f'{each:.2f}' for each in tenths)}")


def mean(times: dict[str, list[float]], way: str) -> float:
    return statistics.fmean(times[way]) / statistics.fmean(times["bare"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of publishing a tiny partition.")
    parser.add_argument("--partitions", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="100 partitions")
    options = parser.parse_args()
    describe("sidestage", "pyarrow", "sqlalchemy")
    with tempfile.TemporaryDirectory() as folder:
        report(measure(Path(folder), 100 if options.quick else options.partitions))


if __name__ == "__main__":
    main()
