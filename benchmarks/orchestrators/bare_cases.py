"""The least that durable tasks can cost: a function call between two commits, no orchestrator at all.

Every task is one row: a commit says that it runs, another that it is done and what came out. SQLite writes
ahead with synchronous=FULL, PostgreSQL has its defaults, so a committed row survives a power cut.

Prints one JSON object. Usage: python bare_cases.py CASE --size N --folder DIR [--database URL] [--hold]
"""

import argparse
import json
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

WORKERS = 2


def fibonacci(number: int) -> int:
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)


class Ledger:
    """A table of tasks; every call is one commit."""

    def __init__(self, execute: Callable[[str, Sequence[object]], object], mark: str) -> None:
        self._execute = execute
        self._start = f"INSERT INTO task VALUES ({mark}, 'running', NULL)"
        self._finish = f"UPDATE task SET state = 'done', result = {mark} WHERE name = {mark}"
        execute("CREATE TABLE task (name TEXT PRIMARY KEY, state TEXT NOT NULL, result BIGINT)", ())

    def start(self, name: str) -> None:
        """Record that a task runs."""
        self._execute(self._start, (name,))

    def finish(self, name: str, result: int) -> int:
        """Record that a task is done."""
        self._execute(self._finish, (result, name))
        return result

    def run(self, name: str) -> int:
        """Run a trivial task."""
        self.start(name)
        return self.finish(name, fibonacci(10))


def connect(folder: Path, database: str | None) -> Ledger:
    if database is None:
        connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return Ledger(connection.execute, "?")
    import psycopg

    return Ledger(psycopg.connect(database, autocommit=True).execute, "%s")


def chain(ledger: Ledger, size: int) -> int:
    return sum(ledger.run(f"chain-{number}") for number in range(size))


def fanout(ledger: Ledger, size: int) -> int:
    found = [ledger.run(f"fan-{number}") for number in range(size)]
    ledger.start("fan-in")
    return ledger.finish("fan-in", sum(found))


def partitions(ledger: Ledger, size: int) -> int:
    return sum(ledger.run(f"{day}-{task}") for day in range(size) for task in ("extract", "total"))


def long(ledger: Ledger, size: int, pool: ProcessPoolExecutor) -> int:
    """Run tasks of pure computing, two at a time."""
    total, running = 0, deque[tuple[str, Future[int]]]()
    for name in [f"long-{number}" for number in range(size)]:
        if len(running) == WORKERS:
            first, future = running.popleft()
            total += ledger.finish(first, future.result())
        ledger.start(name)
        running.append((name, pool.submit(fibonacci, 33)))
    return total + sum(ledger.finish(name, future.result()) for name, future in running)


def measure(case: str, ledger: Ledger, size: int) -> float:
    """Return the seconds from the first task's start to the last one's end."""
    cases: dict[str, tuple[Callable[[], int], int]] = {
        "chain": (lambda: chain(ledger, size), 55 * size),
        "fanout": (lambda: fanout(ledger, size), 55 * size),
        "partitions": (lambda: partitions(ledger, size), 110 * size),
        "long": (lambda: long(ledger, size, pool), 3_524_578 * size),
    }
    work, expected = cases[case]
    for number in range(20):  # the first pages of the table, and compiling its statements
        ledger.run(f"warm-{number}")
    with ProcessPoolExecutor(WORKERS) as pool:
        if case == "long":
            list(pool.map(fibonacci, [25] * WORKERS))
        started = time.perf_counter()
        found = work()
        seconds = time.perf_counter() - started
    assert found == expected, (found, expected)
    return seconds


def hold(folder: Path) -> None:
    """Say that all is up, and go on when that has been seen."""
    ready = folder / "ready"
    ready.touch()
    while ready.exists():
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=["chain", "fanout", "long", "partitions"])
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--database")
    parser.add_argument("--hold", action="store_true")
    options = parser.parse_args()
    ledger = connect(options.folder, options.database)
    if options.hold:
        hold(options.folder)
    seconds = measure(options.case, ledger, options.size)
    print(json.dumps({"case": options.case, "seconds": seconds, "note": ""}))


if __name__ == "__main__":
    main()
