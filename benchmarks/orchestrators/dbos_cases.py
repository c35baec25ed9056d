"""What DBOS costs: steps of durable workflows, in one process, its state in SQLite or PostgreSQL.

The steps of a fan-out are gathered in one asynchronous workflow, which is the fast way (its queues poll). A
day is a workflow of its own. Long steps hand their computing to a pool of two processes, as the steps
of a workflow share one interpreter. SQLite's file writes ahead, which DBOS leaves to its user; its default
of synchronous=FULL stays, so a committed step survives a power cut.

Prints one JSON object. Usage: python dbos_cases.py CASE --size N --folder DIR [--database URL] [--hold]
"""

import argparse
import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path

from dbos import DBOS, DBOSConfig

WORKERS = 2


def fibonacci(number: int) -> int:
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)


@DBOS.step()
async def add(before: int) -> int:
    return before + fibonacci(10)


@DBOS.workflow()
async def chain(size: int) -> int:
    found = 0
    for _ in range(size):
        found = await add(found)
    return found


@DBOS.step()
async def total(found: list[int]) -> int:
    return sum(found)


@DBOS.workflow()
async def fanout(size: int) -> int:
    return await total(await asyncio.gather(*[add(0) for _ in range(size)]))


@DBOS.workflow()
async def day(number: int) -> int:
    del number
    return await add(await add(0))


async def partitions(size: int) -> int:
    return sum([await day(number) for number in range(size)])


def long_steps(pool: ProcessPoolExecutor) -> Callable[[int], Coroutine[None, None, int]]:
    """Declare a workflow of steps that compute in processes, as many at a time as there are processes."""

    @DBOS.step()
    async def compute() -> int:
        return await asyncio.get_running_loop().run_in_executor(pool, fibonacci, 33)

    @DBOS.workflow()
    async def long(size: int) -> int:
        return await total(await asyncio.gather(*[compute() for _ in range(size)]))

    return long


def launch(folder: Path, database: str | None) -> None:
    if database is None:
        file = folder / "dbos.db"
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        database = f"sqlite:///{file}"
    DBOS(config=DBOSConfig(name="benchmark", system_database_url=database, log_level="ERROR"))
    DBOS.launch()


async def measure(work: Callable[[int], Coroutine[None, None, int]], size: int) -> tuple[float, int]:
    """Return the seconds from starting the work to its result, and the result."""
    await chain(2)
    started = time.perf_counter()
    found = await work(size)
    return time.perf_counter() - started, found


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
    with ProcessPoolExecutor(WORKERS) as pool:
        if options.case == "long":
            list(pool.map(fibonacci, [25] * WORKERS))  # forked before there are threads
        works = {"chain": chain, "fanout": fanout, "long": long_steps(pool), "partitions": partitions}
        launch(options.folder, options.database)
        if options.hold:
            hold(options.folder)
        seconds, found = asyncio.run(measure(works[options.case], options.size))
        DBOS.destroy()
    expected = {"long": 3_524_578, "partitions": 110}.get(options.case, 55) * options.size
    assert found == expected, (found, expected)
    print(json.dumps({"case": options.case, "seconds": seconds, "note": ""}))


if __name__ == "__main__":
    main()
