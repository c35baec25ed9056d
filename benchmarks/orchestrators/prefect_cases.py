"""What Prefect costs: flows and tasks with a server, its state in SQLite or PostgreSQL, results persisted.

The server runs beside, warm; flows are called in this process, so no deployment or worker is in the way.
Caching is off, or equal calls would not run, and so are heartbeats of flows, for whose end each flow would
wait up to a second. Tasks of a fan-out run in 16 threads; long ones hand their computing to a pool of two
processes; a day is a flow run of its own, four at a time. Prefect sets SQLite to synchronous=NORMAL, so
there a power cut may take the last transitions away; result files are not synced.

Prints one JSON object. Usage: python prefect_cases.py CASE --size N --folder DIR [--database URL] [--hold]
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

WORKERS = 2
THREADS = 16
FLOWS = 4
START_SECONDS = 120.0
SETTLE_SECONDS = 5.0


def fibonacci(number: int) -> int:
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(folder: Path, database: str | None) -> Iterator[None]:
    """Run a Prefect server, and make it the one that this process talks to."""
    home = folder / "prefect"
    home.mkdir()
    place = database.replace("postgresql://", "postgresql+asyncpg://") if database else ""
    port = free_port()
    os.environ |= {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_API_DATABASE_CONNECTION_URL": place or f"sqlite+aiosqlite:///{home}/prefect.db",
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([*command, "--no-ui"], stdout=log, stderr=log)
        try:
            wait_until_up(f"http://127.0.0.1:{port}/api/health", process)
            yield
        finally:
            process.terminate()
            process.wait(60)


def wait_until_up(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def measure(case: str, size: int, pool: ProcessPoolExecutor) -> tuple[float, int]:
    """Return the seconds from calling the flow, or all flows, to the result, and the result."""
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.task_runners import ThreadPoolTaskRunner

    @task(cache_policy=NO_CACHE)
    def add(before: int) -> int:
        return before + fibonacci(10)

    @task(cache_policy=NO_CACHE)
    def compute(number: int) -> int:
        return pool.submit(fibonacci, number).result()

    @task(cache_policy=NO_CACHE)
    def total(found: list[int]) -> int:
        return sum(found)

    @flow
    def chain(size: int) -> int:
        found = 0
        for _ in range(size):
            found = add(found)
        return found

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=THREADS))
    def fanout(size: int) -> int:
        return total(add.map([0] * size))

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=WORKERS))
    def long(size: int) -> int:
        return total(compute.map([33] * size))

    @flow
    def day(number: int) -> int:
        del number
        return add(add(0))

    def partitions(size: int) -> int:
        with ThreadPoolExecutor(FLOWS) as threads:
            return sum(threads.map(day, range(size)))

    works = {"chain": chain, "fanout": fanout, "long": long, "partitions": partitions}
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        chain(3)
        time.sleep(SETTLE_SECONDS)  # the server goes on writing events after a flow has ended
        started = time.perf_counter()
        found = works[case](size)
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
        with server(options.folder, options.database):
            if options.hold:
                hold(options.folder)
            seconds, found = measure(options.case, options.size, pool)
    expected = {"long": 3_524_578, "partitions": 110}.get(options.case, 55) * options.size
    assert found == expected, (found, expected)
    print(json.dumps({"case": options.case, "seconds": seconds, "note": ""}), flush=True)
    os._exit(0)  # its client would go on for an hour, telling a server that is gone what happened


if __name__ == "__main__":
    main()
