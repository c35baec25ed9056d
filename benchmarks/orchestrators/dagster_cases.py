"""What Dagster costs: its in-process executor, run and event records in SQLite, outputs pickled to files.

Jobs are executed in this process with an instance on disk, which is what makes Dagster fast: its default
starts a process per step. That executor runs one step at a time, so two long tasks share a step and
compute in a pool of two processes. A day is one run of two assets. Its SQLite writes ahead with the default
synchronous=FULL; the files of outputs are not synced. No web server or daemon runs, except where idle memory
is measured.

Prints one JSON object. Usage: python dagster_cases.py CASE --size N --folder DIR [--hold]
"""

import argparse
import json
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import date, timedelta
from pathlib import Path

import dagster

WORKERS = 2
FIRST_DAY = date(2025, 1, 1)
START_SECONDS = 120.0


def fibonacci(number: int) -> int:
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)


@dagster.op
def begin() -> int:
    return fibonacci(10)


@dagster.op
def add(before: int) -> int:
    return before + fibonacci(10)


@dagster.op
def total(found: list[int]) -> int:
    return sum(found)


def declare(case: str, size: int, folder: Path, pool: ProcessPoolExecutor) -> dagster.JobDefinition:
    """Declare a job whose outputs are files; its last step is ``total``."""

    @dagster.op(out=dagster.DynamicOut(int))
    def numbers() -> Iterator[dagster.DynamicOutput[int]]:
        for number in range(size):
            yield dagster.DynamicOutput(0, mapping_key=str(number))

    @dagster.op
    def pair() -> int:
        return sum(pool.map(fibonacci, [33] * WORKERS))

    @dagster.job(resource_defs={"io_manager": dagster.FilesystemIOManager(base_dir=str(folder / "outputs"))})
    def job() -> None:
        match case:
            case "chain":
                found = begin()
                for number in range(1, size):
                    found = add.alias(f"add_{number}")(found)
            case "fanout":
                total(numbers().map(add).collect())
            case _:
                total([pair.alias(f"pair_{number}")() for number in range(size // WORKERS)])

    return job


@dagster.asset(partitions_def=dagster.DailyPartitionsDefinition(str(FIRST_DAY)))
def extract() -> int:
    return fibonacci(10)


@dagster.asset(partitions_def=dagster.DailyPartitionsDefinition(str(FIRST_DAY)))
def summed(extract: int) -> int:
    return extract + fibonacci(10)


definitions = dagster.Definitions(assets=[extract, summed])
"""What the web server and the daemon load."""


def run_days(size: int, instance: dagster.DagsterInstance) -> int:
    found = 0
    for day in [str(FIRST_DAY + timedelta(number)) for number in range(size)]:
        done = dagster.materialize([extract, summed], instance=instance, partition_key=day)
        found += done.output_for_node("summed")
    return found


def measure(case: str, size: int, folder: Path, instance: dagster.DagsterInstance) -> tuple[float, int]:
    """Return the seconds from asking for a run, or for all runs, to its end, and the result."""
    with ProcessPoolExecutor(WORKERS) as pool:
        if case == "long":
            list(pool.map(fibonacci, [25] * WORKERS))
        declare("chain", 3, folder / "warm", pool).execute_in_process(instance=instance)
        if case == "partitions":
            run_days(1, instance)
            started = time.perf_counter()
            found = run_days(size, instance)
            return time.perf_counter() - started, found
        job = declare(case, size, folder, pool)
        last = f"add_{size - 1}" if case == "chain" else "total"
        started = time.perf_counter()
        done = job.execute_in_process(instance=instance)
        return time.perf_counter() - started, done.output_for_node(last)


@contextmanager
def services(folder: Path) -> Iterator[None]:
    """Run what a deployment of Dagster has running: web server, daemon, and the code's server."""
    program = Path(sys.executable).parent
    port = free_port()
    commands: list[list[str | Path]] = [
        [program / "dagster-webserver", "-f", __file__, "-h", "127.0.0.1", "-p", str(port)],
        [program / "dagster-daemon", "run", "-f", __file__],
    ]
    with (folder / "services.log").open("wb") as log:
        processes = [subprocess.Popen(command, stdout=log, stderr=log) for command in commands]
        try:
            wait_until_up(f"http://127.0.0.1:{port}/server_info", processes)
            yield
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(60)


def wait_until_up(address: str, processes: "list[subprocess.Popen[bytes]]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            if any(process.poll() is not None for process in processes) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
    parser.add_argument("--hold", action="store_true")
    options = parser.parse_args()
    home = options.folder / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    os.environ["DAGSTER_HOME"] = str(home)
    logging.disable(logging.INFO)
    with dagster.DagsterInstance.get() as instance, ExitStack() as stack:
        if options.hold:
            stack.enter_context(services(options.folder))
            hold(options.folder)
        seconds, found = measure(options.case, options.size, options.folder, instance)
    expected = {"long": 3_524_578, "partitions": 110}.get(options.case, 55) * options.size
    assert found == expected, (found, expected)
    print(json.dumps({"case": options.case, "seconds": seconds, "note": ""}))


if __name__ == "__main__":
    main()
