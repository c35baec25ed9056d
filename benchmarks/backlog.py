"""Whether taking and finishing steps stays as quick however many wait and however many are done.

Two curves, on SQLite and on a real PostgreSQL (both syncing), with one worker that claims and settles sixteen
steps at a time, each step publishing a small value:

- queue: one run of 10,000 steps, all ready at once; steps per second by thousands, first to last
- history: the same with 0, 10,000, 100,000 and 1,000,000 steps of earlier runs in the catalog. That history
  is written by SQL, row by row as runs leave it: steps, attempts, versions, pointers, log, events.

Beside them stands the least that the same database can do: one row inserted for each step, sixteen to a
durable commit.

Usage: python benchmarks/backlog.py [--steps 10000] [--history 0,10000,100000,1000000]
       [--stores sqlite,postgresql] [--folder DIR] [--quick]
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, text

from machine import describe
from sidestage.data.version import Digest, Stored, Version, new_version_id
from sidestage.store.records import Claim, Demand, Environment, NewRun, NewStep, Publication
from sidestage.store.sql import SqlStore, open_store
from sidestage.store.sql_database import Database

ROOT = Path(__file__).parents[1]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TOGETHER = 16
DATASET = "benchmark/value"
TASK = "bench.make"

# One row of each table for one finished step, as a run leaves them; {n} is the number of the step.
HISTORY = """
INSERT INTO step (run, position, id, task, dataset, partition, state, waiting_for, attempt, fence, version,
                  seconds)
SELECT {run}, n, 'bench.make@h' || n, 'bench.make', 'benchmark/value', 'h' || n, 'done', 0, 1, 1, 'h' || n,
       0.01
FROM numbers;
INSERT INTO attempt (run, position, number, owner, state, started_at, ended_at)
SELECT {run}, n, 1, 'host:1:1', 'done', 1, 2 FROM numbers;
INSERT INTO version (id, dataset, partition, environment, run, step, task, code, path, bytes, checksum,
                     digest, inputs, created_at, seconds, value)
SELECT 'h' || n, 'benchmark/value', 'h' || n, 'production', {run}, 'bench.make@h' || n, 'bench.make', 'c', '',
       2, 'x', '["a",1,"x",[]]', '[]', 1, 0.01, '55'
FROM numbers;
INSERT INTO pointer (environment, dataset, partition, version)
SELECT 'production', 'benchmark/value', 'h' || n, 'h' || n FROM numbers;
INSERT INTO pointer_log (at, environment, dataset, partition, version, kind, run)
SELECT 1, 'production', 'benchmark/value', 'h' || n, 'h' || n, 'publish', {run} FROM numbers;
INSERT INTO event (at, run, kind, body)
SELECT 1, {run}, 'StepPublished', '{{"type":"StepPublished","step":"bench.make@h' || n || '"}}' FROM numbers;
"""
NUMBERS = (
    "WITH RECURSIVE numbers(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM numbers WHERE n < {last}) "
)


@contextmanager
def stores(names: list[str], place: Path | None) -> Iterator[dict[str, str]]:
    """Yield the URL of a new, empty store for each name; a PostgreSQL server is started for its."""
    with ExitStack() as stack:
        urls = {}
        for name in names:
            # A server that runs as another user must reach its folder, so it does not lie in a private one.
            where = place if name == "sqlite" else place or Path("/tmp")
            temporary = tempfile.TemporaryDirectory(prefix="bench-backlog-", dir=where)
            folder = Path(stack.enter_context(temporary))
            if name == "sqlite":
                urls[name] = f"sqlite:///{folder / 'catalog.db'}"
            else:
                sys.path.insert(0, str(ROOT))
                from benchmarks.orchestrators.server import syncing_postgresql

                urls[name] = f"{stack.enter_context(syncing_postgresql(folder))}/postgres"
        yield urls


def publication(store_run: str, claim: Claim, number: int) -> Publication:
    """Return the publication of a small value for a claim."""
    stored = Stored("", 2, "x" * 32, (), Digest("sidestage-value-1", 1, "x" * 32, ()), "55")
    version = Version(
        id=new_version_id(1_767_225_600_000 + number, os.urandom(6)),
        dataset=DATASET,
        partition=claim.step.partition("@")[2],
        stored=stored,
        environment="production",
        run=store_run,
        step=claim.step,
        code="c",
        inputs=(),
        created_at=NOW,
        seconds=0.01,
    )
    return Publication(claim, version)


def finish(store: SqlStore, steps: int, name: str) -> list[float]:
    """Begin a run of so many steps, finish it, and return the steps per second by tenths."""
    new = [NewStep(f"bench.make@{name}-{n}", TASK, DATASET, f"{name}-{n}", None) for n in range(steps)]
    run = store.begin_run(NewRun("bench", "production", "tree", "bench", "", "{}"), new, NOW)
    rates, done, began, tenth = [], 0, time.perf_counter(), max(1, steps // 10)
    while claims := store.claim(Demand("host:1:1", TOGETHER, lease=60.0, runs=[run]), NOW):
        store.settle([publication(str(run), claim, done) for claim in claims], NOW)
        before, done = done, done + len(claims)
        if done // tenth > before // tenth:
            now = time.perf_counter()
            rates.append(tenth / (now - began))
            began = now
    return rates


def execute(database: Database, statement: str) -> None:
    """Run one statement in a transaction of its own."""
    database.write(lambda connection: connection.execute(text(statement)) and None)


def least(database: Database, steps: int) -> float:
    """Return the rows per second that the database takes, sixteen to a durable commit."""

    def insert(first: int) -> Callable[[Connection], object]:
        rows = [{"n": n} for n in range(first, first + TOGETHER)]
        return lambda connection: connection.execute(text("INSERT INTO bare (n) VALUES (:n)"), rows)

    execute(database, "CREATE TABLE bare (n INTEGER)")
    began = time.perf_counter()
    for first in range(0, steps, TOGETHER):
        database.write(insert(first))
    rate = steps / (time.perf_counter() - began)
    execute(database, "DROP TABLE bare")
    return rate


def grow(store: SqlStore, database: Database, first: int, last: int) -> None:
    """Write the history of steps ``first`` to ``last`` as one finished run."""
    run = store.begin_run(NewRun("bench", "production", "tree", "bench", "", "{}"), (), NOW)
    numbers = NUMBERS.format(first=first, last=last)
    for statement in HISTORY.format(run=run).split(";"):
        if statement.strip():
            # Both databases take WITH before SELECT inside INSERT.
            filled = statement.replace("SELECT", f"{numbers} SELECT", 1)
            execute(database, filled.replace(":", "\\:"))
    execute(database, "ANALYZE")


def measure(name: str, url: str, steps: int, histories: list[int]) -> None:
    database = Database(url)
    with closing(database), open_store(url) as store:
        store.save_environment(Environment("production", None, "tree", "open", NOW))
        finish(store, min(steps, 500), "warm")
        there = 0
        for history in histories:
            if history > there:
                grow(store, database, there + 1, history)
                there = history
            limit = least(database, steps)
            rates = finish(store, steps, f"q{history}")
            curve = " ".join(f"{rate:6.0f}" for rate in rates)
            mean = len(rates) / sum(1 / rate for rate in rates)
            print(
                f"{name:10} history {history:9,}: {mean:6.0f} steps/s ({limit / mean:4.1f} x bare), "
                f"by tenths of {steps:,}: {curve}; last to first {rates[-1] / rates[0]:.2f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--history", default="0,10000,100000,1000000")
    parser.add_argument("--stores", default="sqlite,postgresql")
    parser.add_argument("--folder", type=Path, help="where the databases lie (default: temporary files)")
    parser.add_argument("--quick", action="store_true", help="1,000 steps, up to 10,000 of history")
    options = parser.parse_args()
    steps = 1_000 if options.quick else options.steps
    histories = [0, 10_000] if options.quick else [int(each) for each in options.history.split(",")]
    describe("sqlalchemy", "psycopg")
    with stores(options.stores.split(","), options.folder) as urls:
        for name, url in urls.items():
            measure(name, url, steps, histories)


if __name__ == "__main__":
    main()
